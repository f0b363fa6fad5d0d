//! Measures the change of one flag with many keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::runtime::Handle;

use crate::load::ENVIRONMENT;
use flagstream::flag::{CompiledFlag, FlagChange};
use flagstream::message::change::{Change, ChangeKind};
use flagstream::redis_cache::client::Client;
use flagstream::redis_cache::invalidate::Invalidator;
use flagstream::redis_cache::{Read, Reader, Subject};
use flagstream::store::Store;

use super::blocking::{Blocking, Watch};
use super::{Bench, DEADLINE, FETCH_RECORDS, event_for};

/// Interval of the reads until a change is visible.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);
const VERSION: u64 = 1_768_480_000_000;
/// Size of a value in the control load, similar to a real one.
const VALUE_BYTES: usize = 190;
const CONTROL_TIME: Duration = Duration::from_secs(4);

/// The results of the measurement.
#[derive(Debug, serde::Serialize)]
pub struct ChangeReport {
    pub keys: usize,
    /// Time from the change of the store until a reader with this store ignores older values.
    pub seen_here_ms: f64,
    /// Time from the change's arrival at the warmer until a reader with an empty store ignores older values.
    pub seen_elsewhere_ms: f64,
    pub last_raw_key_seconds: f64,
    pub keys_per_second: f64,
    /// Blocking while the keys were updated.
    pub sweep: Blocking,
    /// Blocking while plain SETs were sent in pipelines of the same size, which shows the machine's own delays.
    pub control: Blocking,
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
        let control = Watch::begin(self, handle)?;
        let control = control.end(handle, self.plain_load(&elsewhere_keys(), handle)?)?;
        let watch = Watch::begin(self, handle)?;
        self.parts.store.apply([FlagChange::Set(changed(VERSION + 1, false)?)]);
        let begun = Instant::now();
        while is_old(&here) {
            std::thread::park_timeout(LOOK_INTERVAL);
        }
        let seen_here = begun.elapsed();
        let client = Client::new(self.url.expose(), DEADLINE)?;
        handle.block_on(client.ready())?;
        let mut invalidator = Invalidator::new(self.parts.clone(), handle.clone(), client);
        let begun = Instant::now();
        invalidator.add_change(&announcement());
        invalidator.step()?;
        let mut seen_elsewhere = None;
        if !is_old(&elsewhere) {
            seen_elsewhere = Some(begun.elapsed());
        }
        while !invalidator.is_idle() {
            invalidator.step()?;
        }
        let swept = begun.elapsed();
        let sweep = watch.end(handle, keys)?;
        self.check(keys, handle)?;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Ok(ChangeReport {
            keys,
            seen_here_ms: ms(seen_here),
            seen_elsewhere_ms: ms(seen_elsewhere.context("the announcement was not seen")?),
            last_raw_key_seconds: swept.as_secs_f64(),
            keys_per_second: (keys as f64 / swept.as_secs_f64()).round(),
            sweep,
            control,
        })
    }

    /// Sends SETs of other keys for [`CONTROL_TIME`] and returns their number.
    fn plain_load(&self, keys: &[String], handle: &Handle) -> anyhow::Result<usize> {
        let mut connection = self.connection.clone();
        let (value, begun, mut count) = ("x".repeat(VALUE_BYTES), Instant::now(), 0);
        while begun.elapsed() < CONTROL_TIME {
            let mut pipeline = redis::Pipeline::with_capacity(keys.len());
            for key in keys {
                pipeline.cmd("SET").arg(key).arg(&value).arg("PX").arg(60_000).ignore();
            }
            handle.block_on(pipeline.query_async::<()>(&mut connection))?;
            count += keys.len();
        }
        Ok(count)
    }

    /// Writes the keys of many users of one flag.
    fn fill(&self, keys: usize, handle: &Handle) -> anyhow::Result<()> {
        self.parts.store.apply([FlagChange::Set(changed(VERSION, true)?)]);
        tracing::info!(keys, "writing keys");
        let mut writer = self.writer()?;
        for first in (0..keys).step_by(FETCH_RECORDS) {
            let events: Vec<_> = (first..keys.min(first + FETCH_RECORDS)).map(event_of_changed).collect();
            handle.block_on(writer.write(&self.entries(&events)?))?;
        }
        Ok(())
    }

    /// Checks that a sample of the keys was updated.
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

/// Control keys, as many as a page of the refresh has.
fn elsewhere_keys() -> Vec<String> {
    (0..128).map(|number| format!("flagstream-bench:plain:{number}")).collect()
}

fn event_of_changed(number: usize) -> Vec<u8> {
    let context: serde_json::Value = serde_json::from_str(&context(number)).unwrap_or_default();
    event_for("changed", &format!("user-{number}"), &context)
}

fn context(number: usize) -> String {
    let plan = ["a", "b", "c", "d"][number % 4];
    format!("{{\"plan\":\"{plan}\",\"region\":\"us-west\"}}")
}
