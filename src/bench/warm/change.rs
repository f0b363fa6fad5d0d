//! One flag is changed among many keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use redis::AsyncConnectionConfig;
use serde_json::json;
use tokio::runtime::Handle;

use crate::bench::load::ENVIRONMENT;
use crate::config::Secret;
use crate::flag::{CompiledFlag, FlagChange};
use crate::message::change::{Change, ChangeKind};
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::warm::client::Client;
use crate::warm::sweep::Sweeper;
use crate::warm::{Read, Reader, Subject};

use super::{BATCH, Bench, PATIENCE, event_for};

/// How often a value is asked for until a change is seen.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);
const VERSION: u64 = 1_768_480_000_000;

/// What was measured.
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

impl Bench {
    pub(super) fn change(&self, keys: usize, handle: &Handle) -> anyhow::Result<ChangeReport> {
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
        handle.block_on(self.watch_latency(1))?;
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
        let latency_events = handle.block_on(self.latency_events())?;
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

    async fn watch_latency(&self, threshold_ms: u64) -> anyhow::Result<()> {
        let mut connection = self.connection.clone();
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("latency-monitor-threshold").arg(threshold_ms);
        set.query_async::<()>(&mut connection).await?;
        Ok(redis::cmd("LATENCY").arg("RESET").query_async::<()>(&mut connection).await?)
    }

    async fn latency_events(&self) -> anyhow::Result<Vec<(String, i64)>> {
        let mut connection = self.connection.clone();
        let events: Vec<(String, i64, i64, i64)> =
            redis::cmd("LATENCY").arg("LATEST").query_async(&mut connection).await?;
        self.watch_latency(0).await?;
        Ok(events.into_iter().map(|(event, _, _, longest)| (event, longest)).collect())
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

fn event_of_changed(number: usize) -> Vec<u8> {
    let context: serde_json::Value = serde_json::from_str(&context(number)).unwrap_or_default();
    event_for("changed", &format!("user-{number}"), &context)
}

fn context(number: usize) -> String {
    let plan = ["a", "b", "c", "d"][number % 4];
    format!("{{\"plan\":\"{plan}\",\"region\":\"us-west\"}}")
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
