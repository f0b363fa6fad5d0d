//! The bodies of management calls.
#![allow(dead_code)]

use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::openapi::schema::ReasonName;

use super::uses::KillSwitchBody;

#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
pub enum FlagTypeName {
    Release,
    Experiment,
    Operational,
    Permission,
    KillSwitch,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum SourceName {
    Unleash,
    Local,
    File,
}

/// A local flag to be made. What it may say is put here from the schema of local flags.
#[derive(ToSchema)]
pub struct NewFlag {}

/// Only what is given is changed; `null` is back to what a new flag has. What it may say is put here from the schema of
/// local flags.
#[derive(ToSchema)]
pub struct FlagUpdate {}

/// A flag, wherever it is managed.
#[derive(ToSchema)]
pub struct FlagBody {
    id: i64,
    name: String,
    #[schema(required)]
    description: Option<String>,
    /// Of a flag of Unleash: switched on, and a strategy lets somebody through.
    is_enabled: bool,
    environment: String,
    evaluation_count: i64,
    #[schema(required, format = DateTime)]
    last_evaluated_at: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// Switched on in its environment, whatever its strategies say.
    is_switched_on: bool,
    #[schema(required)]
    r#type: Option<String>,
    #[schema(required, example = "25")]
    rollout_percentage: Option<String>,
    target_users: Vec<String>,
    #[schema(required)]
    owner: Option<String>,
    tags: Vec<String>,
    #[schema(required)]
    project: Option<String>,
    /// Where it is managed.
    source: SourceName,
    /// Of the definition in force.
    #[schema(required)]
    version: Option<i64>,
    /// Whether what is shown is in force in the instance that answers.
    in_force: bool,
    /// After a change: what of it is perhaps not meant.
    #[schema(nullable = false)]
    warnings: Option<Vec<String>>,
    /// Of a local flag, as in `ETag`.
    #[schema(required)]
    revision: Option<i64>,
    #[schema(required)]
    updated_by: Option<String>,
    #[schema(required)]
    unleash_flag_name: Option<String>,
    #[schema(required, format = DateTime)]
    last_synced_at: Option<String>,
    /// The local flag of the same name, which is not in force.
    #[schema(required)]
    shadowed: Option<ShadowedBody>,
    /// While it is killed: off for everybody, whatever the rest says.
    #[schema(required)]
    kill_switch: Option<KillSwitchBody>,
    #[serde(flatten)]
    model: ModelBody,
}

/// What a local flag says, as in the schema of local flags; of flags that are managed elsewhere all is empty.
#[derive(ToSchema)]
pub struct ModelBody {
    #[schema(required)]
    status: Option<StatusName>,
    #[schema(required)]
    value_type: Option<ValueTypeOfFlag>,
    #[schema(required, nullable)]
    default_value: Value,
    #[schema(required)]
    min_value: Option<f64>,
    #[schema(required)]
    max_value: Option<f64>,
    #[schema(required)]
    value_schema: Option<Map<String, Value>>,
    #[schema(required)]
    strategy: Option<StrategyName>,
    #[schema(required)]
    percentage: Option<u8>,
    user_list: Vec<String>,
    attribute_rules: Map<String, Value>,
    rules: Vec<Map<String, Value>>,
    variants: Vec<Map<String, Value>>,
    distribution: Map<String, Value>,
    /// What the weights of variants are parts of.
    #[schema(required)]
    weights: Option<WeightsName>,
    #[schema(required)]
    default_variant: Option<String>,
    rollout_schedule: Vec<Map<String, Value>>,
    /// Names, or objects with `flag`, `state` and `variants`.
    depends_on: Vec<Value>,
    links: Vec<Map<String, Value>>,
    #[schema(required, format = DateTime)]
    expires_at: Option<String>,
    /// Since when its status is `archived`.
    #[schema(required, format = DateTime)]
    archived_at: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum StatusName {
    Draft,
    Active,
    Scheduled,
    Paused,
    Archived,
    EmergencyOff,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ValueTypeOfFlag {
    Boolean,
    String,
    Integer,
    Float,
    Object,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum WeightsName {
    Relative,
    Absolute,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum StrategyName {
    All,
    None,
    Percentage,
    UserList,
    UserAttribute,
}

/// A local flag that waits until the other one of its name is gone.
#[derive(ToSchema)]
pub struct ShadowedBody {
    #[schema(required)]
    description: Option<String>,
    is_enabled: bool,
    r#type: FlagTypeName,
    #[schema(required)]
    rollout_percentage: Option<String>,
    target_users: Vec<String>,
    #[schema(required)]
    owner: Option<String>,
    tags: Vec<String>,
    revision: i64,
    updated_by: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    #[serde(flatten)]
    model: ModelBody,
}

/// Some of all flags.
#[derive(ToSchema)]
pub struct FlagList {
    items: Vec<FlagBody>,
    /// Of all pages.
    total: i64,
    limit: u32,
    offset: u32,
}

#[derive(ToSchema)]
pub struct SyncAnswer {
    /// Flags that the source has and that are in force.
    synced_count: usize,
    environment: String,
    /// Flags that it has and that cannot be taken; their last good version stays in force.
    refused_count: usize,
    /// Whether the Admin API was read too.
    admin: bool,
}

#[derive(ToSchema)]
pub struct History(Vec<HistoryEntry>);

/// An evaluation.
#[derive(ToSchema)]
pub struct HistoryEntry {
    id: i64,
    flag_name: String,
    /// With the scope `audit` only, else null.
    #[schema(required)]
    user_id: Option<String>,
    /// With the scope `audit` only, else null; null also where it is larger than 64 KiB.
    #[schema(required)]
    context: Option<Map<String, Value>>,
    /// The size of a context that is too large to be shown.
    context_bytes: Option<usize>,
    /// Of boolean evaluations.
    #[schema(required)]
    result: Option<bool>,
    #[schema(required)]
    variant: Option<String>,
    /// Of all others.
    #[schema(required, nullable)]
    evaluated_value: Value,
    environment: String,
    #[schema(format = DateTime)]
    evaluated_at: String,
    evaluation_reason: ReasonName,
    #[schema(required)]
    flag_version: Option<i64>,
}

#[derive(ToSchema)]
pub struct ChangeList(Vec<ChangeEntry>);

/// A change of a flag: made here, seen from where the flag is managed, or of its kill switch.
#[derive(ToSchema)]
pub struct ChangeEntry {
    /// The local flag's revision since then.
    #[schema(required)]
    revision: Option<i64>,
    /// The version in force since then, where the change came with one.
    #[schema(required)]
    version: Option<i64>,
    action: ActionName,
    source: ChangeSourceName,
    actor: String,
    #[schema(required)]
    reason: Option<String>,
    #[schema(required)]
    before: Option<Map<String, Value>>,
    #[schema(required)]
    after: Option<Map<String, Value>>,
    #[schema(format = DateTime)]
    changed_at: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ActionName {
    Created,
    Updated,
    Deleted,
    Reverted,
    Killed,
    Restored,
    Expired,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ChangeSourceName {
    Local,
    Unleash,
    File,
    Override,
}
