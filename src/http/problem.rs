//! Errors of the HTTP surface: `application/problem+json` (RFC 9457).

use std::fmt::Display;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// One error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
    /// What is wrong with which field of the input.
    pub errors: Vec<FieldError>,
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
        Self { status, detail: detail.to_string(), errors: Vec::new() }
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
        match serde_json::to_vec(&body) {
            Ok(body) => (self.status, content_type, body).into_response(),
            Err(_) => self.status.into_response(),
        }
    }
}
