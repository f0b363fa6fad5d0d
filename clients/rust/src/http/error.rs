//! Why there is no answer of the service.

use std::time::Duration;

use open_feature::{EvaluationError, EvaluationErrorCode};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::answer::general;

/// How to react to an [`Error`]. The words are the same in the clients of all languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody answered, or the connection broke.
    ConnectionFailed,
    TimedOut,
    /// Not asked: the service failed too often a moment ago.
    CircuitOpen,
    InvalidRequest,
    Unauthorized,
    Forbidden,
    /// Not the address of a flagstream: an unknown flag is an answer.
    NotFound,
    RateLimited,
    /// The service cannot answer now.
    Unavailable,
    /// Something answered that is not flagstream.
    InvalidAnswer,
}

/// Any failure of a question. What it says is the answer's `application/problem+json`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("flagstream: {}{detail}", status.map(|status| format!("{status}: ")).unwrap_or_default())]
pub(super) struct Error {
    pub kind: Kind,
    /// None where there was no answer.
    pub status: Option<u16>,
    pub detail: String,
    /// The fields that are wrong.
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

    /// What an answer other than 200 means.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        // What is no problem leaves only the status to tell.
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
        // The cause is what tells.
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let texts: Vec<_> = causes.map(ToString::to_string).collect();
        Self::new(Kind::ConnectionFailed, texts.join(": "))
    }

    /// Whether it may be different the next time.
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

/// flagstream writes seconds; a date, as proxies may write it, is not worth a clock of theirs.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
