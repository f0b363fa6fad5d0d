//! A Postgres database of one test's own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, FromRow};

use super::http::block_on;
use super::{Stack, wait_until};

/// Dropped with the database in it.
#[derive(Debug)]
pub struct Database {
    pub url: String,
    pub name: String,
    admin_url: String,
    pool: PgPool,
}

impl Database {
    pub fn create(stack: &Stack) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("it_{:08x}_{number}", rand::random::<u32>());
        let (server, _) = stack.postgres.rsplit_once('/').unwrap();
        let url = format!("{server}/{name}");
        administer(&stack.postgres, &format!("CREATE DATABASE {name}"));
        let pool = block_on(async {
            PgPoolOptions::new()
                .max_connections(4)
                .acquire_timeout(Duration::from_secs(10))
                .connect_lazy(&url)
                .unwrap()
        });
        Self { url, name, admin_url: stack.postgres.clone(), pool }
    }

    /// Runs statements that give nothing back.
    pub fn run(&self, statements: &str) {
        self.try_run(statements).unwrap();
    }

    /// Executes statements and returns the database's error, for example if it ends the session.
    pub fn try_run(&self, statements: &str) -> Result<(), sqlx::Error> {
        block_on(sqlx::raw_sql(AssertSqlSafe(statements)).execute(&self.pool)).map(drop)
    }

    /// Executes statements as the cluster's owner, outside of this database.
    pub fn administer(&self, statements: &str) {
        administer(&self.admin_url, statements);
    }

    /// All rows; fails if the database does not answer.
    pub fn rows<T: for<'r> FromRow<'r, PgRow> + Send + Unpin>(&self, query: &str) -> Vec<T> {
        block_on(sqlx::query_as(AssertSqlSafe(query)).fetch_all(&self.pool))
            .unwrap_or_else(|error| panic!("{error}: {query}"))
    }

    /// The one number that a query gives; `None` if the database does not answer, or there is no such table yet.
    pub fn number(&self, query: &str) -> Option<i64> {
        block_on(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool)).ok()
    }

    pub fn audited(&self) -> i64 {
        self.number("SELECT count(*) FROM feature_flag_evaluations").unwrap_or(-1)
    }

    /// Waits until these events, and no others, are rows, each once, and each flag's count is that of its rows.
    pub fn assert_audited(&self, events: &[(i32, i64, u32)], limit: Duration) {
        let expected = i64::try_from(events.len()).unwrap();
        // Results of HTTP calls have no source in Kafka.
        let of_requests = "FROM feature_flag_evaluations WHERE source_partition IS NOT NULL";
        let count = format!("SELECT count(*) {of_requests}");
        wait_until(&format!("{expected} rows"), limit, || self.number(&count) >= Some(expected));
        let rows: Vec<(i32, i64, i32)> =
            self.rows(&format!("SELECT source_partition, source_offset, source_index {of_requests}"));
        let audited: BTreeSet<_> = rows
            .iter()
            .map(|(partition, offset, index)| (*partition, *offset, index.unsigned_abs()))
            .collect();
        let events: BTreeSet<_> = events.iter().copied().collect();
        let lost: Vec<_> = events.difference(&audited).take(5).collect();
        let extra: Vec<_> = audited.difference(&events).take(5).collect();
        assert!(lost.is_empty() && extra.is_empty(), "lost: {lost:?}, never committed: {extra:?}");
        assert_eq!(rows.len(), audited.len(), "rows twice");
        self.assert_counts();
    }

    /// The usage of each day and variant is that of its rows.
    pub fn assert_usage(&self) {
        let wrong: Vec<(String, Option<i64>, Option<i64>)> = self.rows(
            "SELECT concat_ws(' / ', environment, flag_name, variant), u.evaluations, e.evaluations
             FROM (SELECT environment, flag_name, variant, starts_at - starts_at % 86400 AS day,
                    sum(evaluations)::bigint AS evaluations, sum(enabled)::bigint AS enabled,
                    sum(errors)::bigint AS errors
                FROM feature_flag_usage GROUP BY 1, 2, 3, 4) u
             FULL JOIN (SELECT environment, flag_name, left(coalesce(variant, ''), 255) AS variant,
                    (floor(extract(epoch FROM evaluated_at) / 86400) * 86400)::bigint AS day,
                    count(*) AS evaluations, count(*) FILTER (WHERE enabled) AS enabled,
                    count(*) FILTER (WHERE error_code IS NOT NULL) AS errors
                FROM feature_flag_evaluations WHERE flag_version IS NOT NULL GROUP BY 1, 2, 3, 4) e
             USING (environment, flag_name, variant, day)
             WHERE (u.evaluations, u.enabled, u.errors) IS DISTINCT FROM (e.evaluations, e.enabled, e.errors)
                AND day > extract(epoch FROM now()) - 300 * 86400",
        );
        assert!(wrong.is_empty(), "environment / flag / variant, used, rows: {wrong:?}");
    }

    /// Each flag's count, and its last evaluation, are those of its rows.
    pub fn assert_counts(&self) {
        let wrong: Vec<(String, String, i64, i64)> = self.rows(
            "SELECT coalesce(f.environment, e.environment), coalesce(f.name, e.flag_name),
                coalesce(f.evaluation_count, 0), coalesce(e.count, 0)
             FROM feature_flags f FULL JOIN (SELECT environment, flag_name, count(*), max(evaluated_at) AS last
                FROM feature_flag_evaluations WHERE flag_version IS NOT NULL GROUP BY 1, 2) e
                ON f.environment = e.environment AND f.name = e.flag_name
             WHERE coalesce(f.evaluation_count, 0) <> coalesce(e.count, 0)
                OR f.last_evaluated_at IS DISTINCT FROM e.last",
        );
        assert!(wrong.is_empty(), "environment, flag, counted, rows: {wrong:?}");
        self.assert_usage();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        block_on(self.pool.close());
        let drop = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // What does not work here does no harm.
        block_on(async {
            if let Ok(admin) = PgPoolOptions::new().max_connections(1).connect(&self.admin_url).await {
                let _ = sqlx::raw_sql(drop).execute(&admin).await;
                admin.close().await;
            }
        });
    }
}

/// Executes statements in the database with this URL.
pub(super) fn administer(url: &str, statements: &str) {
    block_on(async {
        let admin = PgPoolOptions::new().max_connections(1).connect(url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&admin).await.unwrap();
        admin.close().await;
    });
}
