//! History of a flag: its evaluations and its changes.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::database::{on_pool, text_of};
use crate::message::kill_switch::KillSwitch;
use crate::store::RecentSwitch;

use super::effective_state::EffectiveState;
use super::recent::{self, Logged};
use super::{ManageError, Manager};

/// A recorded evaluation.
#[derive(Debug, Serialize)]
pub struct Evaluated {
    pub id: i64,
    pub flag_name: String,
    /// `None` without a user, and for callers that may not see users.
    pub user_id: Option<String>,
    /// `None` if the caller may not see it, or if it is larger than `HISTORY_CONTEXT_BYTES`.
    pub context: Option<Box<RawValue>>,
    /// Size in bytes of a context that is too large to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_bytes: Option<usize>,
    /// Result of an evaluation as a boolean.
    pub result: Option<bool>,
    pub variant: Option<String>,
    /// Value of an evaluation as any other type.
    pub evaluated_value: Option<Box<RawValue>>,
    pub environment: String,
    pub evaluated_at: DateTime<Utc>,
    pub evaluation_reason: String,
    pub flag_version: Option<i64>,
}

/// A change of a flag: made through this API, observed at the flag's source, or a change of its kill switch.
#[derive(Debug, Serialize)]
pub struct FlagChanged {
    /// Revision of the local flag after the change.
    pub revision: Option<i64>,
    /// Version that the change put into force, if known.
    pub version: Option<i64>,
    pub action: String,
    /// Origin of the change: `local`, `unleash`, `file`, or `override` for the kill switch.
    pub source: String,
    pub actor: String,
    pub reason: Option<String>,
    pub before: Option<Box<RawValue>>,
    pub after: Option<Box<RawValue>>,
    pub changed_at: DateTime<Utc>,
}

/// Upper bound of the evaluations in one response, in bytes. A page ends early when it is reached.
pub const HISTORY_BYTES: usize = 16 << 20;
/// Contexts that are larger, in bytes, are left out.
pub const HISTORY_CONTEXT_BYTES: usize = 64 << 10;
/// Estimated size of an evaluation without its context and value, in bytes.
const EVALUATED_BYTES: usize = 512;

/// A page of a flag's evaluations, newest first.
#[derive(Debug)]
pub struct Evaluations {
    pub evaluations: Vec<Evaluated>,
    /// Position of the next page; `None` on the last page.
    pub next: Option<Before>,
}

/// Position in the evaluations of a flag. The next page begins with the evaluation before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    pub evaluated_at: DateTime<Utc>,
    pub id: i64,
}

/// Selection of a flag's evaluations.
#[derive(Debug, Clone, Copy)]
pub struct HistoryFilter {
    pub limit: u32,
    /// Only evaluations before this position.
    pub before: Option<Before>,
    /// Whether user ids and contexts are included.
    pub with_users: bool,
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.evaluated_at.timestamp_micros(), self.id)
    }
}

impl FromStr for Before {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected the value from the header Link of an earlier response";
        let (micros, id) = text.split_once('.').ok_or(EXPECTED)?;
        let micros: i64 = micros.parse().map_err(|_| EXPECTED)?;
        let evaluated_at = DateTime::from_timestamp_micros(micros).ok_or(EXPECTED)?;
        Ok(Self { evaluated_at, id: id.parse().map_err(|_| EXPECTED)? })
    }
}

const EVALUATIONS: &str =
    "SELECT id, user_id, context::text, result, variant, evaluated_value::text, evaluated_at,
        evaluation_reason, flag_version
    FROM feature_flag_evaluations WHERE flag_name = $1 AND environment = $2
    ORDER BY evaluated_at DESC, id DESC LIMIT $3";
const EVALUATIONS_BEFORE: &str =
    "SELECT id, user_id, context::text, result, variant, evaluated_value::text, evaluated_at,
        evaluation_reason, flag_version
    FROM feature_flag_evaluations WHERE flag_name = $1 AND environment = $2
        AND evaluated_at <= $4::timestamptz AND (evaluated_at < $4::timestamptz OR id < $5)
    ORDER BY evaluated_at DESC, id DESC LIMIT $3";
/// The change log holds the changes made here. Changes observed at a flag's source are derived from consecutive
/// versions instead of being stored twice.
const CHANGES: &str = "SELECT change_id, revision, version, action, source, actor, reason, before::text, after::text, changed_at
    FROM (
        SELECT change_id, CASE WHEN change_id IS NULL THEN id END AS revision, version, action,
            CASE WHEN change_id IS NULL THEN 'local' ELSE 'override' END AS source, actor, reason, before, after,
            changed_at
        FROM feature_flag_changes WHERE flag_name = $1 AND environment = $2
        UNION ALL
        SELECT NULL, NULL, version, CASE WHEN after IS NULL THEN 'deleted' WHEN before IS NULL THEN 'created' ELSE 'updated' END,
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
    Option<String>,
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
    /// Returns the latest evaluations of a flag, newest first. Also works for deleted flags, and for unknown names that
    /// were evaluated.
    pub async fn history(
        &self,
        environment: &str,
        name: &str,
        request: HistoryFilter,
    ) -> Result<Evaluations, ManageError> {
        let database = &self.repository()?.database;
        // One row more than requested shows whether there is another page.
        let limit = i64::from(request.limit) + 1;
        let (mut evaluations, mut next, mut bytes) = (Vec::new(), None, 0);
        on_pool!(database, |pool, sql| {
            let question = if request.before.is_some() { EVALUATIONS_BEFORE } else { EVALUATIONS };
            let mut question = sqlx::query_as(sql(question)).bind(name).bind(environment).bind(limit);
            if let Some(before) = request.before {
                question = question.bind(text_of(before.evaluated_at)).bind(before.id);
            }
            // Rows are streamed, so that a page of large contexts is never in memory as a whole.
            let mut rows = question.fetch(pool);
            while let Some(row) = rows.try_next().await? as Option<EvaluationRow> {
                let evaluated = evaluated(row, environment, name, request.with_users)?;
                bytes += evaluated.bytes();
                let is_full = evaluations.len() == request.limit as usize
                    || (bytes > HISTORY_BYTES && !evaluations.is_empty());
                if is_full {
                    next = evaluations.last().map(Evaluated::place);
                    break;
                }
                evaluations.push(evaluated);
            }
        });
        if evaluations.is_empty() && request.before.is_none() {
            self.was_known(environment, name).await?;
        }
        Ok(Evaluations { evaluations, next })
    }

    /// Returns the latest changes of a flag, newest first, including those of its kill switch that are in force here and
    /// not in the change log yet.
    pub async fn changes(
        &self,
        environment: &str,
        name: &str,
        limit: u32,
    ) -> Result<Vec<FlagChanged>, ManageError> {
        let database = &self.repository()?.database;
        // Read before the log: what is in force before the query is shown, whether or not the log has it by then.
        let recent = self.store.recent_switches();
        let is_of = |switch: &KillSwitch| switch.environment == environment && switch.flag_name == name;
        let recent: Vec<RecentSwitch> =
            recent.iter().filter(|change| is_of(&change.after)).cloned().collect();
        let rows: Vec<ChangeRow> = on_pool!(database, |pool, sql| {
            let question = sqlx::query_as(sql(CHANGES)).bind(name).bind(environment);
            question.bind(i64::from(limit)).fetch_all(pool).await?
        });
        if rows.is_empty() && recent.is_empty() {
            self.was_known(environment, name).await?;
        }
        let logged = rows.into_iter().map(changed).collect::<Result<_, _>>()?;
        let merged = recent::merge(logged, &recent, usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(merged.map_err(|error| sqlx::Error::Decode(error.into()))?)
    }

    pub(super) async fn was_known(&self, environment: &str, name: &str) -> Result<(), ManageError> {
        let database = &self.repository()?.database;
        let rows: i64 = on_pool!(database, |pool, sql| {
            sqlx::query_scalar(sql(KNOWN)).bind(name).bind(environment).fetch_one(pool).await?
        });
        let in_force = !matches!(self.effective_state(environment, name), EffectiveState::Nobody);
        if rows > 0 || in_force { Ok(()) } else { Err(ManageError::Unknown) }
    }
}

impl Evaluated {
    fn place(&self) -> Before {
        Before { evaluated_at: self.evaluated_at, id: self.id }
    }

    /// Approximate size in a response, in bytes.
    fn bytes(&self) -> usize {
        let raw = |value: &Option<Box<RawValue>>| value.as_ref().map_or(0, |value| value.get().len());
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let names = self.flag_name.len() + self.environment.len() + text(&self.variant);
        EVALUATED_BYTES + raw(&self.context) + raw(&self.evaluated_value) + text(&self.user_id) + names
    }
}

fn evaluated(
    row: EvaluationRow,
    environment: &str,
    name: &str,
    with_users: bool,
) -> Result<Evaluated, ManageError> {
    let (id, user_id, context, result, variant, value, evaluated_at, evaluation_reason, flag_version) = row;
    let is_large = context.len() > HISTORY_CONTEXT_BYTES;
    Ok(Evaluated {
        id,
        flag_name: name.to_owned(),
        user_id: user_id.filter(|_| with_users),
        context_bytes: (with_users && is_large).then_some(context.len()),
        context: (with_users && !is_large).then(|| raw(context)).transpose()?,
        result,
        variant,
        evaluated_value: value.map(raw).transpose()?,
        environment: environment.to_owned(),
        evaluated_at,
        evaluation_reason,
        flag_version,
    })
}

fn changed(row: ChangeRow) -> Result<Logged, ManageError> {
    let (change_id, revision, version, action, source, actor, reason, before, after, changed_at) = row;
    let (before, after) = (before.map(raw).transpose()?, after.map(raw).transpose()?);
    let change = FlagChanged { revision, version, action, source, actor, reason, before, after, changed_at };
    Ok((change_id, change))
}

fn raw(text: String) -> Result<Box<RawValue>, sqlx::Error> {
    RawValue::from_string(text).map_err(|error| sqlx::Error::Decode(error.into()))
}
