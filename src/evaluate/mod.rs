//! The request pipeline: evaluates requests from Kafka and writes the results to Kafka, exactly once.
//!
//! ```text
//!  feature-flag-evaluation-requests                                     one Kafka transaction per batch
//!     │ fetch (batch of records)                                     ┌──────────────────────────────────┐
//!     ▼                                                              │                                  │
//!  decode ──► evaluate on one snapshot ──► encode ──► send to ───────┼─► feature-flag-events, same       │
//!     │                                                              │   partition, key of the request   │
//!     ├── refused ─────────────────────────► dead letter ────────────┼─► feature-flag-dead-letters       │
//!     └── reply-to ────────────────────────► reply ──────────────────┼─► the topic asked for             │
//!                                            offsets ────────────────┼─► __consumer_offsets              │
//!                                                                    └──────────────────────────────────┘
//! ```
//!
//! A tap is the same engine with another decoder and encoder: it reads any topic and forwards its records with flags
//! ([`tap`]). [`pipeline`] describes what a worker reads and writes.
//!
//! Workers share nothing: each is one thread with its own consumer, producer and partitions, running a plain loop
//! ([`worker`]). There is no queue between threads and no await per record. Every record of a batch ends in one event
//! per flag or in a dead letter ([`answer`]); then one function commits the batch ([`session`]). A record that the
//! broker rejects is identified and also ends in a dead letter ([`rejections`]).

pub mod answer;
pub mod batch;
pub mod batch_limit;
pub mod batch_sender;
mod clients;
pub mod error;
pub mod error_log;
mod event_writer;
pub mod fairness;
mod headers;
pub mod pace;
pub mod paused_partitions;
pub mod pipeline;
pub mod rejections;
pub mod reply_topics;
pub mod session;
pub mod status;
pub mod tally;
pub mod tap;
pub mod unserved;
pub mod worker;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::attributes::Attributes;
use crate::config::Config;
use crate::health::Reporter;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::progress::watch::Watch;
use crate::schema_registry::Formats;
use crate::shutdown::Shutdown;
use crate::store::Store;

use self::pipeline::Pipeline;
use self::status::EvaluatorStatus;
use self::worker::Worker;

/// The dependencies of a worker.
#[derive(Debug, Clone)]
pub struct Parts {
    pub config: Arc<Config>,
    pub formats: Arc<Formats>,
    pub store: Arc<Store>,
    /// Tables that complete contexts; `None` if there are none.
    pub attributes: Option<Arc<Attributes>>,
    pub metrics: Arc<Metrics>,
    pub usage: Arc<crate::feed::usage::Usage>,
    pub shutdown: Shutdown,
    pub health: Reporter,
}

/// The running workers.
#[derive(Debug)]
pub struct Evaluator {
    threads: Vec<JoinHandle<()>>,
}

impl Evaluator {
    /// Starts `delivery.workers` worker threads, and one thread that records their partitions' offsets in `progress`.
    /// All run until the shutdown token is cancelled.
    pub fn start(parts: &Parts, pipeline: Arc<Pipeline>, progress: Progress) -> anyhow::Result<Self> {
        let role = pipeline.role();
        let status = EvaluatorStatus::of(parts, pipeline, progress.clone());
        let identity = Arc::clone(status.identity());
        let watch = Watch::new(&parts.config, &role, progress)?.confirming(identity);
        let shutdown = parts.shutdown.clone();
        let mut threads = vec![spawn(format!("{role}-offsets"), move || watch.run(&shutdown))?];
        for index in 0..parts.config.delivery.workers {
            let worker = Worker::sharing(parts.clone(), index, &status);
            threads.push(spawn(format!("{role}-{index}"), move || worker.run())?);
        }
        Ok(Self { threads })
    }

    /// Whether a thread has ended. Before shutdown that means a failure.
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits until all workers have committed their batches and stopped. `false` if one of them panicked.
    pub fn join(self) -> bool {
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ended.iter().all(Result::is_ok)
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(work)
}

#[cfg(test)]
mod tests;
