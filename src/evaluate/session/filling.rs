//! Fills a batch: the partitions take turns until it is full or its time has passed.
//!
//! ```text
//!  waiting partitions ── fairness ──► turn: peek ─► respond ─► advance ──► next turn … ──► commit
//!                                       ▲                │
//!                                       └── the records that are left come next
//! ```

use std::time::{Duration, Instant};

use rdkafka::producer::Producer;

use crate::config::DeliveryMode;
use crate::evaluate::answer::{Respond, Responded};
use crate::evaluate::batch::Batch;
use crate::evaluate::batch_sender::{BatchSender, place};
use crate::evaluate::error::SessionError;
use crate::evaluate::fairness::TURN_WORK;
use crate::evaluate::headers::wanted_reply;
use crate::kafka::partition_consumer::TAKEN_RECORDS;
use crate::kafka::producer::TrackedProducer;

use super::Session;
use super::commit::OpenBatch;

/// How long an idle worker waits for records before it checks for rebalances and shutdown.
const IDLE: Duration = Duration::from_millis(50);
/// Maximum number of records in a batch that isolates rejected records.
const ISOLATED_RECORDS: usize = 256;
/// Maximum number of results in a batch that isolates rejected records.
const CAREFUL_RESULTS: usize = 1_000;

/// Limits at which the filling of a batch ends.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    records: usize,
    results: usize,
    bytes: usize,
}

impl Session<'_> {
    /// Processes records until the batch is full or its time has passed. `false` if the batch has no records.
    pub(super) fn fill(&mut self, responder: &mut impl Respond) -> Result<bool, SessionError> {
        self.open.clear();
        self.state.fairness.begin_batch();
        self.find_broker();
        let bounds = self.bounds();
        let idle_until = Instant::now() + IDLE;
        loop {
            let has_processed = self.round(responder, bounds)?;
            self.hold()?;
            let until = self.open.opened.map_or(idle_until, |opened| self.pace.deadline(opened));
            if bounds.are_reached(&self.open.batch) || Instant::now() >= until || self.is_stopping() {
                break;
            }
            if !has_processed {
                self.wait(until);
            }
        }
        if self.open.batch.records == 0 && self.open.opened.is_some() {
            self.commit_nothing()?;
        }
        Ok(self.open.batch.records > 0)
    }

    /// Gives a turn to each partition that has waiting records and may take one. Returns whether a record was processed.
    fn round(&mut self, responder: &mut impl Respond, bounds: Bounds) -> Result<bool, SessionError> {
        let now = Instant::now();
        self.state.reply_topics.update(&mut self.questions, now);
        let state = &mut *self.state;
        state.fairness.begin_round(self.consumer.waiting().filter(|(partition, count)| {
            let is_paused = state.paused.has_partition(*partition) || state.unpaired.has(*partition);
            *count > 0 && !is_paused && !state.reply_topics.is_waiting(*partition, now)
        }));
        self.pace.backlog(state.fairness.has_only_backlogs());
        let before = self.open.batch.records;
        for number in 0.. {
            let Some(partition) = self.state.fairness.turn(number) else { break };
            if self.take_turn(partition, responder, bounds)? {
                break;
            }
            self.prepare(partition, responder, now);
        }
        Ok(self.open.batch.records > before)
    }

    /// Processes the next records of a partition, until its turn is over. Returns whether the batch is full or its time
    /// has passed.
    fn take_turn(
        &mut self,
        partition: i32,
        responder: &mut impl Respond,
        bounds: Bounds,
    ) -> Result<bool, SessionError> {
        let (begun, mut waited) = (Instant::now(), Duration::ZERO);
        let Self { parts, pipeline, consumer, producer, state, open, pace, .. } = self;
        let OpenBatch { batch, tally, opened, .. } = open;
        let (work, mut records, mut is_over) = (batch.work(), 0, false);
        let room = bounds.records.saturating_sub(batch.records);
        responder.begin(state.topic.as_ref().and_then(|topic| topic.id.as_ref()));
        for record in consumer.peek(partition, room).iter() {
            let reply_topic = wanted_reply(pipeline, &record);
            if reply_topic.is_some_and(|topic| state.reply_topics.must_wait(partition, topic, begun)) {
                break;
            }
            if opened.is_none() {
                begin(producer, parts.config.delivery.mode)?;
            }
            let until = pace.deadline(*opened.get_or_insert(begun));
            let mut sender = BatchSender {
                pipeline,
                producer,
                batch,
                tally,
                rejections: &state.rejections,
                reply_topics: &state.reply_topics,
                metrics: &parts.metrics,
            };
            match responder.respond(&record, &mut sender).map_err(SessionError::Producer)? {
                Responded::Done => batch.advance(place(&record), record.timestamp_ms()),
                Responded::Deferred { why, retry_after } => {
                    state.paused.hold(place(&record), why, retry_after);
                    break;
                }
            }
            records += 1;
            if batch.is_round_full() {
                // Failed and late deliveries are reported by the drain before the commit.
                let full = Instant::now();
                producer.drain_until(|_| Instant::now() > until || parts.shutdown.is_cancelled());
                batch.flushed();
                waited += full.elapsed();
            }
            is_over = bounds.are_reached(batch) || Instant::now() >= until || parts.shutdown.is_cancelled();
            if is_over || batch.work() - work >= TURN_WORK {
                break;
            }
        }
        consumer.advance(partition, records);
        batch.busy += begun.elapsed().saturating_sub(waited);
        state.fairness.charge(partition, records, batch.work() - work, consumer.waiting_in(partition));
        Ok(is_over)
    }

    /// Requests what the next records of a waiting partition need, all at once: schemas or reply topics.
    fn prepare(&mut self, partition: i32, responder: &mut impl Respond, now: Instant) {
        let is_paused = self.state.paused.has_partition(partition);
        if !is_paused && !self.state.reply_topics.is_waiting(partition, now) {
            return;
        }
        for record in self.consumer.peek(partition, TAKEN_RECORDS).iter().skip(1) {
            if is_paused {
                responder.prepare(&record);
            } else if let Some(topic) = wanted_reply(self.pipeline, &record) {
                self.state.reply_topics.note(topic, now);
            }
        }
    }

    /// Waits for records or for the answer to a lookup.
    fn wait(&mut self, until: Instant) {
        if self.open.opened.is_none() {
            self.find_broker();
        }
        let now = Instant::now();
        let timeout = self.state.reply_topics.next_timeout(now);
        let until = timeout.map_or(until, |timeout| timeout.min(until));
        self.consumer.wait(until.saturating_duration_since(now));
    }

    /// Finds the broker that looks up reply topics, if there are any to look up. No batch may be open, because this can
    /// block.
    fn find_broker(&mut self) {
        if self.state.reply_topics.has_wanted() {
            self.questions.find_broker();
        }
    }

    /// Pauses the partitions whose next record could not be decoded while this batch was filled.
    fn hold(&mut self) -> Result<(), SessionError> {
        let topic = &self.pipeline.source;
        self.state.paused.pause(self.consumer, topic).map_err(SessionError::Consumer)?;
        if let Some(why) = &self.state.paused.why {
            self.state.status.degraded(format!("partitions are paused: {why}"));
            self.well = false;
        }
        Ok(())
    }

    /// Ends the open transaction when every record was deferred.
    fn commit_nothing(&mut self) -> Result<(), SessionError> {
        match self.parts.config.delivery.mode {
            DeliveryMode::Transactional => self.commit_transaction(),
            DeliveryMode::AtLeastOnce => Ok(()),
        }
    }

    fn is_stopping(&self) -> bool {
        self.parts.shutdown.is_cancelled()
    }

    fn bounds(&self) -> Bounds {
        let delivery = &self.parts.config.delivery;
        let (records, results) = match self.state.isolate_records {
            true => (ISOLATED_RECORDS, CAREFUL_RESULTS),
            false => (delivery.batch_max_messages, usize::MAX),
        };
        Bounds { records: self.state.limit.records(records), results, bytes: delivery.batch_max_bytes }
    }
}

fn begin(producer: &TrackedProducer, mode: DeliveryMode) -> Result<(), SessionError> {
    match mode {
        DeliveryMode::Transactional => producer.inner().begin_transaction().map_err(SessionError::Producer),
        DeliveryMode::AtLeastOnce => Ok(()),
    }
}

impl Bounds {
    fn are_reached(&self, batch: &Batch) -> bool {
        batch.records >= self.records || batch.sent_count() >= self.results || batch.bytes >= self.bytes
    }
}
