//! The schema registry: which schema an id stands for, and which id a schema of ours has.
//!
//! What an id stands for never changes, so it is asked for once. While the registry is away known ids go on working;
//! who needs another is told that it is away, and waits: a registry's outage is nobody's bad message.

mod client;
mod formats;
mod kept;
mod reader;
mod texts;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::config::SchemaRegistryConfig;
use crate::message::avro::Writer;
use crate::metrics::OutcomeLabels;
use crate::shutdown::Shutdown;

use kept::Kept;
use texts::Texts;

pub use client::{Client, RegistryError};
pub use formats::{Formats, Registration, UNREGISTERED_ID, registrations, registrations_of};
pub use reader::{MAX_EVENT_BYTES, Reader, Unread};

/// Registered a moment ago at another node of the registry, an id may be unknown at this one: it is asked for twice.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// After a failure nobody asks for so long.
const REST: Duration = Duration::from_secs(1);
/// For so long an unknown id is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// Most unknown ids remembered; strangers make them up.
const MAX_UNKNOWN_COUNT: usize = 1_000;
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
    /// Held while it is asked; which ids it does not know.
    asking: Mutex<AHashMap<u32, (Instant, Arc<str>)>>,
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
        let (known, away, asking) = (ArcSwap::default(), ArcSwapOption::empty(), Mutex::default());
        Ok(Some(Arc::new(Self { client, kept, lookups, runtime, known, away, asking })))
    }

    /// What the id stands for. Not for tasks: it blocks, for a second or two, and not at all for a registry that was
    /// away a moment ago: that is asked in the background, for the next time.
    pub fn schema(self: &Arc<Self>, id: u32) -> Lookup {
        if let Some(schema) = self.known.load().get(&id) {
            return Lookup::Known(Arc::clone(schema));
        }
        let Some(why) = self.is_away() else { return self.runtime.block_on(self.ask(id)) };
        let meanwhile = self.meanwhile(id, why);
        if matches!(meanwhile, Lookup::Away(_)) {
            let registry = Arc::clone(self);
            self.runtime.spawn(async move { registry.ask(id).await });
        }
        meanwhile
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
                Ok(()) | Err(RegistryError::Refused(_)) => self.note_there(),
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
        let mut unknown = self.asking.lock().await;
        // Another thread may have asked meanwhile.
        if let Some(schema) = self.known.load().get(&id) {
            return Lookup::Known(Arc::clone(schema));
        }
        unknown.retain(|_, (since, _)| since.elapsed() < UNKNOWN_FOR);
        if let Some((_, why)) = unknown.get(&id) {
            return Lookup::Unknown(Arc::clone(why));
        }
        if let Some(away) = self.away.load_full().filter(|away| away.0.elapsed() < REST) {
            return Lookup::Away(Arc::clone(&away.1));
        }
        let found = match self.look(id).await {
            Ok(found) => found,
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                self.note_away(Arc::clone(&why));
                return self.meanwhile(id, why);
            }
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
            Err(why) => {
                if unknown.len() >= MAX_UNKNOWN_COUNT {
                    unknown.clear();
                }
                unknown.insert(id, (Instant::now(), Arc::clone(&why)));
                self.count("unknown");
                Lookup::Unknown(why)
            }
        }
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
