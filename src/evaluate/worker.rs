//! One worker: a thread that keeps a session running until shutdown.
//!
//! Whatever goes wrong in a session ends it, uncommitted; the next one starts from what was committed. There
//! is one way to recover, so there is one to get right.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::kafka::consumer::BatchConsumer;
use crate::metrics::{BatchLabels, Metrics};
use crate::progress::Reason;
use crate::shutdown::pause;

use super::Parts;
use super::amend::Amendments;
use super::answer::{Respond, Responder};
use super::batch_limit::BatchLimit;
use super::clients;
use super::error::SessionError;
use super::holds::Holds;
use super::reply_topics::ReplyTopics;
use super::session::pairing::Unpaired;
use super::session::{Ended, Session};
use super::standing::{Standing, WorkerStanding};

/// How long to wait before the first new attempt; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A session that lasted this long was a good one: backoff starts anew.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// So many batches in a row may fail because of a rebalance before it counts as a fault.
const EXPECTED_FAILURES: u32 = 3;

/// A request worker.
#[derive(Debug)]
pub struct Worker {
    parts: Parts,
    index: usize,
    standing: WorkerStanding,
}

/// What outlives a session.
#[derive(Debug)]
pub struct Memory {
    /// The state of this worker, for health.
    pub standing: WorkerStanding,
    pub amendments: Amendments,
    /// How many records the next batch may have.
    pub limit: BatchLimit,
    pub reply_topics: ReplyTopics,
    /// Partitions that wait.
    pub holds: Holds,
    /// The broker refused something, but not yet said what: one record per request finds out.
    pub careful: bool,
    /// Batches in a row that could not be delivered though the broker was there.
    pub failures: u32,
    /// The last session failed, and no batch was committed since.
    pub has_failed: bool,
    /// The consumer's count of rebalances when its assignment was last looked at; `None` with a new consumer.
    pub rebalances: Option<usize>,
    /// Partitions of which it is known where reading began.
    pub begun: BTreeSet<i32>,
    /// Partitions that the events topic does not have.
    pub unpaired: Unpaired,
    /// The requests topic is another one under the same name: it is begun at its first record.
    pub from_start: bool,
    /// The requests topic's generation, see [`TopicIdentity`](crate::kafka::identity::TopicIdentity).
    pub generation: Option<u64>,
    /// How many partitions the process's gauge counts for this worker.
    assigned: usize,
}

impl Memory {
    fn new(parts: &Parts, standing: WorkerStanding) -> Self {
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
        let waiting = parts.metrics.evaluate.waiting.clone();
        let holds = Holds::new(waiting.clone(), standing.progress().clone());
        Self {
            standing,
            amendments: Amendments::default(),
            limit: BatchLimit::default(),
            reply_topics: ReplyTopics::new(parts.config.reply.allowed_prefixes.clone(), own),
            holds,
            careful: false,
            failures: 0,
            has_failed: false,
            rebalances: None,
            begun: BTreeSet::new(),
            unpaired: Unpaired::new(waiting),
            from_start: false,
            generation: None,
            assigned: 0,
        }
    }

    /// The consumer is gone, and its partitions with it.
    fn forget_consumer(&mut self, metrics: &Metrics) {
        self.holds.forget();
        self.tell_assigned(0, metrics);
        self.unpaired.retain(|_| false);
        self.begin_anew();
    }

    /// Where reading of each partition begins has to be found out again.
    fn begin_anew(&mut self) {
        self.standing.progress().assign(self.standing.index(), &[]);
        self.rebalances = None;
        self.begun.clear();
    }

    /// The requests topic is another one under the same name.
    fn begin_another_topic(&mut self) {
        self.begin_anew();
        self.amendments = Amendments::default();
        self.from_start = true;
    }

    /// Moves the process's gauge by what has changed for this worker; whether anything has.
    pub fn tell_assigned(&mut self, assigned: usize, metrics: &Metrics) {
        if assigned != self.assigned {
            let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
            metrics.evaluate.partitions.inc_by(signed(assigned) - signed(self.assigned));
            self.assigned = assigned;
        }
    }
}

impl Worker {
    /// A worker whose state nobody else shares.
    pub fn new(parts: Parts, index: usize) -> Self {
        let standing = Standing::new(&parts);
        Self::sharing(parts, index, &standing)
    }

    /// One of several workers of a process.
    pub fn sharing(parts: Parts, index: usize, standing: &Standing) -> Self {
        Self { parts, index, standing: standing.worker(index) }
    }

    /// Answers requests until shutdown.
    pub fn run(self) {
        let responder = Responder::new(self.parts.clone());
        self.run_with(responder);
    }

    /// The same loop around another way to respond.
    pub fn run_with(self, mut responder: impl Respond) {
        if !self.store_is_ready() {
            return;
        }
        let mut memory = Memory::new(&self.parts, self.standing.clone());
        let mut backoff = MIN_BACKOFF;
        let mut consumer = None;
        while !self.parts.shutdown.is_cancelled() {
            let started = Instant::now();
            let error = match self.session(&mut consumer, &mut responder, &mut memory) {
                Ok(Ended::Shutdown) => break,
                Ok(Ended::Recovered) => continue,
                Err(error) => error,
            };
            // What fails while the broker is away is no batch's fault.
            memory.failures = if error.is_of_delivery() { memory.failures + 1 } else { 0 };
            let outcome = BatchLabels { outcome: if error.is_fenced() { "fenced" } else { "aborted" } };
            self.parts.metrics.evaluate.batches.get_or_create(&outcome).inc();
            let is_expected = error.is_rebalance() && memory.failures <= EXPECTED_FAILURES;
            if is_expected {
                tracing::info!(worker = self.index, %error, "rebalance: the batch is answered again");
            } else {
                tracing::warn!(worker = self.index, %error, "batch not committed, starting again from the last commit");
            }
            self.standing.progress().blocked_reader(self.index, Reason::BatchFailed, error.to_string());
            if !error.is_refusal() && !is_expected {
                memory.has_failed = true;
                self.standing.degraded(&error);
            }
            if matches!(error, SessionError::TopicRecreated) {
                memory.begin_another_topic();
                self.standing.recreated();
            }
            if error.ends_consumer() {
                consumer = None;
                memory.forget_consumer(&self.parts.metrics);
            }
            if started.elapsed() > GOOD_SESSION || error.is_refusal() {
                backoff = MIN_BACKOFF;
            }
            if !error.is_refusal() {
                self.pause(backoff);
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }

    /// One session. A consumer that is still good serves the next one too.
    fn session(
        &self,
        consumer: &mut Option<BatchConsumer>,
        responder: &mut impl Respond,
        memory: &mut Memory,
    ) -> Result<Ended, SessionError> {
        // The producer first: its start aborts what a former life of this worker left open, and an open
        // transaction would hold back the committed offsets that the consumer starts from.
        let producer = clients::producer(&self.parts, self.index, memory.careful)?;
        let consumer = match consumer {
            Some(consumer) => {
                let topic = &self.parts.config.topics.requests;
                memory.holds.resume(consumer, topic).map_err(SessionError::Consumer)?;
                clients::rewind(consumer, topic)?;
                consumer
            }
            None => consumer.insert(clients::consumer(&self.parts, self.index)?),
        };
        Session::new(&self.parts, consumer, &producer, memory).run(responder)
    }

    /// Answering before the flags are there would answer wrongly; the requests can wait in Kafka.
    fn store_is_ready(&self) -> bool {
        while !self.parts.store.is_ready() {
            if self.parts.shutdown.is_cancelled() {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        true
    }

    fn pause(&self, backoff: Duration) {
        let jitter = rand::rng().random_range(0.5..1.0);
        pause(backoff.mul_f64(jitter), &self.parts.shutdown);
    }
}
