//! A flag's past: its evaluations, and its changes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::database::on_pool;

use super::standing::Standing;
use super::{ManageError, Manager};

/// An evaluation, as it was audited.
#[derive(Debug, Serialize)]
pub struct Evaluated {
    pub id: i64,
    pub flag_name: String,
    pub user_id: Option<String>,
    pub context: Box<RawValue>,
    /// Of boolean evaluations.
    pub result: Option<bool>,
    pub variant: Option<String>,
    /// Of all others.
    pub evaluated_value: Option<Box<RawValue>>,
    pub environment: String,
    pub evaluated_at: DateTime<Utc>,
    pub evaluation_reason: String,
    pub flag_version: Option<i64>,
}

/// A change of a flag: made here, seen from where the flag is managed, or of its kill switch.
#[derive(Debug, Serialize)]
pub struct FlagChanged {
    /// The local flag's revision since then.
    pub revision: Option<i64>,
    /// The version in force since then, where the change came with one.
    pub version: Option<i64>,
    pub action: String,
    /// Where it was made: `local`, `unleash`, `file`, or `override` for the kill switch.
    pub source: String,
    pub actor: String,
    pub reason: Option<String>,
    pub before: Option<Box<RawValue>>,
    pub after: Option<Box<RawValue>>,
    pub changed_at: DateTime<Utc>,
}

const EVALUATIONS: &str =
    "SELECT id, user_id, context::text, result, variant, evaluated_value::text, evaluated_at,
        evaluation_reason, flag_version
    FROM feature_flag_evaluations WHERE flag_name = $1 AND environment = $2
    ORDER BY evaluated_at DESC, id DESC LIMIT $3";
/// The change log has what was done here. What was seen from elsewhere are the versions, each with the one before it: they
/// are not written twice.
const CHANGES: &str = "SELECT revision, version, action, source, actor, reason, before::text, after::text, changed_at
    FROM (
        SELECT CASE WHEN change_id IS NULL THEN id END AS revision, version, action,
            CASE WHEN change_id IS NULL THEN 'local' ELSE 'override' END AS source, actor, reason, before, after,
            changed_at
        FROM feature_flag_changes WHERE flag_name = $1 AND environment = $2
        UNION ALL
        SELECT NULL, version, CASE WHEN after IS NULL THEN 'deleted' WHEN before IS NULL THEN 'created' ELSE 'updated' END,
            coalesce(source, was), coalesce(actor, source, was), NULL, before, after, changed_at
        FROM (
            SELECT version, actor, source, definition AS after, in_force_at AS changed_at,
                lag(definition) OVER (ORDER BY version) AS before, lag(source) OVER (ORDER BY version) AS was
            FROM feature_flag_versions WHERE name = $1 AND environment = $2
        ) AS seen
        WHERE coalesce(source, was) <> 'local'
    ) AS changes
    ORDER BY changed_at DESC, coalesce(revision, version) DESC LIMIT $3";
const KNOWN: &str = "SELECT count(*) FROM feature_flags WHERE name = $1 AND environment = $2";

type EvaluationRow = (
    i64,
    Option<String>,
    String,
    Option<bool>,
    Option<String>,
    Option<String>,
    DateTime<Utc>,
    String,
    Option<i64>,
);
type ChangeRow = (
    Option<i64>,
    Option<i64>,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    DateTime<Utc>,
);

impl Manager {
    /// The latest evaluations of a flag, the last one first. Of flags that were deleted, and of unknown ones that
    /// somebody asked for, too.
    pub async fn history(
        &self,
        environment: &str,
        name: &str,
        limit: u32,
    ) -> Result<Vec<Evaluated>, ManageError> {
        let database = &self.records()?.database;
        let rows: Vec<EvaluationRow> = on_pool!(database, |pool, sql| {
            let question = sqlx::query_as(sql(EVALUATIONS)).bind(name).bind(environment);
            question.bind(i64::from(limit)).fetch_all(pool).await?
        });
        if rows.is_empty() {
            self.was_known(environment, name).await?;
        }
        rows.into_iter().map(|row| evaluated(row, environment, name)).collect()
    }

    /// The latest changes of a flag, the last one first.
    pub async fn changes(
        &self,
        environment: &str,
        name: &str,
        limit: u32,
    ) -> Result<Vec<FlagChanged>, ManageError> {
        let database = &self.records()?.database;
        let rows: Vec<ChangeRow> = on_pool!(database, |pool, sql| {
            let question = sqlx::query_as(sql(CHANGES)).bind(name).bind(environment);
            question.bind(i64::from(limit)).fetch_all(pool).await?
        });
        if rows.is_empty() {
            self.was_known(environment, name).await?;
        }
        rows.into_iter().map(changed).collect()
    }

    pub(super) async fn was_known(&self, environment: &str, name: &str) -> Result<(), ManageError> {
        let database = &self.records()?.database;
        let rows: i64 = on_pool!(database, |pool, sql| {
            sqlx::query_scalar(sql(KNOWN)).bind(name).bind(environment).fetch_one(pool).await?
        });
        let in_force = !matches!(self.standing(environment, name), Standing::Nobody);
        if rows > 0 || in_force { Ok(()) } else { Err(ManageError::Unknown) }
    }
}

fn evaluated(row: EvaluationRow, environment: &str, name: &str) -> Result<Evaluated, ManageError> {
    let (id, user_id, context, result, variant, value, evaluated_at, evaluation_reason, flag_version) = row;
    Ok(Evaluated {
        id,
        flag_name: name.to_owned(),
        user_id,
        context: raw(context)?,
        result,
        variant,
        evaluated_value: value.map(raw).transpose()?,
        environment: environment.to_owned(),
        evaluated_at,
        evaluation_reason,
        flag_version,
    })
}

fn changed(row: ChangeRow) -> Result<FlagChanged, ManageError> {
    let (revision, version, action, source, actor, reason, before, after, changed_at) = row;
    let (before, after) = (before.map(raw).transpose()?, after.map(raw).transpose()?);
    Ok(FlagChanged { revision, version, action, source, actor, reason, before, after, changed_at })
}

fn raw(text: String) -> Result<Box<RawValue>, sqlx::Error> {
    RawValue::from_string(text).map_err(|error| sqlx::Error::Decode(error.into()))
}
