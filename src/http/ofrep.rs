//! OpenFeature Remote Evaluation Protocol (OFREP 0.3): one flag, and all flags with an `ETag`.
//!
//! A request contains neither type nor default. The payload of the variant determines the value; without a variant the
//! value is boolean. Errors of all paths below `/ofrep` have the form that the protocol defines, also those that no route
//! creates: timeouts, overload, refused hosts, unknown paths.

mod body;
pub(super) mod track;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::header::{ETAG, IF_NONE_MATCH, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use crate::flag::ErrorCode;
use crate::message::request::{Ask, MAX_FLAG_NAME_BYTES, Refusal, Subject};
use crate::outbox::EventBatch;

use super::api::Api;
use super::cached::{When, kept};
use super::call::Call;
use super::caller::{Authorized, Caller, scope};
use super::counts::Path;
use super::evaluate::environment_of;
use super::input::{Input, Undecodable, evaluation_place, json_answer};
use super::openapi::calls::{EvaluationHeaders, EvaluationQuery, OfrepProblems};
use super::openapi::ofrep_bodies::{OfrepAll, OfrepFailure, OfrepRequest, OfrepSuccess};
use super::problem::Problem;
use super::ticket;

pub(super) use body::Failure;

/// Beginning of the paths whose errors have the protocol's form.
const PREFIX: &str = "/ofrep/";
/// Beginning of the paths that name a flag.
const FLAG_PREFIX: &str = "/ofrep/v1/evaluate/flags/";
/// `Retry-After` in seconds of errors that are temporary and name no time.
const RETRY_SECONDS: u32 = 1;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/ofrep/v1/evaluate/flags", post(all))
        // A wildcard, because some providers do not encode slashes in a key.
        .route("/ofrep/v1/evaluate/flags/{*key}", post(one))
        .route("/ofrep/v1/track", post(track::track))
}

/// Evaluates one flag.
#[utoipa::path(
    post,
    path = "/ofrep/v1/evaluate/flags/{key}",
    operation_id = "ofrepEvaluateFlag",
    tag = "openfeature",
    params(
        ("key" = String, Path, description = "The flag", min_length = 1),
        EvaluationQuery,
        EvaluationHeaders
    ),
    request_body = OfrepRequest,
    responses(
        (status = 200, description = "Evaluated", body = OfrepSuccess),
        (status = 404, description = "The environment has no such flag", body = OfrepFailure),
        OfrepProblems
    )
)]
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    UrlPath(key): UrlPath<String>,
    caller: Result<Authorized<scope::Evaluate>, Problem>,
    unread: Undecodable,
) -> Response {
    answer_one(&api, &key, caller, unread).await.unwrap_or_else(|failure| failure.into_response(Some(&key)))
}

async fn answer_one(
    api: &Arc<Api>,
    key: &str,
    caller: Result<Authorized<scope::Evaluate>, Problem>,
    unread: Undecodable,
) -> Result<Response, Failure> {
    let caller = caller?;
    let input = unread.read_for(api, &caller).await?;
    let environment = environment_of(api, &input, None);
    caller.check_environment(&environment)?;
    let subject = Subject::of_openfeature(&input.body).map_err(|refusal| refused(&refusal))?;
    if key.len() > MAX_FLAG_NAME_BYTES {
        let details = format!("expected a key of at most {MAX_FLAG_NAME_BYTES} bytes, got {}", key.len());
        return Err(Failure::new(StatusCode::BAD_REQUEST, "GENERAL", details));
    }
    let min_version = input.min_version()?;
    let _place = evaluation_place(api, min_version).await?;
    let (ask, environment) = (Ask::new(key.into(), None, None), environment_of(api, &input, None));
    let (subjects, asks) = (std::slice::from_ref(&subject), std::slice::from_ref(&ask));
    api.authenticator.answers(&caller, 1)?;
    let kept = kept(api, When::Unready, &environment, subjects, asks, min_version).await;
    let (result, event_batch, version) = {
        let snapshot = api.store.load();
        let call = Call::begin(api, &caller, &snapshot, Path::Ofrep, &environment).with_kept(&kept);
        call.check_permitted(key).map_err(Problem::from)?;
        let (result, event_batch) = api.counts.count(Path::Ofrep, |tally| {
            let mut event_sink = call.event_sink(tally);
            let call_subject = call.call_subject(&subject);
            let answered = call.answer(&call_subject, &ask, &mut event_sink);
            let telemetry = body::telemetry(&environment, call_subject.shown_user());
            let mut out = Vec::with_capacity(body::ONE_BYTES);
            let failure = body::write(&mut out, key, &answered, &telemetry);
            (failure.map_or(Ok(out), Err), event_sink.finish())
        });
        (result, event_batch, call.flags_version)
    };
    publish(api, &input, event_batch).await?;
    Ok(json_answer(result?, version))
}

/// Evaluates all flags of the environment.
#[utoipa::path(
    post,
    path = "/ofrep/v1/evaluate/flags",
    operation_id = "ofrepEvaluateFlags",
    tag = "openfeature",
    params(
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an earlier response"),
        ("flagConfigEtag" = Option<String>, Query, description = "The `ETag` from a change notification"),
        ("flagConfigLastModified" = Option<String>, Query, description = "The time from a change notification: seconds since 1970, or RFC 3339"),
        EvaluationQuery,
        EvaluationHeaders
    ),
    request_body = OfrepRequest,
    responses(
        (status = 200, description = "Evaluated", body = OfrepAll, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        OfrepProblems
    )
)]
pub(super) async fn all(
    State(api): State<Arc<Api>>,
    caller: Result<Authorized<scope::Evaluate>, Problem>,
    unread: Undecodable,
) -> Response {
    answer_all(&api, caller, unread).await.unwrap_or_else(|failure| failure.into_response(None))
}

async fn answer_all(
    api: &Arc<Api>,
    caller: Result<Authorized<scope::Evaluate>, Problem>,
    unread: Undecodable,
) -> Result<Response, Failure> {
    let caller = caller?;
    let input = unread.read_for(api, &caller).await?;
    let environment = environment_of(api, &input, None);
    caller.check_environment(&environment)?;
    let subject = Subject::of_openfeature(&input.body).map_err(|refusal| refused(&refusal))?;
    let min_version = input.min_version()?.max(notified_version(&input));
    let _place = evaluation_place(api, min_version).await?;
    let (flags, event_batch, version) = evaluate_all(api, &caller, &environment, &subject)?;
    publish(api, &input, event_batch).await?;
    // Hash of the flags only: the version in the body also changes with flags of other environments.
    let etag = etag(&flags);
    if input.header(IF_NONE_MATCH.as_str()).is_some_and(|known| matches(known, &etag)) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        set_etag(&mut response, &etag);
        return Ok(response);
    }
    // Without a token, anonymous callers may open the stream too.
    let ticket = ticket::issue(&caller, &environment);
    let mut response = json_answer(body::around(&flags, &environment, version, ticket.as_deref()), version);
    set_etag(&mut response, &etag);
    Ok(response)
}

fn evaluate_all(
    api: &Arc<Api>,
    caller: &Caller,
    environment: &str,
    subject: &Subject<'_>,
) -> Result<(Vec<u8>, EventBatch, u64), Failure> {
    let snapshot = api.store.load();
    let call = Call::begin(api, caller, &snapshot, Path::Ofrep, environment);
    let Some(names) = call.permitted_names() else {
        return Err(Failure::not_ready(format!(
            "the flags of environment {environment} are not loaded on this instance: they are not read yet, or the \
             environment is not served"
        )));
    };
    let asks: Vec<_> = names.into_iter().map(|name| Ask::new(name.into(), None, None)).collect();
    call.check_size(&asks, std::slice::from_ref(subject))?;
    api.authenticator.answers(caller, asks.len())?;
    let (flags, event_batch) = api.counts.count(Path::Ofrep, |tally| {
        let mut event_sink = call.event_sink(tally);
        event_sink.expect(asks.len(), 1);
        let mut out = Vec::with_capacity(asks.len() * body::ONE_BYTES);
        let call_subject = call.call_subject(subject);
        let telemetry = body::telemetry(environment, call_subject.shown_user());
        for ask in &asks {
            let answered = call.answer(&call_subject, ask, &mut event_sink);
            if !out.is_empty() {
                out.push(b',');
            }
            let before = out.len();
            if let Some(failure) = body::write(&mut out, &ask.flag, &answered, &telemetry) {
                out.truncate(before);
                failure.write(&mut out, Some(&ask.flag));
            }
        }
        (out, event_sink.finish())
    });
    Ok((flags, event_batch, call.flags_version))
}

async fn publish(api: &Api, input: &Input, event_batch: EventBatch) -> Result<(), Failure> {
    let unrecorded = |error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1).into();
    api.publisher.publish(event_batch.traced(input.trace())).await.map_err(unrecorded)
}

/// Flags version named by a change notification. A client that received it must not get an older answer.
fn notified_version(input: &Input) -> Option<u64> {
    let by_tag = || input.parameter("flagConfigEtag")?.trim_matches('"').strip_prefix('v')?.parse().ok();
    by_tag().or_else(|| last_modified(&input.parameter("flagConfigLastModified")?))
}

/// Version that is in force if the flags are as new as this time: seconds since 1970, or RFC 3339. Versions are times in
/// milliseconds.
fn last_modified(text: &str) -> Option<u64> {
    let text = text.trim_matches('"');
    let seconds = text.parse::<u64>().ok();
    let time = || u64::try_from(chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp()).ok();
    seconds.or_else(time)?.checked_mul(1_000)
}

fn refused(refusal: &Refusal) -> Failure {
    let code = if refusal.field.starts_with("context") { "INVALID_CONTEXT" } else { "PARSE_ERROR" };
    Failure::new(StatusCode::BAD_REQUEST, code, refusal.text())
}

/// Whether errors of this path have the protocol's form.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// The response for a problem: in the protocol's form if the path is one of the protocol, with the flag that it names.
pub(super) fn error_response(problem: Problem, path: &str) -> Response {
    match is_path(path) {
        true => Failure::from(problem).into_response(key_of(path).as_deref()),
        false => problem.into_response(),
    }
}

/// Name of the flag in a path; `None` if it names none, or if it is not UTF-8.
fn key_of(path: &str) -> Option<String> {
    let encoded = path.strip_prefix(FLAG_PREFIX)?;
    // In a path these characters have no meaning, unlike in a query.
    let encoded = encoded.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let (key, _) = form_urlencoded::parse(encoded.as_bytes()).next()?;
    (!key.contains(char::REPLACEMENT_CHARACTER)).then(|| key.into_owned())
}

fn etag(flags: &[u8]) -> String {
    let mut rest = flags;
    // Reading from a slice cannot fail.
    format!("W/\"{:032x}\"", murmur3::murmur3_x64_128(&mut rest, 0).unwrap_or_default())
}

/// Whether the client already has this response (weak comparison, RFC 9110, section 13.1.2).
fn matches(known: &str, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    known.split(',').any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

fn set_etag(response: &mut Response, etag: &str) {
    if let Ok(value) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(ETAG, value);
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = match problem.status {
            StatusCode::SERVICE_UNAVAILABLE => ErrorCode::ProviderNotReady.as_str(),
            StatusCode::BAD_REQUEST
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => "PARSE_ERROR",
            _ => ErrorCode::General.as_str(),
        };
        let is_temporary =
            matches!(problem.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        let has_time = problem.headers.iter().any(|(name, _)| name == RETRY_AFTER);
        let problem = if is_temporary && !has_time { problem.retry_after(RETRY_SECONDS) } else { problem };
        let mut failure = Self::new(problem.status, code, problem.detail);
        failure.headers = problem.headers;
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_path_is_decoded() {
        let key = |path: &str| key_of(&format!("/ofrep/v1/evaluate/{path}"));
        assert_eq!(key("flags/a"), Some("a".to_owned()));
        assert_eq!(key("flags/a/b%2F%25%20c+d&e=f"), Some("a/b/% c+d&e=f".to_owned()));
        assert_eq!((key("flags"), key("flags/"), key("flags/%FF")), (None, None, None));
    }
}
