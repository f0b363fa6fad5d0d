//! Errors of the HTTP surface: `application/problem+json` (RFC 9457).

use std::fmt::Display;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// One error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
    /// One entry per field that is wrong.
    pub errors: Vec<FieldError>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub field: String,
    pub message: String,
}

#[derive(Serialize)]
struct Body<'p> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'p str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'p [FieldError],
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Display) -> Self {
        Self { status, detail: detail.to_string(), errors: Vec::new(), headers: Vec::new() }
    }

    /// Problem with one invalid field.
    pub fn of_field(status: StatusCode, field: &str, message: impl Into<String>) -> Self {
        Self::of_fields(status, vec![FieldError::new(field, message)])
    }

    /// Problem with one entry per invalid field. The detail shows the first, and how many more there are.
    pub fn of_fields(status: StatusCode, errors: Vec<FieldError>) -> Self {
        let first = errors.first().map(|error| format!("{}: {}", error.field, error.message));
        let more = match errors.len() {
            0 | 1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        Self { errors, ..Self::new(status, first.unwrap_or_default() + &more) }
    }

    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sets `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, seconds.into())
    }
}

impl FieldError {
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = match serde_json::to_vec(&body) {
            Ok(body) => (self.status, content_type, body).into_response(),
            Err(_) => self.status.into_response(),
        };
        response.headers_mut().extend(self.headers);
        response
    }
}
