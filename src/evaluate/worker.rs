//! A worker: a thread that runs sessions until shutdown.
//!
//! Every error ends the session without a commit; the next session starts from the last commit. There is only one
//! recovery path.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kafka::backoff::Backoff;
use crate::kafka::identity::Confirmed;
use crate::kafka::partition_consumer::PartitionConsumer;
use crate::log_limit::limited;
use crate::progress::Reason;
use crate::shutdown::pause;

use super::Parts;
use super::answer::{Respond, Responder};
use super::batch_limit::BatchLimit;
use super::clients;
use super::error::{SessionError, is_timeout};
use super::fairness::Fairness;
use super::paused_partitions::PausedPartitions;
use super::pipeline::{Pipeline, PipelineMetrics};
use super::rejections::Rejections;
use super::reply_topics::ReplyTopics;
use super::session::pairing::Unpaired;
use super::session::{Ended, Session};
use super::status::{EvaluatorStatus, WorkerStatus};
use super::tap::TapResponder;

/// Delay before the first retry; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// Longest delay between two attempts of a session.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Length of a session after which the backoff is reset.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// Number of consecutive batches that may fail because of a rebalance before it is reported as a fault.
const EXPECTED_FAILURES: u32 = 3;

/// A worker of one pipeline.
#[derive(Debug)]
pub struct Worker {
    parts: Parts,
    pipeline: Arc<Pipeline>,
    index: usize,
    status: WorkerStatus,
}

/// State that outlives a session.
#[derive(Debug)]
pub struct WorkerState {
    /// The state of this worker, for health.
    pub status: WorkerStatus,
    pub rejections: Rejections,
    /// Limits the records of the next batch.
    pub limit: BatchLimit,
    pub reply_topics: ReplyTopics,
    /// Divides batches between the partitions.
    pub fairness: Fairness,
    /// Paused partitions.
    pub paused: PausedPartitions,
    /// The broker rejected something, but it is not known which record. The next session sends one record per request
    /// to find out.
    pub isolate_records: bool,
    /// Consecutive batches that failed although the broker was reachable.
    pub failures: u32,
    /// Whether the last session failed and no batch was committed since.
    pub has_failed: bool,
    /// The consumer's rebalance count when the assignment was last read; `None` with a new consumer.
    pub rebalances: Option<usize>,
    /// Partitions whose first offset is known.
    pub begun: BTreeSet<i32>,
    /// Partitions that a topic of results lacks.
    pub unpaired: Unpaired,
    /// The topic that is read was created again: its partitions are read from the first record.
    pub from_start: bool,
    /// The generation and id of the topic that is read when they were last confirmed.
    pub topic: Option<Confirmed>,
    /// Number of partitions that the process's gauge counts for this worker.
    assigned: usize,
}

impl WorkerState {
    fn new(parts: &Parts, pipeline: &Pipeline, status: WorkerStatus) -> Self {
        let topics = &parts.config.topics;
        let own = [
            &topics.requests,
            &topics.events,
            &topics.changes,
            &topics.definitions,
            &topics.updates,
            &topics.dead_letters,
            &topics.conversions,
            &topics.overrides,
        ];
        let own = own.into_iter().cloned().collect();
        let waiting = pipeline.metrics.waiting.clone();
        let paused = PausedPartitions::new(waiting.clone(), status.progress().clone());
        Self {
            status,
            rejections: Rejections::default(),
            limit: BatchLimit::default(),
            reply_topics: ReplyTopics::new(parts.config.reply.allowed_prefixes.clone(), own),
            paused,
            fairness: Fairness::default(),
            isolate_records: false,
            failures: 0,
            has_failed: false,
            rebalances: None,
            begun: BTreeSet::new(),
            unpaired: Unpaired::new(waiting),
            from_start: false,
            topic: None,
            assigned: 0,
        }
    }

    /// Clears the state that depends on the consumer, because it was dropped.
    fn forget_consumer(&mut self, metrics: &PipelineMetrics) {
        self.paused.forget();
        self.tell_assigned(0, metrics);
        self.unpaired.retain(|_| false);
        self.begin_anew();
    }

    /// Requires that the first offset of each partition is determined again.
    fn begin_anew(&mut self) {
        self.status.progress().assign(self.status.index(), &[]);
        self.rebalances = None;
        self.begun.clear();
    }

    /// Prepares for a topic that was created again.
    fn begin_another_topic(&mut self) {
        self.begin_anew();
        self.rejections = Rejections::default();
        self.from_start = true;
    }

    /// Updates the process's gauge by the change of this worker's assigned partitions.
    pub fn tell_assigned(&mut self, assigned: usize, metrics: &PipelineMetrics) {
        if assigned != self.assigned {
            let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
            metrics.partitions.inc_by(signed(assigned) - signed(self.assigned));
            self.assigned = assigned;
        }
    }
}

impl Worker {
    /// Creates a worker with a state of its own.
    pub fn new(parts: Parts, index: usize) -> Self {
        let status = EvaluatorStatus::new(&parts);
        Self::sharing(parts, index, &status)
    }

    /// Creates one of several workers that share a state.
    pub fn sharing(parts: Parts, index: usize, status: &EvaluatorStatus) -> Self {
        Self { parts, pipeline: Arc::clone(status.pipeline()), index, status: status.worker(index) }
    }

    /// Processes requests until shutdown.
    pub fn run(self) {
        match &self.pipeline.tap {
            Some(tap) => {
                let responder = TapResponder::new(self.parts.clone(), &self.pipeline, tap);
                self.run_with(responder);
            }
            None => {
                let responder = Responder::new(self.parts.clone());
                self.run_with(responder);
            }
        }
    }

    /// Runs the worker with another implementation of [`Respond`].
    pub fn run_with(self, mut responder: impl Respond) {
        if !self.store_is_ready() {
            return;
        }
        let mut state = WorkerState::new(&self.parts, &self.pipeline, self.status.clone());
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        let mut consumer = None;
        while !self.parts.shutdown.is_cancelled() {
            let started = Instant::now();
            let error = match self.session(&mut consumer, &mut responder, &mut state) {
                Ok(Ended::Shutdown) => break,
                Ok(Ended::Recovered) => continue,
                // No session has begun, and none is needed any more.
                Err(SessionError::Producer(error))
                    if self.parts.shutdown.is_cancelled() && is_timeout(&error) =>
                {
                    break;
                }
                Err(error) => error,
            };
            // A failure while the broker is unreachable is not caused by the batch.
            state.failures = if error.is_of_delivery() { state.failures + 1 } else { 0 };
            self.pipeline.metrics.batch_ended(if error.is_fenced() { "fenced" } else { "aborted" });
            let is_expected = error.is_rebalance() && state.failures <= EXPECTED_FAILURES;
            if is_expected {
                tracing::info!(worker = self.index, %error, "rebalance during a batch; the batch is retried");
            } else {
                limited!(
                    warn,
                    worker = self.index,
                    %error,
                    "batch not committed; retrying from the last committed offsets",
                );
            }
            self.status.progress().blocked_reader(self.index, Reason::BatchFailed, error.to_string());
            if !error.is_refusal() && !is_expected {
                state.has_failed = true;
                self.status.degraded(&error);
            }
            if matches!(error, SessionError::TopicRecreated) {
                state.begin_another_topic();
                self.status.recreated();
            }
            if error.ends_consumer() {
                consumer = None;
                state.forget_consumer(&self.pipeline.metrics);
            }
            if started.elapsed() > GOOD_SESSION || error.is_refusal() {
                backoff.reset();
            }
            if !error.is_refusal() {
                pause(backoff.jittered(), &self.parts.shutdown);
            }
        }
    }

    /// Runs one session. The consumer is kept for the next session unless it failed.
    fn session(
        &self,
        consumer: &mut Option<PartitionConsumer>,
        responder: &mut impl Respond,
        state: &mut WorkerState,
    ) -> Result<Ended, SessionError> {
        // The producers are created first: their start aborts transactions that a previous process left open, which
        // would otherwise block the committed offsets that the consumer starts from.
        let producers = clients::producers(&self.parts, &self.pipeline, self.index, state.isolate_records)?;
        let consumer = match consumer {
            Some(consumer) => {
                let topic = &self.pipeline.source;
                state.paused.resume(consumer, topic).map_err(SessionError::Consumer)?;
                clients::rewind(consumer, topic)?;
                consumer
            }
            None => consumer.insert(clients::consumer(&self.parts, &self.pipeline, self.index)?),
        };
        Session::new(&self.parts, &self.pipeline, consumer, &producers, state).run(responder)
    }

    /// Waits until the flags are loaded. Answers without flags would be wrong, and requests can wait in Kafka. `false`
    /// at shutdown.
    fn store_is_ready(&self) -> bool {
        while !self.parts.store.is_ready() {
            if self.parts.shutdown.is_cancelled() {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        true
    }
}
