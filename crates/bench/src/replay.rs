//! `bench replay`: replay of recorded evaluations, compared with a plain `COPY … TO` of the same rows in the same run.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use chrono::{TimeDelta, Utc};

use flagstream::audit::evaluation::Event;
use flagstream::audit::postgres::PostgresStore;
use flagstream::audit::store::AuditStore;
use flagstream::config::Config;
use flagstream::database::Database;
use flagstream::replay::{self, History, Progress, RowFilter, Session, With};

use super::load;
use super::sink::{self, Own, postgres};
use super::stream::median;

/// Rows per transaction.
const CHUNK_ROWS: u64 = 50_000;

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    /// Number of recorded evaluations
    #[arg(long, default_value_t = 2_000_000)]
    pub rows: u64,
    /// Number of different flags
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    /// Number of rounds of both arms, in turn; the report has the median
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

#[derive(Debug, serde::Serialize)]
pub struct ReplayReport {
    pub rows: u64,
    pub flags: usize,
    pub copied_per_second: Vec<f64>,
    pub replayed_per_second: Vec<f64>,
    /// Median rate of the replay divided by that of the copy.
    pub ratio: f64,
}

/// Runs the benchmark on the configured Postgres. An error if a replayed result differs.
pub async fn run(args: &ReplayArgs, config: Config) -> anyhow::Result<ReplayReport> {
    ensure!(args.rows >= 10_000, "--rows: expected at least 10000");
    ensure!(args.flags > 0, "--flags: expected at least 1");
    let own = Own::create(config.database.url.as_ref().context("DATABASE_URL is not set")?).await?;
    let measured = measure(args, &config, &own).await;
    own.drop().await?;
    measured
}

async fn measure(args: &ReplayArgs, config: &Config, own: &Own) -> anyhow::Result<ReplayReport> {
    let to = Utc::now();
    let filter = RowFilter {
        from: to - TimeDelta::hours(1),
        to,
        environments: Vec::new(),
        flags: Vec::new(),
        last: None,
    };
    own.define(args.flags).await?;
    record(args, &filter, own).await?;
    let (mut copied, mut replayed) = (Vec::new(), Vec::new());
    for round in 0..args.rounds.max(1) {
        copied.push(args.rows as f64 / copy(&filter, own).await?);
        replayed.push(args.rows as f64 / replay(args, config, &filter, own).await?);
        tracing::info!(round, copied = ?copied.last(), replayed = ?replayed.last(), "measured");
    }
    let ratio = median(&replayed) / median(&copied);
    let (rows, flags) = (args.rows, args.flags);
    Ok(ReplayReport { rows, flags, copied_per_second: copied, replayed_per_second: replayed, ratio })
}

/// Records results of real evaluations, evenly distributed over the time range.
async fn record(args: &ReplayArgs, filter: &RowFilter, own: &Own) -> anyhow::Result<()> {
    let snapshot = load::snapshot(args.flags)?;
    let step = (filter.to - filter.from) / i32::try_from(args.rows)?;
    let (mut chunk, mut at) = (Vec::new(), filter.from);
    for number in 0..args.rows {
        let place = (0, i64::try_from(number)?);
        let (_, event) =
            sink::event(&snapshot, number, args.flags, "requests", place, at).context("no event")?;
        if let Ok(Event::Evaluated(row)) = Event::read(&event) {
            PostgresStore::encode(&row, &mut chunk);
        }
        at += step;
        if (number + 1) % CHUNK_ROWS == 0 || number + 1 == args.rows {
            postgres::raw(own, &[std::mem::take(&mut chunk)], 1).await?;
        }
    }
    Ok(())
}

/// Duration of the plain copy, in seconds.
async fn copy(filter: &RowFilter, own: &Own) -> anyhow::Result<f64> {
    let started = Instant::now();
    let bytes = replay::copied_bytes(&own.database, filter).await?;
    ensure!(bytes > 0, "no rows");
    Ok(started.elapsed().as_secs_f64())
}

/// Duration of a whole replay, in seconds.
async fn replay(args: &ReplayArgs, config: &Config, filter: &RowFilter, own: &Own) -> anyhow::Result<f64> {
    let started = Instant::now();
    let database = Database::Postgres(own.database.clone());
    let session = Session::new(config, History::load(&database).await?, With::Then, &[]);
    let progress = Arc::new(Progress::default());
    let report = replay::database(&database, filter, session, &progress).await?.report;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(report.same == args.rows, "{} of {} are the same: {report:?}", report.same, args.rows);
    Ok(seconds)
}
