//! The bodies of previews.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Either a definition or a flag.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewAsk {
    /// A feature as Unleash's client API has it, its segments inlined.
    definition: Option<Map<String, Value>>,
    /// A local flag, with its name and environment.
    flag: Option<Map<String, Value>>,
    /// So many evaluations, the latest ones.
    #[schema(minimum = 1, maximum = 100000, default = 10000)]
    last: Option<u32>,
}

#[derive(ToSchema)]
pub struct PreviewBody {
    flag_name: String,
    environment: String,
    /// All that were looked at.
    evaluations: u64,
    untouched: u64,
    same: u64,
    different: u64,
    /// Those that cannot be evaluated again, by why.
    unrepeatable: BTreeMap<String, u64>,
    /// That would get something else.
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

/// Before and after.
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
    /// JSON text.
    value: String,
    enabled: bool,
    #[schema(required)]
    variant: Option<String>,
    reason: String,
    #[schema(required)]
    error_code: Option<String>,
}
