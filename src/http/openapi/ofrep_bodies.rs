//! Bodies of the OpenFeature Remote Evaluation Protocol, for the OpenAPI document.
#![allow(dead_code)]

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// OFREP request.
#[derive(ToSchema)]
pub struct OfrepRequest {
    /// Evaluation context; `targetingKey` is the user.
    #[schema(example = json!({"targetingKey": "user-123", "region": "us-west"}))]
    context: Option<Map<String, Value>>,
}

/// Tracking event.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepTrackRequest {
    /// Name of the metric.
    #[schema(min_length = 1, max_length = 255, example = "purchase")]
    tracking_event_name: String,
    /// Evaluation context; `targetingKey` is the user, and required.
    #[schema(example = json!({"targetingKey": "user-123"}))]
    context: Option<Map<String, Value>>,
    tracking_event_details: Option<OfrepTrackDetails>,
}

/// Details of a tracking event. Other members are ignored.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepTrackDetails {
    /// Required if the metric is a mean.
    #[schema(example = 12.5)]
    value: Option<f64>,
    /// Only this experiment. Absent: all running experiments that have the metric.
    experiment: Option<String>,
    /// An event with the id of an earlier one is not counted again.
    #[schema(example = "order-77")]
    event_id: Option<String>,
    /// Absent: now.
    #[schema(format = DateTime)]
    occurred_at: Option<String>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepTracked {
    /// Number of conversions.
    accepted: usize,
    experiments: Vec<String>,
    event_id: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OfrepReason {
    Static,
    TargetingMatch,
    Split,
    Disabled,
    Default,
    /// Answered from Redis while the flags are not loaded.
    Cached,
}

/// Value of a flag; absent if the client should use its own default.
#[derive(ToSchema)]
pub struct OfrepSuccess {
    key: String,
    value: Option<Value>,
    reason: OfrepReason,
    variant: String,
    metadata: OfrepFlagMetadata,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepFlagMetadata {
    /// Version of the definition that was evaluated.
    #[schema(example = "1768473000123")]
    version: String,
    /// The environment.
    flag_set_id: String,
    /// The targeting key, as it may be written. Absent without one.
    #[schema(nullable = false)]
    context_id: Option<String>,
    /// Present, and true, only if a kill switch turned the flag off.
    #[schema(nullable = false)]
    killed: Option<bool>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepMetadata {
    /// Highest version in the snapshot that was evaluated.
    #[schema(example = "1768473000124")]
    version: String,
    /// The environment.
    flag_set_id: String,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepFailure {
    key: Option<String>,
    #[schema(example = "FLAG_NOT_FOUND")]
    error_code: String,
    error_details: Option<String>,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum OfrepFlag {
    Success(OfrepSuccess),
    Failure(OfrepFailure),
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepAll {
    flags: Vec<OfrepFlag>,
    metadata: OfrepMetadata,
    event_streams: Vec<OfrepStream>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepStream {
    r#type: String,
    endpoint: OfrepEndpoint,
    inactivity_delay_sec: u32,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfrepEndpoint {
    request_uri: String,
}
