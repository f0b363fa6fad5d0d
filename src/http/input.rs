//! What a call brings: its body, the query, and the version it wants to see at least.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::Instant;

use crate::message::request::{MAX_ENVIRONMENT_BYTES, MAX_ID_BYTES, Refusal, RefusalCode, check_length};
use crate::message::trace::{TRACEPARENT, Traceparent};

use super::api::Api;
use super::evaluate::ENVIRONMENT_HEADER;
use super::problem::{FieldError, Problem};

/// A version that is not in force within this time is not waited for any longer.
const MIN_VERSION_PATIENCE: Duration = Duration::from_secs(2);
const MIN_VERSION_HEADER: &str = "if-flags-version";
const MIN_VERSION: &str = "min_version";

/// A body of JSON, not read yet.
#[derive(Debug)]
pub struct Input {
    pub body: Bytes,
    headers: HeaderMap,
    query: Option<String>,
}

impl<S: Send + Sync> FromRequest<S> for Input {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        check_content_type(&parts.headers)?;
        let query = parts.uri.query().map(str::to_owned);
        check_repeated(&parts.headers, query.as_deref())?;
        let body = Limited::new(body, super::MAX_BODY_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let message = format!("the body is larger than {} bytes", super::MAX_BODY_BYTES);
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message)
            } else {
                Problem::new(StatusCode::BAD_REQUEST, "the body ended early")
            }
        })?;
        let (body, headers) = (body.to_bytes(), parts.headers);
        Ok(Self { body, headers, query })
    }
}

/// A call whose body, if it has one, is of no interest.
#[derive(Debug)]
pub struct Bodiless(pub Input);

impl<S: Send + Sync> FromRequestParts<S> for Bodiless {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().map(str::to_owned);
        check_repeated(&parts.headers, query.as_deref())?;
        Ok(Self(Input { body: Bytes::new(), headers: parts.headers.clone(), query }))
    }
}

impl Input {
    /// The last value of a parameter of the query; an empty one is none.
    pub fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        last_parameter(self.query.as_deref(), name)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(axum::http::HeaderValue::as_bytes)
    }

    /// The trace that the call is part of.
    pub fn trace(&self) -> Option<Traceparent> {
        Traceparent::parse(self.headers.get(TRACEPARENT)?.as_bytes())
    }

    /// The highest version asked for in the query and the header.
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

/// Refuses what stands in query or header and is too long to be repeated with every result.
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

/// The last value of a parameter; an empty one is none.
pub fn last_parameter<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, str>> {
    let pairs = form_urlencoded::parse(query?.as_bytes());
    let last = pairs.filter(|(key, _)| key == name).last();
    last.map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// Waits until a version is in force, within bounds.
pub async fn wait_for_version(api: &Api, wanted: Option<u64>) -> Result<(), Problem> {
    let Some(version) = wanted.filter(|version| *version > api.store.version()) else {
        return Ok(());
    };
    if api.store.wait_for_version(version, Instant::now() + MIN_VERSION_PATIENCE).await {
        return Ok(());
    }
    let detail = format!("version {version} is not in force here yet; {} is", api.store.version());
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1))
}

/// Everything that is wrong with a body, in one answer.
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

/// JSON, or a kind of it. Without a type it is not known to be.
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

/// An answer of JSON with the version of the flags that gave it.
pub fn json_answer(body: Vec<u8>, flags_version: u64) -> axum::response::Response {
    let mut response = axum::response::Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, axum::http::HeaderValue::from_static("application/json"));
    headers.insert("flags-version", flags_version.into());
    response
}
