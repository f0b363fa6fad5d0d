//! Bodies of the preview route, for the OpenAPI document.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Proposed definition: either `definition` or `flag`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewAsk {
    /// A feature in the format of Unleash's client API, with its segments inlined.
    definition: Option<Map<String, Value>>,
    /// A local flag, with its name and environment.
    flag: Option<Map<String, Value>>,
    /// Number of latest evaluations to repeat.
    #[schema(minimum = 1, maximum = 100000, default = 10000)]
    last: Option<u32>,
}

#[derive(ToSchema)]
pub struct PreviewBody {
    flag_name: String,
    environment: String,
    /// Number of evaluations that were read.
    evaluations: u64,
    untouched: u64,
    same: u64,
    different: u64,
    /// Evaluations that cannot be repeated, by reason.
    unrepeatable: BTreeMap<String, u64>,
    /// Number of users who would get a different result.
    users: u64,
    requests: u64,
    flags: Vec<PreviewedFlag>,
    other_flags: u64,
}

#[derive(ToSchema)]
pub struct PreviewedFlag {
    environment: String,
    flag_name: String,
    different: u64,
    users: u64,
    variants: Vec<PreviewedPair>,
    reasons: Vec<PreviewedPair>,
    examples: Vec<PreviewExample>,
}

/// Recorded and new result, and how many evaluations changed in this way.
#[derive(ToSchema)]
pub struct PreviewedPair {
    #[schema(required)]
    recorded: Option<String>,
    #[schema(required)]
    again: Option<String>,
    evaluations: u64,
}

#[derive(ToSchema)]
pub struct PreviewExample {
    event_id: String,
    #[schema(required)]
    request_id: Option<String>,
    #[schema(required)]
    user_id: Option<String>,
    #[schema(format = DateTime)]
    evaluated_at: String,
    #[schema(required)]
    context: Option<Map<String, Value>>,
    #[schema(required)]
    flag_version: Option<i64>,
    recorded: PreviewedResult,
    again: PreviewedResult,
}

#[derive(ToSchema)]
pub struct PreviewedResult {
    /// The value as JSON text.
    value: String,
    enabled: bool,
    #[schema(required)]
    variant: Option<String>,
    reason: String,
    #[schema(required)]
    error_code: Option<String>,
}
