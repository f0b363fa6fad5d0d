//! What a change does to the view.
//!
//! 1. **Announce**: raise the flag's floor. From here on no reader of ours takes an older value, however many there
//!    are: this is the invalidation's moment.
//! 2. **Sweep**: bring the raw keys up to date, page by page, all changed flags in turn.
//!
//! One warmer of the group does this, from the updates topic. Done twice it does no harm, so progress is committed
//! when nothing is under way.

pub(super) mod ask;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use crate::config::InputFormat;
use crate::evaluate::Parts;
use crate::flag::{Moment, Snapshot};
use crate::kafka::consumer::{BatchConsumer, Record};
use crate::message::avro::Subject;
use crate::message::change::Change;
use crate::registry::Reader;
use crate::shutdown::pause;

use super::client::Client;
use super::clients::{self, Progress};
use super::index::Index;
use super::key;
use super::renew;
use super::subject::{Clock, Scene};
use super::trouble::Trouble;
use super::writer::{longest_life, millis};
use ask::{announce, chunks};

pub(super) use ask::members;

const FETCH_RECORDS: usize = 256;
/// Most bytes of JSON that an invalidation in Avro may become.
const MAX_CHANGE_BYTES: usize = 1 << 20;
/// How late a stop, and a change while nothing is under way, may be noticed.
const STEP: Duration = Duration::from_millis(20);
/// Members read, evaluated and renewed at a time: Redis may work on all of them without looking at others.
const PAGE_MEMBERS: usize = 128;
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Reads invalidations and carries them out; one thread.
#[derive(Debug)]
pub(crate) struct Sweeper {
    parts: Parts,
    runtime: Handle,
    client: Client,
    hostname: String,
    /// How long a floor must hold: as long as anything that it forbids may live.
    floor_life: Duration,
    /// The latest change of each flag that the store does not have yet, by place, and since when it is waited for.
    waiting: BTreeMap<String, (Change, Instant)>,
    reader: Reader,
    /// The JSON of an invalidation in Avro.
    text: Vec<u8>,
    sweeps: VecDeque<Sweep>,
}

/// One flag's keys on their way to be right.
#[derive(Debug)]
struct Sweep {
    place: String,
    version: u64,
    published: Option<DateTime<Utc>>,
    begun: Instant,
    announced: bool,
    /// What is still to be read; `None` before the list is asked for.
    chunks: Option<VecDeque<String>>,
    /// Members of the first chunk that are done.
    offset: usize,
    /// The flag has changed again on the way: keys that were passed are to be looked at once more.
    again: bool,
    /// Of the edge's list of all flags.
    is_of_list: bool,
}

impl Sweeper {
    pub(crate) fn new(parts: Parts, runtime: Handle, client: Client) -> Self {
        let index = Index::new(longest_life(parts.config.redis.cache_ttl));
        Self {
            floor_life: index.chunk_life(),
            reader: parts.formats.reader(Subject::UPDATES, InputFormat::Auto),
            text: Vec::new(),
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            parts,
            runtime,
            client,
            waiting: BTreeMap::new(),
            sweeps: VecDeque::new(),
        }
    }

    /// Carries out changes until shutdown.
    pub(crate) fn run(mut self) {
        while !self.parts.shutdown.is_cancelled() {
            if !self.parts.store.is_ready() {
                std::thread::park_timeout(STEP);
                continue;
            }
            let Err(error) = self.session() else { break };
            tracing::warn!(%error, "invalidations are read again from the last commit");
            pause(MAX_BACKOFF, &self.parts.shutdown);
        }
    }

    fn session(&mut self) -> anyhow::Result<()> {
        let topic = self.parts.config.topics.updates.clone();
        let mut consumer = clients::consumer(&self.parts, "warmer-updates", &topic, FETCH_RECORDS)?;
        let mut progress = Progress::new(&topic);
        let mut backoff = MIN_BACKOFF;
        while !self.parts.shutdown.is_cancelled() {
            consumer.serve()?;
            let idle = self.sweeps.is_empty() && self.waiting.is_empty();
            let patience = if idle { STEP } else { Duration::ZERO };
            self.take(&mut consumer, patience, &mut progress)?;
            match self.step() {
                Ok(()) => backoff = MIN_BACKOFF,
                Err(trouble) => {
                    self.give_up_late(&trouble);
                    pause(backoff, &self.parts.shutdown);
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
            if self.sweeps.is_empty() && self.waiting.is_empty() {
                progress.commit(&consumer)?;
            }
        }
        if self.sweeps.is_empty() && self.waiting.is_empty() {
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
                bail!("the schema registry is away: {why}");
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

    /// Definitions are applied in the order of their versions: a change whose version is reached is in force here.
    fn admit(&mut self) {
        let Some(lowest) = self.waiting.values().map(|(change, _)| change.version).min() else {
            return;
        };
        if self.sweeps.is_empty() {
            let deadline = tokio::time::Instant::now() + STEP;
            self.runtime.block_on(self.parts.store.wait_for_version(lowest, deadline));
        }
        let reached = self.parts.store.version();
        let (life, metrics) = (self.floor_life, Arc::clone(&self.parts.metrics));
        let mut admitted = Vec::new();
        self.waiting.retain(|_, (change, since)| {
            if change.version <= reached {
                admitted.push(change.clone());
                return false;
            }
            // Its definition is refused, or the store is far behind; whatever it is about has ended by now.
            let late = since.elapsed() > life;
            metrics.drop_counted("warm_sweep", "no_definition", u64::from(late));
            !late
        });
        admitted.iter().for_each(|change| self.add_change(change));
    }

    /// The store has it by now.
    pub(crate) fn add_change(&mut self, change: &Change) {
        let snapshot = self.parts.store.load_full();
        // Of no flag: the list of all. The flag itself comes last, to be announced first.
        let list = [String::new()].into_iter();
        for flag in list.chain(dependents(&snapshot, change)).chain([change.flag_name.clone()]) {
            self.add(&snapshot, change, &flag);
        }
    }

    fn read(&mut self, record: &Record<'_>) -> Option<Change> {
        // What was invalidated before any living value was written needs no sweep.
        let oldest = Clock::now().ms - millis(self.floor_life);
        if record.timestamp_ms() < oldest {
            return None;
        }
        let json = self.reader.read(record.payload(), &mut self.text, MAX_CHANGE_BYTES);
        let change = json.map_err(anyhow::Error::from).and_then(|json| Ok(serde_json::from_slice(json)?));
        let at = (record.partition(), record.offset());
        change.inspect_err(|error| tracing::warn!(?at, %error, "an invalidation cannot be read")).ok()
    }

    fn add(&mut self, snapshot: &Snapshot, change: &Change, flag: &str) {
        let place = key::place(&change.environment, flag);
        let known =
            snapshot.environment(&change.environment).and_then(|flags| Some((flags, flags.get(flag)?)));
        let version = known.map_or(change.version, |(flags, flag)| snapshot.basis(flags, flag));
        let published = change.published_at.parse().ok();
        if let Some(at) = self.sweeps.iter().position(|sweep| sweep.place == place)
            && let Some(mut sweep) = self.sweeps.remove(at)
        {
            sweep.version = sweep.version.max(version);
            sweep.again |= sweep.chunks.is_some();
            (sweep.published, sweep.announced, sweep.begun) = (published, false, Instant::now());
            return self.sweeps.push_front(sweep);
        }
        self.sweeps.push_front(Sweep {
            place,
            version,
            published,
            begun: Instant::now(),
            announced: false,
            chunks: None,
            offset: 0,
            again: false,
            is_of_list: flag.is_empty(),
        });
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.sweeps.is_empty()
    }

    /// One page of the next sweep. New ones come first, to be announced.
    pub(crate) fn step(&mut self) -> Result<(), Trouble> {
        let Some(mut sweep) = self.sweeps.pop_front() else {
            return Ok(());
        };
        let done = self.advance(&mut sweep);
        match done {
            Ok(true) => self.note(&self.parts.metrics.warm.finished, &sweep),
            Ok(false) => self.sweeps.push_back(sweep),
            Err(trouble) => {
                self.sweeps.push_front(sweep);
                return Err(trouble);
            }
        }
        Ok(())
    }

    /// Whether the sweep is done.
    fn advance(&self, sweep: &mut Sweep) -> Result<bool, Trouble> {
        if !sweep.announced {
            self.runtime.block_on(announce(&self.client, &self.parts.metrics, sweep, self.floor_life))?;
            sweep.announced = true;
            self.note(&self.parts.metrics.warm.announced, sweep);
            return Ok(false);
        }
        let Some(chunks) = &mut sweep.chunks else {
            // Only now, with the floor raised: what is listed later is looked after by who lists it.
            sweep.chunks = Some(self.runtime.block_on(chunks(&self.client, &sweep.place))?);
            return Ok(false);
        };
        let Some(chunk) = chunks.front() else {
            if std::mem::take(&mut sweep.again) {
                sweep.chunks = None;
                return Ok(false);
            }
            return Ok(true);
        };
        let members = self.runtime.block_on(members(&self.client, chunk, sweep.offset, PAGE_MEMBERS))?;
        let clock = Clock::now();
        let snapshot = self.parts.store.load();
        let app_name = &self.parts.config.unleash.app_name;
        let moment = Moment { now: &clock.text, hostname: &self.hostname, app_name };
        let scene = Scene { snapshot: &snapshot, moment, now_ms: clock.ms };
        let listed = members.iter().map(Vec::as_slice);
        let work = renew::page(&scene, &sweep.place, sweep.version, listed, &clock.text);
        self.runtime.block_on(renew::apply(&self.client, &work))?.count(&self.parts.metrics);
        if members.len() < PAGE_MEMBERS {
            chunks.pop_front();
            sweep.offset = 0;
        } else {
            sweep.offset += members.len();
        }
        Ok(false)
    }

    /// When all values that a sweep is about have ended by themselves, it has nothing to do any more.
    fn give_up_late(&mut self, trouble: &Trouble) {
        let before = self.sweeps.len();
        let life = self.floor_life;
        self.sweeps.retain(|sweep| sweep.begun.elapsed() < life);
        let given_up = u64::try_from(before - self.sweeps.len()).unwrap_or(0);
        self.parts.metrics.drop_counted("warm_sweep", trouble.reason(), given_up);
    }

    fn note(&self, histogram: &crate::metrics::Seconds, sweep: &Sweep) {
        if sweep.is_of_list {
            return;
        }
        let since = sweep.published.and_then(|published| (Utc::now() - published).to_std().ok());
        histogram.observe(since.unwrap_or_else(|| sweep.begun.elapsed()));
    }
}

/// Flags whose outcome may change with this one's.
fn dependents<'s>(snapshot: &'s Snapshot, change: &'s Change) -> impl Iterator<Item = String> + 's {
    let environment = snapshot.environment(&change.environment).into_iter();
    environment.flat_map(|flags| {
        let below = flags.iter().filter(|flag| flags.depends_on(flag, &change.flag_name));
        below.map(|flag| flag.name.to_string())
    })
}
