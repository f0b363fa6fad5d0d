//! `bench warm`: write throughput of the warmer, compared with plain pipelined SETs of the same values, and the time
//! until the change of one flag with many keys is visible and complete.

mod blocking;
mod change;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionLike as _};
use serde_json::json;
use tokio::runtime::Handle;

use flagstream::config::{Config, Secret};
use flagstream::evaluate::Parts;
use flagstream::feed::usage::Usage;
use flagstream::flag::{Moment, Snapshot};
use flagstream::health::Reporter;
use flagstream::metrics::Metrics;
use flagstream::redis_cache::client::Client;
use flagstream::redis_cache::event::Event;
use flagstream::redis_cache::subject::{Clock, Entry, EvaluationScope};
use flagstream::redis_cache::worker::FETCH_RECORDS;
use flagstream::redis_cache::writer::Writer;
use flagstream::shutdown::Shutdown;
use flagstream::store::Store;

use super::load::{self, ENVIRONMENT};
use super::stream::median;

use change::ChangeReport;

/// Number of SETs in one pipeline.
const PIPELINE: usize = 512;
const DEADLINE: Duration = Duration::from_secs(10);

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct WarmArgs {
    /// Number of values written in each round of each arm, all to different keys
    #[arg(long, default_value_t = 300_000)]
    pub values: usize,
    /// Number of different flags
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Number of keys of the changed flag; 0 skips this part
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: usize,
}

#[derive(Debug, serde::Serialize)]
pub struct WarmReport {
    pub values: usize,
    pub arms: Vec<WarmArm>,
    /// Medians of the second and the third arm, divided by that of the first.
    pub ratios: Vec<(String, f64)>,
    pub change: Option<ChangeReport>,
}

#[derive(Debug, serde::Serialize)]
pub struct WarmArm {
    pub arm: &'static str,
    pub values_per_second: Vec<f64>,
    pub median: f64,
}

const ARMS: [&str; 3] = ["plain SETs, pipelined", "warmer, from values", "warmer, from events"];

/// Runs the benchmark on the configured Redis, whose database must be empty.
pub async fn run(args: &WarmArgs, config: Config) -> anyhow::Result<WarmReport> {
    ensure!(args.values > 0 && args.flags > 0, "--values and --flags: expected at least 1");
    let url = config.redis.url.clone().context("REDIS_URL is not set")?;
    let bench = Bench::open(config, &url, load::snapshot(args.flags)?).await?;
    let result = tokio::task::spawn_blocking({
        let (args, handle) = (args.clone(), Handle::current());
        move || {
            let measured = bench.measure(&args, &handle);
            // The database is emptied even after a failure.
            handle.block_on(bench.flush()).and(measured)
        }
    });
    result.await?
}

struct Bench {
    parts: Parts,
    url: Secret,
    connection: MultiplexedConnection,
}

impl Bench {
    async fn open(config: Config, url: &Secret, snapshot: Snapshot) -> anyhow::Result<Self> {
        let client = redis::Client::open(url.expose()).context("REDIS_URL")?;
        let patience = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
        let mut connection = client.get_multiplexed_async_connection_with_config(&patience).await?;
        let size: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await?;
        ensure!(
            size == 0,
            "REDIS_URL: the database has {size} keys; this benchmark empties it, so it wants an empty one"
        );
        let store = Arc::new(Store::default());
        store.replace(snapshot);
        let parts = Parts {
            formats: Arc::default(),
            config: Arc::new(config),
            store,
            attributes: None,
            metrics: Metrics::new(),
            usage: Arc::new(Usage::default()),
            shutdown: Shutdown::new(),
            health: Reporter::detached(),
        };
        Ok(Self { parts, url: url.clone(), connection })
    }

    async fn flush(&self) -> anyhow::Result<()> {
        let mut connection = self.connection.clone();
        // Redis takes a while to free a million keys, even in the background.
        redis::cmd("FLUSHDB").arg("ASYNC").query_async::<()>(&mut connection).await.context("FLUSHDB")
    }

    fn measure(&self, args: &WarmArgs, handle: &Handle) -> anyhow::Result<WarmReport> {
        let mut rates: [Vec<f64>; ARMS.len()] = Default::default();
        for round in 0..args.rounds.max(1) {
            let events: Vec<Vec<u8>> = (0..args.values).map(|number| event(number, args.flags)).collect();
            let entries = self.entries(&events)?;
            for (arm, rates) in rates.iter_mut().enumerate() {
                handle.block_on(self.flush())?;
                let begun = Instant::now();
                let seconds = match arm {
                    0 => self.plain_sets(&entries)?,
                    1 => self.write(&entries, handle).map(|()| begun.elapsed().as_secs_f64())?,
                    _ => self.write_events(&events, handle).map(|()| begun.elapsed().as_secs_f64())?,
                };
                let rate = entries.len() as f64 / seconds;
                tracing::info!(round, arm = ARMS[arm], values_per_second = rate.round(), "measured");
                rates.push(rate.round());
            }
        }
        let arms: Vec<_> = ARMS
            .into_iter()
            .zip(rates)
            .map(|(arm, rates)| WarmArm { arm, median: median(&rates), values_per_second: rates })
            .collect();
        let ratio = |arm: usize| (format!("{} / {}", ARMS[arm], ARMS[0]), arms[arm].median / arms[0].median);
        let ratios = vec![ratio(1), ratio(2)];
        handle.block_on(self.flush())?;
        let change = (args.keys > 0).then(|| self.change(args.keys, handle)).transpose()?;
        Ok(WarmReport { values: args.values, arms, ratios, change })
    }

    fn entries(&self, events: &[Vec<u8>]) -> anyhow::Result<Vec<Entry>> {
        let clock = Clock::now();
        let snapshot = self.parts.store.load();
        let scene = scene(&snapshot, &clock);
        let entries = events.iter().map(|event| entry(event, &scene));
        entries.collect()
    }

    /// Writes the same keys and values with the same expiry, as `redis-benchmark` does: prebuilt pipelines, one after
    /// the other. Returns seconds.
    fn plain_sets(&self, entries: &[Entry]) -> anyhow::Result<f64> {
        let pipelines: Vec<_> = entries
            .chunks(PIPELINE)
            .map(|entries| {
                let mut pipeline = redis::Pipeline::with_capacity(entries.len());
                for entry in entries {
                    let set = pipeline.cmd("SET").arg(&entry.keys.evaluation).arg(&entry.value);
                    set.arg("PX").arg(300_000);
                }
                (pipeline.get_packed_pipeline(), entries.len())
            })
            .collect();
        let mut connection = redis::Client::open(self.url.expose())?.get_connection()?;
        let begun = Instant::now();
        for (bytes, count) in &pipelines {
            connection.req_packed_commands(bytes, 0, *count)?;
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    fn writer(&self) -> anyhow::Result<Writer> {
        let client = Client::new(self.url.expose(), DEADLINE)?;
        Ok(Writer::new(client, self.parts.config.redis.cache_ttl))
    }

    fn write(&self, entries: &[Entry], handle: &Handle) -> anyhow::Result<()> {
        let mut writer = self.writer()?;
        for entries in entries.chunks(FETCH_RECORDS) {
            let written = handle.block_on(writer.write(entries))?;
            ensure!(written.values as usize >= entries.len(), "not all values were written");
        }
        Ok(())
    }

    fn write_events(&self, events: &[Vec<u8>], handle: &Handle) -> anyhow::Result<()> {
        let writer = Arc::new(tokio::sync::Mutex::new(self.writer()?));
        let mut under_way = None;
        for events in events.chunks(FETCH_RECORDS) {
            let (entries, writer) = (self.entries(events)?, Arc::clone(&writer));
            // As in the warmer, the next batch is evaluated while one is written.
            let write = async move { writer.lock().await.write(&entries).await };
            if let Some(before) = under_way.replace(handle.spawn(write)) {
                handle.block_on(before)??;
            }
        }
        under_way.map_or(Ok(()), |last| handle.block_on(last)?.map(drop).map_err(anyhow::Error::from))
    }
}

fn scene<'s>(snapshot: &'s Snapshot, clock: &'s Clock) -> EvaluationScope<'s> {
    let moment = Moment { now: &clock.text, hostname: "bench", app_name: "bench" };
    EvaluationScope { snapshot, moment, now_ms: clock.ms, has_tables: false }
}

fn entry(event: &[u8], scene: &EvaluationScope<'_>) -> anyhow::Result<Entry> {
    let events = Event::read(event).context("an event cannot be read")?;
    let event = events.first().context("the event has no evaluation")?;
    let entry = event.subject().entry(scene, &event.evaluated_at);
    entry.map_err(|reason| anyhow::anyhow!("an event is not kept: {reason}"))
}

/// An event as the evaluator writes it for request `number`, with a different user each.
fn event(number: usize, flags: usize) -> Vec<u8> {
    let (_, request) = load::request(number as u64, flags, 0);
    let request: serde_json::Value = serde_json::from_str(&request).unwrap_or_default();
    event_for(
        request["flag_name"].as_str().unwrap_or_default(),
        &format!("user-{number}"),
        &request["context"],
    )
}

fn event_for(flag: &str, user: &str, context: &serde_json::Value) -> Vec<u8> {
    let event = json!({"event_type": "FEATURE_FLAG_EVALUATED", "event_id": "019bc0d0-0000-8000-8000-000000000000",
        "request_id": "00000000000000000000", "flag_name": flag, "user_id": user, "session_id": null,
        "environment": ENVIRONMENT, "value": "true", "typed_value": true, "enabled": true, "variant": null,
        "reason": "TARGETING_MATCH", "error_code": null, "error_message": null, "flag_version": 1, "context": context,
        "default_value": false, "evaluated_at": "2026-01-15T10:30:00.012345Z",
        "source": {"topic": "feature-flag-evaluation-requests", "partition": 3, "offset": 99_120, "index": 0}});
    event.to_string().into_bytes()
}
