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

/// A whole number from 0 to 100, as text or as number.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Percentage {
    Text(String),
    Number(u8),
}

/// A local flag to be made.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFlag {
    #[schema(min_length = 1, max_length = 255, example = "new-feature")]
    name: String,
    #[schema(min_length = 1, max_length = 100, example = "development")]
    environment: String,
    #[schema(example = "New feature description")]
    description: Option<String>,
    r#type: Option<FlagTypeName>,
    #[schema(default = false)]
    is_enabled: Option<bool>,
    /// Absent: everybody, or `target_users` only where there are some.
    rollout_percentage: Option<Percentage>,
    /// On whatever the percentage.
    #[schema(max_items = 10000, example = json!(["user-1", "user-2"]))]
    target_users: Option<Vec<String>>,
    #[schema(max_length = 255)]
    owner: Option<String>,
    #[schema(max_items = 50)]
    tags: Option<Vec<String>>,
}

/// Only what is given is changed; `null` is back to what a new flag has.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlagUpdate {
    /// The same as in the path.
    name: Option<String>,
    /// The same as in the query.
    environment: Option<String>,
    #[schema(example = "Updated description")]
    description: Option<String>,
    r#type: Option<FlagTypeName>,
    #[schema(example = true)]
    is_enabled: Option<bool>,
    rollout_percentage: Option<Percentage>,
    #[schema(max_items = 10000)]
    target_users: Option<Vec<String>>,
    #[schema(max_length = 255)]
    owner: Option<String>,
    #[schema(max_items = 50)]
    tags: Option<Vec<String>>,
}

/// A flag, wherever it is managed.
#[derive(ToSchema)]
pub struct FlagBody {
    id: i64,
    name: String,
    #[schema(required)]
    description: Option<String>,
    is_enabled: bool,
    environment: String,
    evaluation_count: i64,
    #[schema(required, format = DateTime)]
    last_evaluated_at: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
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
    #[schema(required)]
    user_id: Option<String>,
    context: Map<String, Value>,
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
