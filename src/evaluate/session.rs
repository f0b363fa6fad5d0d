//! A session: the lifetime of one producer. Batches are opened, filled and committed here, by one function each.

mod assignment;
mod delivery;
mod filling;
pub(super) mod pairing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::DeliveryMode;
use crate::kafka::exists::TopicQuestions;
use crate::kafka::partition_consumer::PartitionConsumer;
use crate::kafka::producer::TrackedProducer;
use crate::metrics::CodeLabels;

use super::Parts;
use super::answer::Respond;
use super::batch::Batch;
use super::error::SessionError;
use super::pace::Pace;
use super::pipeline::Pipeline;
use super::tally::Tally;
use super::worker::WorkerState;

/// Timeout of one step of a transaction.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every processed record is committed and no transaction is open.
    Shutdown,
    /// The records that the broker rejected are committed as dead letters; a normal session may follow.
    Recovered,
}

/// A producer with the consumer whose records it answers.
#[derive(Debug)]
pub struct Session<'s> {
    parts: &'s Parts,
    pipeline: &'s Pipeline,
    consumer: &'s mut PartitionConsumer,
    producer: &'s TrackedProducer,
    state: &'s mut WorkerState,
    questions: TopicQuestions,
    batch: Batch,
    tally: Tally,
    pace: Pace,
    positions_reported: Instant,
    /// Whether the session is reported as up to health.
    well: bool,
    /// In at-least-once mode, the offsets whose asynchronous commit is not confirmed yet.
    unconfirmed: Option<TopicPartitionList>,
    /// Start of the open batch; `None` before its first record.
    opened: Option<Instant>,
    /// Number of the batch's results that were acknowledged at the last drain.
    acknowledged: usize,
    /// Time at which the shutdown was noticed.
    stopping: Option<Instant>,
}

impl<'s> Session<'s> {
    pub fn new(
        parts: &'s Parts,
        pipeline: &'s Pipeline,
        consumer: &'s mut PartitionConsumer,
        producer: &'s TrackedProducer,
        state: &'s mut WorkerState,
    ) -> Self {
        let pace = Pace::new(parts.config.delivery.batch_max);
        let questions = consumer.topic_questions(&pipeline.source);
        state.reply_topics.begin_session();
        Self {
            parts,
            pipeline,
            consumer,
            producer,
            state,
            questions,
            batch: Batch::default(),
            tally: Tally::default(),
            pace,
            positions_reported: Instant::now(),
            well: false,
            unconfirmed: None,
            opened: None,
            acknowledged: 0,
            stopping: None,
        }
    }

    /// Opens, fills and commits batches until shutdown.
    pub fn run(mut self, responder: &mut impl Respond) -> Result<Ended, SessionError> {
        while !self.parts.shutdown.is_cancelled() {
            // Rebalances are served only here, so no batch is open when partitions are reassigned.
            self.consumer.serve().map_err(SessionError::Consumer)?;
            // Takes the producer's statistics from its queue, also while there are no requests.
            self.producer.inner().poll(Duration::ZERO);
            self.confirm_topic()?;
            if !self.follow_assignment()? {
                continue;
            }
            self.follow_pairs()?;
            self.state.paused.release(self.consumer, &self.pipeline.source)?;
            let filled = self.fill(responder);
            let committed =
                filled.and_then(|filled| if filled { self.commit().map(|()| true) } else { Ok(false) });
            let is_committed = committed.inspect_err(|error| self.note_failure(error))?;
            if is_committed && std::mem::take(&mut self.state.isolate_records) {
                return Ok(Ended::Recovered);
            }
            self.report_positions(!is_committed);
            self.report_expired();
        }
        self.leave();
        Ok(Ended::Shutdown)
    }

    /// Commits the batch: all of it, or nothing. No other function ends a batch.
    fn commit(&mut self) -> Result<(), SessionError> {
        let started = Instant::now();
        self.confirm_topic_of_batch()?;
        let offsets = self.offsets().map_err(SessionError::Commit)?;
        match self.parts.config.delivery.mode {
            DeliveryMode::Transactional => {
                let producer = self.producer;
                let Some(group) = self.consumer.inner().group_metadata() else {
                    return Err(SessionError::Consumer(KafkaError::ConsumerCommit(RDKafkaErrorCode::State)));
                };
                // Sent before the drain, so that the two round trips overlap.
                let timeout = self.time_left();
                let sent = producer
                    .send_offsets(offsets, Arc::new(group), timeout, || self.time_to_stop().is_zero());
                // A rejected record fails the transaction, which then accepts no offsets either. The drain comes first,
                // because the rejected record is the cause to report.
                let drained = self.drain();
                let sent = sent
                    .ok_or(SessionError::OffsetsUnanswered)
                    .and_then(|sent| sent.map_err(SessionError::Commit));
                match (drained, sent) {
                    // The rebalance failed the transaction, and librdkafka discarded the results for that reason.
                    (Err(error), Err(cause)) if error.is_purged() && cause.is_rebalance() => {
                        return Err(cause);
                    }
                    (drained, sent) => {
                        drained?;
                        sent?;
                    }
                }
                self.commit_transaction()?;
            }
            DeliveryMode::AtLeastOnce => {
                self.drain()?;
                self.consumer.inner().commit(&offsets, CommitMode::Async).map_err(SessionError::Commit)?;
                self.unconfirmed = Some(offsets);
            }
        }
        self.committed(started.elapsed());
        Ok(())
    }

    fn committed(&mut self, took: Duration) {
        self.pace.committed(took);
        self.observe(took);
        self.state.has_failed = false;
        self.report_well();
        for (partition, next) in self.batch.positions() {
            self.state.status.progress().committed(*partition, *next);
        }
        self.pipeline.metrics.records.inc_by(self.batch.records as u64);
        for (output, topic) in self.pipeline.outputs.iter().enumerate() {
            self.pipeline.metrics.forwarded(topic, self.batch.forwarded(output));
        }
        for (reason, count) in self.batch.passed() {
            self.pipeline.metrics.passed(reason, count);
        }
        self.state.failures = 0;
        let batch_took = self.opened.map_or(took, |opened| opened.elapsed());
        self.state.limit.committed(self.batch.records, batch_took, self.allowed());
        self.state.rejections.committed(self.batch.positions());
        self.tally.commit(self.pipeline.path(), &self.parts.metrics, &self.parts.usage);
        for code in self.batch.dead_letters.drain(..) {
            self.parts.metrics.dead_letters.get_or_create(&CodeLabels { code: code.as_str() }).inc();
        }
    }

    fn observe(&mut self, commit: Duration) {
        let metrics = &self.pipeline.metrics;
        metrics.batch_ended("committed");
        metrics.commit.observe(commit);
        metrics.batch.observe(self.batch.opened.elapsed());
        metrics
            .record
            .observe(self.batch.busy / u32::try_from(self.batch.records).unwrap_or(u32::MAX).max(1));
        let now_ms = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or_default();
        metrics.latency.observe(Duration::from_millis(now_ms.saturating_sub(self.batch.oldest_ms)));
    }

    fn offsets(&self) -> KafkaResult<TopicPartitionList> {
        let topic = &self.pipeline.source;
        let mut offsets = TopicPartitionList::with_capacity(self.batch.positions().len());
        for (partition, next) in self.batch.positions() {
            offsets.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
        }
        Ok(offsets)
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
