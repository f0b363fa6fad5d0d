//! Access to the schema registry: schemas by id, and ids of flagstream's own schemas.
//!
//! The schema of an id never changes, so it is looked up once. While the registry is unreachable, known ids keep
//! working; a record with an unknown id is deferred, since it is not at fault.
//!
//! Producers choose the ids in their records. Lookups run on the runtime with limited concurrency and rate. A thread
//! that reads a topic spends only a bounded share of its time waiting for lookups; beyond that it gets
//! [`Lookup::Pending`]. An id counts as unknown if its lookups fail while the registry answers other requests, or if
//! its response is too large.

mod client;
mod disk_cache;
mod formats;
mod lookups;
mod reader;
mod texts;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::config::SchemaRegistryConfig;
use crate::log_limit::limited;
use crate::message::avro::Writer;
use crate::metrics::OutcomeLabels;
use crate::shutdown::Shutdown;

use disk_cache::DiskCache;
use lookups::{Begun, Open};
use texts::Texts;

pub use client::{Client, RegistryError};
pub use formats::{Formats, Registration, UNREGISTERED_ID, registrations, registrations_of, written_events};
pub use reader::{MAX_EVENT_BYTES, Reader, Undecodable};

/// Delay before the second lookup of an unknown id. An id that was just registered at another node of the registry may
/// not be known at this one yet.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// After a failure, no lookup is sent for this long.
const REST: Duration = Duration::from_secs(1);
/// Maximum number of concurrent lookups.
const MAX_CONCURRENT_LOOKUPS: usize = 8;
/// Interval of the checks that the registry answers.
const PULSE: Duration = Duration::from_secs(10);

/// Counters of lookups, by outcome.
pub type Lookups = Family<OutcomeLabels, Counter>;

/// The result of a schema lookup.
#[derive(Debug, Clone)]
pub enum Lookup {
    Known(Arc<Writer>),
    /// The registry has no such id, or its schema is not Avro. Contains the reason.
    Unknown(Arc<str>),
    /// The registry is unreachable. Contains the reason.
    Away(Arc<str>),
    /// The lookup is in flight or will be retried. Contains the reason.
    Pending(Arc<str>),
}

/// The registry, for use by threads that read topics.
#[derive(Debug)]
pub struct SchemaRegistry {
    client: Client,
    disk_cache: Option<DiskCache>,
    lookups: Lookups,
    runtime: Handle,
    known: ArcSwap<AHashMap<u32, Arc<Writer>>>,
    /// Time and reason of the last failure; `None` while the registry answers.
    away: ArcSwapOption<(Instant, Arc<str>)>,
    permits: Semaphore,
    /// Lookups in flight, and ids that were not found.
    open: Open,
}

impl SchemaRegistry {
    /// Creates access to the registry; `None` if none is configured. Responses are cached in `folder`, if one is given.
    pub fn open(
        config: &SchemaRegistryConfig,
        folder: Option<&Path>,
        lookups: Lookups,
        runtime: Handle,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(client) = Client::new(config)? else { return Ok(None) };
        let disk_cache = folder.map(|folder| DiskCache::open(folder, client.addresses()));
        let (known, away) = (ArcSwap::default(), ArcSwapOption::empty());
        let (permits, open) = (Semaphore::new(MAX_CONCURRENT_LOOKUPS), Open::default());
        Ok(Some(Arc::new(Self { client, disk_cache, lookups, runtime, known, away, permits, open })))
    }

    /// Returns the schema of an id. Must not be called in async tasks, because it blocks for a lookup, for a bounded
    /// share of all time. It does not block if the registry was unreachable a moment ago, or if another thread already
    /// waits for the same lookup.
    pub fn schema(self: &Arc<Self>, id: u32) -> Lookup {
        if let Some(schema) = self.known.load().get(&id) {
            return Lookup::Known(Arc::clone(schema));
        }
        if let Some(why) = self.is_away() {
            let meanwhile = self.meanwhile(id, why);
            if matches!(meanwhile, Lookup::Away(_)) {
                self.begin(id);
            }
            return meanwhile;
        }
        let pending = || Lookup::Pending(format!("schema {id} is being looked up").into());
        match self.begin(id) {
            Begun::Unknown(why) => Lookup::Unknown(why),
            Begun::Later => pending(),
            Begun::Open(outcome) => {
                let (started, timeout) = (Instant::now(), self.open.timeout());
                let found = outcome.recv_timeout(timeout).unwrap_or_else(|_| pending());
                self.open.spend(started.elapsed());
                found
            }
        }
    }

    /// Starts the lookup of an id that is not known yet, for a record that is read soon.
    pub fn prepare(self: &Arc<Self>, id: u32) {
        if !self.known.load().contains_key(&id) {
            self.begin(id);
        }
    }

    fn begin(self: &Arc<Self>, id: u32) -> Begun {
        let (done, outcome) = mpsc::sync_channel(1);
        let begun = self.open.begin(id, outcome);
        if matches!(begun, Begun::Open(_)) {
            let registry = Arc::clone(self);
            self.runtime.spawn(async move {
                let found = registry.ask(id).await;
                registry.open.end(id);
                // The receiver is gone if the caller's wait timed out.
                let _ = done.try_send(found);
            });
        }
        begun
    }

    /// The reason why the last request failed; `None` if the registry answered.
    pub fn is_away(&self) -> Option<Arc<str>> {
        self.away.load().as_ref().map(|away| Arc::clone(&away.1))
    }

    /// Checks periodically that the registry answers, so that an outage is reported before a lookup is needed.
    pub async fn look_after(&self, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(PULSE);
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.client.pulse().await {
                Err(RegistryError::Away(why)) => self.note_away(why.into()),
                Ok(()) | Err(RegistryError::Refused(_) | RegistryError::TooLarge(_)) => self.note_there(),
            }
        }
    }

    /// The id of one of flagstream's own schemas. Records with the id can be read from then on.
    async fn id_of(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let id = match self.client.id_of(subject, schema).await {
            Ok(id) => {
                if let Some(disk_cache) = &self.disk_cache {
                    disk_cache.keep_id(subject, schema, id);
                }
                self.note_there();
                id
            }
            Err(RegistryError::Away(why)) => {
                self.note_away(why.as_str().into());
                let disk_cache =
                    self.disk_cache.as_ref().and_then(|disk_cache| disk_cache.id_of(subject, schema));
                disk_cache.ok_or(RegistryError::Away(why))?
            }
            Err(refused) => return Err(refused),
        };
        self.learn(id, &Texts::alone(schema)).map_err(|error| RegistryError::Refused(error.to_string()))?;
        Ok(id)
    }

    async fn ask(&self, id: u32) -> Lookup {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        if let Some(schema) = self.known.load().get(&id) {
            return Lookup::Known(Arc::clone(schema));
        }
        if let Some(away) = self.away.load_full().filter(|away| away.0.elapsed() < REST) {
            return Lookup::Away(Arc::clone(&away.1));
        }
        let found = match self.look(id).await {
            Ok(found) => found,
            Err(error @ RegistryError::TooLarge(_)) => Err(format!("schema {id}: {error}").into()),
            Err(error) => return self.failed(id, error.to_string().into()).await,
        };
        self.note_there();
        match found.and_then(|texts| self.learn(id, &texts).map(|schema| (texts, schema))) {
            Ok((texts, schema)) => {
                if let Some(disk_cache) = &self.disk_cache {
                    disk_cache.keep_schema(id, &texts);
                }
                self.count("found");
                Lookup::Known(schema)
            }
            Err(why) => self.unknown(id, why),
        }
    }

    /// Handles a failed lookup. The first failure of an id counts as an outage of the registry. If the id fails
    /// repeatedly while the registry answers other requests, it counts as unknown.
    async fn failed(&self, id: u32, why: Arc<str>) -> Lookup {
        let is_repeated = self.open.has_failed(id);
        if is_repeated && !matches!(self.client.pulse().await, Err(RegistryError::Away(_))) {
            self.note_there();
            if self.open.failed_alone(id) {
                let why = format!("the schema registry responds, but not to requests for schema {id}: {why}");
                return self.unknown(id, why.into());
            }
            self.count("failed");
            return Lookup::Pending(why);
        }
        self.open.failed_with_all(id);
        self.note_away(Arc::clone(&why));
        self.meanwhile(id, why)
    }

    fn unknown(&self, id: u32, why: Arc<str>) -> Lookup {
        self.open.note_unknown(id, Arc::clone(&why));
        self.count("unknown");
        Lookup::Unknown(why)
    }

    /// The result for an id while the registry is unreachable: from the disk cache, or [`Lookup::Away`].
    fn meanwhile(&self, id: u32, why: Arc<str>) -> Lookup {
        let disk_cache = self.disk_cache.as_ref().and_then(|disk_cache| disk_cache.schema(id));
        match disk_cache.map(|texts| self.learn(id, &texts)) {
            Some(Ok(schema)) => {
                self.count("kept");
                Lookup::Known(schema)
            }
            _ => {
                self.count("away");
                Lookup::Away(why)
            }
        }
    }

    fn learn(&self, id: u32, texts: &Texts) -> Result<Arc<Writer>, Arc<str>> {
        let schema = Writer::parse(&texts.schema, &texts.others)
            .map_err(|error| format!("schema {id} cannot be parsed: {error}"))?;
        let schema = Arc::new(schema);
        self.known.rcu(|known| {
            let mut known = AHashMap::clone(known);
            known.insert(id, Arc::clone(&schema));
            known
        });
        Ok(schema)
    }

    fn note_away(&self, why: Arc<str>) {
        if self.away.load().is_none() {
            limited!(warn, "the schema registry is unreachable: {why}");
        }
        self.away.store(Some(Arc::new((Instant::now(), why))));
    }

    fn note_there(&self) {
        if self.away.swap(None).is_some() {
            tracing::info!("the schema registry is reachable again");
        }
    }

    fn count(&self, outcome: &'static str) {
        self.lookups.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Fetches the schema. The inner error is the reason why the id has no usable schema.
    async fn look(&self, id: u32) -> Result<Result<Texts, Arc<str>>, RegistryError> {
        let mut found = self.client.schema(id).await?;
        if found.is_none() {
            tokio::time::sleep(SECOND_LOOK).await;
            found = self.client.schema(id).await?;
        }
        match found {
            None => Ok(Err(format!("the registry has no schema {id}").into())),
            Some(found) => Texts::gather(&self.client, id, found).await,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
