//! `bench trouble`: effect of Redis failures on components that do not need Redis. A backlog of requests becomes rows
//! in Postgres while the warmer in the same process uses a Redis that is healthy, unreachable, slow, full, or returns
//! invalid replies.

mod tcp_proxy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::runtime::Handle;

use flagstream::config::{Config, DeliveryMode, Secret};
use flagstream::evaluate::Parts;
use flagstream::feed::usage::Usage;
use flagstream::health::Reporter;
use flagstream::metrics::Metrics;
use flagstream::redis_cache::Warmer;
use flagstream::shutdown::Shutdown;
use flagstream::store::Store;

use super::setup::{Arm, Bench, From, Loop};
use super::sink;
use super::stream::median;

use tcp_proxy::TcpProxy;

/// Timeout of one arm.
const DEADLINE: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct OutageArgs {
    /// Number of requests that become rows in each arm
    #[arg(long, default_value_t = 300_000)]
    pub requests: u64,
    /// Number of different flags
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    #[arg(long, default_value_t = 4)]
    pub partitions: i32,
    /// Number of rounds of every arm, in turn; the report has the median
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// The state of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redis {
    /// The arm runs without a warmer.
    None,
    Well,
    Away,
    Slow,
    Nonsense,
    Full,
}

const ARMS: [(&str, Redis); 6] = [
    ("no Redis, no warmer", Redis::None),
    ("Redis is well", Redis::Well),
    ("Redis is away", Redis::Away),
    ("Redis answers after 5 s", Redis::Slow),
    ("Redis answers nonsense", Redis::Nonsense),
    ("Redis is full (OOM)", Redis::Full),
];

#[derive(Debug, serde::Serialize)]
pub struct OutageReport {
    pub requests: u64,
    pub arms: Vec<OutageArm>,
}

#[derive(Debug, serde::Serialize)]
pub struct OutageArm {
    pub arm: &'static str,
    /// Rate from requests to committed events.
    pub evaluated_per_second: f64,
    /// Rate from requests to rows, by round.
    pub rows_per_second: Vec<f64>,
    pub median: f64,
    /// Median divided by that of the first arm.
    pub ratio: f64,
}

/// Runs the benchmark on the configured Kafka, Postgres and Redis. The Redis database must be empty.
pub async fn run(args: &OutageArgs, config: Config) -> anyhow::Result<OutageReport> {
    ensure!(args.requests >= 10_000, "--requests: expected at least 10000");
    let redis = config.redis.url.clone().context("REDIS_URL is not set")?;
    let mut rates = vec![Vec::new(); ARMS.len()];
    for round in 0..args.rounds.max(1) {
        for ((name, arm), rates) in ARMS.iter().zip(&mut rates) {
            let rate = measure(args, config.clone(), &redis, *arm).await?;
            tracing::info!(round, arm = name, ?rate, "measured");
            rates.push(rate);
        }
    }
    let of = |rates: &[(f64, f64)]| median(&rates.iter().map(|(_, rows)| *rows).collect::<Vec<_>>());
    let base = rates.first().map_or(f64::NAN, |rates| of(rates));
    let arms = ARMS.iter().zip(&rates).map(|((arm, _), rates)| OutageArm {
        arm,
        evaluated_per_second: median(&rates.iter().map(|(events, _)| *events).collect::<Vec<_>>()),
        rows_per_second: rates.iter().map(|(_, rows)| *rows).collect(),
        median: of(rates),
        ratio: of(rates) / base,
    });
    Ok(OutageReport { requests: args.requests, arms: arms.collect() })
}

/// Events and rows per second, with separate topics and a separate database for the arm.
async fn measure(
    args: &OutageArgs,
    mut config: Config,
    redis: &Secret,
    arm: Redis,
) -> anyhow::Result<(f64, f64)> {
    let server = config.database.url.clone().context("DATABASE_URL is not set")?;
    let own = sink::Own::create(&server).await?;
    config.database.url = Some(Secret::new(own.url.clone()));
    let mut bench = Bench::prepare(config, args.flags, args.partitions).await?;
    bench.config.topics.updates.clone_from(&bench.config.topics.definitions);
    bench.produce(args.requests)?;
    let proxy = match arm {
        Redis::Away => Some(TcpProxy::open(redis.expose(), tcp_proxy::Fault::Shut).await?),
        Redis::Slow => Some(TcpProxy::open(redis.expose(), tcp_proxy::Fault::Slow).await?),
        Redis::Nonsense => Some(TcpProxy::open(redis.expose(), tcp_proxy::Fault::Garbled).await?),
        Redis::None | Redis::Well | Redis::Full => None,
    };
    let url = proxy.as_ref().map_or_else(|| redis.expose().to_owned(), |proxy| proxy.url.clone());
    let limit = if arm == Redis::Full { "1000" } else { "0" };
    set_limit(redis, limit).await?;
    let handle = Handle::current();
    let measured = tokio::task::block_in_place(|| {
        let warmer = (arm != Redis::None).then(|| start_warmer(&bench, &url, &handle)).transpose()?;
        let measured = backlog(&mut bench, &own, args);
        if let Some((warmer, shutdown)) = warmer {
            shutdown.cancel();
            warmer.join();
        }
        measured
    });
    set_limit(redis, "0").await?;
    bench.clean_up().await;
    own.drop().await?;
    measured
}

fn backlog(bench: &mut Bench, own: &sink::Own, args: &OutageArgs) -> anyhow::Result<(f64, f64)> {
    let sink = sink::start(bench, own, "trouble")?;
    let arm = Arm { what: Loop::Full, mode: DeliveryMode::Transactional };
    let running = bench.start(arm, From::Backlog)?;
    let started = Instant::now();
    let (mut from, mut events) = (None, None);
    let rows = loop {
        let (committed, rows) = (running.committed(), sink.written());
        if from.is_none() && running.gate.is_open() && rows > 0 {
            from = Some((Instant::now(), committed, rows));
        }
        let Some((since, at_events, at_rows)) = from else {
            std::thread::park_timeout(POLL_INTERVAL);
            continue;
        };
        let rate = |done: u64| done as f64 / since.elapsed().as_secs_f64();
        if committed >= args.requests {
            events.get_or_insert_with(|| rate(args.requests - at_events.min(args.requests)).round());
        }
        if rows >= args.requests {
            break rate(args.requests - at_rows).round();
        }
        ensure!(started.elapsed() < DEADLINE, "{rows} of {} rows after {DEADLINE:?}", args.requests);
        std::thread::park_timeout(POLL_INTERVAL);
    };
    running.stop();
    sink.stop();
    Ok((events.unwrap_or(f64::NAN), rows))
}

fn start_warmer(bench: &Bench, url: &str, handle: &Handle) -> anyhow::Result<(Warmer, Shutdown)> {
    let store = Arc::new(Store::default());
    store.replace(bench.snapshot.clone());
    let shutdown = Shutdown::new();
    let parts = Parts {
        formats: Arc::default(),
        config: Arc::new(bench.config.clone()),
        store,
        attributes: None,
        metrics: Metrics::new(),
        usage: Arc::new(Usage::default()),
        shutdown: shutdown.clone(),
        health: Reporter::detached(),
    };
    Ok((Warmer::start(&parts, url, handle)?, shutdown))
}

/// Empties Redis and sets its memory limit.
async fn set_limit(redis: &Secret, bytes: &str) -> anyhow::Result<()> {
    let mut connection = redis::Client::open(redis.expose())?.get_multiplexed_async_connection().await?;
    redis::cmd("FLUSHDB").arg("ASYNC").query_async::<()>(&mut connection).await?;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("maxmemory").arg(bytes);
    Ok(set.query_async::<()>(&mut connection).await?)
}
