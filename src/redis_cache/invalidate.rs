//! Invalidates cached outcomes after a change.
//!
//! 1. **Announce**: raise the flag's minimum version. From then on readers reject older values, however many there
//!    are. This is the moment of invalidation.
//! 2. **Refresh**: evaluate and write the keys again, page by page, with all changed flags in turn.
//!
//! One warmer of the group does this, from the updates topic. It may be repeated without harm, so progress is committed
//! when no invalidation is in progress.

pub(super) mod params;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use crate::config::InputFormat;
use crate::evaluate::Parts;
use crate::flag::{Moment, Snapshot};
use crate::kafka::backoff::Backoff;
use crate::kafka::consumer::{BatchConsumer, Record};
use crate::log_limit::limited;
use crate::message::avro::Subject;
use crate::message::change::Change;
use crate::schema_registry::Reader;
use crate::shutdown::pause;

use super::client::Client;
use super::clients::{self, Progress};
use super::error::CacheError;
use super::key;
use super::key_index::KeyIndex;
use super::refresh;
use super::subject::{Clock, EvaluationScope};
use super::writer::{longest_life, millis};
use params::{announce, chunks};

pub(super) use params::members;

/// Upper bound of the changes of one fetch.
const FETCH_RECORDS: usize = 256;
/// Upper bound of the JSON of an invalidation in Avro, in bytes.
const MAX_CHANGE_BYTES: usize = 1 << 20;
/// Polling interval for shutdown and, while idle, for changes.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Members that are read, evaluated and refreshed at a time, which bounds how long Redis is busy with them.
const PAGE_MEMBERS: usize = 128;
/// Delay before the first retry; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// Longest delay between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Reads invalidations and executes them on its own thread.
#[derive(Debug)]
pub struct Invalidator {
    parts: Parts,
    runtime: Handle,
    client: Client,
    hostname: String,
    /// Lifetime of a minimum version, not shorter than that of any value that it invalidates.
    flag_min_version_ttl: Duration,
    /// Latest change of each flag that the store has not received yet, by place, with the time when the wait began.
    waiting: BTreeMap<String, (Change, Instant)>,
    reader: Reader,
    /// Buffer for the JSON of an invalidation in Avro.
    text: Vec<u8>,
    invalidations: VecDeque<Invalidation>,
}

/// Invalidation of one flag in progress.
#[derive(Debug)]
struct Invalidation {
    place: String,
    version: u64,
    published: Option<DateTime<Utc>>,
    begun: Instant,
    announced: bool,
    /// Chunks still to be read. `None`: they are not requested yet.
    chunks: Option<VecDeque<String>>,
    /// Number of members of the first chunk that are done.
    offset: usize,
    /// Whether the flag has changed again during the invalidation, so that the keys must be refreshed once more.
    again: bool,
    /// Whether this is the edge's list of all flags.
    is_of_list: bool,
    /// Version of the change. `None` for a flag that only depends on the changed one, and for the list.
    change: Option<u64>,
}

impl Invalidator {
    pub fn new(parts: Parts, runtime: Handle, client: Client) -> Self {
        let index = KeyIndex::new(longest_life(parts.config.redis.cache_ttl));
        Self {
            flag_min_version_ttl: index.chunk_life(),
            reader: parts.formats.reader(Subject::UPDATES, InputFormat::Auto),
            text: Vec::new(),
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            parts,
            runtime,
            client,
            waiting: BTreeMap::new(),
            invalidations: VecDeque::new(),
        }
    }

    /// Executes changes until shutdown.
    pub fn run(mut self) {
        while !self.parts.shutdown.is_cancelled() {
            if !self.parts.store.is_ready() {
                std::thread::park_timeout(POLL_INTERVAL);
                continue;
            }
            let Err(error) = self.session() else { break };
            limited!(
                warn,
                %error,
                "reading cache invalidations failed; they are read again from the last committed offsets",
            );
            pause(MAX_BACKOFF, &self.parts.shutdown);
        }
    }

    fn session(&mut self) -> anyhow::Result<()> {
        let topic = self.parts.config.topics.updates.clone();
        let mut consumer = clients::consumer(&self.parts, "warmer-updates", &topic, FETCH_RECORDS)?;
        let mut progress = Progress::new(&topic);
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        while !self.parts.shutdown.is_cancelled() {
            consumer.serve()?;
            let idle = self.invalidations.is_empty() && self.waiting.is_empty();
            let patience = if idle { POLL_INTERVAL } else { Duration::ZERO };
            self.take(&mut consumer, patience, &mut progress)?;
            match self.step() {
                Ok(()) => backoff.reset(),
                Err(cache_error) => {
                    self.give_up_late(&cache_error);
                    pause(backoff.delay(), &self.parts.shutdown);
                }
            }
            if self.invalidations.is_empty() && self.waiting.is_empty() {
                progress.commit(&consumer)?;
            }
        }
        if self.invalidations.is_empty() && self.waiting.is_empty() {
            progress.finish(&consumer);
        }
        Ok(())
    }

    fn take(
        &mut self,
        consumer: &mut BatchConsumer,
        patience: Duration,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        for record in consumer.fetch(patience).records() {
            if let Some(why) = self.reader.holds_up(record.payload()) {
                bail!("the schema registry is unreachable: {why}");
            }
            progress.done(record.partition(), record.offset());
            if let Some(change) = self.read(&record) {
                let place = key::place(&change.environment, &change.flag_name);
                self.waiting.insert(place, (change, Instant::now()));
            }
        }
        self.admit();
        Ok(())
    }

    /// Starts changes that are in force. The store applies definitions in the order of their versions, so a change is
    /// in force once its version is reached.
    fn admit(&mut self) {
        let Some(lowest) = self.waiting.values().map(|(change, _)| change.version).min() else {
            return;
        };
        if self.invalidations.is_empty() {
            let deadline = tokio::time::Instant::now() + POLL_INTERVAL;
            self.runtime.block_on(self.parts.store.wait_for_version(lowest, deadline));
        }
        let reached = self.parts.store.version();
        let (life, metrics) = (self.flag_min_version_ttl, Arc::clone(&self.parts.metrics));
        let mut admitted = Vec::new();
        self.waiting.retain(|_, (change, since)| {
            if change.version <= reached {
                admitted.push(change.clone());
                return false;
            }
            // The definition was rejected, or the store is far behind. The cached values have expired by now.
            let late = since.elapsed() > life;
            metrics.drop_counted("warm_sweep", "no_definition", u64::from(late));
            !late
        });
        admitted.iter().for_each(|change| self.add_change(change));
    }

    /// Starts the invalidation of a change that the store has applied.
    pub fn add_change(&mut self, change: &Change) {
        let snapshot = self.parts.store.load_full();
        // An empty flag name stands for the list of all flags. The changed flag is added last, so that it is announced
        // first.
        let list = [String::new()].into_iter();
        for flag in list.chain(dependents(&snapshot, change)).chain([change.flag_name.clone()]) {
            self.add(&snapshot, change, &flag);
        }
    }

    fn read(&mut self, record: &Record<'_>) -> Option<Change> {
        // Changes older than every cached value need no invalidation.
        let oldest = Clock::now().ms - millis(self.flag_min_version_ttl);
        if record.timestamp_ms() < oldest {
            return None;
        }
        let json = self.reader.read(record.payload(), &mut self.text, MAX_CHANGE_BYTES);
        let change = json.map_err(anyhow::Error::from).and_then(|json| Ok(serde_json::from_slice(json)?));
        let at = (record.partition(), record.offset());
        change
            .inspect_err(|error| {
                limited!(
                    warn,
                    ?at,
                    %error,
                    "a cache invalidation cannot be decoded; it is skipped",
                )
            })
            .ok()
    }

    fn add(&mut self, snapshot: &Snapshot, change: &Change, flag: &str) {
        let place = key::place(&change.environment, flag);
        let known =
            snapshot.environment(&change.environment).and_then(|flags| Some((flags, flags.get(flag)?)));
        let version = known.map_or(change.version, |(flags, flag)| snapshot.basis(flags, flag));
        let published = change.published_at.parse().ok();
        let own = (flag == change.flag_name).then_some(change.version);
        if let Some(at) = self.invalidations.iter().position(|invalidation| invalidation.place == place)
            && let Some(mut invalidation) = self.invalidations.remove(at)
        {
            invalidation.version = invalidation.version.max(version);
            invalidation.change = invalidation.change.max(own);
            invalidation.again |= invalidation.chunks.is_some();
            (invalidation.published, invalidation.announced, invalidation.begun) =
                (published, false, Instant::now());
            return self.invalidations.push_front(invalidation);
        }
        self.invalidations.push_front(Invalidation {
            place,
            version,
            published,
            begun: Instant::now(),
            announced: false,
            chunks: None,
            offset: 0,
            again: false,
            is_of_list: flag.is_empty(),
            change: own,
        });
    }

    pub fn is_idle(&self) -> bool {
        self.invalidations.is_empty()
    }

    /// Executes one step of the next invalidation. New invalidations are announced first.
    pub fn step(&mut self) -> Result<(), CacheError> {
        let Some(mut invalidation) = self.invalidations.pop_front() else {
            return Ok(());
        };
        let done = self.advance(&mut invalidation);
        match done {
            Ok(true) => {
                self.note(&self.parts.metrics.redis_cache.finished, &invalidation);
                if let Some(version) = invalidation.change {
                    self.parts.store.propagation().refreshed(version);
                }
            }
            Ok(false) => self.invalidations.push_back(invalidation),
            Err(cache_error) => {
                self.invalidations.push_front(invalidation);
                return Err(cache_error);
            }
        }
        Ok(())
    }

    /// Advances an invalidation by one step. Returns whether it is complete.
    fn advance(&self, invalidation: &mut Invalidation) -> Result<bool, CacheError> {
        if !invalidation.announced {
            self.runtime.block_on(announce(
                &self.client,
                &self.parts.metrics,
                invalidation,
                self.flag_min_version_ttl,
            ))?;
            invalidation.announced = true;
            self.note(&self.parts.metrics.redis_cache.announced, invalidation);
            if let Some(version) = invalidation.change {
                self.parts.store.propagation().announced(version);
            }
            return Ok(false);
        }
        let Some(chunks) = &mut invalidation.chunks else {
            // The chunks are requested after the minimum version was raised: a writer that lists a key later checks
            // that version itself.
            invalidation.chunks = Some(self.runtime.block_on(chunks(&self.client, &invalidation.place))?);
            return Ok(false);
        };
        let Some(chunk) = chunks.front() else {
            if std::mem::take(&mut invalidation.again) {
                invalidation.chunks = None;
                return Ok(false);
            }
            return Ok(true);
        };
        let members =
            self.runtime.block_on(members(&self.client, chunk, invalidation.offset, PAGE_MEMBERS))?;
        let clock = Clock::now();
        let snapshot = self.parts.store.load();
        let app_name = &self.parts.config.unleash.app_name;
        let moment = Moment { now: &clock.text, hostname: &self.hostname, app_name };
        let scope = EvaluationScope {
            snapshot: &snapshot,
            moment,
            now_ms: clock.ms,
            has_tables: self.parts.config.has_tables(),
        };
        let listed = members.iter().map(Vec::as_slice);
        let work = refresh::page(&scope, &invalidation.place, invalidation.version, listed, &clock.text);
        self.runtime.block_on(refresh::apply(&self.client, &work))?.count(&self.parts.metrics);
        if members.len() < PAGE_MEMBERS {
            chunks.pop_front();
            invalidation.offset = 0;
        } else {
            invalidation.offset += members.len();
        }
        Ok(false)
    }

    /// Drops invalidations whose values have all expired in the meantime.
    fn give_up_late(&mut self, cache_error: &CacheError) {
        let before = self.invalidations.len();
        let life = self.flag_min_version_ttl;
        self.invalidations.retain(|invalidation| invalidation.begun.elapsed() < life);
        let given_up = u64::try_from(before - self.invalidations.len()).unwrap_or(0);
        self.parts.metrics.drop_counted("warm_sweep", cache_error.reason(), given_up);
    }

    fn note(&self, histogram: &crate::metrics::Seconds, invalidation: &Invalidation) {
        if invalidation.is_of_list {
            return;
        }
        let since = invalidation.published.and_then(|published| (Utc::now() - published).to_std().ok());
        histogram.observe(since.unwrap_or_else(|| invalidation.begun.elapsed()));
    }
}

/// Flags whose outcome may change because they depend on the changed flag.
fn dependents<'s>(snapshot: &'s Snapshot, change: &'s Change) -> impl Iterator<Item = String> + 's {
    let environment = snapshot.environment(&change.environment).into_iter();
    environment.flat_map(|flags| {
        let below = flags.iter().filter(|flag| flags.depends_on(flag, &change.flag_name));
        below.map(|flag| flag.name.to_string())
    })
}
