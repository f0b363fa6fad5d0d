//! Reads recorded evaluations from SQLite.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::DateTime;
use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row};

use crate::audit::evaluation::{Evaluation, Source};
use crate::audit::postgres::copy;
use crate::database::{SqliteDatabase, text_of};
use crate::replay::{ReplayError, Session};

use super::{Progress, RowFilter};

pub async fn take(
    sqlite: &SqliteDatabase,
    filter: &RowFilter,
    mut session: Session,
    progress: &Arc<Progress>,
) -> Result<Session, ReplayError> {
    let columns = copy::COLUMN_NAMES;
    let query = AssertSqlSafe(format!(
        "SELECT {columns} FROM feature_flag_evaluations WHERE evaluated_at >= $1 AND evaluated_at < $2
            ORDER BY evaluated_at DESC"
    ));
    let query = sqlx::query(query).bind(text_of(filter.from)).bind(text_of(filter.to));
    let mut rows = query.fetch(&sqlite.pool);
    let mut left = filter.last.unwrap_or(u32::MAX);
    while let Some(row) = rows.try_next().await? {
        let row = evaluation(&row)?;
        if filter.means(&row) && left > 0 {
            left -= 1;
            session.take(&row);
            progress.rows.fetch_add(1, Ordering::Relaxed);
        }
    }
    progress.is_at(1, 1);
    Ok(session)
}

fn evaluation(row: &SqliteRow) -> Result<Evaluation<'_>, ReplayError> {
    let text = |name: &str| row.try_get::<Option<&str>, _>(name).map(|text| text.map(Into::into));
    let required = |name: &str| row.try_get::<&str, _>(name).map(Into::into);
    let evaluated_at: DateTime<chrono::Utc> = row.try_get("evaluated_at")?;
    let event_id: &str = row.try_get("event_id")?;
    let source = match (text("source_topic")?, text("source_api")?) {
        (Some(topic), _) => Source::Kafka {
            topic_id: None,
            topic,
            partition: row.try_get("source_partition")?,
            offset: row.try_get("source_offset")?,
            index: row.try_get("source_index")?,
            tap: None,
        },
        (None, Some(api)) => Source::Api(api),
        (None, None) => Source::Unknown,
    };
    Ok(Evaluation {
        event_id: event_id.parse().map_err(|_| ReplayError::Format)?,
        request_id: text("request_id")?,
        flag_name: required("flag_name")?,
        user_id: text("user_id")?,
        session_id: text("session_id")?,
        environment: required("environment")?,
        result: row.try_get("result")?,
        evaluated_value: text("evaluated_value")?,
        enabled: row.try_get("enabled")?,
        variant: text("variant")?,
        reason: required("evaluation_reason")?,
        error_code: text("error_code")?,
        error_message: text("error_message")?,
        flag_version: row.try_get("flag_version")?,
        flags_version: row.try_get("flags_version")?,
        value_type: text("value_type")?,
        context: required("context")?,
        attributes: text("attributes")?,
        default_value: text("default_value")?,
        evaluated_at: evaluated_at.timestamp_micros(),
        evaluation_ns: None,
        source,
        audit_block: row.try_get("audit_block")?,
        assignment: None,
        amended: row.try_get("amended")?,
    })
}
