//! Retention in SQLite, which has only this machine's clock. A clock that jumps ahead must not remove everything at
//! once, so rows that are more than two days past retention are removed only after they were seen for a week, or when
//! the setting was changed.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::sqlite::SqliteConnection;

use crate::database::DatabaseError;

use super::super::retention::{Kept, LATE_KEPT_DAYS, MAX_DAYS_AT_ONCE, MAX_LATE_COUNT};
use super::super::streams::KEPT_DAYS;
use super::time;

/// Number of runs in [`LATE_KEPT_DAYS`], at one run in ten minutes. Runs are counted because the clock may jump.
const LATE_KEPT_LOOKS: i64 = LATE_KEPT_DAYS * 24 * 6;

/// Removes rows that are past retention at the time `now`.
pub(super) async fn keep(
    connection: &mut SqliteConnection,
    retention_days: u32,
    now: DateTime<Utc>,
) -> Result<Kept, DatabaseError> {
    let before = |days: i64| time(now.checked_sub_signed(TimeDelta::days(days)).unwrap_or_default());
    let oldest = before(retention_days.into());
    let late = before(i64::from(retention_days) + MAX_DAYS_AT_ONCE as i64);
    let (remembered, late_seen_id, looks) = remembered(connection, retention_days, &late).await?;
    let due_id = match (remembered == retention_days, looks >= LATE_KEPT_LOOKS) {
        (false, _) => i64::MAX,
        (true, true) => late_seen_id,
        (true, false) => 0,
    };
    let delete =
        "DELETE FROM feature_flag_evaluations WHERE evaluated_at < $1 AND (evaluated_at >= $2 OR id <= $3)";
    sqlx::query(delete).bind(&oldest).bind(&late).bind(due_id).execute(&mut *connection).await?;
    if looks >= LATE_KEPT_LOOKS {
        let advance = "UPDATE sink_retention SET late_looks = 0,
            late_seen_id = (SELECT coalesce(max(id), 0) FROM feature_flag_evaluations WHERE evaluated_at < $1)";
        sqlx::query(advance).bind(&late).execute(&mut *connection).await?;
    }
    let forget = "DELETE FROM sink_streams WHERE updated_at < $1";
    sqlx::query(forget).bind(before(KEPT_DAYS.into())).execute(&mut *connection).await?;
    let applied = "UPDATE sink_retention SET retention_days = $1";
    sqlx::query(applied).bind(retention_days).execute(&mut *connection).await?;
    let count =
        "SELECT count(*) FROM (SELECT 1 FROM feature_flag_evaluations WHERE evaluated_at < $1 LIMIT $2)";
    let late_count = sqlx::query_scalar(count).bind(&late).bind(MAX_LATE_COUNT).fetch_one(connection).await?;
    Ok(Kept { late_count, ..Kept::default() })
}

/// Counts this run. Returns the setting of the last run, the last late row when the count began, and the runs since
/// then.
async fn remembered(
    connection: &mut SqliteConnection,
    retention_days: u32,
    late: &str,
) -> Result<(u32, i64, i64), DatabaseError> {
    let enter = "INSERT INTO sink_retention (only_row, retention_days, late_seen_id)
        SELECT 1, $1, coalesce(max(id), 0) FROM feature_flag_evaluations WHERE evaluated_at < $2
        ON CONFLICT DO NOTHING";
    sqlx::query(enter).bind(retention_days).bind(late).execute(&mut *connection).await?;
    let count = "UPDATE sink_retention SET late_looks = late_looks + 1
        RETURNING retention_days, late_seen_id, late_looks";
    Ok(sqlx::query_as(count).fetch_one(connection).await?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::database::Database;

    const INSERT: &str =
        "INSERT INTO feature_flag_evaluations (flag_name, context, environment, evaluated_at,
            evaluation_reason, event_id, enabled) VALUES ('a', '{}', 'e', $1, 'DEFAULT', 'i', 1)";

    #[tokio::test]
    async fn a_clock_that_jumps_ahead_removes_two_days_and_a_slow_ones_rows_stay_for_a_week() {
        let database = Database::open(&Secret::new("sqlite::memory:"), "test").unwrap();
        database.migrate().await.unwrap();
        let Database::Sqlite(sqlite) = database else { unreachable!() };
        let mut connection = sqlite.pool.acquire().await.unwrap();
        let now = Utc::now();
        // Ninety days within retention, and one row of an evaluator whose clock is 100 days behind.
        for days in (0..90).chain([100]) {
            let at = time(now - TimeDelta::days(days));
            sqlx::query(INSERT).bind(at).execute(&mut *connection).await.unwrap();
        }
        let mut kept = async |retention: u32, days_later: i64| {
            let kept = keep(&mut connection, retention, now + TimeDelta::days(days_later)).await.unwrap();
            let count = "SELECT count(*) FROM feature_flag_evaluations";
            (sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *connection).await.unwrap(), kept.late_count)
        };
        assert_eq!(kept(90, 0).await, (91, 1));
        assert_eq!(kept(90, 100).await, (91, 91), "nothing goes, all are reported");
        // The clock is correct again.
        assert_eq!(kept(90, 0).await, (91, 1));
        assert_eq!(kept(90, 1).await.0, 91);
        assert_eq!(kept(90, 2).await.0, 90, "retention passes a day");
        for _ in 0..LATE_KEPT_LOOKS {
            kept(90, 2).await;
        }
        assert_eq!(kept(90, 2).await, (89, 0), "the late one was seen for a week");
        assert_eq!(kept(30, 0).await.0, 31, "the setting was changed");
    }
}
