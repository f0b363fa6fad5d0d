//! `bench experiment`: the time to compute the results of one large experiment in Postgres.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use sqlx::AssertSqlSafe;

use flagstream::config::Config;
use flagstream::database::Database;
use flagstream::experiment::aggregate;
use flagstream::kill::KillSwitches;
use flagstream::metrics::Metrics;
use flagstream::shutdown::Shutdown;
use flagstream::store::Store;

use super::load::{ENVIRONMENT, flag_name};
use super::sink::{Own, with_own_database};
use super::stream::median;

/// The flag of [`load`](super::load) that draws the variants `light` and `dark`.
const FLAG: usize = 1;
/// Timeout of one computation.
const COUNT_TIMEOUT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Parameters of the benchmark.
#[derive(Debug, clap::Args)]
pub struct ExperimentArgs {
    /// Number of exposed users
    #[arg(long, default_value_t = 1_000_000)]
    pub users: u64,
    /// Number of computations; the report has the median
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

/// Time to compute the results of an experiment with five metrics.
#[derive(Debug, serde::Serialize)]
pub struct ExperimentReport {
    pub users: u64,
    pub conversions: i64,
    pub metrics: usize,
    pub seconds: Vec<f64>,
    pub median: f64,
}

/// Runs the benchmark in a database of its own on the server of `DATABASE_URL`.
pub async fn run(args: &ExperimentArgs, config: Config) -> anyhow::Result<ExperimentReport> {
    ensure!(args.users >= 100, "--users: expected at least 100");
    ensure!(args.rounds >= 1, "--rounds: expected at least 1");
    with_own_database(config, async |config, own| measure(args, config, own).await).await
}

async fn measure(args: &ExperimentArgs, config: Config, own: &Own) -> anyhow::Result<ExperimentReport> {
    own.define(FLAG + 1).await?;
    tracing::info!(users = args.users, "writing exposures and conversions");
    let design = design();
    let metrics = design["metrics"].as_array().map_or(0, Vec::len);
    sqlx::raw_sql(AssertSqlSafe(rows(args.users, &design))).execute(&own.database.pool).await?;
    let conversions = sqlx::query_scalar("SELECT count(*) FROM experiment_conversions")
        .fetch_one(&own.database.pool)
        .await?;
    let counting = Counting::start(config, Database::Postgres(own.database.clone()));
    let mut seconds = Vec::new();
    for round in 0..args.rounds {
        seconds.push(counting.next(round).await?);
        tracing::info!(round, seconds = seconds.last(), "measured");
        sqlx::query("UPDATE experiments SET due_at = 0").execute(&own.database.pool).await?;
    }
    counting.shutdown.cancel();
    Ok(ExperimentReport { users: args.users, conversions, metrics, median: median(&seconds), seconds })
}

/// A rate, a mean, a count, a ratio of two events, and a guardrail.
fn design() -> serde_json::Value {
    let metric = |name: &str, kind: &str, role: &str| {
        json!({"name": name, "kind": kind, "role": role, "minimum_effect": 0.05,
            "goal": if role == "guardrail" { "decrease" } else { "increase" }})
    };
    let mut ratio = metric("per_page", "ratio", "secondary");
    ratio["event"] = json!("revenue");
    ratio["denominator"] = json!("pages");
    json!({"name": "large", "environment": ENVIRONMENT, "flag_name": flag_name(FLAG), "control": "light",
        "window_hours": 168, "confidence": 0.95, "power": 0.8, "finished_windows": false, "metrics": [
            metric("purchase", "conversion", "primary"), metric("revenue", "mean", "secondary"),
            metric("pages", "count", "secondary"), ratio, metric("error", "conversion", "guardrail")]})
}

/// Statements that write an experiment whose users were exposed two hours ago. Every second user has seen pages, every tenth
/// has bought, and every fiftieth has met an error, an hour ago.
fn rows(users: u64, design: &serde_json::Value) -> String {
    let design = design.to_string().replace('\'', "''");
    let hours_ago =
        |hours: u8| format!("(extract(epoch FROM now() - interval '{hours} hours') * 1e6)::bigint");
    let converted = |event: &str, each: u8, value: &str| {
        format!(
            "SELECT n, '{event}' AS event, {value} AS value FROM generate_series(1, {users}, {each}) AS n"
        )
    };
    format!(
        "INSERT INTO experiments (environment, name, flag_name, design, created_by, started_at)
            VALUES ('{ENVIRONMENT}', 'large', '{flag}', '{design}', 'bench', {begun});
        INSERT INTO experiment_exposures (experiment_id, user_key, flag_version, variant, exposed_at, crossed)
            SELECT (SELECT id FROM experiments), substring(sha256(n::text::bytea) for 16),
                (SELECT max(version) FROM feature_flag_versions WHERE name = '{flag}'),
                CASE WHEN n % 2 = 0 THEN 'light' ELSE 'dark' END, {exposed} + n, false
            FROM generate_series(1, {users}) AS n;
        INSERT INTO experiment_conversions (experiment_id, event_key, user_key, metric, value, occurred_at)
            SELECT (SELECT id FROM experiments), substring(sha256((event || n)::bytea) for 16),
                substring(sha256(n::text::bytea) for 16), event, value, {converted} + n
            FROM ({purchase} UNION ALL {revenue} UNION ALL {pages} UNION ALL {error}) AS converted;
        ANALYZE experiment_exposures, experiment_conversions",
        flag = flag_name(FLAG),
        begun = hours_ago(3),
        exposed = hours_ago(2),
        converted = hours_ago(1),
        purchase = converted("purchase", 10, "NULL::double precision"),
        revenue = converted("revenue", 10, "5 + n % 51"),
        pages = converted("pages", 2, "1 + n % 7"),
        error = converted("error", 50, "NULL"),
    )
}

/// The service's computation of results, which runs whenever the experiment is due.
struct Counting {
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
}

impl Counting {
    fn start(config: Config, database: Database) -> Self {
        let (metrics, shutdown, config) = (Metrics::new(), Shutdown::new(), Arc::new(config));
        let switches = KillSwitches::new(Arc::clone(&config), Arc::default(), Arc::new(Store::default()));
        let counting =
            aggregate::run(database, config, Arc::new(switches), Arc::clone(&metrics), shutdown.clone());
        tokio::spawn(counting);
        Self { metrics, shutdown }
    }

    /// Waits for the computation after `finished` others. Returns its time in seconds.
    async fn next(&self, finished: usize) -> anyhow::Result<f64> {
        let (before, _) = self.counted()?;
        let until = Instant::now() + COUNT_TIMEOUT;
        loop {
            let (seconds, count) = self.counted()?;
            if count as usize > finished {
                return Ok(seconds - before);
            }
            ensure!(Instant::now() < until, "no results within {} s", COUNT_TIMEOUT.as_secs());
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Sum of the times, and number of computations.
    fn counted(&self) -> anyhow::Result<(f64, f64)> {
        let text = self.metrics.encode()?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).with_context(|| format!("the metric {name} is missing"))
        };
        let name = "flagstream_experiments_counted_seconds";
        Ok((value(&format!("{name}_sum"))?, value(&format!("{name}_count"))?))
    }
}
