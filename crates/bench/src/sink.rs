//! `bench sink`: the audit sink, compared with a plain `COPY … BINARY` of the same rows into the same table in the same
//! run.
//!
//! The table is that of the migrations, with all its indexes, in a database of the run. The sink is measured from Kafka
//! to the commit.

pub mod chain;
mod experiments;
mod lag;
pub(super) mod postgres;
mod questions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use prometheus_client::metrics::counter::Counter;

use flagstream::audit::store::AuditStore;
use flagstream::audit::{Parts, Pipelines, Sink};
use flagstream::config::{Config, Secret};
use flagstream::database::{Database, PostgresDatabase};
use flagstream::flag::Snapshot;
use flagstream::health::Registry;
use flagstream::message::event::{EventSource, Timestamp, stream_event_id, write_event};
use flagstream::message::request::Request;
use flagstream::metrics::{EnvironmentLabels, Metrics};
use flagstream::shutdown::{Shutdown, Threads};

use super::load;
use super::setup::Bench;
use super::stream::median;

use experiments::Converting;
pub use lag::{Lag, Pipeline};
pub(super) use postgres::Own;
pub use questions::Question;

/// Timeout of one arm.
const DEADLINE: Duration = Duration::from_secs(180);

/// Arms that show the cost of the indexes: none, each one with the key, and all.
const RAW: [(&str, &[&str]); 5] = [
    ("raw COPY, no index", &[]),
    ("raw COPY, the key (time)", &[postgres::BY_TIME]),
    ("raw COPY, key and flag", &[postgres::BY_TIME, postgres::BY_FLAG]),
    ("raw COPY, key and user", &[postgres::BY_TIME, postgres::BY_USER]),
    ("raw COPY, all of them", &[postgres::BY_TIME, postgres::BY_FLAG, postgres::BY_USER]),
];

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct SinkArgs {
    /// Number of evaluations that each arm writes
    #[arg(long, default_value_t = 500_000)]
    pub rows: u64,
    /// Number of different flags
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    #[arg(long, default_value_t = 4)]
    pub partitions: i32,
    /// Number of rounds of all arms, in turn; the report has the median
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Number of rows in the table for the queries; 0 skips them
    #[arg(long, default_value_t = 2_000_000)]
    pub history: u64,
}

/// Rows per second of each arm and round, and the duration of queries.
#[derive(Debug, serde::Serialize)]
pub struct SinkReport {
    pub rows: u64,
    pub partitions: i32,
    pub arms: Vec<ArmReport>,
    /// Median rate of the sink divided by that of the plain COPY with all indexes.
    pub ratio: f64,
    /// Median rate of the sink with experiments, divided by that without.
    pub experiments: Vec<(&'static str, f64)>,
    /// Lag from event to row at half of the sink's median rate.
    pub lag: Lag,
    /// Results from request to row, with evaluators and sink in one process.
    pub pipeline: Pipeline,
    /// Number of rows in the table during the queries.
    pub history: i64,
    pub questions: Vec<Question>,
}

#[derive(Debug, serde::Serialize)]
pub struct ArmReport {
    pub arm: &'static str,
    pub rows_per_second: Vec<f64>,
    pub median: f64,
    /// CPU time of Postgres alone; `None` if it runs on another machine.
    pub postgres_microseconds_per_row: Option<f64>,
}

/// Runs the benchmark on the configured Kafka and Postgres.
pub async fn run(args: &SinkArgs, config: Config) -> anyhow::Result<SinkReport> {
    check_rows(args.rows)?;
    with_own_database(config, async |config, own| measure(args, config, own).await).await
}

fn check_rows(rows: u64) -> anyhow::Result<()> {
    ensure!(rows >= 10_000, "--rows: expected at least 10000");
    Ok(())
}

/// Runs a measurement with a database of its own, which the configuration names and which is dropped afterwards.
pub(crate) async fn with_own_database<R>(
    mut config: Config,
    measure: impl AsyncFnOnce(Config, &Own) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let server = config.database.url.clone().context("DATABASE_URL is not set")?;
    let own = Own::create(&server).await?;
    config.database.url = Some(Secret::new(own.url.clone()));
    let measured = measure(config, &own).await;
    own.drop().await?;
    measured
}

async fn measure(args: &SinkArgs, config: Config, own: &Own) -> anyhow::Result<SinkReport> {
    let mut bench = Bench::prepare(config, args.flags, args.partitions).await?;
    tracing::info!(rows = args.rows, "producing events");
    let raw = produce(&bench, args.rows, args.flags, args.partitions)?;
    let (mut raw_rates, mut sink_rates) = (vec![Vec::new(); RAW.len()], Vec::new());
    let mut experiment_rates = vec![Vec::new(); experiments::ARMS.len()];
    for round in 0..args.rounds.max(1) {
        // The last arm has all indexes, as the sink has.
        for ((arm, indexes), rates) in RAW.iter().zip(&mut raw_rates) {
            own.empty().await?;
            own.index(indexes).await?;
            let rate = postgres::raw(own, &raw, bench.config.audit.batch_max_rows).await?;
            tracing::info!(round, arm, ?rate, "measured");
            rates.push(rate);
        }
        own.empty().await?;
        sink_rates.push(sink(&bench, own, args.rows, &round.to_string()).await?);
        tracing::info!(round, sink = ?sink_rates.last(), "measured");
        for ((arm, count), rates) in experiments::ARMS.iter().zip(&mut experiment_rates) {
            own.empty().await?;
            own.begin_experiments(args.flags, *count).await?;
            let converting = Converting::start(&bench)?;
            rates.push(sink(&bench, own, args.rows, &format!("{round}-{count}")).await?);
            tokio::task::block_in_place(|| drop(converting));
            tracing::info!(round, arm, rate = ?rates.last(), "measured");
        }
        own.begin_experiments(args.flags, 0).await?;
    }
    drop(raw);
    let mut arms: Vec<_> = RAW.iter().zip(&raw_rates).map(|((arm, _), rates)| report(arm, rates)).collect();
    arms.push(report("flagstream sink", &sink_rates));
    let alone = arms.last().map_or(f64::NAN, |arm| arm.median);
    let beside: Vec<ArmReport> =
        experiments::ARMS.iter().zip(&experiment_rates).map(|((arm, _), rates)| report(arm, rates)).collect();
    own.empty().await?;
    let half = arms.last().map_or(0.0, |arm| arm.median / 2.0) as u64;
    let lag = tokio::task::block_in_place(|| lag::of_events(&bench, own, args, half))?;
    let pipeline = tokio::task::block_in_place(|| lag::of_requests(&mut bench, own, args))?;
    bench.clean_up().await;
    let (history, questions) = match args.history {
        0 => (0, Vec::new()),
        rows => questions::ask(own, rows).await?,
    };
    let ratio = match arms.as_slice() {
        [.., raw, sink] => sink.median / raw.median,
        _ => f64::NAN,
    };
    let (rows, partitions) = (args.rows, args.partitions);
    let experiments = beside.iter().map(|arm| (arm.arm, arm.median / alone)).collect();
    arms.extend(beside);
    Ok(SinkReport { rows, partitions, arms, ratio, experiments, lag, pipeline, history, questions })
}

/// Rows per second, and microseconds of Postgres' CPU time per row.
type Rate = (f64, Option<f64>);

/// Produces events of real evaluations to Kafka, and returns the same as encoded rows.
fn produce(bench: &Bench, rows: u64, flags: usize, partitions: i32) -> anyhow::Result<Vec<Vec<u8>>> {
    let producer = bench.request_producer(5)?;
    let topics = &bench.config.topics;
    let began = chrono::Utc::now() - chrono::Duration::hours(1);
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    for number in 0..rows {
        let partition = i32::try_from(number % u64::from(partitions.unsigned_abs()))?;
        let offset = i64::try_from(number / u64::from(partitions.unsigned_abs()))?;
        // Timestamps advance by a millisecond per 100 events, as at full load.
        let at = began + chrono::Duration::microseconds(i64::try_from(number * 10)?);
        let (key, event) = event(&bench.snapshot, number, flags, &topics.requests, (partition, offset), at)
            .context("no event")?;
        if number % bench.config.audit.batch_max_rows as u64 == 0 {
            chunks.push(Vec::new());
        }
        if let (Some(chunk), Ok(flagstream::audit::evaluation::Event::Evaluated(row))) =
            (chunks.last_mut(), flagstream::audit::evaluation::Event::read(&event))
        {
            flagstream::audit::postgres::PostgresStore::encode(&row, chunk);
        }
        bench.send_to(&producer, &topics.events, partition, &key, &event)?;
    }
    rdkafka::producer::Producer::flush(&producer, Duration::from_secs(120))
        .context("events not delivered")?;
    Ok(chunks)
}

pub(super) fn event(
    snapshot: &Snapshot,
    number: u64,
    flags: usize,
    topic: &str,
    (partition, offset): (i32, i64),
    at: chrono::DateTime<chrono::Utc>,
) -> Option<(String, Vec<u8>)> {
    let (key, body) = load::request(number, flags, number);
    let request = Request::decode(body.as_bytes()).ok()?;
    let ask = request.asks.as_slice().first()?;
    let answer = load::evaluate(snapshot, &request, ask)?;
    let id = stream_event_id(7, partition, offset, 0, at.timestamp_millis());
    let text = at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let at = Timestamp { text: &text, micros: at.timestamp_micros() };
    let source = EventSource::Kafka { topic, topic_id: None, partition, offset, index: 0, tap: None };
    let frame = load::frame(snapshot, &request, ask, std::str::from_utf8(&id).ok()?, at, source);
    let mut event = Vec::with_capacity(1024);
    write_event(&mut event, &frame, ask, &answer);
    Some((key, event))
}

/// Measures the sink from its first commit to the last.
async fn sink(bench: &Bench, own: &Own, rows: u64, round: &str) -> anyhow::Result<Rate> {
    rate_of(start(bench, own, round)?, own, rows).await
}

/// Measures a sink that was just started, and stops it.
async fn rate_of(running: Running, own: &Own, rows: u64) -> anyhow::Result<Rate> {
    let (mut first, started) = (None, Instant::now());
    let rate = loop {
        let count = running.written();
        if first.is_none() && count > 0 {
            first = Some((Instant::now(), count, own.cpu_seconds()));
        }
        if let (Some((since, at, cpu)), true) = (first, count >= rows) {
            let done = rows - at;
            let rate = done as f64 / since.elapsed().as_secs_f64();
            let cpu = own.cpu_seconds().zip(cpu).map(|(now, then)| (now - then) * 1e6 / done as f64);
            break (rate, cpu);
        }
        ensure!(started.elapsed() < DEADLINE, "sink: {count} of {rows} after {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    tokio::task::block_in_place(|| running.stop());
    Ok(rate)
}

/// A running sink.
pub(super) struct Running {
    sink: Sink,
    shutdown: Shutdown,
    written: Counter,
}

/// Starts the sink in a separate consumer group.
pub(super) fn start(bench: &Bench, own: &Own, name: &str) -> anyhow::Result<Running> {
    start_with(bench, own, name, Sink::start)
}

fn start_with(
    bench: &Bench,
    own: &Own,
    name: &str,
    begin: fn(&Parts) -> std::io::Result<Sink>,
) -> anyhow::Result<Running> {
    let mut config = bench.config.clone();
    config.kafka.group_id = format!("{}-{name}", config.kafka.group_id);
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let pipelines = Pipelines::new(&Registry::new(name), &config, &metrics);
    let parts = Parts {
        config: Arc::new(config),
        formats: Arc::default(),
        database: Database::Postgres(own.database.clone()),
        metrics: Arc::clone(&metrics),
        shutdown: shutdown.clone(),
        pipelines,
    };
    let environment = EnvironmentLabels { environment: load::ENVIRONMENT.into() };
    let written = metrics.audit.rows.get_or_create(&environment).clone();
    Ok(Running { sink: begin(&parts)?, shutdown, written })
}

impl Running {
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    pub(super) fn stop(self) {
        self.shutdown.cancel();
        self.sink.join();
    }
}

fn report(arm: &'static str, rates: &[Rate]) -> ArmReport {
    let rows_per_second: Vec<f64> = rates.iter().map(|(rate, _)| rate.round()).collect();
    let cpu: Option<Vec<f64>> = rates.iter().map(|(_, cpu)| *cpu).collect();
    ArmReport {
        arm,
        median: median(&rows_per_second),
        rows_per_second,
        postgres_microseconds_per_row: cpu.map(|cpu| median(&cpu)),
    }
}

/// The Postgres database. An error for SQLite.
fn of(database: &Database) -> anyhow::Result<PostgresDatabase> {
    match database {
        Database::Postgres(postgres) => Ok(postgres.clone()),
        Database::Sqlite(_) => anyhow::bail!("DATABASE_URL: expected Postgres, as SQLite has no COPY"),
    }
}
