//! `bench warm`: what the warmer writes a second beside plain pipelined SETs of the same values, and how long one
//! changed flag with many keys takes to be seen and to be right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use tokio::runtime::Handle;

use crate::config::{Config, Secret};
use crate::evaluate::Parts;
use crate::feed::usage::Usage;
use crate::flag::{CompiledFlag, FlagChange, Moment, Snapshot};
use crate::health::Reporter;
use crate::message::change::{Change, ChangeKind};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::warm::client::Client;
use crate::warm::event::Event;
use crate::warm::subject::{Clock, Entry, Scene};
use crate::warm::sweep::Sweeper;
use crate::warm::writer::Writer;
use crate::warm::{Read, Reader, Subject};

use super::load::{self, ENVIRONMENT};
use super::stream::median;

/// Values in one batch, as the warmer has them.
const BATCH: usize = 2_048;
/// SETs in one pipeline.
const PIPELINE: usize = 512;
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a value is asked for until a change is seen.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct WarmArgs {
    /// Values written in each round of each arm, all to different keys
    #[arg(long, default_value_t = 300_000)]
    pub values: usize,
    /// Different flags
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Keys of the flag that is changed; 0 to leave this out
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: usize,
}

#[derive(Debug, serde::Serialize)]
pub struct WarmReport {
    pub values: usize,
    pub arms: Vec<WarmArm>,
    /// Median of the second arm's over the first's, and of the third's.
    pub ratios: Vec<(String, f64)>,
    pub change: Option<ChangeReport>,
}

#[derive(Debug, serde::Serialize)]
pub struct WarmArm {
    pub arm: &'static str,
    pub values_per_second: Vec<f64>,
    pub median: f64,
}

/// One flag is changed among many keys.
#[derive(Debug, serde::Serialize)]
pub struct ChangeReport {
    pub keys: usize,
    /// From the swap of the store until a reader with this store takes no older value.
    pub seen_here_ms: f64,
    /// From the change's arrival at the warmer until a reader whose store knows nothing takes no older value.
    pub seen_elsewhere_ms: f64,
    pub last_raw_key_seconds: f64,
    pub keys_per_second: f64,
    /// Longest time that a command of another connection took meanwhile.
    pub longest_ping_ms: f64,
    pub ping_p99_ms: f64,
    /// As Redis itself saw it (`LATENCY LATEST`): event and milliseconds.
    pub latency_events: Vec<(String, i64)>,
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
            // Whatever came of it, the database is left as it was.
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
        let patience = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let mut connection = client.get_multiplexed_async_connection_with_config(&patience).await?;
        let size: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await?;
        ensure!(
            size == 0,
            "REDIS_URL: the database has {size} keys; this benchmark empties it, so it wants an empty one"
        );
        let store = Arc::new(Store::default());
        store.replace(snapshot);
        let parts = Parts {
            config: Arc::new(config),
            store,
            metrics: Metrics::new(),
            usage: Arc::new(Usage::default()),
            shutdown: Shutdown::new(),
            health: Reporter::detached(),
        };
        Ok(Self { parts, url: url.clone(), connection })
    }

    async fn flush(&self) -> anyhow::Result<()> {
        let mut connection = self.connection.clone();
        // Freeing a million keys takes Redis a while, in the background or not.
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
                match arm {
                    0 => self.plain_sets(&entries, handle)?,
                    1 => self.write(&entries, handle)?,
                    _ => self.write_events(&events, handle)?,
                }
                let rate = entries.len() as f64 / begun.elapsed().as_secs_f64();
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

    /// The same keys and values with the same life, without anything that makes them safe.
    fn plain_sets(&self, entries: &[Entry], handle: &Handle) -> anyhow::Result<()> {
        let mut connection = self.connection.clone();
        for entries in entries.chunks(PIPELINE) {
            let mut pipeline = redis::Pipeline::with_capacity(entries.len());
            for entry in entries {
                let set = pipeline.cmd("SET").arg(&entry.keys.evaluation).arg(&entry.value);
                set.arg("PX").arg(300_000).ignore();
            }
            handle.block_on(pipeline.query_async::<()>(&mut connection))?;
        }
        Ok(())
    }

    fn writer(&self) -> anyhow::Result<Writer> {
        let client = Client::new(self.url.expose(), PATIENCE)?;
        Ok(Writer::new(client, self.parts.config.redis.cache_ttl))
    }

    fn write(&self, entries: &[Entry], handle: &Handle) -> anyhow::Result<()> {
        let mut writer = self.writer()?;
        for entries in entries.chunks(BATCH) {
            let written = handle.block_on(writer.write(entries))?;
            ensure!(written.values as usize >= entries.len(), "not all values were written");
        }
        Ok(())
    }

    fn write_events(&self, events: &[Vec<u8>], handle: &Handle) -> anyhow::Result<()> {
        let mut writer = self.writer()?;
        for events in events.chunks(BATCH) {
            handle.block_on(writer.write(&self.entries(events)?))?;
        }
        Ok(())
    }

    fn change(&self, keys: usize, handle: &Handle) -> anyhow::Result<ChangeReport> {
        self.fill(keys, handle)?;
        let reader = |store| Reader::new(&self.parts.config, store, Arc::clone(&self.parts.metrics));
        let here = reader(Arc::clone(&self.parts.store))?.context("REDIS_URL")?;
        let elsewhere = reader(Arc::new(Store::default()))?.context("REDIS_URL")?;
        let context = context(0);
        let subject = Subject {
            environment: ENVIRONMENT,
            flag: "changed",
            user: Some("user-0"),
            session: None,
            context: &context,
        };
        let is_old = |reader: &Reader| matches!(handle.block_on(reader.read(&subject, 0)), Read::Hit(warm) if warm.flag_version == VERSION);
        ensure!(is_old(&here) && is_old(&elsewhere), "the value that is to change is not there");
        let mut connection = self.connection.clone();
        handle.block_on(async {
            redis::cmd("CONFIG")
                .arg("SET")
                .arg("latency-monitor-threshold")
                .arg(1)
                .query_async::<()>(&mut connection)
                .await?;
            redis::cmd("LATENCY").arg("RESET").query_async::<()>(&mut connection).await
        })?;
        let pings = handle.spawn(ping(self.url.clone(), self.parts.shutdown.child_token()));
        self.parts.store.apply([FlagChange::Set(changed(VERSION + 1, false)?)]);
        let begun = Instant::now();
        while is_old(&here) {
            std::thread::park_timeout(LOOK_INTERVAL);
        }
        let seen_here = begun.elapsed();
        let client = Client::new(self.url.expose(), PATIENCE)?;
        handle.block_on(client.ready())?;
        let mut sweeper = Sweeper::new(self.parts.clone(), handle.clone(), client);
        let begun = Instant::now();
        sweeper.add_change(&announcement());
        sweeper.step()?;
        let mut seen_elsewhere = None;
        if !is_old(&elsewhere) {
            seen_elsewhere = Some(begun.elapsed());
        }
        while !sweeper.is_idle() {
            sweeper.step()?;
        }
        let swept = begun.elapsed();
        self.parts.shutdown.cancel();
        let pings = handle.block_on(pings)??;
        let latency_events = handle.block_on(async {
            let events: Vec<(String, i64, i64, i64)> =
                redis::cmd("LATENCY").arg("LATEST").query_async(&mut connection).await?;
            redis::cmd("CONFIG")
                .arg("SET")
                .arg("latency-monitor-threshold")
                .arg(0)
                .query_async::<()>(&mut connection)
                .await?;
            anyhow::Ok(events.into_iter().map(|(event, _, _, longest)| (event, longest)).collect())
        })?;
        self.check(keys, handle)?;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Ok(ChangeReport {
            keys,
            seen_here_ms: ms(seen_here),
            seen_elsewhere_ms: ms(seen_elsewhere.context("the announcement was not seen")?),
            last_raw_key_seconds: swept.as_secs_f64(),
            keys_per_second: (keys as f64 / swept.as_secs_f64()).round(),
            longest_ping_ms: pings.max() as f64 / 1e3,
            ping_p99_ms: pings.value_at_quantile(0.99) as f64 / 1e3,
            latency_events,
        })
    }

    /// Many users of one flag.
    fn fill(&self, keys: usize, handle: &Handle) -> anyhow::Result<()> {
        self.parts.store.apply([FlagChange::Set(changed(VERSION, true)?)]);
        tracing::info!(keys, "writing keys");
        let mut writer = self.writer()?;
        for first in (0..keys).step_by(BATCH) {
            let events: Vec<_> = (first..keys.min(first + BATCH)).map(event_of_changed).collect();
            handle.block_on(writer.write(&self.entries(&events)?))?;
        }
        Ok(())
    }

    /// Looks at some of the keys: they must be right now.
    fn check(&self, keys: usize, handle: &Handle) -> anyhow::Result<()> {
        let mut connection = self.connection.clone();
        for number in (0..keys).step_by(keys.div_ceil(1_000)) {
            let (user, context) = (format!("user-{number}"), context(number));
            let subject = Subject {
                environment: ENVIRONMENT,
                flag: "changed",
                user: Some(&user),
                session: None,
                context: &context,
            };
            let key = subject.keys().context("no key")?.evaluation;
            let value: String = handle.block_on(redis::cmd("GET").arg(&key).query_async(&mut connection))?;
            ensure!(
                value.contains(&format!("\"flag_version\":{}", VERSION + 1)),
                "{key} is not right: {value}"
            );
        }
        Ok(())
    }
}

const VERSION: u64 = 1_768_480_000_000;

fn changed(version: u64, enabled: bool) -> anyhow::Result<Arc<CompiledFlag>> {
    let body = json!({"name": "changed", "enabled": enabled, "strategies": [{"name": "default", "constraints": [
        {"contextName": "plan", "operator": "IN", "values": ["a", "b", "c"]}]}]});
    Ok(Arc::new(CompiledFlag::compile(ENVIRONMENT, version, &body.to_string())?))
}

fn announcement() -> Change {
    let now = chrono::Utc::now().to_rfc3339();
    Change {
        event_type: ChangeKind::Updated,
        flag_name: "changed".to_owned(),
        environment: ENVIRONMENT.to_owned(),
        version: VERSION + 1,
        previous_version: Some(VERSION),
        changed_at: now.clone(),
        published_at: now,
        actor: "bench".to_owned(),
    }
}

fn scene<'s>(snapshot: &'s Snapshot, clock: &'s Clock) -> Scene<'s> {
    let moment = Moment { now: &clock.text, hostname: "bench", app_name: "bench" };
    Scene { snapshot, moment, now_ms: clock.ms }
}

fn entry(event: &[u8], scene: &Scene<'_>) -> anyhow::Result<Entry> {
    let event = Event::read(event).context("an event cannot be read")?;
    let entry = event.subject().entry(scene, &event.evaluated_at);
    entry.map_err(|reason| anyhow::anyhow!("an event is not kept: {reason}"))
}

/// An event as the evaluator writes it for request `number`, with a user of its own.
fn event(number: usize, flags: usize) -> Vec<u8> {
    let (_, request) = load::request(number as u64, flags, 0);
    let request: serde_json::Value = serde_json::from_str(&request).unwrap_or_default();
    event_for(
        request["flag_name"].as_str().unwrap_or_default(),
        &format!("user-{number}"),
        &request["context"],
    )
}

fn event_of_changed(number: usize) -> Vec<u8> {
    let context: serde_json::Value = serde_json::from_str(&context(number)).unwrap_or_default();
    event_for("changed", &format!("user-{number}"), &context)
}

fn context(number: usize) -> String {
    let plan = ["a", "b", "c", "d"][number % 4];
    format!("{{\"plan\":\"{plan}\",\"region\":\"us-west\"}}")
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

/// Microseconds of a PING every millisecond, on a connection of its own.
async fn ping(url: Secret, stop: Shutdown) -> anyhow::Result<hdrhistogram::Histogram<u64>> {
    let client = redis::Client::open(url.expose())?;
    let patience = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let mut connection = client.get_multiplexed_async_connection_with_config(&patience).await?;
    let mut pings = hdrhistogram::Histogram::new(3)?;
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    while !stop.is_cancelled() {
        ticks.tick().await;
        let begun = Instant::now();
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        pings.record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX))?;
    }
    Ok(pings)
}
