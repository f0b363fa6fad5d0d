//! The schema registry: which schema an id stands for, and which id a schema of ours has.
//!
//! What an id stands for never changes, so it is asked for once. While the registry is away known ids go on working;
//! a record that needs another one waits: a registry's outage is nobody's bad message.
//!
//! Ids are chosen by whoever writes to a topic. Lookups run on the runtime, a few at a time and so many a second; a thread
//! that reads a topic waits for one for a bounded share of its time, and is otherwise told that it is pending. An id that
//! fails while the registry answers other questions, or whose answer is too large, becomes an unknown one.

mod client;
mod formats;
mod kept;
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
use crate::message::avro::Writer;
use crate::metrics::OutcomeLabels;
use crate::shutdown::Shutdown;

use kept::Kept;
use lookups::{Begun, Open};
use texts::Texts;

pub use client::{Client, RegistryError};
pub use formats::{Formats, Registration, UNREGISTERED_ID, registrations, registrations_of};
pub use reader::{MAX_EVENT_BYTES, Reader, Unread};

/// Registered a moment ago at another node of the registry, an id may be unknown at this one: it is asked for twice.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// After a failure nobody asks for so long.
const REST: Duration = Duration::from_secs(1);
/// Most lookups at the same time.
const MAX_CONCURRENT_LOOKUPS: usize = 8;
/// How often it is asked whether it is there.
const PULSE: Duration = Duration::from_secs(10);

/// Lookups in the registry, by what came of them.
pub type Lookups = Family<OutcomeLabels, Counter>;

/// What an id stands for.
#[derive(Debug, Clone)]
pub enum Lookup {
    Known(Arc<Writer>),
    /// The registry has no such id, or it is not one of Avro.
    Unknown(Arc<str>),
    /// The registry cannot be asked: why.
    Away(Arc<str>),
    /// It is being asked for, or will be.
    Pending(Arc<str>),
}

/// The registry, as it is asked by threads that read topics.
#[derive(Debug)]
pub struct SchemaRegistry {
    client: Client,
    kept: Option<Kept>,
    lookups: Lookups,
    runtime: Handle,
    known: ArcSwap<AHashMap<u32, Arc<Writer>>>,
    /// Since when it is away, and why.
    away: ArcSwapOption<(Instant, Arc<str>)>,
    permits: Semaphore,
    /// Lookups that are open, and ids that came to nothing.
    open: Open,
}

impl SchemaRegistry {
    /// `None` without a registry. What it says is kept in `folder`.
    pub fn open(
        config: &SchemaRegistryConfig,
        folder: Option<&Path>,
        lookups: Lookups,
        runtime: Handle,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(client) = Client::new(config)? else { return Ok(None) };
        let kept = folder.map(|folder| Kept::open(folder, client.addresses()));
        let (known, away) = (ArcSwap::default(), ArcSwapOption::empty());
        let (permits, open) = (Semaphore::new(MAX_CONCURRENT_LOOKUPS), Open::default());
        Ok(Some(Arc::new(Self { client, kept, lookups, runtime, known, away, permits, open })))
    }

    /// What the id stands for. Not for tasks: it waits for a lookup, though for a bounded share of all time only, and not
    /// at all for a registry that was away a moment ago, or for a lookup that another thread waits for already.
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
                let (started, patience) = (Instant::now(), self.open.patience());
                let found = outcome.recv_timeout(patience).unwrap_or_else(|_| pending());
                self.open.spend(started.elapsed());
                found
            }
        }
    }

    /// Begins to look an id up, unless it is known: for a record that comes soon.
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
                // Whoever waited may have given up by now.
                let _ = done.try_send(found);
            });
        }
        begun
    }

    /// Why it could not be asked the last time.
    pub fn is_away(&self) -> Option<Arc<str>> {
        self.away.load().as_ref().map(|away| Arc::clone(&away.1))
    }

    /// Asks now and then whether it is there, so that it is told before somebody needs it.
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

    /// The id of a schema of ours, which is known from then on.
    async fn id_of(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let id = match self.client.id_of(subject, schema).await {
            Ok(id) => {
                if let Some(kept) = &self.kept {
                    kept.keep_id(subject, schema, id);
                }
                self.note_there();
                id
            }
            Err(RegistryError::Away(why)) => {
                self.note_away(why.as_str().into());
                let kept = self.kept.as_ref().and_then(|kept| kept.id_of(subject, schema));
                kept.ok_or(RegistryError::Away(why))?
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
                if let Some(kept) = &self.kept {
                    kept.keep_schema(id, &texts);
                }
                self.count("found");
                Lookup::Known(schema)
            }
            Err(why) => self.unknown(id, why),
        }
    }

    /// The lookup of an id failed. The first time the registry is taken to be away; a registry that answers other questions
    /// while it fails for this id again and again does not know it.
    async fn failed(&self, id: u32, why: Arc<str>) -> Lookup {
        let is_repeated = self.open.has_failed(id);
        if is_repeated && !matches!(self.client.pulse().await, Err(RegistryError::Away(_))) {
            self.note_there();
            if self.open.failed_alone(id) {
                let why = format!("the registry answers, but not with schema {id}: {why}");
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

    /// What is known of the id while the registry cannot be asked.
    fn meanwhile(&self, id: u32, why: Arc<str>) -> Lookup {
        let kept = self.kept.as_ref().and_then(|kept| kept.schema(id));
        match kept.map(|texts| self.learn(id, &texts)) {
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
            .map_err(|error| format!("schema {id} cannot be read: {error}"))?;
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
            tracing::warn!("the schema registry is away: {why}");
        }
        self.away.store(Some(Arc::new((Instant::now(), why))));
    }

    fn note_there(&self) {
        if self.away.swap(None).is_some() {
            tracing::info!("the schema registry is there again");
        }
    }

    fn count(&self, outcome: &'static str) {
        self.lookups.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// The schema, or why there is none.
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
