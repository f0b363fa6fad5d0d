//! Results for frontend SDKs: all flags evaluated for one context, from one snapshot.

use std::sync::Arc;

use axum::extract::{Path as UrlPath, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};

use crate::config::RecordedEvents;
use crate::evaluate::tally::UNRECORDED_REASONS;
use crate::flag::{CompiledFlag, Outcome};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::call::{Call, CallSubject, EventSink};
use crate::http::caller::Peer;
use crate::http::counts::Path;
use crate::http::openapi::schema::ProblemDetails;
use crate::http::openapi::unleash::{
    SdkContextBody, SdkContextQuery, SdkFrontendProblems, SdkToggle, SdkToggles,
};
use crate::http::places::Pool;
use crate::message::event::EventSource;
use crate::message::json::write_string;
use crate::message::request::{Ask, Subject, context as read_context};
use crate::metrics::OutcomeLabels;
use crate::outbox::EventBatch;
use crate::unleash_api::context::{ContextError, SdkContext};
use crate::unleash_api::features::hash;
use crate::unleash_api::flag_sets::Selected;
use crate::unleash_api::repeats::Impression;

use super::{FrontendCaller, Sdk, SdkCaller, address, tags};

/// Initial buffer size per flag of an answer, in bytes.
const TOGGLE_BYTES: usize = 160;
/// Maximum bytes of contexts that the events of one answer repeat.
const MAX_ECHO_BYTES: usize = 16 << 20;

pub(super) fn routes(with_all: bool) -> Router<Arc<Api>> {
    let mut routes = Router::new().route("/api/frontend/features/{*name}", get(one).post(one_by_post));
    for path in ["/api/frontend", "/api/proxy"] {
        routes = routes.route(path, get(enabled).post(enabled_by_post));
        if with_all {
            routes = routes.route(&format!("{path}/all"), get(all).post(all_by_post));
        }
    }
    routes
}

/// Flags of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted<'n> {
    Enabled,
    All,
    One(&'n str),
}

/// Evaluates all flags, and returns those that are on, for frontend SDKs.
#[utoipa::path(
    get,
    path = "/api/frontend",
    operation_id = "sdkEvaluate",
    tag = "unleash",
    params(SdkContextQuery),
    responses(
        (status = 200, description = "The flags that are on, by name", body = SdkToggles, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        SdkFrontendProblems
    )
)]
pub(super) async fn enabled(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    peer: Option<Extension<Peer>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    by_query(&api, &caller, peer, query.as_deref(), &headers, Wanted::Enabled).await
}

/// Evaluates all flags for the context in the body, and returns those that are on.
#[utoipa::path(
    post,
    path = "/api/frontend",
    operation_id = "sdkEvaluateByPost",
    tag = "unleash",
    request_body = SdkContextBody,
    responses(
        (status = 200, description = "The flags that are on, by name", body = SdkToggles, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        SdkFrontendProblems
    )
)]
pub(super) async fn enabled_by_post(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<Response, Problem> {
    by_body(&api, &caller, peer, request, Wanted::Enabled).await
}

/// Evaluates all flags, and returns those that are on and those that are off.
#[utoipa::path(
    get,
    path = "/api/frontend/all",
    operation_id = "sdkEvaluateAll",
    tag = "unleash",
    params(SdkContextQuery),
    responses(
        (status = 200, description = "All flags, by name", body = SdkToggles, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        (status = 404, description = "Disabled by `FLAGSTREAM_UNLEASH_API__ALL_ENDPOINTS`", content_type = "application/problem+json", body = ProblemDetails),
        SdkFrontendProblems
    )
)]
pub(super) async fn all(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    peer: Option<Extension<Peer>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    by_query(&api, &caller, peer, query.as_deref(), &headers, Wanted::All).await
}

/// Evaluates all flags for the context in the body, and returns those that are on and those that are off.
#[utoipa::path(
    post,
    path = "/api/frontend/all",
    operation_id = "sdkEvaluateAllByPost",
    tag = "unleash",
    request_body = SdkContextBody,
    responses(
        (status = 200, description = "All flags, by name", body = SdkToggles, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        (status = 404, description = "Disabled by `FLAGSTREAM_UNLEASH_API__ALL_ENDPOINTS`", content_type = "application/problem+json", body = ProblemDetails),
        SdkFrontendProblems
    )
)]
pub(super) async fn all_by_post(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<Response, Problem> {
    by_body(&api, &caller, peer, request, Wanted::All).await
}

/// Evaluates one flag, for frontend SDKs.
#[utoipa::path(
    get,
    path = "/api/frontend/features/{name}",
    operation_id = "sdkEvaluateOne",
    tag = "unleash",
    params(("name" = String, Path, description = "The flag", min_length = 1), SdkContextQuery),
    responses(
        (status = 200, description = "Evaluated", body = SdkToggle, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        (status = 404, description = "The token's projects have no such flag", content_type = "application/problem+json", body = ProblemDetails),
        SdkFrontendProblems
    )
)]
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    UrlPath(name): UrlPath<String>,
    peer: Option<Extension<Peer>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    by_query(&api, &caller, peer, query.as_deref(), &headers, Wanted::One(&name)).await
}

/// Evaluates one flag for the context in the body.
#[utoipa::path(
    post,
    path = "/api/frontend/features/{name}",
    operation_id = "sdkEvaluateOneByPost",
    tag = "unleash",
    params(("name" = String, Path, description = "The flag", min_length = 1)),
    request_body = SdkContextBody,
    responses(
        (status = 200, description = "Evaluated", body = SdkToggle, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        (status = 404, description = "The token's projects have no such flag", content_type = "application/problem+json", body = ProblemDetails),
        SdkFrontendProblems
    )
)]
pub(super) async fn one_by_post(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    UrlPath(name): UrlPath<String>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<Response, Problem> {
    by_body(&api, &caller, peer, request, Wanted::One(&name)).await
}

async fn by_query(
    api: &Arc<Api>,
    caller: &SdkCaller,
    peer: Option<Extension<Peer>>,
    query: Option<&str>,
    headers: &HeaderMap,
    wanted: Wanted<'_>,
) -> Result<Response, Problem> {
    let context = SdkContext::of_query(query.unwrap_or_default());
    answer(api, caller, context, peer, headers, wanted).await
}

async fn by_body(
    api: &Arc<Api>,
    caller: &SdkCaller,
    peer: Option<Extension<Peer>>,
    request: Request,
    wanted: Wanted<'_>,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = api.bodies.read(body).await?;
    let context = SdkContext::of_body(&body)?;
    answer(api, caller, context, peer, &parts.headers, wanted).await
}

async fn answer(
    api: &Arc<Api>,
    caller: &SdkCaller,
    context: SdkContext,
    peer: Option<Extension<Peer>>,
    headers: &HeaderMap,
    wanted: Wanted<'_>,
) -> Result<Response, Problem> {
    let _place = api.places.take(Pool::Evaluation)?;
    let peer = peer.map(|Extension(peer)| peer);
    let json = context.at(address(api, headers, peer)).identified().into_json()?;
    let (body, event_batch) = evaluate(api, caller, headers, &json, wanted)?;
    let published = api.publisher.publish(event_batch).await;
    published.map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1))?;
    let etag = format!("\"{:032x}\"", hash(&body));
    if tags::is_known(headers, &etag) {
        return Ok(tags::not_modified(&etag));
    }
    Ok(tags::json(body, &etag).into_response())
}

fn evaluate(
    api: &Arc<Api>,
    caller: &SdkCaller,
    headers: &HeaderMap,
    json: &str,
    wanted: Wanted<'_>,
) -> Result<(Vec<u8>, EventBatch), Problem> {
    let snapshot = api.store.load();
    let selection = caller.selection();
    let selected = caller.selected(api, &snapshot)?;
    let context = read_context(json)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("context: {error}")))?;
    let subject = Subject { context, context_json: json.into() };
    let sdk = Sdk::of(headers);
    let source =
        EventSource::Sdk { app: sdk.app.or(subject.context.app_name.as_deref()), connection: sdk.connection };
    let none = crate::auth::Restrictions::none();
    let call =
        Call::begin_within(api, none, &snapshot, Path::Unleash, &selection.environment).with_source(source);
    let call_subject = call.call_subject(&subject);
    let recorder = Recorder { api, caller, call: &call, call_subject: &call_subject };
    recorder.check_size(&selected, &subject)?;
    api.counts.count(Path::Unleash, |tally| {
        let mut event_sink = call.event_sink(tally);
        let body = match wanted {
            Wanted::One(name) => {
                let found = selected.flags.binary_search_by(|flag| (*flag.name).cmp(name)).ok();
                let flag = found.and_then(|index| selected.flags.get(index)).ok_or_else(|| {
                    let detail = format!("the token's projects have no flag {name}");
                    Problem::new(StatusCode::NOT_FOUND, detail)
                })?;
                let mut body = Vec::with_capacity(TOGGLE_BYTES);
                write_toggle(&mut body, &recorder.evaluate(&selected, flag, &mut event_sink));
                body
            }
            Wanted::Enabled | Wanted::All => {
                event_sink.expect(recorder.events_count(&selected), 1);
                recorder.list(&selected, wanted == Wanted::All, &mut event_sink)
            }
        };
        Ok((body, event_sink.finish()))
    })
}

/// Evaluates flags for one answer, and decides which evaluations become events.
struct Recorder<'r, 'c> {
    api: &'r Api,
    caller: &'r SdkCaller,
    call: &'r Call<'c>,
    call_subject: &'r CallSubject<'r>,
}

impl Recorder<'_, '_> {
    /// Refuses a context that would make the events of the answer too large.
    fn check_size(&self, selected: &Selected, subject: &Subject<'_>) -> Result<(), Problem> {
        let events = self.events_count(selected);
        let added = self.call.added_bytes(events, std::slice::from_ref(subject));
        let bytes = events.saturating_mul(subject.context_json.len()).saturating_add(added);
        if bytes <= MAX_ECHO_BYTES {
            return Ok(());
        }
        let detail = format!(
            "{events} events would repeat the context, which takes {bytes} bytes; the limit is {MAX_ECHO_BYTES}: shorten \
             the context"
        );
        Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
    }

    /// Upper bound of the evaluations of an answer that become events.
    fn events_count(&self, selected: &Selected) -> usize {
        match self.api.config.unleash_api.events {
            RecordedEvents::All => selected.flags.len(),
            RecordedEvents::Impressions => selected.flags.iter().filter(|flag| flag.impression_data).count(),
            RecordedEvents::None => 0,
        }
    }

    fn list(&self, selected: &Selected, with_off: bool, event_sink: &mut EventSink<'_>) -> Vec<u8> {
        let mut body = Vec::with_capacity(selected.flags.len() * TOGGLE_BYTES + 16);
        body.extend_from_slice(br#"{"toggles":["#);
        let before = body.len();
        for flag in &selected.flags {
            let outcome = self.evaluate(selected, flag, event_sink);
            if outcome.enabled || with_off {
                if body.len() > before {
                    body.push(b',');
                }
                write_toggle(&mut body, &outcome);
            }
        }
        body.extend_from_slice(b"]}");
        body
    }

    /// Evaluates one flag, counts it, and writes its event if it is to be recorded.
    fn evaluate<'f>(
        &self,
        selected: &'f Selected,
        flag: &'f Arc<CompiledFlag>,
        event_sink: &mut EventSink<'_>,
    ) -> Outcome<'f> {
        let joined = self.call.join(self.call_subject, &flag.name);
        let completed = joined.as_ref().map(|joined| self.call.complete(self.call_subject, joined));
        let seen = self.call_subject.seen(completed.as_ref());
        let outcome = selected.environment.evaluate_flag(flag, seen.context, &self.call.moment());
        let answer = self.call.count_outcome(&flag.name, outcome, event_sink);
        match self.unrecorded(&outcome) {
            Some(reason) => event_sink.unrecorded(reason),
            None => {
                let ask = Ask::new(flag.name.as_ref().into(), None, None);
                self.call.write_event(self.call_subject, seen, &ask, &answer, None, event_sink);
            }
        }
        outcome
    }

    /// Reason why an evaluation does not become an event; `None` if it does.
    fn unrecorded(&self, outcome: &Outcome<'_>) -> Option<Unrecorded> {
        match self.api.config.unleash_api.events {
            RecordedEvents::All => return None,
            RecordedEvents::None => return Some(Unrecorded::Off),
            RecordedEvents::Impressions if !outcome.flag.impression_data => {
                return Some(Unrecorded::NoImpression);
            }
            RecordedEvents::Impressions => {}
        }
        let context = self.call_subject.context();
        let impression = Impression {
            environment: self.call.environment,
            subject: context.user_id.as_deref().or(context.session_id.as_deref()).unwrap_or_default(),
            flag: &outcome.flag.name,
            version: outcome.flag.version,
            enabled: outcome.enabled,
            variant: outcome.variant.map(|(_, variant)| &*variant.name),
        };
        self.caller.unleash.repeats.admit(&impression).is_none().then_some(Unrecorded::Repeated)
    }
}

/// Reason why an evaluation does not become an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Unrecorded {
    NoImpression,
    Repeated,
    Off,
    /// Only of reported impressions: the token's projects have no such flag.
    UnknownFlag,
}

impl Unrecorded {
    pub(in crate::http) const ALL: [Self; UNRECORDED_REASONS] =
        [Self::NoImpression, Self::Repeated, Self::Off, Self::UnknownFlag];

    pub(in crate::http) fn labels(self) -> OutcomeLabels {
        let outcome = match self {
            Self::NoImpression => "no_impression_data",
            Self::Repeated => "repeated",
            Self::Off => "events_off",
            Self::UnknownFlag => "unknown_flag",
        };
        OutcomeLabels { outcome }
    }
}

fn write_toggle(out: &mut Vec<u8>, outcome: &Outcome<'_>) {
    let flag = outcome.flag;
    let write_flag = |out: &mut Vec<u8>, value: bool| {
        out.extend_from_slice(if value { b"true" } else { b"false" });
    };
    out.extend_from_slice(br#"{"name":"#);
    write_string(out, &flag.name);
    out.extend_from_slice(br#","enabled":"#);
    write_flag(out, outcome.enabled);
    out.extend_from_slice(br#","variant":"#);
    match outcome.variant.filter(|_| outcome.enabled) {
        Some((_, variant)) => {
            out.extend_from_slice(br#"{"name":"#);
            write_string(out, &variant.name);
            if let Some(payload) = &variant.payload {
                out.extend_from_slice(br#","payload":{"type":"#);
                write_string(out, &payload.kind);
                out.extend_from_slice(br#","value":"#);
                write_string(out, &payload.text);
                out.push(b'}');
            }
            out.extend_from_slice(br#","enabled":true"#);
        }
        None => out.extend_from_slice(br#"{"name":"disabled","enabled":false"#),
    }
    out.extend_from_slice(br#","feature_enabled":"#);
    write_flag(out, outcome.enabled);
    out.extend_from_slice(br#"},"impressionData":"#);
    write_flag(out, flag.impression_data);
    out.extend_from_slice(br#","impression_data":"#);
    write_flag(out, flag.impression_data);
    out.push(b'}');
}

impl From<ContextError> for Problem {
    fn from(error: ContextError) -> Self {
        let status = match error {
            ContextError::NotJson(_) | ContextError::LongId { .. } => StatusCode::BAD_REQUEST,
            ContextError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        };
        Self::new(status, error)
    }
}
