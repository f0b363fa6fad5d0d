//! Usage of flags: every batch adds to it, and old usage is merged into longer periods.

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::database::DatabaseError;

use super::super::batch::{Batch, Entry};
use super::super::usage::{KEPT, MINUTE, MOVED_ROWS, Used, reported, used};

/// Adds a batch's usage, in the order of [`used`], which prevents deadlocks between sinks.
pub(super) async fn add(
    transaction: &mut Transaction<'_, Postgres>,
    batch: &Batch,
    entries: &[Entry],
) -> Result<(), DatabaseError> {
    let upsert = "INSERT INTO feature_flag_usage AS u (environment, flag_name, seconds, starts_at, variant, evaluations,
            enabled, errors, timed, nanoseconds)
        SELECT environment, flag_name, $10, starts_at, variant, evaluations, enabled, errors, timed, nanoseconds
        FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[])
            AS n (environment, flag_name, starts_at, variant, evaluations, enabled, errors, timed, nanoseconds)
        ON CONFLICT (environment, flag_name, seconds, starts_at, variant) DO UPDATE SET
            evaluations = u.evaluations + excluded.evaluations, enabled = u.enabled + excluded.enabled,
            errors = u.errors + excluded.errors, timed = u.timed + excluded.timed,
            nanoseconds = u.nanoseconds + excluded.nanoseconds";
    let used = used(batch, entries);
    if used.is_empty() {
        return Ok(());
    }
    let texts = |text: fn(&Used) -> &str| used.iter().map(text).collect::<Vec<&str>>();
    let numbers = |number: fn(&Used) -> i64| used.iter().map(number).collect::<Vec<i64>>();
    let query = sqlx::query(upsert).bind(texts(|used| &used.environment)).bind(texts(|used| &used.flag));
    let query = query.bind(numbers(|used| used.starts_at)).bind(texts(|used| &used.variant));
    let query = query.bind(numbers(|used| used.sums.evaluations)).bind(numbers(|used| used.sums.enabled));
    let query = query.bind(numbers(|used| used.sums.errors)).bind(numbers(|used| used.sums.timed));
    let query = query.bind(numbers(|used| used.sums.nanoseconds));
    query.bind(i32::try_from(MINUTE).unwrap_or(60)).execute(&mut **transaction).await?;
    Ok(())
}

/// Adds the usage that SDKs have reported, of flags that are known. A caller with a frontend token, which is public, could
/// otherwise fill the table with names that do not exist.
pub(super) async fn add_reported(
    transaction: &mut Transaction<'_, Postgres>,
    entries: &[Entry],
) -> Result<(), DatabaseError> {
    let upsert = "INSERT INTO feature_flag_usage AS u (environment, flag_name, seconds, starts_at, variant, evaluations,
            enabled, errors, timed, nanoseconds)
        SELECT n.environment, n.flag_name, $7, n.starts_at, n.variant, n.evaluations, n.enabled, 0, 0, 0
        FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[])
            AS n (environment, flag_name, starts_at, variant, evaluations, enabled)
        JOIN feature_flags AS f ON f.environment = n.environment AND f.name = n.flag_name AND f.version IS NOT NULL
        ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (environment, flag_name, seconds, starts_at, variant) DO UPDATE SET
            evaluations = u.evaluations + excluded.evaluations, enabled = u.enabled + excluded.enabled";
    let note = "UPDATE feature_flags AS f SET
            last_evaluated_at = greatest(f.last_evaluated_at, to_timestamp(n.last)),
            last_off_at = greatest(f.last_off_at, to_timestamp(n.off)),
            outcomes_since = least(coalesce(f.outcomes_since, to_timestamp(n.first)), to_timestamp(n.first))
        FROM (
            SELECT environment, flag_name, max(starts_at) AS last, min(starts_at) AS first,
                max(starts_at) FILTER (WHERE enabled < evaluations) AS off
            FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
                AS r (environment, flag_name, starts_at, evaluations, enabled)
            GROUP BY 1, 2 ORDER BY 1, 2
        ) AS n
        WHERE f.environment = n.environment AND f.name = n.flag_name AND f.version IS NOT NULL";
    let used = reported(entries);
    if used.is_empty() {
        return Ok(());
    }
    let texts = |text: fn(&Used) -> &str| used.iter().map(text).collect::<Vec<&str>>();
    let numbers = |number: fn(&Used) -> i64| used.iter().map(number).collect::<Vec<i64>>();
    let query = sqlx::query(note).bind(texts(|used| &used.environment)).bind(texts(|used| &used.flag));
    let query = query.bind(numbers(|used| used.starts_at)).bind(numbers(|used| used.sums.evaluations));
    query.bind(numbers(|used| used.sums.enabled)).execute(&mut **transaction).await?;
    let query = sqlx::query(upsert).bind(texts(|used| &used.environment)).bind(texts(|used| &used.flag));
    let query = query.bind(numbers(|used| used.starts_at)).bind(texts(|used| &used.variant));
    let query = query.bind(numbers(|used| used.sums.evaluations)).bind(numbers(|used| used.sums.enabled));
    query.bind(i32::try_from(MINUTE).unwrap_or(60)).execute(&mut **transaction).await?;
    Ok(())
}

/// Merges old usage into longer periods and deletes what is past the last period. Each step moves whole rows in one
/// transaction, so a concurrent query counts each of them once.
pub(super) async fn make_coarser(connection: &mut PgConnection, now: i64) -> Result<(), DatabaseError> {
    let coarser = "WITH old AS (
            DELETE FROM feature_flag_usage WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM feature_flag_usage WHERE seconds = $1 AND starts_at < $3
                ORDER BY environment, flag_name, seconds, starts_at, variant LIMIT $4 FOR UPDATE))
            RETURNING *
        ), sums AS (
            SELECT environment, flag_name, starts_at - starts_at % $2 AS starts_at, variant,
                sum(evaluations)::bigint AS evaluations, sum(enabled)::bigint AS enabled, sum(errors)::bigint AS errors,
                sum(timed)::bigint AS timed, sum(nanoseconds)::bigint AS nanoseconds
            FROM old GROUP BY 1, 2, 3, 4
        )
        INSERT INTO feature_flag_usage AS u (environment, flag_name, seconds, starts_at, variant, evaluations, enabled,
            errors, timed, nanoseconds)
        SELECT environment, flag_name, $2, starts_at, variant, evaluations, enabled, errors, timed, nanoseconds
        FROM sums ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (environment, flag_name, seconds, starts_at, variant) DO UPDATE SET
            evaluations = u.evaluations + excluded.evaluations, enabled = u.enabled + excluded.enabled,
            errors = u.errors + excluded.errors, timed = u.timed + excluded.timed,
            nanoseconds = u.nanoseconds + excluded.nanoseconds";
    let forget = "DELETE FROM feature_flag_usage WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM feature_flag_usage WHERE seconds = $1 AND starts_at < $2 LIMIT $3 FOR UPDATE))";
    for (seconds, next, kept) in KEPT {
        let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
        loop {
            // Only one process at a time, because two would wait for each other's row locks.
            let mut transaction = connection.begin().await?;
            let lock = "SELECT pg_try_advisory_xact_lock(hashtextextended('flagstream-usage', 0))";
            if !sqlx::query_scalar::<_, bool>(lock).fetch_one(&mut *transaction).await? {
                return Ok(());
            }
            let query = match next {
                Some(next) => {
                    let next = i32::try_from(next).unwrap_or(i32::MAX);
                    // Rounded down, so that only complete periods are merged.
                    let before = (now - kept).div_euclid(i64::from(next)) * i64::from(next);
                    sqlx::query(coarser).bind(seconds).bind(next).bind(before).bind(MOVED_ROWS)
                }
                None => sqlx::query(forget).bind(seconds).bind(now - kept).bind(MOVED_ROWS),
            };
            let moved = query.execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            if moved == 0 {
                break;
            }
        }
    }
    Ok(())
}
