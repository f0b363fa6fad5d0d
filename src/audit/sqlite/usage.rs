//! Usage of flags in SQLite, with the same rules as in Postgres.

use sqlx::SqliteConnection;

use crate::database::DatabaseError;

use super::super::batch::{Batch, Entry};
use super::super::usage::{KEPT, MINUTE, reported, used};

/// Adds a batch's usage.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    batch: &Batch,
    entries: &[Entry],
) -> Result<(), DatabaseError> {
    let upsert =
        "INSERT INTO feature_flag_usage (environment, flag_name, seconds, starts_at, variant, evaluations,
            enabled, errors, timed, nanoseconds)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (environment, flag_name, seconds, starts_at, variant) DO UPDATE SET
            evaluations = evaluations + excluded.evaluations, enabled = enabled + excluded.enabled,
            errors = errors + excluded.errors, timed = timed + excluded.timed,
            nanoseconds = nanoseconds + excluded.nanoseconds";
    for used in used(batch, entries) {
        let query = sqlx::query(upsert).bind(&*used.environment).bind(&*used.flag).bind(MINUTE);
        let query = query.bind(used.starts_at).bind(&*used.variant).bind(used.sums.evaluations);
        let query = query.bind(used.sums.enabled).bind(used.sums.errors).bind(used.sums.timed);
        query.bind(used.sums.nanoseconds).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Adds the usage that SDKs have reported, of flags that are known.
pub(super) async fn add_reported(
    connection: &mut SqliteConnection,
    entries: &[Entry],
) -> Result<(), DatabaseError> {
    let note = "UPDATE feature_flags SET last_evaluated_at = max(coalesce(last_evaluated_at, ''), $3),
            last_off_at = nullif(max(coalesce(last_off_at, ''), coalesce($4, '')), ''),
            outcomes_since = min(coalesce(outcomes_since, $3), $3)
        WHERE environment = $1 AND name = $2 AND version IS NOT NULL";
    let upsert = "INSERT INTO feature_flag_usage (environment, flag_name, seconds, starts_at, variant, evaluations,
            enabled, errors, timed, nanoseconds)
        SELECT $1, $2, $3, $4, $5, $6, $7, 0, 0, 0
        WHERE EXISTS (SELECT 1 FROM feature_flags WHERE environment = $1 AND name = $2 AND version IS NOT NULL)
        ON CONFLICT (environment, flag_name, seconds, starts_at, variant) DO UPDATE SET
            evaluations = evaluations + excluded.evaluations, enabled = enabled + excluded.enabled";
    for used in reported(entries) {
        let at = super::micros(used.starts_at.saturating_mul(1_000_000));
        let off = (used.sums.enabled < used.sums.evaluations).then(|| at.clone());
        let query = sqlx::query(note).bind(&*used.environment).bind(&*used.flag).bind(at).bind(off);
        query.execute(&mut *connection).await?;
        let query = sqlx::query(upsert).bind(&*used.environment).bind(&*used.flag).bind(MINUTE);
        let query = query.bind(used.starts_at).bind(&*used.variant).bind(used.sums.evaluations);
        query.bind(used.sums.enabled).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Merges old usage into longer periods and deletes what is past the last period. Must run within a transaction.
pub(super) async fn make_coarser(connection: &mut SqliteConnection, now: i64) -> Result<(), DatabaseError> {
    let coarser = "INSERT INTO feature_flag_usage (environment, flag_name, seconds, starts_at, variant, evaluations,
            enabled, errors, timed, nanoseconds)
        SELECT environment, flag_name, $2, starts_at - starts_at % $2, variant, sum(evaluations), sum(enabled),
            sum(errors), sum(timed), sum(nanoseconds)
        FROM feature_flag_usage WHERE seconds = $1 AND starts_at < $3 GROUP BY 1, 2, 4, 5
        ON CONFLICT (environment, flag_name, seconds, starts_at, variant) DO UPDATE SET
            evaluations = evaluations + excluded.evaluations, enabled = enabled + excluded.enabled,
            errors = errors + excluded.errors, timed = timed + excluded.timed,
            nanoseconds = nanoseconds + excluded.nanoseconds";
    let forget = "DELETE FROM feature_flag_usage WHERE seconds = $1 AND starts_at < $2";
    for (seconds, next, kept) in KEPT {
        let mut before = now - kept;
        if let Some(next) = next {
            // Rounded down, so that only complete periods are merged.
            before = before.div_euclid(next) * next;
            sqlx::query(coarser).bind(seconds).bind(next).bind(before).execute(&mut *connection).await?;
        }
        sqlx::query(forget).bind(seconds).bind(before).execute(&mut *connection).await?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::usage::{DAY, HOUR};
    use crate::config::Secret;
    use crate::database::Database;

    #[tokio::test]
    async fn what_is_old_becomes_coarser_and_keeps_its_sums() {
        let database = Database::open(&Secret::new("sqlite::memory:"), "test").unwrap();
        database.migrate().await.unwrap();
        let Database::Sqlite(sqlite) = database else { panic!("not SQLite") };
        let mut connection = sqlite.pool.acquire().await.unwrap();
        let now = 20_000 * DAY + 5 * HOUR;
        // Minutes of today and of 3, 40 and 500 days ago, and hours of 40 days ago, into which the minutes of that day
        // are merged.
        for (seconds, age) in [(MINUTE, 0), (MINUTE, 3), (MINUTE, 40), (HOUR, 40), (MINUTE, 500)] {
            for minute in 0..90 {
                let insert = "INSERT INTO feature_flag_usage VALUES ('e', 'f', $1, $2, 'v', 2, 1, 1, 1, 100)
                    ON CONFLICT DO NOTHING";
                let starts_at = (now - age * DAY + minute * MINUTE) / seconds * seconds;
                sqlx::query(insert).bind(seconds).bind(starts_at).execute(&mut *connection).await.unwrap();
            }
        }
        let rows = async |connection: &mut SqliteConnection| -> Vec<(i64, i64, i64, i64)> {
            let sums = "SELECT seconds, count(*), sum(evaluations), sum(nanoseconds) FROM feature_flag_usage
                GROUP BY 1 ORDER BY 1";
            sqlx::query_as(sums).fetch_all(connection).await.unwrap()
        };
        for _ in 0..2 {
            make_coarser(&mut connection, now).await.unwrap();
            let expected = [(MINUTE, 90, 180, 9_000), (HOUR, 2, 180, 9_000), (DAY, 1, 184, 9_200)];
            assert_eq!(rows(&mut connection).await, expected);
        }
    }
}
