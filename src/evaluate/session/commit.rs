//! The end of a batch: all of it is committed, or nothing.
//!
//! In transactional mode a worker has two producers, which alternate. While records wait, the transaction of one batch is
//! committed in the background, and the next batch is filled with the other producer:
//!
//! ```text
//!  producer A    fill ─► drain ─► commit                   fill ─► drain ─► commit
//!  producer B                     fill ─────────► drain ─► commit
//! ```
//!
//! The results of a batch are acknowledged before the next batch is begun, so that in each partition they have the order
//! of their records. A batch is committed only after the one before it, so that the committed offsets never go back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::DeliveryMode;
use crate::evaluate::batch::Batch;
use crate::evaluate::error::SessionError;
use crate::evaluate::tally::Tally;
use crate::kafka::producer::Call;
use crate::metrics::CodeLabels;

use super::Session;

/// Time after which the partitions of a batch's first results are certainly part of its transaction, if the broker answers
/// as usual.
const REGISTRATION_TIME: Duration = Duration::from_millis(20);

/// A batch with its counts, from its first record to its commit.
#[derive(Debug, Default)]
pub(super) struct OpenBatch {
    pub batch: Batch,
    pub tally: Tally,
    /// Start of the batch; `None` before its first record.
    pub opened: Option<Instant>,
    /// Number of the batch's results that were acknowledged at the last drain.
    pub acknowledged: usize,
}

/// A batch whose transaction is being committed in the background.
#[derive(Debug)]
pub(super) struct Committing {
    open: OpenBatch,
    /// Start of the commit, which begins with the drain.
    started: Instant,
    call: Call,
}

impl OpenBatch {
    pub fn clear(&mut self) {
        self.batch.clear();
        self.tally.clear();
        self.opened = None;
        self.acknowledged = 0;
    }
}

impl Session<'_> {
    /// Commits the batch: all of it, or nothing. No other function ends a batch. In transactional mode the commit may
    /// continue in the background, until [`settle`](Self::settle).
    pub(super) fn commit(&mut self) -> Result<(), SessionError> {
        let started = Instant::now();
        self.confirm_topic_of_batch()?;
        let offsets = self.offsets().map_err(SessionError::Commit)?;
        match self.parts.config.delivery.mode {
            DeliveryMode::Transactional => {
                self.complete_transaction(offsets)?;
                self.end_background_commit()?;
                if self.overlaps() {
                    self.commit_in_background(started);
                    return Ok(());
                }
                self.commit_transaction()?;
                self.alternate();
            }
            DeliveryMode::AtLeastOnce => {
                self.drain()?;
                self.consumer.inner().commit(&offsets, CommitMode::Async).map_err(SessionError::Commit)?;
                self.unconfirmed = Some(offsets);
            }
        }
        let open = std::mem::take(&mut self.open);
        self.open = self.committed(open, started, Instant::now());
        Ok(())
    }

    /// Adds the offsets to the transaction, and waits until all results are acknowledged.
    fn complete_transaction(&mut self, offsets: TopicPartitionList) -> Result<(), SessionError> {
        let Some(group) = self.consumer.inner().group_metadata() else {
            return Err(SessionError::Consumer(KafkaError::ConsumerCommit(RDKafkaErrorCode::State)));
        };
        // A rejected record fails the transaction, which then accepts no offsets either. The drain comes first, because
        // the rejected record is the cause to report.
        if !self.has_registered() {
            self.drain()?;
        }
        // Otherwise begun before the drain, so that the two round trips overlap.
        let timeout = self.time_left();
        let sent = self.producer.begin_send_offsets(offsets, Arc::new(group), timeout);
        let drained = self.drain();
        let sent = sent
            .wait(|| self.time_to_stop().is_zero())
            .ok_or(SessionError::OffsetsUnanswered)
            .and_then(|(sent, _)| sent.map_err(SessionError::Commit));
        match (drained, sent) {
            // The rebalance failed the transaction, and librdkafka discarded the results for that reason.
            (Err(error), Err(cause)) if error.is_purged() && cause.is_rebalance() => Err(cause),
            (drained, sent) => drained.and(sent),
        }
    }

    /// Whether the batch is open long enough that its partitions are part of the transaction. Until then the coordinator
    /// refuses the offsets, and librdkafka waits before it tries again.
    fn has_registered(&self) -> bool {
        self.open.opened.is_some_and(|opened| opened.elapsed() >= REGISTRATION_TIME)
    }

    /// Uses the other producer for the next batch. For a moment after a commit the coordinator refuses to begin the next
    /// transaction of the same producer, and librdkafka waits 20 ms before it tries again.
    fn alternate(&mut self) {
        if let Some(spare) = &mut self.spare {
            std::mem::swap(spare, &mut self.producer);
        }
    }

    /// Whether the next batch may be filled while this one is committed. It may not if the worker has to seek back to
    /// committed offsets or to give partitions away, which must include this batch.
    fn overlaps(&self) -> bool {
        self.spare.is_some()
            && !self.must_settle()
            && !self.parts.shutdown.is_cancelled()
            && self.consumer.waiting().any(|(_, count)| count > 0)
    }

    /// Whether the work between two batches needs the commit of the previous batch: a rebalance is to be served, or
    /// partitions are paused and will continue at their committed offsets.
    pub(super) fn must_settle(&self) -> bool {
        let state = &self.state;
        self.consumer.waiting_events() > 0
            || state.rebalances != Some(self.consumer.rebalances())
            || !state.paused.is_empty()
            || !state.unpaired.is_empty()
    }

    fn commit_in_background(&mut self, started: Instant) {
        let call = self.producer.begin_commit(self.time_left());
        let open = std::mem::replace(&mut self.open, self.reusable.take().unwrap_or_default());
        self.committing = Some(Committing { open, started, call });
        self.alternate();
    }

    /// Waits until the batch that is being committed in the background is committed, if there is one. A failure counts
    /// against that batch.
    pub(super) fn settle(&mut self) -> Result<(), SessionError> {
        self.end_background_commit().inspect_err(|error| self.note_failure(error))
    }

    /// Waits for the commit in the background, if there is one. If it fails, its batch is the open batch again.
    fn end_background_commit(&mut self) -> Result<(), SessionError> {
        let Some(Committing { open, started, call }) = self.committing.take() else { return Ok(()) };
        let failure = match call.wait(|| self.time_to_stop().is_zero()) {
            Some((Ok(()), ended)) => {
                self.reusable = Some(self.committed(open, started, ended));
                return Ok(());
            }
            Some((Err(error), _)) => SessionError::Commit(error),
            None => SessionError::CommitUnanswered,
        };
        self.open = open;
        Err(failure)
    }

    /// Records that a batch was committed, and returns it for another use.
    fn committed(&mut self, mut open: OpenBatch, started: Instant, ended: Instant) -> OpenBatch {
        let took = ended - started;
        self.pace.committed(took, ended);
        self.observe(&open.batch, took, ended);
        self.state.has_failed = false;
        self.report_well();
        let OpenBatch { batch, tally, opened, .. } = &mut open;
        for (partition, next) in batch.positions() {
            self.state.status.progress().committed(*partition, *next);
        }
        self.pipeline.metrics.records.inc_by(batch.records as u64);
        for (topic, count) in self.pipeline.outputs.iter().zip(batch.forwarded()) {
            self.pipeline.metrics.forwarded(topic, *count);
        }
        for (reason, count) in batch.passed() {
            self.pipeline.metrics.passed(reason, count);
        }
        self.state.failures = 0;
        let batch_took = opened.map_or(took, |opened| ended.saturating_duration_since(opened));
        self.state.limit.committed(batch.records, batch_took, self.allowed());
        self.state.rejections.committed(batch.positions());
        tally.commit(self.pipeline.path(), &self.parts.metrics, &self.parts.usage);
        for code in batch.dead_letters.drain(..) {
            self.parts.metrics.dead_letters.get_or_create(&CodeLabels { code: code.as_str() }).inc();
        }
        open
    }

    fn observe(&self, batch: &Batch, commit: Duration, ended: Instant) {
        let metrics = &self.pipeline.metrics;
        metrics.batch_ended("committed");
        metrics.commit.observe(commit);
        metrics.batch.observe(ended.saturating_duration_since(batch.opened));
        metrics.record.observe(batch.busy / u32::try_from(batch.records).unwrap_or(u32::MAX).max(1));
        let now_ms = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or_default();
        metrics.latency.observe(Duration::from_millis(now_ms.saturating_sub(batch.oldest_ms)));
    }

    fn offsets(&self) -> KafkaResult<TopicPartitionList> {
        let (topic, positions) = (&self.pipeline.source, self.open.batch.positions());
        let mut offsets = TopicPartitionList::with_capacity(positions.len());
        for (partition, next) in positions {
            offsets.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
        }
        Ok(offsets)
    }
}
