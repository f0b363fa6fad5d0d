//! The bodies of calls about kill switches, and about flags in use.
#![allow(dead_code)]

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::bodies::SourceName;

/// Who killed a flag, why, and until when.
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
    /// Why; required here or as `X-Change-Reason`.
    #[schema(max_length = 1000, example = "checkout fails for everybody")]
    reason: Option<String>,
    /// Absent: until it is restored.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBody {
    /// Why; required here or as `X-Change-Reason`.
    #[schema(max_length = 1000, example = "fixed in 2.4.1")]
    reason: Option<String>,
}

/// A kill switch that was turned.
#[derive(ToSchema)]
pub struct TurnedBody {
    name: String,
    environment: String,
    killed: bool,
    #[schema(required)]
    kill_switch: Option<KillSwitchBody>,
    /// Announced to cache invalidators; what was derived from a lower one is out of date.
    version: u64,
    /// Whether it is in force in the instance that answers.
    in_force: bool,
}

/// Either a revision or a version.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertBody {
    /// Of the change log: the flag becomes what it was after that change.
    #[schema(example = 3)]
    revision: Option<i64>,
    /// Of the definitions that were in force.
    version: Option<i64>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ResolutionName {
    Minute,
    Hour,
    Day,
}

/// What evaluations came to.
#[derive(ToSchema)]
pub struct UsedBody {
    evaluations: i64,
    /// That found the flag on.
    enabled: i64,
    disabled: i64,
    errors: i64,
    variants: BTreeMap<String, i64>,
    /// Of the evaluations that were timed: one in 31.
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

/// A flag's usage.
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
    /// In the order of time; a time without evaluations has none.
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
    /// Its last evaluation is `unused_days` ago, or longer.
    Unused,
    AlwaysOn,
    Unowned,
}

/// A flag, and what speaks against it.
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
    /// Of all times.
    evaluation_count: i64,
    #[schema(required, format = DateTime)]
    last_evaluated_at: Option<String>,
    #[schema(required, format = DateTime)]
    last_off_at: Option<String>,
    /// Since when it is known whether evaluations found it on.
    #[schema(required, format = DateTime)]
    outcomes_since: Option<String>,
    /// Within the days that were asked about.
    evaluations: i64,
    enabled: i64,
}

#[derive(ToSchema)]
pub struct StaleBody {
    items: Vec<StaleFlagBody>,
    /// Of all pages.
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
    /// `false`: flags are removed.
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
    /// Why it was not removed.
    #[schema(required)]
    error: Option<String>,
}

#[derive(ToSchema)]
pub struct CleanedBody {
    dry_run: bool,
    older_than_days: u32,
    /// Those that were removed, or would be.
    flags: Vec<CleanedFlagBody>,
    /// There are more than one call removes.
    more: bool,
}

#[derive(ToSchema)]
pub struct PreloadedBody {
    environment: String,
    flags: usize,
    contexts: usize,
    /// Keys: an outcome without a context has two.
    written: u64,
    /// Keys that were there already, newer.
    newer: u64,
    /// Outcomes that are not kept, by why.
    skipped: BTreeMap<String, u64>,
    flags_version: u64,
}
