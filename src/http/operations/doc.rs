//! Parameters and bodies of the routes for operators, for the OpenAPI document.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::http::openapi::schema::{ExplanationBody, ReasonName, ScopeName};

mod actions;

pub use actions::*;

#[derive(ToSchema)]
pub struct Me {
    /// Name of the caller in change logs.
    actor: String,
    /// Person whom a trusted proxy named.
    #[schema(required)]
    person: Option<String>,
    has_token: bool,
    scopes: Vec<ScopeName>,
    /// Environments that this deployment serves and the caller may see.
    environments: Vec<String>,
    all_environments: bool,
    /// `None` for callers without any scope.
    #[schema(required)]
    default_environment: Option<String>,
    /// Restrictions to certain flags: `projects`, `flag_prefixes`, `owners`. Empty lists restrict nothing.
    restrictions: BTreeMap<String, Vec<String>>,
    has_database: bool,
    has_redis: bool,
    /// Instance that answers; `None` for callers without any scope.
    #[schema(required)]
    instance: Option<String>,
    /// Version of the instance; `None` for callers without any scope.
    #[schema(required)]
    version: Option<String>,
}

#[derive(ToSchema)]
pub struct ClusterBody {
    instances: Vec<ClusterInstance>,
    /// Instance that publishes changes of flags.
    #[schema(required)]
    leader: Option<String>,
    /// Highest flags version in force on any instance.
    flags_version: u64,
    in_force_everywhere: bool,
    /// State of each system that the instances depend on, in the worst case of all instances.
    dependencies: BTreeMap<String, ClusterDependency>,
    totals: ClusterNumbers,
    /// Conditions that need attention, the most severe first.
    alarms: Vec<ClusterAlarm>,
    answered_by: String,
    /// Reason why the reports of the other instances cannot be read.
    #[schema(required)]
    error: Option<String>,
}

#[derive(ToSchema)]
pub struct ClusterInstance {
    /// Age of the report in milliseconds.
    age_ms: i64,
    /// Whether the instance has missed its last reports.
    silent: bool,
    /// Whether the highest version is in force there.
    is_current: bool,
    instance: String,
    roles: Vec<String>,
    build: String,
    address: String,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(format = DateTime)]
    reported_at: String,
    ready: bool,
    status: String,
    leader: bool,
    flags_version: u64,
    parts: BTreeMap<String, ClusterPart>,
    numbers: ClusterNumbers,
    /// Always empty here.
    changes: Vec<Map<String, Value>>,
    /// Always empty here.
    warmed: Vec<Map<String, Value>>,
}

#[derive(ToSchema)]
pub struct ClusterPart {
    state: String,
    #[schema(nullable = false)]
    detail: Option<String>,
    #[schema(format = DateTime)]
    since: String,
}

#[derive(ToSchema)]
pub struct ClusterDependency {
    state: String,
    #[schema(required)]
    detail: Option<String>,
    reported_by: String,
}

#[derive(ToSchema)]
pub struct ClusterAlarm {
    /// `critical` or `warning`.
    severity: String,
    text: String,
}

#[derive(ToSchema)]
pub struct ClusterNumbers {
    /// Rates by path: `kafka`, `rest`, `ofrep`, `edge`.
    evaluations_per_second: BTreeMap<String, f64>,
    dead_letters_per_minute: f64,
    dropped_per_minute: f64,
    request_lag: u64,
    audit_lag: u64,
    spool_bytes: u64,
    /// Durations by name: `request`, `evaluation`, `audit`.
    durations_ms: BTreeMap<String, ClusterQuantiles>,
    killed: u64,
    stuck: u64,
}

#[derive(ToSchema)]
pub struct ClusterQuantiles {
    p50: f64,
    p99: f64,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PropagationQuery {
    /// Only changes of this environment.
    environment: Option<String>,
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
}

#[derive(ToSchema)]
pub struct PropagationList {
    changes: Vec<PropagationBody>,
    statistics: PropagationSummary,
}

#[derive(ToSchema)]
pub struct PropagationSummary {
    changes: usize,
    /// Time of the oldest change that is remembered.
    #[schema(required, format = DateTime)]
    since: Option<String>,
    /// Statistics by stage: `seen_to_committed`, `committed_to_in_force` (on the slowest instance), `committed_to_announced`,
    /// `committed_to_refreshed`.
    stages: BTreeMap<String, PropagationStage>,
}

#[derive(ToSchema)]
pub struct PropagationStage {
    count: usize,
    p50_ms: i64,
    p99_ms: i64,
}

#[derive(ToSchema)]
pub struct PropagationBody {
    version: u64,
    environment: String,
    flag_name: String,
    #[schema(example = "FEATURE_FLAG_UPDATED")]
    event_type: String,
    actor: String,
    /// Time at which the leader saw the change at its source.
    #[schema(required, format = DateTime)]
    seen_at: Option<String>,
    /// Time at which the leader wrote the change to Kafka.
    #[schema(required, format = DateTime)]
    committed_at: Option<String>,
    /// Instances that were running when the change was written.
    instances: Vec<PropagationArrival>,
    /// Instance on which the change came into force last, or is not in force yet.
    #[schema(required)]
    slowest: Option<PropagationArrival>,
    /// Time from which readers of Redis ignore older values.
    #[schema(required, format = DateTime)]
    announced_at: Option<String>,
    /// Time at which the last raw key in Redis was correct.
    #[schema(required, format = DateTime)]
    refreshed_at: Option<String>,
}

#[derive(ToSchema)]
pub struct PropagationArrival {
    instance: String,
    /// `in_force`, `waiting`, or `unknown`: in force, but the instance no longer reports since when.
    state: String,
    #[schema(required, format = DateTime)]
    in_force_at: Option<String>,
    /// Milliseconds since the change was written; for a waiting instance, until now.
    #[schema(required)]
    after_ms: Option<i64>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SearchQuery {
    /// Needs the scope `audit`.
    user_id: Option<String>,
    flag_name: Option<String>,
    environment: Option<String>,
    #[param(inline)]
    reason: Option<ReasonName>,
    variant: Option<String>,
    /// Needs the scope `audit`.
    request_id: Option<String>,
    #[param(format = DateTime)]
    from: Option<String>,
    /// End of the period, exclusive.
    #[param(format = DateTime)]
    to: Option<String>,
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// `next` of the previous page.
    after: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamFilterQuery {
    /// Needs the scope `audit`.
    user_id: Option<String>,
    flag_name: Option<String>,
    environment: Option<String>,
    reason: Option<String>,
    variant: Option<String>,
    /// Needs the scope `audit`.
    request_id: Option<String>,
}

#[derive(ToSchema)]
pub struct EvaluationList {
    evaluations: Vec<RecordedEvaluation>,
    /// Value of `after` for the next page; null on the last page.
    #[schema(required)]
    next: Option<String>,
}

#[derive(ToSchema)]
pub struct RecordedEvaluation {
    event_id: String,
    flag_name: String,
    environment: String,
    #[schema(format = DateTime)]
    evaluated_at: String,
    /// Null without the scope `audit`, like `user_id`, `session_id`, `default_value`, `context` and `attributes`.
    #[schema(required)]
    request_id: Option<String>,
    #[schema(required)]
    user_id: Option<String>,
    #[schema(required)]
    session_id: Option<String>,
    #[schema(required, nullable)]
    value: Value,
    enabled: bool,
    #[schema(required)]
    variant: Option<String>,
    reason: String,
    #[schema(required)]
    error_code: Option<String>,
    #[schema(required)]
    error_message: Option<String>,
    #[schema(required)]
    flag_version: Option<i64>,
    #[schema(required)]
    flags_version: Option<i64>,
    #[schema(required)]
    value_type: Option<String>,
    #[schema(required, nullable)]
    default_value: Value,
    /// Null also if it is larger than 64 KiB.
    #[schema(required)]
    context: Option<Map<String, Value>>,
    /// Tables of attributes that completed the context, each with the `partition` and `offset` of its row and the `names` that
    /// it added. Null if there were none.
    #[schema(required)]
    attributes: Option<Map<String, Value>>,
    /// `topic`, `partition`, `offset` and `index` of the request, or the `api`.
    source: Map<String, Value>,
}

/// Evaluation to explain. Without versions, the flag in force is explained.
#[derive(ToSchema)]
pub struct ExplainBody {
    user_id: Option<String>,
    session_id: Option<String>,
    #[schema(example = json!({"plan": "gold"}))]
    context: Option<Map<String, Value>>,
    /// Version of the flag, as in an event.
    flag_version: Option<u64>,
    /// Version of the snapshot, as in an event.
    flags_version: Option<u64>,
    /// Time of the evaluation.
    #[schema(format = DateTime)]
    evaluated_at: Option<String>,
}

#[derive(ToSchema)]
pub struct ExplainedBody {
    flag_name: String,
    environment: String,
    flag_version: u64,
    /// Whether this version is in force.
    in_force: bool,
    #[schema(inline)]
    #[serde(flatten)]
    explanation: ExplanationBody,
    definition: Map<String, Value>,
}
