//! Errors of requests to the service.

use std::time::Duration;

use open_feature::{EvaluationError, EvaluationErrorCode};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::answer::general;

/// The kind of an [`Error`], which determines how to react. The names are the same in the clients of all languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection failed or broke.
    ConnectionFailed,
    TimedOut,
    /// The request was not sent, because the service failed repeatedly a moment ago.
    CircuitOpen,
    InvalidRequest,
    Unauthorized,
    Forbidden,
    /// The address does not belong to flagstream: an unknown flag has a regular answer.
    NotFound,
    RateLimited,
    /// The service is temporarily unable to answer.
    Unavailable,
    /// The answer does not come from flagstream.
    InvalidAnswer,
}

/// Any failure of a request. The texts are from the response's `application/problem+json`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("flagstream: {}{detail}", status.map(|status| format!("{status}: ")).unwrap_or_default())]
pub(super) struct Error {
    pub kind: Kind,
    /// HTTP status; `None` if there was no response.
    pub status: Option<u16>,
    pub detail: String,
    /// Names of the invalid fields.
    pub fields: Vec<String>,
    pub retry_after: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    field: String,
}

impl Error {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, status: None, detail: detail.into(), fields: Vec::new(), retry_after: Duration::ZERO }
    }

    pub(super) fn invalid_answer(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status: Some(status.as_u16()), ..Self::new(Kind::InvalidAnswer, detail) }
    }

    /// The error for a response with a status other than 200.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        // A body that is not a problem document is ignored; only the status is reported.
        let Problem { title, detail, errors } = serde_json::from_slice(body).unwrap_or_default();
        let reason = status.canonical_reason().unwrap_or("no answer to a question");
        Self {
            kind: kind_of(status),
            status: Some(status.as_u16()),
            detail: detail.or(title).unwrap_or_else(|| reason.to_owned()),
            fields: errors.into_iter().map(|error| error.field).collect(),
            retry_after: retry_after(headers).unwrap_or_default(),
        }
    }

    pub(super) fn of_connection(error: &reqwest::Error) -> Self {
        // The causes contain the actual reason.
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let texts: Vec<_> = causes.map(ToString::to_string).collect();
        Self::new(Kind::ConnectionFailed, texts.join(": "))
    }

    /// Whether a retry may succeed.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.kind, Kind::ConnectionFailed | Kind::TimedOut | Kind::RateLimited | Kind::Unavailable)
    }
}

impl From<Error> for EvaluationError {
    fn from(error: Error) -> Self {
        let is_context = |field: &String| field.split('.').next() == Some("context");
        let code = match error.kind {
            Kind::InvalidAnswer => EvaluationErrorCode::ParseError,
            Kind::InvalidRequest if error.fields.iter().any(is_context) => {
                EvaluationErrorCode::InvalidContext
            }
            _ => return general(error.to_string()),
        };
        Self { code, message: Some(error.to_string()) }
    }
}

fn kind_of(status: StatusCode) -> Kind {
    match status {
        StatusCode::UNAUTHORIZED => Kind::Unauthorized,
        StatusCode::FORBIDDEN => Kind::Forbidden,
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
        status if status.is_server_error() => Kind::Unavailable,
        status if status.is_client_error() => Kind::InvalidRequest,
        _ => Kind::InvalidAnswer,
    }
}

/// Parses `Retry-After` in seconds, as flagstream writes it. A date, as proxies may write it, is ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
