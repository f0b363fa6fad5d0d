//! Parameters and error responses that several routes share, for the OpenAPI document.
#![allow(dead_code)]

use utoipa::{IntoParams, IntoResponses};

use super::ofrep_bodies::OfrepFailure;
use super::schema::ProblemDetails;

/// Error responses of evaluation routes.
#[derive(IntoResponses)]
pub enum EvaluationProblems {
    #[response(
        status = 400,
        description = "Not JSON, or a field has the wrong type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(status = 413, description = "Too large", content_type = "application/problem+json")]
    TooLarge(ProblemDetails),
    #[response(status = 415, description = "Not application/json", content_type = "application/problem+json")]
    OtherType(ProblemDetails),
    #[response(
        status = 422,
        description = "A field has an invalid value",
        content_type = "application/problem+json"
    )]
    NotMeaningful(ProblemDetails),
    #[response(
        status = 503,
        description = "The required version is not in force yet, a system that the request needs is unreachable, or there are too many concurrent requests; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Error responses of management routes, beside those that are added to every route.
#[derive(IntoResponses)]
pub enum ManagementProblems {
    #[response(
        status = 400,
        description = "Not JSON, or a field has the wrong type",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(status = 413, description = "Too large", content_type = "application/problem+json")]
    TooLarge(ProblemDetails),
    #[response(status = 415, description = "Not application/json", content_type = "application/problem+json")]
    OtherType(ProblemDetails),
    #[response(
        status = 422,
        description = "A field is unknown or has an invalid value",
        content_type = "application/problem+json"
    )]
    NotMeaningful(ProblemDetails),
}

/// Error responses of OFREP routes.
#[derive(IntoResponses)]
pub enum OfrepProblems {
    #[response(status = 400, description = "Not JSON, or an invalid context")]
    BadRequest(OfrepFailure),
    #[response(status = 401, description = "The token is missing, unknown, revoked or expired")]
    Unauthorized(OfrepFailure),
    #[response(status = 403, description = "The token does not permit the request")]
    Forbidden(OfrepFailure),
    #[response(status = 413, description = "Too large")]
    TooLarge(OfrepFailure),
    #[response(status = 415, description = "Not application/json")]
    OtherType(OfrepFailure),
    #[response(status = 422, description = "More flags than one request may ask for")]
    NotMeaningful(OfrepFailure),
    #[response(status = 429, description = "Too many requests per second")]
    TooMany(OfrepFailure),
    #[response(
        status = 503,
        description = "The flags are not loaded yet, or the required version is not in force yet; retry later"
    )]
    NotNow(OfrepFailure),
}

/// Responses of the stream for OpenFeature providers.
#[derive(IntoResponses)]
pub enum OfrepStream {
    #[response(status = 200, description = "Server-sent events", content_type = "text/event-stream")]
    Events(String),
    #[response(status = 503, description = "The limit of open streams is reached; retry later")]
    NotNow(OfrepFailure),
}

/// Responses of change streams.
#[derive(IntoResponses)]
pub enum Stream {
    #[response(status = 200, description = "Server-sent events", content_type = "text/event-stream")]
    Events(String),
    #[response(
        status = 503,
        description = "The limit of open streams is reached; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Error responses of the edge API.
#[derive(IntoResponses)]
pub enum EdgeProblems {
    #[response(
        status = 400,
        description = "An invalid version, or a name that is not UTF-8",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 404,
        description = "The environment has no such flag",
        content_type = "application/problem+json"
    )]
    Unknown(ProblemDetails),
    #[response(
        status = 503,
        description = "The required version is not in force yet, Redis is unreachable, or there are too many concurrent requests; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Query parameters of the edge API.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EdgeQuery {
    /// Environment; if absent, the default environment.
    environment: Option<String>,
    /// Waits until this flags version is in force.
    min_version: Option<u64>,
}

/// Query parameters of an evaluation.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EvaluationQuery {
    /// Environment, if the body does not name one.
    environment: Option<String>,
    /// Waits until this flags version is in force.
    min_version: Option<u64>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ExplainQuery {
    /// Adds `explanation`: which strategy decided, and which constraint of the others failed. Needs the scope `read` too.
    #[param(default = false)]
    explain: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct EvaluationHeaders {
    /// Alternative to `min_version`.
    #[param(rename = "If-Flags-Version")]
    if_flags_version: Option<u64>,
    /// Environment, if neither body nor query names one.
    #[param(rename = "Flags-Environment")]
    flags_environment: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct TrackHeaders {
    /// Environment, if the query names none.
    #[param(rename = "Flags-Environment")]
    flags_environment: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// Only changes of this environment. Absent: all environments that the caller may see.
    environment: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfrepStreamQuery {
    /// Proof of the caller's token, from `requestUri` of an evaluation, for clients that cannot send headers.
    ticket: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct StreamHeaders {
    /// Id of the last event received. The stream resumes after it.
    #[param(rename = "Last-Event-ID")]
    last_event_id: Option<String>,
}
