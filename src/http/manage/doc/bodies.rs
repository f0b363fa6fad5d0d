//! Bodies of management routes, for the OpenAPI document.
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

/// Local flag to create. Its members are taken from the JSON Schema of local flags.
#[derive(ToSchema)]
pub struct NewFlag {}

/// Fields of a local flag to change. Absent fields stay as they are, and `null` resets a field to its default. The
/// members are taken from the JSON Schema of local flags.
#[derive(ToSchema)]
pub struct FlagUpdate {}

/// A flag, wherever it is managed.
#[derive(ToSchema)]
pub struct FlagBody {
    id: i64,
    name: String,
    #[schema(required)]
    description: Option<String>,
    /// Whether the flag can be on. A flag of Unleash must be switched on and have a strategy that can match.
    is_enabled: bool,
    environment: String,
    evaluation_count: i64,
    #[schema(required, format = DateTime)]
    last_evaluated_at: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// Whether the flag is switched on in its environment, whatever its strategies say.
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
    /// System that manages the flag.
    source: SourceName,
    /// Version of the definition in force.
    #[schema(required)]
    version: Option<i64>,
    /// Whether the shown state is in force on the answering instance.
    in_force: bool,
    /// Warnings about parts of a change that may be unintended.
    #[schema(nullable = false)]
    warnings: Option<Vec<String>>,
    /// Revision of a local flag, equal to its `ETag`.
    #[schema(required)]
    revision: Option<i64>,
    #[schema(required)]
    updated_by: Option<String>,
    #[schema(required)]
    unleash_flag_name: Option<String>,
    #[schema(required, format = DateTime)]
    last_synced_at: Option<String>,
    /// Local flag of the same name, which is not in force.
    #[schema(required)]
    shadowed: Option<ShadowedBody>,
    /// Kill switch, while the flag is killed: it is off for every user, whatever the other members say.
    #[schema(required)]
    kill_switch: Option<KillSwitchBody>,
    #[serde(flatten)]
    model: ModelBody,
}

/// Members of a local flag, as in the JSON Schema of local flags. All are empty for flags that are managed elsewhere.
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
    /// Whether the weights of variants are relative (shares of their sum) or absolute (percentages).
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
    /// Time since which the status is `archived`.
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

/// A local flag that is not in force because another flag of the same name is.
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

/// A page of flags.
#[derive(ToSchema)]
pub struct FlagList {
    items: Vec<FlagBody>,
    /// Number of flags on all pages.
    total: i64,
    limit: u32,
    offset: u32,
}

#[derive(ToSchema)]
pub struct SyncAnswer {
    /// Number of the source's flags that are in force.
    synced_count: usize,
    environment: String,
    /// Number of the source's flags that cannot be used. Their last valid version stays in force.
    refused_count: usize,
    /// Whether the Admin API of Unleash was read, too.
    admin: bool,
}

#[derive(ToSchema)]
pub struct History(Vec<HistoryEntry>);

/// A recorded evaluation.
#[derive(ToSchema)]
pub struct HistoryEntry {
    id: i64,
    flag_name: String,
    /// Null without the scope `audit`.
    #[schema(required)]
    user_id: Option<String>,
    /// Null without the scope `audit`, and if it is larger than 64 KiB.
    #[schema(required)]
    context: Option<Map<String, Value>>,
    /// Size in bytes of a context that is too large to be shown.
    context_bytes: Option<usize>,
    /// Result of an evaluation as a boolean, else null.
    #[schema(required)]
    result: Option<bool>,
    #[schema(required)]
    variant: Option<String>,
    /// Value of an evaluation as any other type.
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

/// A change of a flag: made through this API, observed at the flag's source, or a change of its kill switch.
#[derive(ToSchema)]
pub struct ChangeEntry {
    /// Revision of the local flag after the change.
    #[schema(required)]
    revision: Option<i64>,
    /// Version that the change put into force, if known.
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
