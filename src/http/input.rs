//! Input of a request: body, query parameters, headers, and the minimum flags version that it requires.

use std::borrow::Cow;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use chrono::Utc;
use tokio::time::Instant;

use crate::message::request::{MAX_ENVIRONMENT_BYTES, MAX_ID_BYTES, Refusal, RefusalCode, check_length};
use crate::message::trace::{TRACEPARENT, Traceparent};

use super::api::Api;
use super::caller::Authorized;
use super::evaluate::ENVIRONMENT_HEADER;
use super::places::{CallPlace, Pool};
use super::problem::{FieldError, Problem};

/// Longest time that a request waits for the flags version it requires.
const MIN_VERSION_TIMEOUT: Duration = Duration::from_secs(2);
/// A required version further ahead than this, in milliseconds, is refused at once. Versions are timestamps of the
/// leader's clock, or one more than the version before, so such a version cannot come into force in time.
const MAX_VERSION_AHEAD_MS: u64 = 300_000;
const MIN_VERSION_HEADER: &str = "if-flags-version";
const MIN_VERSION: &str = "min_version";

/// Request with a JSON body that has not been read yet. The body is read only for an [`Authorized`] caller, so that an
/// unauthorized one cannot make the service wait for it.
#[derive(Debug)]
pub struct Undecodable {
    headers: HeaderMap,
    query: Option<String>,
    body: Body,
}

/// Request with its JSON body, read but not parsed.
#[derive(Debug)]
pub struct Input {
    pub body: Bytes,
    headers: HeaderMap,
    query: Option<String>,
    /// Concurrency slot, held until the response is complete.
    _place: Option<CallPlace>,
}

impl<S: Send + Sync> FromRequest<S> for Undecodable {
    type Rejection = Infallible;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Infallible> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().map(str::to_owned);
        Ok(Self { headers: parts.headers, query, body })
    }
}

impl Undecodable {
    /// Reads the body of a request of an authorized caller. Evaluations take their slot afterwards, with
    /// `evaluation_place`.
    pub async fn read_for<S>(self, api: &Api, _caller: &Authorized<S>) -> Result<Input, Problem> {
        self.read(api).await
    }

    /// Reads the body like [`Self::read_for`], and takes a slot of `pool`.
    pub(super) async fn read_in<S>(
        self,
        api: &Api,
        caller: &Authorized<S>,
        pool: Pool,
    ) -> Result<Input, Problem> {
        let input = self.read_for(api, caller).await?;
        Ok(Input { _place: Some(api.places.take(pool)?), ..input })
    }

    /// Reads the body without checking the caller, for routes that authenticate by a separate secret.
    pub(super) async fn read(self, api: &Api) -> Result<Input, Problem> {
        check_content_type(&self.headers)?;
        check_repeated(&self.headers, self.query.as_deref())?;
        let body = api.bodies.read(self.body).await?;
        Ok(Input { body, headers: self.headers, query: self.query, _place: None })
    }
}

/// Request whose body is ignored.
#[derive(Debug)]
pub struct NoBody(pub Input);

impl<S: Send + Sync> FromRequestParts<S> for NoBody {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().map(str::to_owned);
        check_repeated(&parts.headers, query.as_deref())?;
        Ok(Self(Input { body: Bytes::new(), headers: parts.headers.clone(), query, _place: None }))
    }
}

impl Input {
    /// Returns the last value of a query parameter. An empty value counts as absent.
    pub fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        last_parameter(self.query.as_deref(), name)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(axum::http::HeaderValue::as_bytes)
    }

    /// Trace context of the request (header `traceparent`), if it is valid.
    pub fn trace(&self) -> Option<Traceparent> {
        Traceparent::parse(self.headers.get(TRACEPARENT)?.as_bytes())
    }

    /// Highest flags version required by the query parameter and the header. An error if one of them is not a number.
    pub fn min_version(&self) -> Result<Option<u64>, Problem> {
        let given = [
            (MIN_VERSION, self.query.as_ref().and_then(|_| self.parameter(MIN_VERSION))),
            (MIN_VERSION_HEADER, self.header(MIN_VERSION_HEADER).map(Cow::Borrowed)),
        ];
        let (mut highest, mut errors) = (None, Vec::new());
        for (field, text) in given {
            match text.map(|text| text.trim_matches('"').parse::<u64>()) {
                Some(Ok(version)) => highest = highest.max(Some(version)),
                Some(Err(_)) => errors.push(FieldError::new(field, "expected a whole number from 0")),
                None => {}
            }
        }
        if errors.is_empty() { Ok(highest) } else { Err(Problem::of_fields(StatusCode::BAD_REQUEST, errors)) }
    }
}

/// Refuses an environment, user or session that is too long, since every result repeats it.
fn check_repeated(headers: &HeaderMap, query: Option<&str>) -> Result<(), Problem> {
    let limits =
        [("environment", MAX_ENVIRONMENT_BYTES), ("user_id", MAX_ID_BYTES), ("session_id", MAX_ID_BYTES)];
    for (name, limit) in limits {
        let bytes = last_parameter(query, name).map_or(0, |value| value.len());
        check_length(name, bytes, limit).map_err(|refusal| refused(vec![refusal]))?;
    }
    let environment = headers.get(ENVIRONMENT_HEADER).map_or(0, axum::http::HeaderValue::len);
    let checked = check_length(ENVIRONMENT_HEADER, environment, MAX_ENVIRONMENT_BYTES);
    checked.map_err(|refusal| refused(vec![refusal]))
}

/// Returns the last value of a query parameter. An empty value counts as absent.
pub fn last_parameter<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, str>> {
    let pairs = form_urlencoded::parse(query?.as_bytes());
    let last = pairs.filter(|(key, _)| key == name).last();
    last.map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// Takes a slot of the evaluation pool once the required version is in force. The wait takes a slot of a pool of its
/// own.
pub(super) async fn evaluation_place(api: &Api, wanted: Option<u64>) -> Result<CallPlace, Problem> {
    let in_force = api.store.version();
    if let Some(version) = wanted.filter(|version| *version > in_force) {
        let now_ms = Utc::now().timestamp_millis().unsigned_abs();
        let may_come = version <= now_ms.max(in_force).saturating_add(MAX_VERSION_AHEAD_MS);
        if !may_come || !wait_for_version(api, version).await? {
            let detail = format!(
                "flags version {version} is not in force on this instance yet; the current version is {}",
                api.store.version()
            );
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1));
        }
    }
    api.places.take(Pool::Evaluation)
}

/// Waits for `version`. Returns false if it does not come into force in time.
async fn wait_for_version(api: &Api, version: u64) -> Result<bool, Problem> {
    let _place = api.places.take(Pool::VersionWait)?;
    Ok(api.store.wait_for_version(version, Instant::now() + MIN_VERSION_TIMEOUT).await)
}

/// Reports everything that is wrong with a body in one problem.
pub fn refused(refusals: Vec<Refusal>) -> Problem {
    let code = |code| refusals.iter().any(|refusal| refusal.code == code);
    let unreadable = [RefusalCode::Empty, RefusalCode::NotUtf8, RefusalCode::NotJson, RefusalCode::TooDeep];
    let status = if code(RefusalCode::TooLarge) {
        StatusCode::PAYLOAD_TOO_LARGE
    } else if unreadable.into_iter().any(code) || refusals.iter().any(|refusal| refusal.wrong_type) {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let errors = refusals.into_iter().map(|refusal| {
        let field = if refusal.field.is_empty() { "body" } else { &refusal.field };
        FieldError::new(field, refusal.message)
    });
    Problem::of_fields(status, errors.collect())
}

/// Accepts `application/json` and `application/…+json`. A missing `Content-Type` is refused.
fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 17
            && essence.to_ascii_lowercase().starts_with("application/")
            && essence.ends_with("+json"));
    if is_json {
        return Ok(());
    }
    let given = given.map_or_else(|| "no Content-Type".to_owned(), |given| format!("Content-Type {given}"));
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("expected application/json, got {given}")))
}

/// Builds a JSON response with the flags version that it was evaluated with in the header `flags-version`.
pub fn json_answer(body: Vec<u8>, flags_version: u64) -> axum::response::Response {
    let mut response = axum::response::Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, axum::http::HeaderValue::from_static("application/json"));
    headers.insert("flags-version", flags_version.into());
    response
}
