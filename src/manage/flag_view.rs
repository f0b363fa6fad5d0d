//! Representation of a flag in responses, combined from the flag cache, the local flags and the snapshot in force.

mod model;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use crate::flag::local::FlagType;
use crate::message::definition::Source;
use crate::message::kill_switch::Position;

use super::Manager;
use super::effective_state::EffectiveState;
use super::repository::Local;

pub use model::Model;

/// A flag. The first nine members are fixed by the API contract.
#[derive(Debug, Clone, Serialize)]
pub struct FlagView {
    pub id: i64,
    pub name: String,
    pub description: Option<String>,
    /// Whether the flag can be on. A flag managed elsewhere must be switched on and have a strategy that can match.
    pub is_enabled: bool,
    pub environment: String,
    pub evaluation_count: i64,
    pub last_evaluated_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Whether the flag is switched on in its environment, whatever its strategies say.
    pub is_switched_on: bool,
    pub r#type: Option<String>,
    pub rollout_percentage: Option<String>,
    pub target_users: Vec<String>,
    pub owner: Option<String>,
    pub tags: Vec<String>,
    pub project: Option<String>,
    /// System that manages the flag.
    pub source: &'static str,
    /// Version of the definition in force.
    pub version: Option<i64>,
    /// Whether the shown state is in force.
    pub in_force: bool,
    /// Revision of a local flag, equal to its `ETag`.
    pub revision: Option<i64>,
    pub updated_by: Option<String>,
    pub unleash_flag_name: Option<String>,
    pub last_synced_at: Option<DateTime<Utc>>,
    /// Local flag of the same name, which is not in force.
    pub shadowed: Option<ShadowedFlag>,
    /// Kill switch, while the flag is killed: it is off for every user, whatever the other members say.
    pub kill_switch: Option<Position>,
    #[serde(flatten)]
    pub model: Model,
}

/// A local flag that is not in force because another flag of the same name is.
#[derive(Debug, Clone, Serialize)]
pub struct ShadowedFlag {
    pub description: Option<String>,
    pub is_enabled: bool,
    pub r#type: &'static str,
    pub rollout_percentage: Option<String>,
    pub target_users: Vec<String>,
    pub owner: Option<String>,
    pub tags: Vec<String>,
    pub revision: i64,
    pub updated_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    #[serde(flatten)]
    pub model: Model,
}

/// A row of the flag cache, joined with the local flag.
#[derive(Debug)]
pub(super) struct FlagViewRow {
    shown: FlagView,
    local: Option<Local>,
    /// Whether the flag cache itself says that the flag exists.
    cached: bool,
}

/// Query for the columns of a [`FlagViewRow`]; the argument selects the rows.
macro_rules! view {
    ($($rest:tt)*) => {
        concat!(
            "SELECT f.id, f.name, f.environment, f.description, f.is_enabled, f.rollout_percentage,
                f.target_users::text AS target_users, f.unleash_flag_name, f.last_synced_at, f.evaluation_count,
                f.last_evaluated_at, f.created_at, f.updated_at, f.source, f.version, f.type, f.project, f.owner,
                CASE WHEN (f.version IS NOT NULL OR f.last_synced_at IS NOT NULL) AND f.deleted_at IS NULL
                    AND (f.source IS DISTINCT FROM 'local' OR l.name IS NULL) THEN 1 ELSE 0 END::bigint AS cached,
                l.document::text AS document, l.revision, l.actor, l.created_at AS local_created_at,
                l.updated_at AS local_updated_at, l.deleted_at AS local_deleted_at
            FROM feature_flags f
                LEFT JOIN local_flags l ON l.environment = f.environment AND l.name = f.name ",
            $($rest)*
        )
    };
}

pub(super) use view;

/// Reads a row of either database.
macro_rules! from_row {
    ($row:ty) => {
        impl FromRow<'_, $row> for FlagViewRow {
            fn from_row(row: &$row) -> Result<Self, sqlx::Error> {
                let users: String = row.try_get("target_users")?;
                let local: Option<DateTime<Utc>> = row.try_get("local_deleted_at")?;
                let document: Option<String> = row.try_get("document")?;
                let local = match document.filter(|_| local.is_none()) {
                    None => None,
                    Some(document) => Some(Local {
                        flag: decode(&document)?,
                        revision: row.try_get("revision")?,
                        actor: row.try_get("actor")?,
                        created_at: row.try_get("local_created_at")?,
                        updated_at: row.try_get("local_updated_at")?,
                    }),
                };
                let source: Option<String> = row.try_get("source")?;
                let shown = FlagView {
                    id: row.try_get("id")?,
                    name: row.try_get("name")?,
                    description: row.try_get("description")?,
                    is_enabled: row.try_get("is_enabled")?,
                    environment: row.try_get("environment")?,
                    evaluation_count: row.try_get("evaluation_count")?,
                    last_evaluated_at: row.try_get("last_evaluated_at")?,
                    created_at: row.try_get("created_at")?,
                    updated_at: row.try_get("updated_at")?,
                    is_switched_on: row.try_get("is_enabled")?,
                    r#type: row.try_get("type")?,
                    rollout_percentage: row.try_get("rollout_percentage")?,
                    target_users: decode(&users)?,
                    owner: row.try_get("owner")?,
                    tags: Vec::new(),
                    project: row.try_get("project")?,
                    source: match source.as_deref() {
                        Some("local") => "local",
                        Some("file") => "file",
                        _ => "unleash",
                    },
                    version: row.try_get("version")?,
                    in_force: false,
                    revision: None,
                    updated_by: None,
                    unleash_flag_name: row.try_get("unleash_flag_name")?,
                    last_synced_at: row.try_get("last_synced_at")?,
                    shadowed: None,
                    kill_switch: None,
                    model: Model::default(),
                };
                Ok(Self { shown, local, cached: row.try_get::<i64, _>("cached")? > 0 })
            }
        }
    };
}

from_row!(PgRow);
from_row!(SqliteRow);

fn decode<T: DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

impl Manager {
    /// Builds the representation of a row's flag; `None` if the flag no longer exists.
    pub(super) fn show(&self, view: FlagViewRow) -> Option<FlagView> {
        let FlagViewRow { mut shown, local, cached } = view;
        shown.kill_switch = self.kill_switch(&shown.environment, &shown.name);
        match self.effective_state(&shown.environment, &shown.name) {
            EffectiveState::Elsewhere(source, flag) => {
                shown.source = source.as_str();
                shown.is_switched_on = flag.is_switched_on();
                shown.is_enabled = flag.is_switched_on() && flag.summary().lets_through;
                shown.version = i64::try_from(flag.version).ok();
                shown.in_force = true;
                shown.shadowed = local.map(shadowed);
                Some(shown)
            }
            effective_state => match local {
                Some(local) => {
                    shown.in_force = effective_state.has(local.revision);
                    if let EffectiveState::Local(_, flag) = effective_state {
                        shown.version = i64::try_from(flag.version).ok();
                    }
                    show_local(&mut shown, local);
                    Some(shown)
                }
                None => cached.then_some(shown),
            },
        }
    }
}

/// Overwrites the cached values with those of the local flag, since the cache may lag behind.
fn show_local(shown: &mut FlagView, local: Local) {
    let Local { flag, revision, actor, created_at, updated_at } = local;
    shown.model = Model::of(&flag);
    shown.source = Source::Local.as_str();
    shown.unleash_flag_name = None;
    shown.last_synced_at = None;
    shown.project = None;
    shown.description = flag.description;
    shown.is_enabled = flag.is_enabled;
    shown.is_switched_on = flag.is_enabled;
    shown.r#type = Some(type_name(flag.r#type).to_owned());
    shown.rollout_percentage = flag.rollout_percentage.map(|percentage| percentage.to_string());
    shown.target_users = flag.target_users;
    shown.owner = flag.owner;
    shown.tags = flag.tags;
    shown.revision = Some(revision);
    shown.updated_by = Some(actor);
    shown.created_at = created_at;
    shown.updated_at = updated_at;
}

fn shadowed(local: Local) -> ShadowedFlag {
    let Local { flag, revision, actor, created_at, updated_at } = local;
    ShadowedFlag {
        model: Model::of(&flag),
        description: flag.description,
        is_enabled: flag.is_enabled,
        r#type: type_name(flag.r#type),
        rollout_percentage: flag.rollout_percentage.map(|percentage| percentage.to_string()),
        target_users: flag.target_users,
        owner: flag.owner,
        tags: flag.tags,
        revision,
        updated_by: actor,
        created_at,
        updated_at,
    }
}

fn type_name(kind: FlagType) -> &'static str {
    FlagType::NAMES.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name)
}
