//! Publishes the events of synchronous calls to Kafka: calls do not wait for Kafka, and no event is lost without being
//! counted.
//!
//! ```text
//!  call ─► parcel ─► queue (memory, bounded) ─► worker ─► producer (idempotent) ─► feature-flag-events
//!                                                 │  ▲
//!                        Kafka does not keep up:  ▼  │  in order
//!                                               spool (disk, bounded)
//! ```
//!
//! A call adds its events to the `queue` and returns. One thread (the `worker`) hands them to the producer and keeps
//! each until Kafka has acknowledged it. While Kafka acknowledges within a second, the disk is not used. Otherwise
//! everything that is not acknowledged is written to the `spool`, from which it is sent once Kafka is available again,
//! also by the next process. A process that is killed (SIGKILL) loses only events that are younger than that second and
//! not acknowledged. An event may arrive twice (after a kill, or after a producer was replaced), in the same partition
//! and with the same number ([`Sequence`](crate::message::sequence::Sequence)), so that consumers recognise the
//! duplicate.

mod event_batch;
mod event_producer;
mod in_flight;
mod opening;
mod overflow;
pub mod queue;
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

pub use event_batch::{BatchTopic, EventBatch};

use overflow::Overflow;
use queue::{Entry, Queue};
use spool::Spool;
use worker::Worker;

/// How long a call waits for Kafka's acknowledgement with `FLAGSTREAM_API__DURABILITY=sync`.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call waits for space in the queue. An unavailable Kafka does not slow down calls, but they must not
/// produce events faster than the disk can store them.
const QUEUE_ROOM_TIMEOUT: Duration = Duration::from_secs(2);

/// Entry point through which calls publish their events.
#[derive(Debug)]
pub struct Publisher {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    durability: Durability,
}

/// The events are not acknowledged, although the caller requested it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Kafka did not acknowledge the evaluation event in time; retry later")]
pub struct NotRecorded;

/// Handle of the running worker.
#[derive(Debug)]
pub struct Publishing {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

impl Publisher {
    /// Starts the worker, which first sends the events that a previous process left in the spool.
    pub fn start(
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        health: Reporter,
        fit: Fit,
    ) -> anyhow::Result<(Arc<Self>, Publishing)> {
        let queue = Arc::new(Queue::default());
        let durability = config.api.durability;
        let overflow = match durability {
            Durability::Spool => {
                let folder = config.state_dir.join("spool");
                let spool = Spool::open(&folder, config.api.spool_max_bytes);
                let spool = spool.with_context(|| format!("the spool in {}", folder.display()))?;
                let limit = i64::try_from(config.api.spool_max_bytes).unwrap_or(i64::MAX);
                metrics.publish.spool_limit_bytes.set(limit);
                Some(Overflow::new(spool, Arc::clone(&metrics)))
            }
            Durability::Memory | Durability::Sync => None,
        };
        let worker = Worker::create(Arc::clone(&queue), config, Arc::clone(&metrics), health, overflow, fit);
        let thread = std::thread::Builder::new().name("publish".to_owned()).spawn(move || worker.run())?;
        let publisher = Arc::new(Self { queue: Arc::clone(&queue), metrics, durability });
        Ok((publisher, Publishing { queue, thread }))
    }

    /// Publishes the events of a call. With `sync` durability it waits for the acknowledgement; otherwise only for
    /// space in the queue, for a limited time. Events that find no space are dropped and counted.
    pub async fn publish(&self, batch: EventBatch) -> Result<(), NotRecorded> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.durability != Durability::Sync {
            self.leave(Entry { batch, delivered: None }).await;
            return Ok(());
        }
        let (delivered, waiting) = oneshot::channel();
        if !self.leave(Entry { batch, delivered: Some(delivered) }).await {
            return Err(NotRecorded);
        }
        match timeout(SYNC_TIMEOUT, waiting).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotRecorded),
        }
    }

    /// Publishes a batch like [`Self::publish`], but fails if it finds no space: its sender keeps it and retries.
    pub async fn publish_surely(&self, batch: EventBatch) -> Result<(), NotRecorded> {
        if self.durability == Durability::Sync {
            return self.publish(batch).await;
        }
        if batch.is_empty() || self.leave(Entry { batch, delivered: None }).await {
            return Ok(());
        }
        Err(NotRecorded)
    }

    /// Adds events to the queue and waits for space if necessary. `false`: there was none in time.
    async fn leave(&self, entry: Entry) -> bool {
        let Err(mut full) = self.queue.push(entry) else { return true };
        let deadline = Instant::now() + QUEUE_ROOM_TIMEOUT;
        while full.may_pass() {
            // Registered before the next attempt, so that space that is freed in between is not missed.
            let taken = self.queue.taken();
            full = match self.queue.push(*full.entry) {
                Ok(()) => return true,
                Err(full) => full,
            };
            if timeout_at(deadline, taken).await.is_err() {
                break;
            }
        }
        count_dropped(&self.metrics, full.reason, full.entry.batch.evaluations());
        false
    }
}

fn count_dropped(metrics: &Metrics, reason: &'static str, events: u32) {
    metrics.dropped.get_or_create(&DropLabels { what: "event", reason }).inc_by(events.into());
}

impl Publishing {
    /// Whether the worker has ended. It should only end after [`Publishing::join`].
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Closes the queue and waits until all events are in Kafka or in the spool. `false` if the worker panicked.
    pub fn join(self) -> bool {
        self.queue.close();
        self.thread.join().is_ok()
    }
}

#[cfg(test)]
mod tests;
