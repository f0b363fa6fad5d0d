//! A session: the lifetime of one producer. Batches are opened, filled and committed here, by one function each.

mod assignment;
mod delivery;
pub(super) mod pairing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::DeliveryMode;
use crate::kafka::consumer::BatchConsumer;
use crate::kafka::exists::TopicQuestions;
use crate::kafka::producer::TrackedProducer;
use crate::metrics::{BatchLabels, CodeLabels};

use super::Parts;
use super::answer::{Respond, Responded};
use super::batch::Batch;
use super::batch_sender::{BatchSender, place};
use super::clients;
use super::error::SessionError;
use super::headers::wanted_reply;
use super::pace::Pace;
use super::tally::Tally;
use super::worker::WorkerState;

/// Size of the consumer's fetch queue. If this many records wait, there is a backlog.
pub const FETCH_RECORDS: usize = 2_048;
/// Maximum number of records taken at once. Records that do not fit into the batch are fetched again.
const CHUNK_RECORDS: usize = 64;
/// How long an idle worker waits for records before it checks for rebalances and shutdown.
const IDLE: Duration = Duration::from_millis(50);
/// Timeout of one step of a transaction.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of records in a batch that isolates rejected records.
const ISOLATED_RECORDS: usize = 256;
/// Maximum number of results in a batch that isolates rejected records.
const CAREFUL_RESULTS: usize = 1_000;
/// A batch ends in the middle of a fetch when it exceeds its size limit by a quarter, or by [`MIN_SLACK_BYTES`] if that
/// is more.
const SLACK_SHARE: usize = 4;
/// Lower bound of the excess over the batch's size limit that ends a batch in the middle of a fetch.
const MIN_SLACK_BYTES: usize = 1 << 20;
/// A batch may be filled for a quarter of its transaction timeout even if its regular time is shorter.
const FILL_SHARE: u32 = 4;

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
    consumer: &'s mut BatchConsumer,
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
    /// Start of the open batch, and the time until which it is filled.
    opened: Option<(Instant, Instant)>,
    /// Number of the batch's results that were acknowledged at the last drain.
    acknowledged: usize,
    /// Time at which the shutdown was noticed.
    stopping: Option<Instant>,
}

/// Limits at which the filling of a batch ends in the middle of a fetch.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    bytes: usize,
    results: usize,
    until: Instant,
}

impl<'s> Session<'s> {
    pub fn new(
        parts: &'s Parts,
        consumer: &'s mut BatchConsumer,
        producer: &'s TrackedProducer,
        state: &'s mut WorkerState,
    ) -> Self {
        let pace = Pace::new(parts.config.delivery.batch_max);
        let questions = consumer.topic_questions(&parts.config.topics.requests);
        Self {
            parts,
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
            self.confirm_topic()?;
            if !self.follow_assignment()? {
                continue;
            }
            self.follow_pairs()?;
            self.state.paused.release(self.consumer, &self.parts.config.topics.requests)?;
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

    /// Processes records until the batch is full or its time has passed. `false` if the batch has no records.
    fn fill(&mut self, responder: &mut impl Respond) -> Result<bool, SessionError> {
        self.batch.clear();
        self.tally.clear();
        self.opened = None;
        self.acknowledged = 0;
        let mut patience = IDLE;
        while let Some(room) = self.room() {
            let is_over = self.take(responder, patience, room)?;
            let Some((_, until)) = self.opened else { return Ok(false) };
            self.hold()?;
            patience = until.saturating_duration_since(Instant::now());
            if is_over || patience.is_zero() || self.parts.shutdown.is_cancelled() {
                break;
            }
        }
        if self.batch.records == 0 && self.opened.is_some() {
            self.commit_nothing()?;
        }
        Ok(self.batch.records > 0)
    }

    /// Processes one fetch of at most `room` records. `true` if the batch exceeds its limits; the rest of the fetch is
    /// then fetched again.
    fn take(
        &mut self,
        responder: &mut impl Respond,
        patience: Duration,
        room: usize,
    ) -> Result<bool, SessionError> {
        self.pace.fetched(self.consumer.waiting(), FETCH_RECORDS);
        let fetched = self.consumer.fetch_at_most(patience, room);
        if fetched.is_empty() && self.opened.is_none() {
            return Ok(false);
        }
        let (begun, until) = match self.opened {
            Some(opened) => opened,
            None => {
                begin(self.producer, self.parts.config.delivery.mode)?;
                let now = Instant::now();
                *self.opened.insert((now, self.pace.deadline(now)))
            }
        };
        let bounds = Bounds::of(self.parts, self.state.isolate_records, begun, until);
        let (busy, mut waited) = (Instant::now(), Duration::ZERO);
        responder.begin(self.state.topic.as_ref().and_then(|topic| topic.id.as_ref()));
        let wanted = fetched.records().filter_map(|record| wanted_reply(&record));
        self.state.reply_topics.look_up(wanted, &mut self.questions);
        let mut sender = BatchSender {
            topics: &self.parts.config.topics,
            producer: self.producer,
            batch: &mut self.batch,
            tally: &mut self.tally,
            rejections: &self.state.rejections,
            reply_topics: &self.state.reply_topics,
            metrics: &self.parts.metrics,
        };
        let (mut is_over, mut left) = (false, Vec::new());
        for record in fetched.records() {
            let place = place(&record);
            if self.state.paused.has(place) {
                responder.prepare(&record);
                continue;
            }
            if is_over {
                leave(&mut left, place);
                continue;
            }
            match responder.respond(&record, &mut sender).map_err(SessionError::Producer)? {
                Responded::Done => sender.batch.advance(place, record.timestamp_ms()),
                Responded::Deferred { why, retry_after } => self.state.paused.hold(place, why, retry_after),
            }
            if sender.batch.is_round_full() {
                // Failed and late deliveries are reported by the drain before the commit.
                let full = Instant::now();
                self.producer
                    .drain_until(|_| Instant::now() > bounds.until || self.parts.shutdown.is_cancelled());
                sender.batch.flushed();
                waited += full.elapsed();
            }
            is_over = bounds.are_passed(sender.batch) || self.parts.shutdown.is_cancelled();
        }
        drop(fetched);
        self.batch.busy += busy.elapsed().saturating_sub(waited);
        self.seek_back(&left)?;
        Ok(is_over)
    }

    /// Seeks back to the first unprocessed record of each partition.
    fn seek_back(&self, left: &[(i32, i64)]) -> Result<(), SessionError> {
        let topic = &self.parts.config.topics.requests;
        let mut targets = TopicPartitionList::with_capacity(left.len());
        for (partition, offset) in left {
            targets
                .add_partition_offset(topic, *partition, Offset::Offset(*offset))
                .map_err(SessionError::Consumer)?;
        }
        clients::seek(self.consumer, targets)
    }

    /// Pauses the partitions whose next record could not be decoded while this batch was filled.
    fn hold(&mut self) -> Result<(), SessionError> {
        let topic = &self.parts.config.topics.requests;
        self.state.paused.pause(self.consumer, topic).map_err(SessionError::Consumer)?;
        if let Some(why) = &self.state.paused.why {
            self.state.status.degraded(format!("partitions are paused: {why}"));
            self.well = false;
        }
        Ok(())
    }

    /// Ends the open transaction when every fetched record was deferred.
    fn commit_nothing(&mut self) -> Result<(), SessionError> {
        match self.parts.config.delivery.mode {
            DeliveryMode::Transactional => self.commit_transaction(),
            DeliveryMode::AtLeastOnce => Ok(()),
        }
    }

    /// Maximum number of records in the next fetch; `None` if the batch is full.
    fn room(&self) -> Option<usize> {
        let delivery = &self.parts.config.delivery;
        let isolate_records = self.state.isolate_records;
        let most = if isolate_records { ISOLATED_RECORDS } else { delivery.batch_max_messages };
        let most = self.state.limit.records(most);
        let is_full = self.batch.bytes >= delivery.batch_max_bytes
            || (isolate_records && self.batch.sent_count() >= CAREFUL_RESULTS);
        let room = most.saturating_sub(self.batch.records).min(CHUNK_RECORDS);
        (room > 0 && !is_full).then_some(room)
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
                self.drain()?;
                sent.ok_or(SessionError::OffsetsUnanswered)?.map_err(SessionError::Commit)?;
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
        self.parts.metrics.requests.inc_by(self.batch.records as u64);
        self.state.failures = 0;
        let batch_took = self.opened.map_or(took, |(begun, _)| begun.elapsed());
        self.state.limit.committed(self.batch.records, batch_took, self.allowed());
        self.state.rejections.committed(self.batch.positions());
        self.tally.commit(&self.parts.metrics, &self.parts.usage);
        for code in self.batch.dead_letters.drain(..) {
            self.parts.metrics.dead_letters.get_or_create(&CodeLabels { code: code.as_str() }).inc();
        }
    }

    fn observe(&mut self, commit: Duration) {
        let metrics = &self.parts.metrics.evaluate;
        metrics.batches.get_or_create(&BatchLabels { outcome: "committed" }).inc();
        metrics.commit.observe(commit);
        metrics.batch.observe(self.batch.opened.elapsed());
        metrics
            .evaluation
            .observe(self.batch.busy / u32::try_from(self.batch.records).unwrap_or(u32::MAX).max(1));
        let now_ms = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or_default();
        metrics.latency.observe(Duration::from_millis(now_ms.saturating_sub(self.batch.oldest_ms)));
    }

    fn offsets(&self) -> KafkaResult<TopicPartitionList> {
        let topic = &self.parts.config.topics.requests;
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

fn begin(producer: &TrackedProducer, mode: DeliveryMode) -> Result<(), SessionError> {
    match mode {
        DeliveryMode::Transactional => producer.inner().begin_transaction().map_err(SessionError::Producer),
        DeliveryMode::AtLeastOnce => Ok(()),
    }
}

impl Bounds {
    fn of(parts: &Parts, isolate_records: bool, begun: Instant, until: Instant) -> Self {
        let delivery = &parts.config.delivery;
        let slack = (delivery.batch_max_bytes / SLACK_SHARE).max(MIN_SLACK_BYTES);
        Self {
            bytes: delivery.batch_max_bytes + slack,
            results: if isolate_records { CAREFUL_RESULTS } else { usize::MAX },
            until: until.max(begun + allowed(parts) / FILL_SHARE),
        }
    }

    fn are_passed(&self, batch: &Batch) -> bool {
        batch.bytes >= self.bytes || batch.sent_count() >= self.results || Instant::now() >= self.until
    }
}

/// How long a batch may take, from its start to its commit.
fn allowed(parts: &Parts) -> Duration {
    match parts.config.delivery.mode {
        DeliveryMode::Transactional => parts.config.delivery.transaction_timeout,
        DeliveryMode::AtLeastOnce => STEP_TIMEOUT,
    }
}

/// Records the first unprocessed record of each partition.
fn leave(left: &mut Vec<(i32, i64)>, place: super::batch::SourceOffset) {
    if !left.iter().any(|(partition, _)| *partition == place.partition) {
        left.push((place.partition, place.offset));
    }
}
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
