//! Writes the outcome of every evaluation in the events topic to the cache, whether it came from the stream or from
//! HTTP.
//!
//! An event only contributes its subject; the outcome is evaluated again from the flags in force here. So a value is
//! always the current outcome of its key, and the same code also serves changes.

mod writing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use rdkafka::error::KafkaError;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::config::InputFormat;
use crate::evaluate::Parts;
use crate::flag::Moment;
use crate::kafka::backoff::Backoff;
use crate::kafka::consumer::{BatchConsumer, Record};
use crate::log_limit::limited;
use crate::message::avro::Subject;
use crate::metrics::RedisCacheMetrics;
use crate::schema_registry::{MAX_EVENT_BYTES, Reader, Undecodable};
use crate::shutdown::pause;

use super::client::Client;
use super::clients::{self, Progress};
use super::event::Event;
use super::recent_writes::RecentWrites;
use super::refresh;
use super::subject::{Clock, Entry, EvaluationScope, Reason};
use super::writer::{Writer, Written};

/// Records per fetch, which are written together. A few round trips to Redis serve all of them.
pub const FETCH_RECORDS: usize = 8_192;
/// Polling interval for shutdown.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long an event waits until the store has the version with which it was evaluated.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);
/// Delay before the first retry; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// Longest delay between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Interval between checks whether Redis still has the written values.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum delay between two rebuilds, each of which reads the events of a value's whole lifetime. The delay doubles,
/// up to that lifetime, while rebuilds do not suffice, because a Redis that is too small loses the values again.
const REBUILD_BACKOFF: Duration = Duration::from_secs(5);

/// Reads events and writes outcomes, on its own thread.
#[derive(Debug)]
pub(super) struct Worker {
    parts: Parts,
    runtime: Handle,
    client: Client,
    writer: Arc<Mutex<Writer>>,
    recent_writes: RecentWrites,
    reader: Reader,
    ttl: Duration,
    hostname: String,
    probed: Option<Instant>,
    rebuilt: Option<Instant>,
    rebuild_pause: Duration,
    wants_rebuild: bool,
    /// Highest version for which the store was waited for without success; it is not waited for again.
    missing: u64,
}

/// Result of processing one fetch.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    places: AHashMap<String, usize>,
    passed_over: AHashMap<Reason, u64>,
    /// Partitions whose records are too old to be cached.
    old: Vec<i32>,
    /// Partitions and offsets of all processed records.
    read: Vec<(i32, i64)>,
}

impl Worker {
    pub(super) fn new(parts: Parts, runtime: Handle, client: Client) -> Self {
        let ttl = parts.config.redis.cache_ttl;
        let writer = Writer::new(client.clone(), ttl);
        Self {
            recent_writes: writer.recent_writes(),
            reader: parts.formats.reader(Subject::EVENTS, InputFormat::Auto),
            writer: Arc::new(Mutex::new(writer)),
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            parts,
            runtime,
            client,
            ttl,
            probed: None,
            rebuilt: None,
            rebuild_pause: REBUILD_BACKOFF,
            wants_rebuild: false,
            missing: 0,
        }
    }

    /// Updates the cache until shutdown.
    pub(super) fn run(mut self) {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        while !self.parts.shutdown.is_cancelled() {
            if !self.parts.store.is_ready() {
                self.parts.health.starting("waiting for the first flag snapshot");
                std::thread::park_timeout(POLL_INTERVAL);
                continue;
            }
            let started = Instant::now();
            let Err(error) = self.session() else { break };
            limited!(
                warn,
                %error,
                "the warmer failed; it restarts from its last committed offsets",
            );
            self.parts.health.degraded(&error);
            if started.elapsed() > 2 * MAX_BACKOFF {
                backoff.reset();
            }
            pause(backoff.delay(), &self.parts.shutdown);
        }
    }

    fn session(&mut self) -> Result<(), KafkaError> {
        let topic = self.parts.config.topics.events.clone();
        let mut consumer = clients::consumer(&self.parts, "warmer", &topic, FETCH_RECORDS)?;
        let mut progress = Progress::new(&topic);
        let mut writing = None;
        while !self.parts.shutdown.is_cancelled() {
            consumer.serve()?;
            let patience = if writing.is_some() { Duration::ZERO } else { POLL_INTERVAL };
            let batch = self.read(&mut consumer, &topic, patience)?;
            if let Some(writing) = writing.take() {
                self.finish(&consumer, writing, &mut progress)?;
            }
            progress.commit(&consumer)?;
            self.probe();
            self.rebuild(&consumer, &topic)?;
            if batch.entries.is_empty() {
                batch.read.into_iter().for_each(|(partition, offset)| progress.done(partition, offset));
            } else {
                writing = Some(self.begin(batch));
            }
        }
        if let Some(writing) = writing {
            self.finish(&consumer, writing, &mut progress)?;
        }
        progress.finish(&consumer);
        Ok(())
    }

    /// Fetches records and evaluates their subjects.
    fn read(
        &mut self,
        consumer: &mut BatchConsumer,
        topic: &str,
        patience: Duration,
    ) -> Result<Batch, KafkaError> {
        let mut batch = Batch::default();
        for record in consumer.fetch(patience).records() {
            self.take(&record, &mut batch);
            batch.read.push((record.partition(), record.offset()));
        }
        if !batch.old.is_empty() {
            batch.old.sort_unstable();
            batch.old.dedup();
            clients::seek_to(consumer, topic, Clock::now().ms - self.ttl_ms(), &batch.old)?;
        }
        for (reason, count) in batch.passed_over.drain() {
            RedisCacheMetrics::add(&self.parts.metrics.redis_cache.passed_over, reason, count);
        }
        Ok(batch)
    }

    /// Adds the outcomes of the record's evaluations to the batch.
    fn take(&mut self, record: &Record<'_>, batch: &mut Batch) {
        if record.timestamp_ms() < Clock::now().ms - self.ttl_ms() {
            batch.old.push(record.partition());
            *batch.passed_over.entry("old").or_default() += 1;
            return;
        }
        let mut text = Vec::new();
        let json = self.reader.read(record.payload(), &mut text, MAX_EVENT_BYTES);
        let events = json
            .map_err(|unread| match unread {
                Undecodable::Away(_) | Undecodable::Pending(_) => "no_schema",
                _ => "unreadable",
            })
            .and_then(|json| Event::read(json).ok_or("unreadable"));
        match events {
            Ok(events) => {
                for event in &events {
                    let entry = self.entry(event);
                    self.take_entry(entry, batch);
                }
            }
            Err(reason) => *batch.passed_over.entry(reason).or_default() += 1,
        }
    }

    /// Adds an outcome to the batch; it replaces an earlier one for the same key.
    fn take_entry(&mut self, entry: Result<Entry, Reason>, batch: &mut Batch) {
        let entry = match entry {
            Ok(entry) if self.recent_writes.contains(&entry) => Err("repeated"),
            taken => taken,
        };
        match entry {
            Ok(entry) => match batch.places.get(&entry.keys.evaluation) {
                Some(place) => {
                    *batch.passed_over.entry("repeated").or_default() += 1;
                    if let Some(earlier) = batch.entries.get_mut(*place) {
                        *earlier = entry;
                    }
                }
                None => {
                    batch.places.insert(entry.keys.evaluation.clone(), batch.entries.len());
                    batch.entries.push(entry);
                }
            },
            Err(reason) => *batch.passed_over.entry(reason).or_default() += 1,
        }
    }

    /// Evaluates the subject of an event again.
    fn entry(&mut self, event: &Event<'_>) -> Result<Entry, Reason> {
        let clock = Clock::now();
        let version = event.flag_version.ok_or("no_flag")?;
        if self.parts.store.version() < version {
            let deadline = tokio::time::Instant::now() + VERSION_TIMEOUT;
            let in_vain = version <= self.missing;
            if in_vain || !self.runtime.block_on(self.parts.store.wait_for_version(version, deadline)) {
                self.missing = self.missing.max(version);
                return Err("ahead");
            }
        }
        // The outcome for the hash of a user id is not the outcome for the user.
        if self.parts.config.privacy.hash_user_ids && event.subject().user.is_some() {
            return Err("private");
        }
        let snapshot = self.parts.store.load();
        let moment = self.moment(&clock);
        let scope = EvaluationScope {
            snapshot: &snapshot,
            moment,
            now_ms: clock.ms,
            has_tables: self.parts.config.has_tables(),
        };
        event.subject().entry(&scope, &event.evaluated_at)
    }

    fn moment<'m>(&'m self, clock: &'m Clock) -> Moment<'m> {
        let app_name = &self.parts.config.unleash.app_name;
        Moment { now: &clock.text, hostname: &self.hostname, app_name }
    }

    fn written(&mut self, entries: &[Entry], written: Written) {
        let metrics = Arc::clone(&self.parts.metrics);
        RedisCacheMetrics::add(&metrics.redis_cache.writes, "written", written.values);
        RedisCacheMetrics::add(&metrics.redis_cache.writes, "refused", written.refused);
        for (reason, count) in written.given_up {
            metrics.drop_counted("warm_write", reason, count);
            self.parts.health.degraded(format!("Redis: {reason}"));
        }
        self.wants_rebuild |= written.lost;
        for (place, flag_min_version) in written.outdated {
            self.catch_up(entries, &place, flag_min_version);
        }
    }

    /// Refreshes outcomes of a flag that changed after the evaluation, because the change may not have found their
    /// keys.
    fn catch_up(&mut self, entries: &[Entry], place: &str, flag_min_version: u64) {
        let deadline = tokio::time::Instant::now() + VERSION_TIMEOUT;
        self.runtime.block_on(self.parts.store.wait_for_version(flag_min_version, deadline));
        let members =
            entries.iter().filter(|entry| entry.place == place).map(|entry| entry.member.as_slice());
        let clock = Clock::now();
        let snapshot = self.parts.store.load();
        let scope = EvaluationScope {
            snapshot: &snapshot,
            moment: self.moment(&clock),
            now_ms: clock.ms,
            has_tables: self.parts.config.has_tables(),
        };
        let work = refresh::page(&scope, place, flag_min_version, members, &clock.text);
        let refreshed = self.runtime.block_on(refresh::apply(&self.client, &work));
        match refreshed {
            Ok(invalidated) => invalidated.count(&self.parts.metrics),
            // The values are written again at the next evaluation. Until then readers reject them by the minimum
            // version.
            Err(cache_error) => {
                let count = u64::try_from(work.len()).unwrap_or(u64::MAX);
                self.parts.metrics.drop_counted("warm_renewal", cache_error.reason(), count);
            }
        }
    }

    /// Checks periodically whether Redis still has the written values.
    fn probe(&mut self) {
        if self.probed.is_some_and(|at| at.elapsed() < PROBE_INTERVAL) {
            return;
        }
        self.probed = Some(Instant::now());
        match self.runtime.block_on(async { self.writer.lock().await.has_lost_all().await }) {
            Ok(lost) => {
                self.parts.health.up();
                self.wants_rebuild |= lost;
            }
            Err(cache_error) => self.parts.health.degraded(cache_error),
        }
    }

    /// Reads the events of a value's whole lifetime again, if Redis has lost the values.
    fn rebuild(&mut self, consumer: &BatchConsumer, topic: &str) -> Result<(), KafkaError> {
        let since = self.rebuilt.map(|at| at.elapsed());
        if !self.wants_rebuild || since.is_some_and(|since| since < self.rebuild_pause) {
            return Ok(());
        }
        let partitions = clients::assigned(consumer)?;
        if partitions.is_empty() {
            return Ok(());
        }
        tracing::info!("Redis has lost the cached outcomes; they are rebuilt from the latest events");
        clients::seek_to(consumer, topic, Clock::now().ms - self.ttl_ms(), &partitions)?;
        self.wants_rebuild = false;
        self.rebuild_pause = match since {
            Some(since) if since < self.ttl => (self.rebuild_pause * 2).min(self.ttl.max(REBUILD_BACKOFF)),
            _ => REBUILD_BACKOFF,
        };
        self.rebuilt = Some(Instant::now());
        self.parts.metrics.redis_cache.rebuilds.inc();
        Ok(())
    }

    fn ttl_ms(&self) -> i64 {
        i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX)
    }
}
