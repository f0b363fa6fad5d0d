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

/// A change of a local flag.
#[derive(Debug, Serialize)]
pub struct FlagChanged {
    /// The flag's revision since then.
    pub revision: i64,
    pub action: String,
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
const CHANGES: &str = "SELECT id, action, actor, reason, before::text, after::text, changed_at
    FROM feature_flag_changes WHERE flag_name = $1 AND environment = $2 ORDER BY id DESC LIMIT $3";
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
type ChangeRow = (i64, String, String, Option<String>, Option<String>, Option<String>, DateTime<Utc>);

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

    /// The latest changes of a local flag, the last one first.
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

    async fn was_known(&self, environment: &str, name: &str) -> Result<(), ManageError> {
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
    let (revision, action, actor, reason, before, after, changed_at) = row;
    let (before, after) = (before.map(raw).transpose()?, after.map(raw).transpose()?);
    Ok(FlagChanged { revision, action, actor, reason, before, after, changed_at })
}

fn raw(text: String) -> Result<Box<RawValue>, sqlx::Error> {
    RawValue::from_string(text).map_err(|error| sqlx::Error::Decode(error.into()))
}
