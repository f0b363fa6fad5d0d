//! A session: the lifetime of a worker's producers. Batches are opened, filled and committed here, by one function each.

mod assignment;
mod commit;
mod delivery;
mod filling;
pub(super) mod pairing;

use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;

use crate::config::DeliveryMode;
use crate::kafka::exists::TopicQuestions;
use crate::kafka::partition_consumer::PartitionConsumer;
use crate::kafka::producer::TrackedProducer;

use super::Parts;
use super::answer::Respond;
use super::error::SessionError;
use super::pace::Pace;
use super::pipeline::Pipeline;
use super::worker::WorkerState;

use self::commit::{Committing, OpenBatch};

/// Timeout of one step of a transaction.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval at which positions and end offsets of the partitions are reported.
const POSITIONS_INTERVAL: Duration = Duration::from_secs(1);

/// Reason why a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every processed record is committed and no transaction is open.
    Shutdown,
    /// The records that the broker rejected are committed as dead letters; a normal session may follow.
    Recovered,
}

/// The producers of a session.
#[derive(Debug)]
pub struct Producers {
    pub first: TrackedProducer,
    /// The producer of every other batch in transactional mode.
    pub second: Option<TrackedProducer>,
}

/// The producers with the consumer whose records they answer.
#[derive(Debug)]
pub struct Session<'s> {
    parts: &'s Parts,
    pipeline: &'s Pipeline,
    consumer: &'s mut PartitionConsumer,
    /// The producer of the open batch.
    producer: &'s TrackedProducer,
    /// The producer of the next batch, if it may be filled while the open one is committed.
    spare: Option<&'s TrackedProducer>,
    state: &'s mut WorkerState,
    questions: TopicQuestions,
    open: OpenBatch,
    /// The batch before the open one, while it is being committed in the background.
    committing: Option<Committing>,
    /// A committed batch whose memory the next one uses.
    reusable: Option<OpenBatch>,
    pace: Pace,
    positions_reported: Instant,
    /// Whether the session is reported as up to health.
    well: bool,
    /// In at-least-once mode, the offsets whose asynchronous commit is not confirmed yet.
    unconfirmed: Option<TopicPartitionList>,
    /// Time at which the shutdown was noticed.
    stopping: Option<Instant>,
}

impl<'s> Session<'s> {
    pub fn new(
        parts: &'s Parts,
        pipeline: &'s Pipeline,
        consumer: &'s mut PartitionConsumer,
        producers: &'s Producers,
        state: &'s mut WorkerState,
    ) -> Self {
        let delivery = &parts.config.delivery;
        let pace = Pace::new(delivery.batch_max, delivery.target_latency);
        let questions = consumer.topic_questions(&pipeline.source);
        state.reply_topics.begin_session();
        Self {
            parts,
            pipeline,
            consumer,
            producer: &producers.first,
            spare: producers.second.as_ref(),
            state,
            questions,
            open: OpenBatch::default(),
            committing: None,
            reusable: None,
            pace,
            positions_reported: Instant::now(),
            well: false,
            unconfirmed: None,
            stopping: None,
        }
    }

    /// Opens, fills and commits batches until shutdown.
    pub fn run(mut self, responder: &mut impl Respond) -> Result<Ended, SessionError> {
        let ended = self.run_batches(responder);
        // The commit of the batch before may still succeed. If it fails, that is the cause.
        self.settle()?;
        self.leave();
        ended
    }

    fn run_batches(&mut self, responder: &mut impl Respond) -> Result<Ended, SessionError> {
        while !self.parts.shutdown.is_cancelled() {
            if !self.prepare_batch()? {
                continue;
            }
            let is_filled = self.fill(responder).inspect_err(|error| self.note_failure(error))?;
            if is_filled {
                self.commit().inspect_err(|error| self.note_failure(error))?;
                if std::mem::take(&mut self.state.isolate_records) {
                    return Ok(Ended::Recovered);
                }
            } else {
                self.settle()?;
            }
            if self.positions_reported.elapsed() >= POSITIONS_INTERVAL {
                self.settle()?;
                self.report_positions(!is_filled);
            }
            self.report_expired();
        }
        Ok(Ended::Shutdown)
    }

    /// The work between two batches. `false` if nothing may be read yet.
    fn prepare_batch(&mut self) -> Result<bool, SessionError> {
        if self.must_settle() {
            self.settle()?;
        }
        // Rebalances are served only here, so no batch is open when partitions are reassigned. If one arrives only now,
        // the group's coordinator decides whether the batch that is being committed is still in time.
        self.consumer.serve().map_err(SessionError::Consumer)?;
        // Takes the producer's statistics from its queue, also while there are no requests.
        self.producer.inner().poll(Duration::ZERO);
        self.confirm_topic()?;
        if !self.follow_assignment()? {
            return Ok(false);
        }
        self.follow_pairs()?;
        self.state.paused.release(self.consumer, &self.pipeline.source)?;
        Ok(true)
    }

    /// Confirms the last commit of at-least-once mode, which commits asynchronously. The member stays in the group, so
    /// that a restart does not cause a rebalance.
    fn leave(&mut self) {
        let Some(offsets) = self.unconfirmed.take() else { return };
        if let Err(error) = self.consumer.commit_last(offsets) {
            // Not limited: once at the end of a worker.
            tracing::warn!(%error, "the last offset commit was not confirmed; its requests may be answered again");
        }
    }
}

/// How long a batch may take, from its start to its commit.
fn allowed(parts: &Parts) -> Duration {
    match parts.config.delivery.mode {
        DeliveryMode::Transactional => parts.config.delivery.transaction_timeout,
        DeliveryMode::AtLeastOnce => STEP_TIMEOUT,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
