//! Bodies of the routes about kill switches and usage, for the OpenAPI document.
#![allow(dead_code)]

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::bodies::SourceName;

/// Kill switch of a flag: who set it, why, and until when.
#[derive(ToSchema)]
pub struct KillSwitchBody {
    actor: String,
    reason: String,
    #[schema(format = DateTime)]
    killed_at: String,
    #[schema(required, format = DateTime)]
    expires_at: Option<String>,
    version: u64,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KillBody {
    /// Reason; required here or in the header `X-Change-Reason`.
    #[schema(max_length = 1000, example = "checkout fails for everybody")]
    reason: Option<String>,
    /// Time at which the kill switch expires. Absent: it stays until the flag is restored.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBody {
    /// Reason; required here or in the header `X-Change-Reason`.
    #[schema(max_length = 1000, example = "fixed in 2.4.1")]
    reason: Option<String>,
}

/// A kill switch that was set or cleared.
#[derive(ToSchema)]
pub struct TurnedBody {
    name: String,
    environment: String,
    killed: bool,
    #[schema(required)]
    kill_switch: Option<KillSwitchBody>,
    /// Version of the change, announced to caches. Anything derived from a lower version is out of date.
    version: u64,
    /// Whether the change is in force on the answering instance.
    in_force: bool,
}

/// State to restore: either a revision or a version.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertBody {
    /// Revision in the change log: the flag is restored to its state after that change.
    #[schema(example = 3)]
    revision: Option<i64>,
    /// Version of a definition that was in force.
    version: Option<i64>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ResolutionName {
    Minute,
    Hour,
    Day,
}

/// Number of evaluations and their results.
#[derive(ToSchema)]
pub struct UsedBody {
    evaluations: i64,
    /// Evaluations that found the flag on.
    enabled: i64,
    disabled: i64,
    errors: i64,
    variants: BTreeMap<String, i64>,
    /// Mean evaluation time in microseconds, from one in 31 evaluations. Null if none was timed.
    #[schema(required)]
    mean_evaluation_us: Option<f64>,
}

#[derive(ToSchema)]
pub struct UsageBucket {
    #[schema(format = DateTime)]
    starts_at: String,
    #[serde(flatten)]
    used: UsedBody,
}

/// Usage of a flag.
#[derive(ToSchema)]
pub struct UsageBody {
    flag_name: String,
    environment: String,
    resolution: ResolutionName,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    total: UsedBody,
    /// Buckets in chronological order; those without evaluations are left out.
    buckets: Vec<UsageBucket>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum SortName {
    Name,
    LastEvaluatedAt,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum StaleReasonName {
    Expired,
    MarkedStale,
    NeverEvaluated,
    /// The last evaluation was at least `unused_days` ago.
    Unused,
    AlwaysOn,
    Unowned,
}

/// A flag, and why it needs attention.
#[derive(ToSchema)]
pub struct StaleFlagBody {
    name: String,
    environment: String,
    source: SourceName,
    #[schema(required)]
    owner: Option<String>,
    reasons: Vec<StaleReasonName>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(required, format = DateTime)]
    expires_at: Option<String>,
    /// Number of evaluations since the flag exists.
    evaluation_count: i64,
    #[schema(required, format = DateTime)]
    last_evaluated_at: Option<String>,
    #[schema(required, format = DateTime)]
    last_off_at: Option<String>,
    /// Time since which it is recorded whether evaluations found the flag on.
    #[schema(required, format = DateTime)]
    outcomes_since: Option<String>,
    /// Evaluations within the last `days` days.
    evaluations: i64,
    enabled: i64,
}

#[derive(ToSchema)]
pub struct StaleBody {
    items: Vec<StaleFlagBody>,
    /// Number of flags on all pages.
    total: usize,
    limit: u32,
    offset: u32,
    days: u32,
    unused_days: u32,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CleanupBody {
    #[schema(default = 90, maximum = 36500)]
    older_than_days: Option<u32>,
    /// `true` only lists the flags, `false` removes them.
    #[schema(default = true)]
    dry_run: Option<bool>,
}

#[derive(ToSchema)]
pub struct CleanedFlagBody {
    name: String,
    environment: String,
    #[schema(required)]
    owner: Option<String>,
    #[schema(format = DateTime)]
    archived_at: String,
    revision: i64,
    removed: bool,
    /// Reason why the flag was not removed.
    #[schema(required)]
    error: Option<String>,
}

#[derive(ToSchema)]
pub struct CleanedBody {
    dry_run: bool,
    older_than_days: u32,
    /// Flags that were removed, or would be removed.
    flags: Vec<CleanedFlagBody>,
    /// Whether there are more flags than one request removes.
    more: bool,
}

#[derive(ToSchema)]
pub struct PreloadedBody {
    environment: String,
    flags: usize,
    contexts: usize,
    /// Number of written keys. An outcome for an empty context has two.
    written: u64,
    /// Number of keys that already had a newer value.
    newer: u64,
    /// Outcomes that were not written, by reason.
    skipped: BTreeMap<String, u64>,
    flags_version: u64,
}
