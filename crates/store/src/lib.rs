//! Flag store: holds the snapshot of flags in force and replaces it atomically.
//!
//! ```text
//!  feature-flag-definitions ─► reader (own thread) ─► table: newer? readable? ─► Store ─► evaluation
//!                                  │ every few seconds                              ▲
//!                                  ▼                                                │ at start
//!                          {state_dir}/snapshot ────────────────────────────────────┘
//! ```
//!
//! [`Store`] is the interface for readers. The [`Reader`] fills it from the whole compacted definitions topic
//! and never stops because of an invalid record. [`definition_table`] defines how a record changes what is in force.
//! [`disk`] keeps a copy to start from when Kafka is unreachable. The flags in force never expire: their age
//! is reported by [`StoreStatus`] and as a metric.
//!
//! [`embed`] is for other programs: the store together with the evaluation core, with the settings of the service.
//! [`flag`], [`message`] and [`kafka`] are the libraries that its interface uses.

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use flagstream_evaluation as flag;
pub use flagstream_kafka as kafka;
pub use flagstream_protocol as message;

pub mod changes;
pub mod definition_table;
pub mod disk;
pub mod embed;
pub mod metrics;
pub mod private_files;
pub mod propagation;
pub mod reader;
pub mod record;
mod session;
mod snapshot_writer;
mod sources;
mod status;
mod switches;
#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod test_records;
mod updater;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::flag::{FlagChange, Snapshot};
use crate::message::kill_switch::KillSwitch;

use changes::Changes;
use propagation::Propagation;

pub use reader::{Reader, ReaderConfig};
pub use sources::{Expected, Statuses};
pub use status::{LoadedFrom, StoreStatus};
pub use switches::RecentSwitch;
pub use tokio_util::sync::CancellationToken as Shutdown;

/// Holder of the snapshot in force. [`Store::load`] never blocks.
#[derive(Debug)]
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    /// Serializes writers: two concurrent swaps would lose one writer's changes.
    writing: Mutex<()>,
    version: watch::Sender<u64>,
    ready: AtomicBool,
    status: watch::Sender<Arc<StoreStatus>>,
    changes: Changes,
    switches: ArcSwap<AHashMap<Box<str>, Arc<KillSwitch>>>,
    recent_switches: ArcSwap<VecDeque<RecentSwitch>>,
    sources: ArcSwap<Statuses>,
    missing: watch::Sender<Arc<Missing>>,
    propagation: Propagation,
}

/// Flags and kill switches that are in force here but no longer in their topics: a topic was recreated,
/// emptied or truncated while this process followed it. The feeder's leader and `KillSwitches::keep` write
/// them again.
#[derive(Debug, Default, Clone)]
pub struct Missing {
    /// Keys and values of records of the definitions topic.
    pub definitions: Vec<(Box<str>, Arc<[u8]>)>,
    /// Known statuses of the sources of flags.
    pub sources: Arc<Statuses>,
    /// Keys of kill switches.
    pub switches: Vec<Box<str>>,
}

impl Missing {
    pub fn len(&self) -> usize {
        self.definitions.len() + self.switches.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            snapshot: ArcSwap::default(),
            writing: Mutex::default(),
            version: watch::Sender::new(0),
            ready: AtomicBool::new(false),
            status: watch::Sender::default(),
            changes: Changes::default(),
            switches: ArcSwap::default(),
            recent_switches: ArcSwap::default(),
            sources: ArcSwap::default(),
            missing: watch::Sender::default(),
            propagation: Propagation::default(),
        }
    }
}

impl Store {
    /// The snapshot in force.
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The snapshot in force, for longer use than a guard of [`Store::load`] is meant for.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Highest version applied; 0 if no flags were ever loaded.
    pub fn version(&self) -> u64 {
        self.load().version()
    }

    /// Whether the store has all flags that existed when it started (from Kafka or from disk).
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Waits until the store is ready; `false` if the deadline passes first.
    pub async fn wait_until_ready(&self, deadline: Instant) -> bool {
        let mut status = self.status.subscribe();
        let ready = status.wait_for(|_| self.is_ready());
        matches!(timeout_at(deadline, ready).await, Ok(Ok(_)))
    }

    /// Waits until version `min` is in force; `false` if the deadline passes first.
    pub async fn wait_for_version(&self, min: u64, deadline: Instant) -> bool {
        if self.version() >= min {
            return true;
        }
        let mut version = self.version.subscribe();
        let reached = version.wait_for(|version| *version >= min);
        matches!(timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// Versions as they come into force. A slow receiver sees only the latest.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Recent and future changes of the flags in force.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Kill switches of all flags by `environment/flag`, whatever their state.
    pub fn switches(&self) -> Arc<AHashMap<Box<str>, Arc<KillSwitch>>> {
        self.switches.load_full()
    }

    /// The latest changes of kill switches that this process has applied, the oldest first. The audit sink may not have
    /// written them yet.
    pub fn recent_switches(&self) -> Arc<VecDeque<RecentSwitch>> {
        self.recent_switches.load_full()
    }

    /// Statuses of the sources of flags that the leader last published.
    pub fn sources(&self) -> Arc<Statuses> {
        self.sources.load_full()
    }

    /// Watch of the flags and kill switches that are in force but missing in the topics.
    pub fn missing(&self) -> watch::Receiver<Arc<Missing>> {
        self.missing.subscribe()
    }

    /// State of the store.
    pub fn status(&self) -> Arc<StoreStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// Times at which the latest changes took effect in this process.
    pub fn propagation(&self) -> &Propagation {
        &self.propagation
    }

    /// Puts `changes` in force in a single swap.
    pub fn apply(&self, changes: impl IntoIterator<Item = FlagChange>) {
        let changes: Vec<_> = changes.into_iter().collect();
        // Flags that existed before the store was ready are not reported as changes.
        let before = self.is_ready().then(|| Arc::clone(&self.load()));
        self.update(|snapshot| snapshot.with(changes.iter().cloned()));
        match before {
            Some(before) => {
                self.propagation.applied(changes.iter().map(FlagChange::version), chrono::Utc::now());
                self.changes.add(&before, &changes);
            }
            None => self.changes.begin_at(self.version()),
        }
    }

    /// Serves `environments` even if they have no flags.
    pub fn serve<'e>(&self, environments: impl IntoIterator<Item = &'e str>) {
        self.update(|snapshot| snapshot.serving(environments));
    }

    /// Puts a whole snapshot in force and marks the store as ready.
    pub fn replace(&self, snapshot: Snapshot) {
        self.update(|_| snapshot);
        self.changes.begin_at(self.version());
        self.set_status(|status| status.ready = true);
    }

    fn update(&self, next: impl FnOnce(&Snapshot) -> Snapshot) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next(&self.snapshot.load());
        let version = next.version();
        self.snapshot.store(Arc::new(next));
        // Sent after the swap, so that tasks woken by the version find it in force.
        self.version.send_replace(version);
    }

    /// Reports flags and kill switches as missing in the topics.
    #[cfg(any(test, feature = "test-support"))]
    pub fn lose(&self, missing: Missing) {
        self.missing.send_replace(Arc::new(missing));
    }

    fn set_status(&self, change: impl FnOnce(&mut StoreStatus)) {
        self.status.send_modify(|status| {
            change(Arc::make_mut(status));
            self.ready.store(status.ready, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests;
