//! Requests and responses of the routes for Unleash's SDKs, for the OpenAPI document.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::schema::ProblemDetails;

/// Query of a list of definitions.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FeaturesQuery {
    /// Only flags whose names begin with this text.
    #[param(rename = "namePrefix")]
    name_prefix: Option<String>,
    /// Only flags of this project. May be repeated.
    project: Option<String>,
}

/// Context of a frontend SDK. Other parameters, also in the form `properties[name]`, are custom properties.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SdkContextQuery {
    #[param(rename = "userId")]
    user_id: Option<String>,
    #[param(rename = "sessionId")]
    session_id: Option<String>,
    #[param(rename = "appName")]
    app_name: Option<String>,
    /// Absent: the address of the caller.
    #[param(rename = "remoteAddress")]
    remote_address: Option<String>,
    #[param(rename = "currentTime")]
    current_time: Option<String>,
}

/// Context of a frontend SDK, in the member `context` or as the body itself. Numbers and booleans become text.
#[derive(ToSchema)]
pub struct SdkContextBody {
    #[schema(example = json!({"userId": "user-1", "properties": {"plan": "gold"}}))]
    context: Option<Map<String, Value>>,
}

/// Results for a frontend SDK.
#[derive(ToSchema)]
pub struct SdkToggles {
    toggles: Vec<SdkToggle>,
}

/// Result of one flag.
#[derive(ToSchema)]
pub struct SdkToggle {
    name: String,
    enabled: bool,
    variant: SdkVariant,
    #[schema(rename = "impressionData")]
    impression_data_of_sdk: bool,
    impression_data: bool,
}

#[derive(ToSchema)]
pub struct SdkVariant {
    /// `disabled` if the flag has no variant for the context.
    name: String,
    enabled: bool,
    /// Whether the flag is on.
    feature_enabled: bool,
    #[schema(nullable = false)]
    payload: Option<SdkPayload>,
}

#[derive(ToSchema)]
pub struct SdkPayload {
    r#type: String,
    value: String,
}

/// Definitions in the format of Unleash's client API, with the constraints of segments inlined.
#[derive(ToSchema)]
pub struct SdkFeatures {
    version: u32,
    features: Vec<Feature>,
    query: Map<String, Value>,
    meta: Map<String, Value>,
}

/// Definition of one flag, as Unleash has it.
#[derive(ToSchema)]
pub struct Feature {
    name: String,
    enabled: bool,
}

/// Error responses of routes for server SDKs.
#[derive(IntoResponses)]
pub enum SdkProblems {
    #[response(
        status = 403,
        description = "The token is unknown or revoked, or it is for frontend SDKs",
        content_type = "application/problem+json"
    )]
    Forbidden(ProblemDetails),
    #[response(
        status = 503,
        description = "The flags are not loaded yet, or Unleash cannot be asked whether the token is valid; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Error responses of routes for frontend SDKs.
#[derive(IntoResponses)]
pub enum SdkFrontendProblems {
    #[response(
        status = 400,
        description = "Not a JSON object, or an id that is too long",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 403,
        description = "The token is unknown or revoked, or it is for server SDKs",
        content_type = "application/problem+json"
    )]
    Forbidden(ProblemDetails),
    #[response(
        status = 413,
        description = "The context is too large",
        content_type = "application/problem+json"
    )]
    TooLarge(ProblemDetails),
    #[response(
        status = 503,
        description = "The flags are not loaded yet, or Unleash cannot be asked whether the token is valid; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Responses of the stream for server SDKs.
#[derive(IntoResponses)]
pub enum SdkStream {
    #[response(status = 200, description = "Server-sent events", content_type = "text/event-stream")]
    Events(String),
    #[response(
        status = 503,
        description = "The limit of open streams is reached, or the flags are not loaded yet; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Application that an SDK registers, in the form of Unleash's API. Other members are forwarded unchanged.
#[derive(ToSchema)]
pub struct SdkApplication {
    #[schema(rename = "appName", min_length = 1, max_length = 255, example = "shop")]
    app_name: String,
    #[schema(rename = "instanceId")]
    instance_id: Option<String>,
    interval: Option<u64>,
    started: Option<String>,
    strategies: Option<Vec<String>>,
}

/// Counts of evaluations by one SDK, in the form of Unleash's API.
#[derive(ToSchema)]
pub struct SdkMetrics {
    #[schema(rename = "appName", min_length = 1, max_length = 255, example = "shop")]
    app_name: String,
    bucket: Option<SdkBucket>,
    #[schema(rename = "impactMetrics")]
    impact_metrics: Option<Vec<Map<String, Value>>>,
}

#[derive(ToSchema)]
pub struct SdkBucket {
    start: Option<String>,
    stop: Option<String>,
    toggles: Option<BTreeMap<String, SdkCounts>>,
}

#[derive(ToSchema)]
pub struct SdkCounts {
    yes: Option<u64>,
    no: Option<u64>,
    variants: Option<BTreeMap<String, u64>>,
}

/// Counts of many applications, in the form of Unleash's API.
#[derive(ToSchema)]
pub struct SdkBulkMetrics {
    applications: Option<Vec<SdkApplication>>,
    metrics: Option<Vec<SdkFlagCounts>>,
    #[schema(rename = "impactMetrics")]
    impact_metrics: Option<Vec<Map<String, Value>>>,
}

#[derive(ToSchema)]
pub struct SdkFlagCounts {
    #[schema(rename = "featureName")]
    feature_name: String,
    #[schema(rename = "appName", min_length = 1, max_length = 255)]
    app_name: String,
    environment: String,
    #[schema(format = DateTime)]
    timestamp: String,
    yes: Option<u64>,
    no: Option<u64>,
    variants: Option<BTreeMap<String, u64>>,
}

/// Impression event, as an SDK of Unleash creates it. Other members are ignored.
#[derive(ToSchema)]
pub struct SdkImpression {
    #[schema(rename = "eventType")]
    event_type: SdkImpressionKind,
    /// Becomes the `request_id` of the event.
    #[schema(rename = "eventId", max_length = 255)]
    event_id: Option<String>,
    #[schema(rename = "featureName", min_length = 1, max_length = 255, example = "new-checkout")]
    feature_name: String,
    enabled: bool,
    /// The name of the variant, for `getVariant`; `disabled` if there is none.
    #[schema(max_length = 255)]
    variant: Option<String>,
    #[schema(example = json!({"userId": "user-1", "properties": {"plan": "gold"}}))]
    context: Option<Map<String, Value>>,
}

#[derive(ToSchema)]
pub enum SdkImpressionKind {
    #[schema(rename = "isEnabled")]
    IsEnabled,
    #[schema(rename = "getVariant")]
    GetVariant,
}

/// Tokens of SDKs.
#[derive(ToSchema)]
pub struct SdkTokens {
    #[schema(max_items = 100, example = json!(["*:development.SECRET"]))]
    tokens: Vec<String>,
}

/// Valid tokens.
#[derive(ToSchema)]
pub struct SdkValidTokens {
    tokens: Vec<SdkValidToken>,
}

#[derive(ToSchema)]
pub struct SdkValidToken {
    token: String,
    /// `client` or `frontend`.
    r#type: String,
    projects: Vec<String>,
    environment: String,
}

/// Error responses of reports.
#[derive(IntoResponses)]
pub enum SdkReportProblems {
    #[response(
        status = 400,
        description = "Not JSON in the form of Unleash's API",
        content_type = "application/problem+json"
    )]
    BadRequest(ProblemDetails),
    #[response(
        status = 403,
        description = "The token is unknown or revoked, or it is for the other kind of SDKs",
        content_type = "application/problem+json"
    )]
    Forbidden(ProblemDetails),
    #[response(status = 413, description = "Too large", content_type = "application/problem+json")]
    TooLarge(ProblemDetails),
    #[response(
        status = 503,
        description = "The report cannot be stored, or Unleash cannot be asked whether the token is valid; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}

/// Error responses of the validation of tokens.
#[derive(IntoResponses)]
pub enum SdkValidateProblems {
    #[response(status = 400, description = "Not JSON", content_type = "application/problem+json")]
    BadRequest(ProblemDetails),
    #[response(
        status = 404,
        description = "The API for Unleash's SDKs is not enabled",
        content_type = "application/problem+json"
    )]
    Disabled(ProblemDetails),
    #[response(
        status = 408,
        description = "The body did not arrive in time",
        content_type = "application/problem+json"
    )]
    Slow(ProblemDetails),
    #[response(status = 413, description = "Too large", content_type = "application/problem+json")]
    TooLarge(ProblemDetails),
    #[response(
        status = 429,
        description = "Too many unknown tokens",
        content_type = "application/problem+json"
    )]
    TooMany(ProblemDetails),
    #[response(
        status = 503,
        description = "Unleash cannot be asked whether a token is valid; retry later",
        content_type = "application/problem+json"
    )]
    NotNow(ProblemDetails),
}
