//! Events of the synchronous path on their way to Kafka: nobody waits for it, and nothing is lost silently.
//!
//! ```text
//!  call ─► parcel ─► queue (memory, bounded) ─► worker ─► producer (idempotent) ─► feature-flag-events
//!                                                 │  ▲
//!                        Kafka does not keep up:  ▼  │  in order
//!                                               spool (disk, bounded)
//! ```
//!
//! A call leaves its events in the `queue` and answers. One thread (`worker`) hands them to the producer and keeps
//! each until Kafka has it. While Kafka takes them within a second, nothing touches the disk; else everything that is
//! not acknowledged goes to the `spool`, from where it is sent once Kafka is back, also by the next process. What
//! can be lost by `kill -9` is what is younger than that second and not acknowledged. An event may arrive twice (after
//! a kill, or where a producer had to be replaced), in the same partition and with the same number
//! ([`Sequence`](crate::message::sequence::Sequence)): so its readers know it again.

mod flight;
mod opening;
mod outlet;
mod parcel;
pub mod queue;
mod shelf;
mod spool;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{Config, Durability};
use crate::health::Reporter;
use crate::kafka::topics::Fit;
use crate::metrics::{DropLabels, Metrics};

pub use parcel::Parcel;

use queue::{Entry, Queue};
use shelf::Shelf;
use spool::Spool;
use worker::Worker;

/// How long an answer waits for Kafka with `FLAGSTREAM_API__DURABILITY=sync`.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer waits for room for its events. Evaluations are not slowed by Kafka being away, but they are kept from
/// coming faster than they can be put on disk.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// Where calls leave their events.
#[derive(Debug)]
pub struct Publisher {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    durability: Durability,
}

/// Kafka does not have the events, and the caller wanted to be sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the evaluation could not be recorded")]
pub struct NotRecorded;

/// The running worker.
#[derive(Debug)]
pub struct Publishing {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

impl Publisher {
    /// Starts the worker; it first sends what a former process left on disk.
    pub fn start(
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        health: Reporter,
        fit: Fit,
    ) -> anyhow::Result<(Arc<Self>, Publishing)> {
        let queue = Arc::new(Queue::default());
        let durability = config.api.durability;
        let shelf = match durability {
            Durability::Spool => {
                let folder = config.state_dir.join("spool");
                let spool = Spool::open(&folder, config.api.spool_max_bytes);
                let spool = spool.with_context(|| format!("the spool in {}", folder.display()))?;
                Some(Shelf::new(spool, Arc::clone(&metrics)))
            }
            Durability::Memory | Durability::Sync => None,
        };
        let worker = Worker::create(Arc::clone(&queue), config, Arc::clone(&metrics), health, shelf, fit);
        let thread = std::thread::Builder::new().name("publish".to_owned()).spawn(move || worker.run())?;
        let publisher = Arc::new(Self { queue: Arc::clone(&queue), metrics, durability });
        Ok((publisher, Publishing { queue, thread }))
    }

    /// Leaves the events of a call. With `sync` durability it waits until Kafka has them; else only, for a while, if calls
    /// come faster than the disk takes their events. What does not fit is counted.
    pub async fn publish(&self, parcel: Parcel) -> Result<(), NotRecorded> {
        if parcel.is_empty() {
            return Ok(());
        }
        if self.durability != Durability::Sync {
            self.leave(Entry { parcel, delivered: None }).await;
            return Ok(());
        }
        let (delivered, waiting) = oneshot::channel();
        if !self.leave(Entry { parcel, delivered: Some(delivered) }).await {
            return Err(NotRecorded);
        }
        match timeout(SYNC_PATIENCE, waiting).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotRecorded),
        }
    }

    /// Whether there was room, by now.
    async fn leave(&self, entry: Entry) -> bool {
        let Err(mut full) = self.queue.push(entry) else { return true };
        let deadline = Instant::now() + ROOM_PATIENCE;
        while full.may_pass() {
            // Listened for before the next try: room that comes between the two is not missed.
            let taken = self.queue.taken();
            full = match self.queue.push(*full.entry) {
                Ok(()) => return true,
                Err(full) => full,
            };
            if timeout_at(deadline, taken).await.is_err() {
                break;
            }
        }
        count_dropped(&self.metrics, full.reason, full.entry.parcel.len());
        false
    }
}

fn count_dropped(metrics: &Metrics, reason: &'static str, events: u32) {
    metrics.dropped.get_or_create(&DropLabels { what: "event", reason }).inc_by(events.into());
}

impl Publishing {
    /// Whether the worker ended although nobody asked it to.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until everything is in Kafka or on disk. `false` if the worker panicked.
    pub fn join(self) -> bool {
        self.queue.close();
        self.thread.join().is_ok()
    }
}

#[cfg(test)]
mod tests;
