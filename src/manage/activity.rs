//! All changes that people and programs made: of flags, kill switches, tokens, experiments, and of the audit trail.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Restrictions;
use crate::database::{on_pool, text_of};

use super::{ManageError, Manager};

/// Selection of changes. `None` selects all.
#[derive(Debug, Clone, Default)]
pub struct ActivityFilter {
    /// Part of the actor's name, in any case.
    pub actor: Option<String>,
    /// Kind of the change, such as `flag`.
    pub kind: Option<String>,
    pub from: Option<DateTime<Utc>>,
    /// End of the time range, exclusive.
    pub to: Option<DateTime<Utc>>,
    pub limit: u32,
    /// Environments to include; `None`: all.
    pub environments: Option<Vec<String>>,
    /// Whether changes of tokens and erasures are included.
    pub with_administration: bool,
}

/// A change.
#[derive(Debug, Serialize)]
pub struct Activity {
    /// `flag`, `kill_switch`, `source` (detected in Unleash or a file), `token`, `experiment`, `erasure`, `retention`,
    /// `dead_letter` or `replay`.
    pub kind: String,
    /// Name of the flag or experiment, id of the token, or position of the dead letter.
    pub subject: String,
    /// `None` for changes that belong to no environment.
    pub environment: Option<String>,
    pub action: String,
    pub actor: String,
    pub reason: Option<String>,
    pub version: Option<i64>,
    pub before: Option<Box<RawValue>>,
    pub after: Option<Box<RawValue>>,
    pub changed_at: DateTime<Utc>,
}

type Row = (
    String,
    String,
    Option<String>,
    String,
    String,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<String>,
    DateTime<Utc>,
);

/// Each part is limited by itself, so that it can use its index on the time. Changes of sources are those recorded
/// versions that no local change has caused.
const ACTIVITY: &str =
    "SELECT kind, subject, environment, action, actor, reason, version, before::text, after::text, changed_at
    FROM (
        SELECT * FROM (
            SELECT CASE WHEN change_id IS NULL THEN 'flag' ELSE 'kill_switch' END AS kind, flag_name AS subject,
                environment, action, actor, reason, version, before, after, changed_at
            FROM feature_flag_changes
            WHERE ($1::text IS NULL OR lower(actor) LIKE $1) AND changed_at >= $3::timestamptz
                AND changed_at < $4::timestamptz
                AND ($2::text IS NULL OR $2 = CASE WHEN change_id IS NULL THEN 'flag' ELSE 'kill_switch' END)
            ORDER BY changed_at DESC LIMIT $5
        ) AS flags
        UNION ALL SELECT * FROM (
            SELECT kind, subject, NULL::text AS environment, action, actor, reason, NULL::bigint AS version, before, after,
                changed_at
            FROM audited_changes
            WHERE ($1::text IS NULL OR lower(actor) LIKE $1) AND changed_at >= $3::timestamptz
                AND changed_at < $4::timestamptz AND ($2::text IS NULL OR $2 = kind)
            ORDER BY changed_at DESC LIMIT $5
        ) AS others
        UNION ALL SELECT * FROM (
            SELECT 'source' AS kind, name AS subject, environment,
                CASE WHEN definition IS NULL THEN 'deleted' ELSE 'published' END AS action,
                coalesce(actor, source, 'unknown') AS actor, NULL::text AS reason, version, NULL::jsonb AS before,
                NULL::jsonb AS after, in_force_at AS changed_at
            FROM feature_flag_versions
            WHERE coalesce(source, 'local') <> 'local' AND ($1::text IS NULL OR lower(coalesce(actor, source)) LIKE $1)
                AND in_force_at >= $3::timestamptz AND in_force_at < $4::timestamptz
                AND ($2::text IS NULL OR $2 = 'source')
            ORDER BY in_force_at DESC LIMIT $5
        ) AS versions
    ) AS changes
    ORDER BY changed_at DESC LIMIT $5";

/// Kinds that only callers with the scope `admin` see.
const ADMINISTRATION: [&str; 2] = ["token", "erasure"];
/// Changes that are read for each one that is shown, because some may be hidden from the caller.
const READ_FACTOR: i64 = 4;

impl Manager {
    /// Returns the latest changes, newest first.
    pub async fn activity(
        &self,
        filter: &ActivityFilter,
        within: &Restrictions,
    ) -> Result<Vec<Activity>, ManageError> {
        let database = &self.repository()?.database;
        // `%` and `_` in a name match any text, which finds more than was asked for and nothing that is hidden.
        let actor = filter.actor.as_ref().map(|actor| format!("%{}%", actor.to_lowercase()));
        let from = filter.from.unwrap_or(DateTime::UNIX_EPOCH);
        let to = filter.to.unwrap_or_else(|| Utc::now() + chrono::TimeDelta::days(1));
        let rows: Vec<Row> = on_pool!(database, |pool, sql| {
            let question = sqlx::query_as(sql(ACTIVITY)).bind(&actor).bind(&filter.kind);
            let question = question.bind(text_of(from)).bind(text_of(to));
            question.bind(i64::from(filter.limit) * READ_FACTOR).fetch_all(pool).await?
        });
        let mut seen = Vec::new();
        for row in rows {
            if seen.len() == filter.limit as usize {
                break;
            }
            let change = activity(row)?;
            if self.may_see(&change, filter, within).await? {
                seen.push(change);
            }
        }
        Ok(seen)
    }

    async fn may_see(
        &self,
        change: &Activity,
        filter: &ActivityFilter,
        within: &Restrictions,
    ) -> Result<bool, ManageError> {
        if ADMINISTRATION.contains(&change.kind.as_str()) && !filter.with_administration {
            return Ok(false);
        }
        let Some(environment) = &change.environment else {
            // Such a change concerns all environments and all flags.
            return Ok(within.is_empty() && filter.environments.is_none());
        };
        if filter.environments.as_ref().is_some_and(|among| !among.contains(environment)) {
            return Ok(false);
        }
        let flag = match change.kind.as_str() {
            "experiment" => change.after.as_ref().and_then(|design| member(design, "flag_name")),
            _ => Some(change.subject.clone()),
        };
        match self.check_reach(within, environment, flag.as_deref().unwrap_or_default()).await {
            Ok(()) => Ok(true),
            Err(ManageError::Outside(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn activity(row: Row) -> Result<Activity, ManageError> {
    let (kind, subject, environment, action, actor, reason, version, before, after, changed_at) = row;
    let raw = |text: Option<String>| {
        let raw = text.map(RawValue::from_string).transpose();
        raw.map_err(|error| sqlx::Error::Decode(error.into()))
    };
    let (before, after) = (raw(before)?, raw(after)?);
    // The design of an experiment contains its environment.
    let environment = match kind.as_str() {
        "experiment" => after.as_ref().or(before.as_ref()).and_then(|design| member(design, "environment")),
        _ => environment,
    };
    Ok(Activity { kind, subject, environment, action, actor, reason, version, before, after, changed_at })
}

fn member(document: &RawValue, name: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(document.get()).ok()?;
    Some(document.get(name)?.as_str()?.to_owned())
}
