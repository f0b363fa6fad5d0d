//! The schema registry: which schema an id stands for, and which id a schema of ours has.
//!
//! What an id stands for never changes, so it is asked for once. While the registry is away known ids go on working;
//! who needs another is told that it is away, and waits: a registry's outage is nobody's bad message.

mod client;
mod formats;
mod reader;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use apache_avro::Schema;
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::config::SchemaRegistryConfig;

pub use client::{Client, RegistryError};
pub use formats::{Formats, Registration, registrations, registrations_of};
pub use reader::{Reader, Unread};

/// How long one look for an id may take in all.
const PATIENCE: Duration = Duration::from_secs(1);
/// Registered a moment ago at another node of the registry, an id may be unknown at this one: it is asked for twice.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// After a failure nobody asks for so long.
const REST: Duration = Duration::from_secs(1);
/// For so long an unknown id is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// Most unknown ids remembered; strangers make them up.
const MAX_UNKNOWN_COUNT: usize = 1_000;

/// What an id stands for.
#[derive(Debug, Clone)]
pub enum Lookup {
    Known(Arc<Schema>),
    /// The registry has no such id, or it is not one of Avro.
    Unknown(Arc<str>),
    /// The registry cannot be asked: why.
    Away(Arc<str>),
}

/// The registry, as it is asked by threads that read topics.
#[derive(Debug)]
pub struct SchemaRegistry {
    pub client: Client,
    runtime: Handle,
    known: ArcSwap<AHashMap<u32, Arc<Schema>>>,
    /// Since when it is away, and why.
    away: ArcSwapOption<(Instant, Arc<str>)>,
    /// Held while it is asked; which ids it does not know.
    asking: Mutex<AHashMap<u32, (Instant, Arc<str>)>>,
}

impl SchemaRegistry {
    /// `None` without a registry.
    pub fn open(config: &SchemaRegistryConfig, runtime: Handle) -> anyhow::Result<Option<Arc<Self>>> {
        let client = Client::new(config)?;
        Ok(client.map(|client| {
            let (known, away, asking) = (ArcSwap::default(), ArcSwapOption::empty(), Mutex::default());
            Arc::new(Self { client, runtime, known, away, asking })
        }))
    }

    /// What the id stands for. Not for tasks: it blocks, for [`PATIENCE`] at most, and not at all for a registry that was
    /// away a moment ago: that is asked in the background, for the next time.
    pub fn schema(self: &Arc<Self>, id: u32) -> Lookup {
        if let Some(schema) = self.known.load().get(&id) {
            return Lookup::Known(Arc::clone(schema));
        }
        let Some(away) = self.away.load_full() else { return self.runtime.block_on(self.ask(id)) };
        let registry = Arc::clone(self);
        self.runtime.spawn(async move { registry.ask(id).await });
        Lookup::Away(Arc::clone(&away.1))
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
        let looked = match tokio::time::timeout(PATIENCE, self.look(id)).await {
            Ok(looked) => looked,
            Err(_) => Err(RegistryError::Away(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        let found = match looked {
            Ok(found) => found,
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                tracing::warn!(id, "schema registry: {why}");
                self.away.store(Some(Arc::new((Instant::now(), Arc::clone(&why)))));
                return Lookup::Away(why);
            }
        };
        self.away.store(None);
        match found {
            Ok(schema) => {
                let schema = Arc::new(schema);
                let mut known = AHashMap::clone(&self.known.load());
                known.insert(id, Arc::clone(&schema));
                self.known.store(Arc::new(known));
                Lookup::Known(schema)
            }
            Err(why) => {
                if unknown.len() >= MAX_UNKNOWN_COUNT {
                    unknown.clear();
                }
                unknown.insert(id, (Instant::now(), Arc::clone(&why)));
                Lookup::Unknown(why)
            }
        }
    }

    /// The schema, or why there is none.
    async fn look(&self, id: u32) -> Result<Result<Schema, Arc<str>>, RegistryError> {
        let mut found = self.client.schema(id).await?;
        if found.is_none() {
            tokio::time::sleep(SECOND_LOOK).await;
            found = self.client.schema(id).await?;
        }
        Ok(match found {
            None => Err(format!("the registry has no schema {id}").into()),
            Some(found) if !found.is_avro() => {
                Err(format!("schema {id} is of type {}, not AVRO", found.schema_type).into())
            }
            Some(found) => Schema::parse_str(&found.schema)
                .map_err(|error| format!("schema {id} cannot be read: {error}").into()),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
