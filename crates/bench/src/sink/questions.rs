//! Duration of history and analytics queries on a table of a given size.

use std::time::Instant;

use sqlx::{AssertSqlSafe, PgPool};

use super::super::load;
use super::postgres::Own;

/// Number of executions of each query.
const TIMES: u64 = 200;

/// A query with the latency quantiles of its executions.
#[derive(Debug, serde::Serialize)]
pub struct Question {
    pub question: &'static str,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The query plan of Postgres.
    pub plan: Vec<String>,
}

const BY_FLAG: &str =
    "SELECT id, user_id, context, result, variant, evaluated_value, evaluated_at, evaluation_reason
    FROM feature_flag_evaluations WHERE flag_name = $1 AND environment = 'production'
    ORDER BY evaluated_at DESC LIMIT 100";
const BY_USER: &str = "SELECT id, flag_name, context, result, variant, evaluated_value, evaluated_at
    FROM feature_flag_evaluations WHERE hashtextextended(user_id, 0) = hashtextextended($1, 0) AND user_id = $1
    ORDER BY evaluated_at DESC LIMIT 100";
const BY_VARIANT: &str = "SELECT variant, count(*) FROM feature_flag_evaluations
    WHERE flag_name = $1 AND environment = 'production'
        AND evaluated_at >= (SELECT max(evaluated_at) FROM feature_flag_evaluations) - interval '5 minutes'
    GROUP BY variant";
const BY_TIME: &str = "SELECT id, flag_name, user_id, result, variant FROM feature_flag_evaluations
    WHERE evaluated_at >= (SELECT max(evaluated_at) FROM feature_flag_evaluations) - $1 * interval '1 millisecond'
    ORDER BY evaluated_at LIMIT 100";

/// Fills the table to `rows`, going back in time over a day, and runs the queries.
pub(super) async fn ask(own: &Own, rows: u64) -> anyhow::Result<(i64, Vec<Question>)> {
    let pool = &own.database.pool;
    let mut there = count(pool).await?;
    while there < i64::try_from(rows)? {
        // Copies of existing rows, with earlier times and other users.
        let fill = "INSERT INTO feature_flag_evaluations (flag_name, user_id, context, result, variant, evaluated_value,
                environment, evaluated_at, evaluation_reason, event_id, enabled)
            SELECT flag_name, user_id || '-' || $2, context, result, variant, evaluated_value, environment,
                evaluated_at - interval '13 minutes' * $2::int, evaluation_reason, event_id, enabled
            FROM feature_flag_evaluations LIMIT $1";
        let copies = there.min(i64::try_from(rows)? - there);
        sqlx::query(fill).bind(copies).bind(format!("{}", 1 + there % 97)).execute(pool).await?;
        there = count(pool).await?;
    }
    sqlx::raw_sql("VACUUM ANALYZE feature_flag_evaluations").execute(pool).await?;
    let mut questions = Vec::new();
    let flag = |number: u64| load::flag_name(usize::try_from(number % 50).unwrap_or_default());
    let user = |number: u64| format!("user-{}", number * 467 % 100_000);
    questions.push(time(pool, "the last 100 of a flag", BY_FLAG, flag).await?);
    questions.push(time(pool, "the last 100 of a user", BY_USER, user).await?);
    questions.push(time(pool, "a flag's last 5 minutes by variant", BY_VARIANT, flag).await?);
    let mut by_time = Vec::new();
    for number in 0..TIMES {
        let began = Instant::now();
        sqlx::query(BY_TIME).bind(f64::from(u32::try_from(number)?) * 1_000.0).fetch_all(pool).await?;
        by_time.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let plan = sqlx::query_scalar(AssertSqlSafe(explain(BY_TIME))).bind(5_000.0).fetch_all(pool).await?;
    questions.push(quantiles("100 from a moment on", by_time, plan));
    Ok((there, questions))
}

async fn count(pool: &PgPool) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM feature_flag_evaluations").fetch_one(pool).await?)
}

async fn time(
    pool: &PgPool,
    question: &'static str,
    query: &'static str,
    about: impl Fn(u64) -> String,
) -> anyhow::Result<Question> {
    let mut millis = Vec::new();
    for number in 0..TIMES {
        let about = about(number);
        let began = Instant::now();
        sqlx::query(query).bind(&about).fetch_all(pool).await?;
        millis.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let plan = sqlx::query_scalar(AssertSqlSafe(explain(query))).bind(about(1)).fetch_all(pool).await?;
    Ok(quantiles(question, millis, plan))
}

fn explain(query: &str) -> String {
    format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {query}")
}

fn quantiles(question: &'static str, mut millis: Vec<f64>, plan: Vec<String>) -> Question {
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| millis.get((millis.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Question { question, p50_ms: at(0.5), p99_ms: at(0.99), plan }
}
