//! Maintains daily partitions: creates them ahead of time and drops the old ones.

use chrono::{DateTime, Days, NaiveDate, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};

use crate::database::DatabaseError;

use super::super::retention::{Kept, LATE_KEPT_DAYS, MAX_LATE_COUNT, objection};
use super::super::streams::KEPT_DAYS;

/// Number of future days that have a partition.
pub const AHEAD_DAYS: u64 = 3;
/// Number of past days that have a partition. Kafka keeps events for a week by default.
const BACK_DAYS: u32 = 8;
/// Timeout of the lock on the parent table. All other sessions queue behind this one meanwhile.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";
/// Rows of the default partition per `DELETE`.
const DELETE_ROWS: i64 = 10_000;

/// Creates missing partitions and drops those older than retention, by the database's clock. Steps that another process
/// is running are skipped. `process` is the time of this machine's clock: if the two clocks differ too much, nothing is
/// removed.
pub async fn keep(
    connection: &mut PgConnection,
    retention_days: u32,
    process: DateTime<Utc>,
) -> Result<Kept, DatabaseError> {
    let database: DateTime<Utc> =
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection).await?;
    let today = database.date_naive();
    let existing = existing(connection).await?;
    let mut day = back(today, retention_days.min(BACK_DAYS));
    while day <= today + Days::new(AHEAD_DAYS) {
        if !existing.contains(&day) {
            alone(connection, async |transaction| make(transaction, day).await).await?;
        }
        day = day + Days::new(1);
    }
    alone(connection, async |transaction| make_other(transaction).await).await?;
    let oldest = back(today, retention_days);
    let due: Vec<NaiveDate> = existing.into_iter().filter(|day| *day < oldest).collect();
    let retention = i32::try_from(retention_days).unwrap_or(i32::MAX);
    let remembered = remembered(connection, retention).await?;
    let objection = objection(database, process, due.len(), remembered == retention);
    let start = oldest.and_time(chrono::NaiveTime::MIN).and_utc();
    if objection.is_none() {
        for day in due {
            alone(connection, async |transaction| {
                drop_day(transaction, day).await?;
                super::chain::retire(transaction, start.timestamp_micros()).await
            })
            .await?;
            tracing::info!(%day, "retention removed the evaluations of a day");
        }
        remove_late(connection, start).await?;
        let forget = "DELETE FROM sink_streams WHERE updated_at < now() - $1 * interval '1 day'";
        sqlx::query(forget).bind(f64::from(KEPT_DAYS)).execute(&mut *connection).await?;
        let applied = "UPDATE sink_retention SET retention_days = $1 WHERE retention_days <> $1";
        sqlx::query(applied).bind(retention).execute(&mut *connection).await?;
    }
    let count = "SELECT count(*) FROM (SELECT 1 FROM feature_flag_evaluations_other WHERE evaluated_at < $1 LIMIT $2) AS l";
    let late_count = sqlx::query_scalar(count).bind(start).bind(MAX_LATE_COUNT).fetch_one(connection).await?;
    Ok(Kept { ahead: database - process, objection, late_count })
}

/// Returns the retention that was last applied, or this one on the first run.
async fn remembered(connection: &mut PgConnection, retention_days: i32) -> Result<i32, DatabaseError> {
    let enter = "INSERT INTO sink_retention (retention_days, late_seen_id)
        SELECT $1, coalesce(max(id), 0) FROM feature_flag_evaluations_other ON CONFLICT DO NOTHING";
    sqlx::query(enter).bind(retention_days).execute(&mut *connection).await?;
    let known = "SELECT retention_days FROM sink_retention";
    Ok(sqlx::query_scalar(known).fetch_one(connection).await?)
}

/// Removes rows of the default partition that are older than `start` and were there at the last check, if that was a
/// week ago. Then remembers the rows that are there now.
async fn remove_late(connection: &mut PgConnection, start: DateTime<Utc>) -> Result<(), DatabaseError> {
    let due =
        "SELECT late_seen_id FROM sink_retention WHERE late_seen_at < now() - $1::bigint * interval '1 day'";
    let due: Option<i64> =
        sqlx::query_scalar(due).bind(LATE_KEPT_DAYS).fetch_optional(&mut *connection).await?;
    let Some(due) = due else { return Ok(()) };
    let exists =
        "SELECT EXISTS (SELECT 1 FROM feature_flag_evaluations_other WHERE evaluated_at < $1 AND id <= $2)";
    if sqlx::query_scalar::<_, bool>(exists).bind(start).bind(due).fetch_one(&mut *connection).await? {
        // The removal is recorded first: rows that are missing without a record count as tampering.
        let before = start.timestamp_micros();
        alone(connection, async |transaction| super::chain::retire(transaction, before).await).await?;
    }
    let delete = "DELETE FROM feature_flag_evaluations_other WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM feature_flag_evaluations_other WHERE evaluated_at < $1 AND id <= $2 LIMIT $3))";
    while sqlx::query(delete)
        .bind(start)
        .bind(due)
        .bind(DELETE_ROWS)
        .execute(&mut *connection)
        .await?
        .rows_affected()
        > 0
    {}
    let advance = "UPDATE sink_retention SET late_seen_at = now(),
            late_seen_id = (SELECT coalesce(max(id), 0) FROM feature_flag_evaluations_other)";
    sqlx::query(advance).execute(connection).await?;
    Ok(())
}

fn back(today: NaiveDate, days: u32) -> NaiveDate {
    today.checked_sub_days(Days::new(u64::from(days))).unwrap_or(NaiveDate::MIN)
}

fn table(day: NaiveDate) -> String {
    day.format("feature_flag_evaluations_%Y%m%d").to_string()
}

async fn existing(connection: &mut PgConnection) -> Result<Vec<NaiveDate>, DatabaseError> {
    let query = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'feature_flag_evaluations'::regclass";
    let names: Vec<String> = sqlx::query_scalar(query).fetch_all(connection).await?;
    let day = |name: &String| NaiveDate::parse_from_str(name, "feature_flag_evaluations_%Y%m%d").ok();
    Ok(names.iter().filter_map(day).collect())
}

/// Runs one change of the tables in a transaction, or skips it while another process runs one.
async fn alone(
    connection: &mut PgConnection,
    change: impl AsyncFnOnce(&mut Transaction<'_, Postgres>) -> Result<(), DatabaseError> + Send,
) -> Result<(), DatabaseError> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *transaction).await?;
    let lock = "SELECT pg_try_advisory_xact_lock(hashtextextended('flagstream-partitions', 0))";
    if sqlx::query_scalar::<_, bool>(lock).fetch_one(&mut *transaction).await? {
        change(&mut transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// Creates a table and then attaches it as the day's partition, which blocks neither readers nor writers. Rows of that
/// day in the default partition are moved into it.
async fn make(transaction: &mut Transaction<'_, Postgres>, day: NaiveDate) -> Result<(), DatabaseError> {
    let (table, next) = (table(day), day + Days::new(1));
    // Only dates are interpolated.
    let statements = format!(
        "CREATE TABLE IF NOT EXISTS {table} (LIKE feature_flag_evaluations INCLUDING DEFAULTS INCLUDING CONSTRAINTS
            INCLUDING STORAGE);
         DO $$ BEGIN IF to_regclass('feature_flag_evaluations_other') IS NOT NULL THEN
            WITH moved AS (DELETE FROM feature_flag_evaluations_other
                WHERE evaluated_at >= '{day} 00:00:00+00' AND evaluated_at < '{next} 00:00:00+00' RETURNING *)
            INSERT INTO {table} SELECT * FROM moved; END IF; END $$;
         ALTER TABLE feature_flag_evaluations ATTACH PARTITION {table}
            FOR VALUES FROM ('{day} 00:00:00+00') TO ('{next} 00:00:00+00')"
    );
    let attached = "SELECT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass($1))";
    if sqlx::query_scalar::<_, bool>(attached).bind(&table).fetch_one(&mut **transaction).await? {
        return Ok(());
    }
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut **transaction).await?;
    Ok(())
}

async fn make_other(transaction: &mut Transaction<'_, Postgres>) -> Result<(), DatabaseError> {
    let there = "SELECT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass($1))";
    let other = "feature_flag_evaluations_other";
    if sqlx::query_scalar::<_, bool>(there).bind(other).fetch_one(&mut **transaction).await? {
        return Ok(());
    }
    let make = "CREATE TABLE IF NOT EXISTS feature_flag_evaluations_other (LIKE feature_flag_evaluations
            INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE);
        ALTER TABLE feature_flag_evaluations ATTACH PARTITION feature_flag_evaluations_other DEFAULT";
    sqlx::raw_sql(make).execute(&mut **transaction).await?;
    Ok(())
}

async fn drop_day(transaction: &mut Transaction<'_, Postgres>, day: NaiveDate) -> Result<(), DatabaseError> {
    sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE IF EXISTS {}", table(day))))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
