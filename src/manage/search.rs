//! Search in the recorded evaluations of all flags.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row};

use crate::auth::Restrictions;
use crate::database::{Database, DatabaseError, text_of};

use super::history::Before;
use super::{ManageError, Manager};

/// Upper bound of the evaluations in one answer, in bytes. A page ends early when it is reached.
pub const SEARCH_MAX_BYTES: usize = 16 << 20;
/// Largest context that is shown, in bytes.
const CONTEXT_MAX_BYTES: usize = 64 << 10;
/// Estimated size of an evaluation without its texts, in bytes.
const ROW_BYTES: usize = 700;
/// Timeout of a search in the database. A search by user, flag or request id uses an index; another one reads rows in
/// the order of their time.
pub const SEARCH_TIMEOUT: Duration = Duration::from_secs(5);

const COLUMNS: &str = "id, event_id::text AS event_id, request_id, flag_name, user_id, session_id, environment,
    result, evaluated_value::text AS evaluated_value, enabled, variant, evaluation_reason, error_code, error_message,
    flag_version, flags_version, value_type, context::text AS context, default_value::text AS default_value,
    attributes::text AS attributes, evaluated_at, source_topic, source_partition, source_offset, source_index, source_api";

/// Members by which evaluations are selected, in a search and in a stream. `None` selects all.
#[derive(Debug, Clone, Default)]
pub struct EvaluationSelection {
    pub user_id: Option<String>,
    pub flag_name: Option<String>,
    /// Environments to include; `None`: all.
    pub environments: Option<Vec<String>>,
    pub reason: Option<String>,
    pub variant: Option<String>,
    pub request_id: Option<String>,
}

/// Evaluations to search for.
#[derive(Debug, Clone, Default)]
pub struct SearchFilter {
    pub selection: EvaluationSelection,
    pub from: Option<DateTime<Utc>>,
    /// End of the time range, exclusive.
    pub to: Option<DateTime<Utc>>,
    pub limit: u32,
    /// Only evaluations before this position.
    pub after: Option<Before>,
    /// Whether users, sessions, request ids and contexts are included.
    pub with_users: bool,
}

/// A recorded evaluation.
#[derive(Debug, Serialize)]
pub struct FoundEvaluation {
    pub event_id: String,
    pub flag_name: String,
    pub environment: String,
    pub evaluated_at: DateTime<Utc>,
    pub request_id: Option<String>,
    pub user_id: Option<String>,
    pub session_id: Option<String>,
    /// Value as JSON.
    pub value: Option<Box<RawValue>>,
    pub enabled: bool,
    pub variant: Option<String>,
    pub reason: String,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub flag_version: Option<i64>,
    pub flags_version: Option<i64>,
    pub value_type: Option<String>,
    pub default_value: Option<Box<RawValue>>,
    /// `None` if the caller may not see it, or if it is too large to be shown.
    pub context: Option<Box<RawValue>>,
    /// Attributes that tables added to the context. `None` if there are none, or if the caller may not see them.
    pub attributes: Option<Box<RawValue>>,
    pub source: serde_json::Value,
    #[serde(skip)]
    id: i64,
}

/// A page of evaluations, newest first.
#[derive(Debug, Serialize)]
pub struct Found {
    pub evaluations: Vec<FoundEvaluation>,
    /// Value of `after` for the next page; `None` on the last page.
    pub next: Option<String>,
}

/// SQL text of a search with the values that are bound to it.
struct Question {
    text: String,
    values: Vec<String>,
}

impl Question {
    fn of(filter: &SearchFilter, is_postgres: bool) -> Self {
        let mut question = Self { text: String::new(), values: Vec::new() };
        let cast = |kind: &'static str| if is_postgres { kind } else { "" };
        let EvaluationSelection { user_id, flag_name, environments, reason, variant, request_id } =
            &filter.selection;
        if let Some(user) = user_id {
            // The index of Postgres contains a hash.
            let place = question.bind(user);
            if is_postgres {
                question.add(&format!("hashtextextended(user_id, 0) = hashtextextended({place}, 0)"));
            }
            question.add(&format!("user_id = {place}"));
        }
        if let Some(request) = request_id {
            let place = question.bind(request);
            if is_postgres {
                question.add(&format!("hashtextextended(request_id, 0) = hashtextextended({place}, 0)"));
            }
            question.add(&format!("request_id = {place}"));
        }
        let equal = [("flag_name", flag_name), ("evaluation_reason", reason), ("variant", variant)];
        for (column, value) in equal {
            if let Some(value) = value {
                let place = question.bind(value);
                question.add(&format!("{column} = {place}"));
            }
        }
        if let Some(environments) = environments {
            let places: Vec<String> = environments.iter().map(|name| question.bind(name)).collect();
            // An empty list matches nothing, and is no valid SQL.
            question.add(&match places.is_empty() {
                true => "1 = 0".to_owned(),
                false => format!("environment IN ({})", places.join(", ")),
            });
        }
        for (operator, time) in [(">=", filter.from), ("<", filter.to)] {
            if let Some(time) = time {
                let place = question.bind(&text_of(time));
                question.add(&format!("evaluated_at {operator} {place}{}", cast("::timestamptz")));
            }
        }
        if let Some(Before { evaluated_at, id }) = filter.after {
            let place = question.bind(&text_of(evaluated_at));
            let place = format!("{place}{}", cast("::timestamptz"));
            question.add(&format!("evaluated_at <= {place} AND (evaluated_at < {place} OR id < {id})"));
        }
        question.finish(filter.limit, is_postgres)
    }

    fn bind(&mut self, value: &str) -> String {
        self.values.push(value.to_owned());
        format!("${}", self.values.len())
    }

    fn add(&mut self, condition: &str) {
        self.text.push_str(if self.text.is_empty() { " WHERE " } else { " AND " });
        self.text.push_str(condition);
    }

    fn finish(self, limit: u32, is_postgres: bool) -> Self {
        let columns = if is_postgres { COLUMNS.to_owned() } else { COLUMNS.replace("::text", "") };
        // One row more than requested shows whether there is another page.
        let text = format!(
            "SELECT {columns} FROM feature_flag_evaluations{} ORDER BY evaluated_at DESC, id DESC LIMIT {}",
            self.text,
            u64::from(limit) + 1
        );
        Self { text, ..self }
    }
}

/// Reads the rows of a search. A macro, because the rows of the two databases have no type in common.
macro_rules! read_page {
    ($question:expr, $connection:expr, $filter:expr, $may_see:expr, $read:path) => {{
        let mut query = sqlx::query(AssertSqlSafe($question.text));
        for value in $question.values {
            query = query.bind(value);
        }
        let mut page = PageReader::default();
        let mut rows = query.fetch($connection);
        while let Some(row) = rows.try_next().await? {
            if !page.take($read(&row, $filter.with_users)?, $filter, $may_see) {
                break;
            }
        }
        page
    }};
}

/// Rows of a page as they are read.
#[derive(Debug, Default)]
struct PageReader {
    evaluations: Vec<FoundEvaluation>,
    /// Rows that were read, including those that the caller may not see.
    read: usize,
    bytes: usize,
    last: Option<Before>,
    has_more: bool,
}

impl PageReader {
    /// Adds a row. Returns `false` if the page is full.
    fn take(
        &mut self,
        row: FoundEvaluation,
        filter: &SearchFilter,
        may_see: &dyn Fn(&FoundEvaluation) -> bool,
    ) -> bool {
        let is_full = self.read == filter.limit as usize
            || (self.bytes + row.bytes() > SEARCH_MAX_BYTES && self.read > 0);
        if is_full {
            self.has_more = true;
            return false;
        }
        self.read += 1;
        self.bytes += row.bytes();
        self.last = Some(Before { evaluated_at: row.evaluated_at, id: row.id });
        if may_see(&row) {
            self.evaluations.push(row);
        }
        true
    }
}

impl Manager {
    /// Returns recorded evaluations, newest first. Those of flags outside of `within` are left out.
    pub async fn search(&self, filter: &SearchFilter, within: &Restrictions) -> Result<Found, ManageError> {
        let database = &self.repository()?.database;
        let snapshot = self.store.load_full();
        let may_see = |row: &FoundEvaluation| {
            let flags = snapshot.environment(&row.environment).map(|flags| &**flags);
            within.may_show(flags, &row.flag_name)
        };
        let page = match tokio::time::timeout(SEARCH_TIMEOUT * 2, read(database, filter, &may_see)).await {
            Ok(page) => page?,
            Err(_) => return Err(too_slow()),
        };
        let next = page.last.filter(|_| page.has_more).map(|last| last.to_string());
        Ok(Found { evaluations: page.evaluations, next })
    }

    /// Number of recorded evaluations of the users, up to `limit`.
    pub async fn count_evaluations(&self, users: &[String], limit: u32) -> Result<u64, ManageError> {
        let database = &self.repository()?.database;
        let mut count = 0;
        for user in users {
            let rows: i64 = match database {
                Database::Postgres(postgres) => {
                    let query = format!(
                        "SELECT count(*) FROM (SELECT 1 FROM feature_flag_evaluations
                         WHERE hashtextextended(user_id, 0) = hashtextextended($1, 0) AND user_id = $1 LIMIT {limit}) AS rows"
                    );
                    sqlx::query_scalar(AssertSqlSafe(query)).bind(user).fetch_one(&postgres.pool).await?
                }
                Database::Sqlite(sqlite) => {
                    let query = format!(
                        "SELECT count(*) FROM (SELECT 1 FROM feature_flag_evaluations WHERE user_id = $1 LIMIT {limit})"
                    );
                    sqlx::query_scalar(AssertSqlSafe(query)).bind(user).fetch_one(&sqlite.pool).await?
                }
            };
            count += u64::try_from(rows).unwrap_or_default();
        }
        Ok(count)
    }
}

async fn read(
    database: &Database,
    filter: &SearchFilter,
    may_see: &(dyn Fn(&FoundEvaluation) -> bool + Sync),
) -> Result<PageReader, ManageError> {
    let question = Question::of(filter, matches!(database, Database::Postgres(_)));
    match database {
        Database::Postgres(postgres) => {
            let mut transaction = postgres.pool.begin().await?;
            // Ends with the transaction. Otherwise a search without an index could occupy a connection for minutes.
            let limit = sqlx::query("SELECT set_config('statement_timeout', $1, true)");
            limit.bind(SEARCH_TIMEOUT.as_millis().to_string()).execute(&mut *transaction).await?;
            let read = async {
                Ok::<_, sqlx::Error>(read_page!(question, &mut *transaction, filter, may_see, of_postgres))
            };
            let page = read.await.map_err(slow_or_failed)?;
            transaction.commit().await?;
            Ok(page)
        }
        Database::Sqlite(sqlite) => Ok(read_page!(question, &sqlite.pool, filter, may_see, of_sqlite)),
    }
}

fn slow_or_failed(error: sqlx::Error) -> ManageError {
    let error = DatabaseError::from(error);
    match error.trouble() {
        crate::database::DatabaseFault::Blocked => too_slow(),
        _ => error.into(),
    }
}

fn too_slow() -> ManageError {
    ManageError::Busy(
        "the search took too long and was ended: search by user, flag or request id, or in a shorter period",
    )
}

/// Reads a row of either database.
macro_rules! of_row {
    ($name:ident, $row:ty) => {
        fn $name(row: &$row, with_users: bool) -> Result<FoundEvaluation, sqlx::Error> {
            let raw = |text: Option<String>| {
                let raw = text.map(RawValue::from_string).transpose();
                raw.map_err(|error| sqlx::Error::Decode(error.into()))
            };
            let hidden = |text: Option<String>| text.filter(|_| with_users);
            let result: Option<bool> = row.try_get("result")?;
            let value: Option<String> = row.try_get("evaluated_value")?;
            let context: String = row.try_get("context")?;
            let topic: Option<String> = row.try_get("source_topic")?;
            let source = match topic {
                Some(topic) => serde_json::json!({
                    "topic": topic,
                    "partition": row.try_get::<Option<i32>, _>("source_partition")?,
                    "offset": row.try_get::<Option<i64>, _>("source_offset")?,
                    "index": row.try_get::<Option<i32>, _>("source_index")?,
                }),
                None => serde_json::json!({"api": row.try_get::<Option<String>, _>("source_api")?}),
            };
            Ok(FoundEvaluation {
                id: row.try_get("id")?,
                event_id: row.try_get("event_id")?,
                flag_name: row.try_get("flag_name")?,
                environment: row.try_get("environment")?,
                evaluated_at: row.try_get("evaluated_at")?,
                request_id: hidden(row.try_get("request_id")?),
                user_id: hidden(row.try_get("user_id")?),
                session_id: hidden(row.try_get("session_id")?),
                value: raw(result.map(|result| result.to_string()).or(value))?,
                enabled: row.try_get("enabled")?,
                variant: row.try_get("variant")?,
                reason: row.try_get("evaluation_reason")?,
                error_code: row.try_get("error_code")?,
                error_message: row.try_get("error_message")?,
                flag_version: row.try_get("flag_version")?,
                flags_version: row.try_get("flags_version")?,
                value_type: row.try_get("value_type")?,
                default_value: raw(hidden(row.try_get("default_value")?))?,
                context: raw(Some(context).filter(|text| with_users && text.len() <= CONTEXT_MAX_BYTES))?,
                attributes: raw(hidden(row.try_get("attributes")?))?,
                source,
            })
        }
    };
}

of_row!(of_postgres, PgRow);
of_row!(of_sqlite, SqliteRow);

impl FoundEvaluation {
    /// Approximate size in an answer, in bytes.
    fn bytes(&self) -> usize {
        let raw = |value: &Option<Box<RawValue>>| value.as_ref().map_or(0, |value| value.get().len());
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let texts = [&self.request_id, &self.user_id, &self.session_id, &self.variant, &self.error_message];
        let values = [&self.value, &self.default_value, &self.context, &self.attributes];
        ROW_BYTES + texts.into_iter().map(text).sum::<usize>() + values.into_iter().map(raw).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
