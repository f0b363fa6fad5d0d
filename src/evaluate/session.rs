//! A session: one producer's life. Batches are opened, filled and committed here, by one function each.

mod assignment;

use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::DeliveryMode;
use crate::kafka::consumer::BatchConsumer;
use crate::kafka::producer::{Failure, ReportingProducer, is_of_connection, is_refusal, is_topic_refusal};
use crate::message::request::RefusalCode;
use crate::metrics::{BatchLabels, CodeLabels};

use super::Parts;
use super::answer::{Respond, Responded};
use super::batch::{Batch, Sent};
use super::error::SessionError;
use super::outbox::Outbox;
use super::pace::Pace;
use super::reply_topics::ReplyTopics;
use super::tally::Tally;
use super::worker::Memory;

/// Most records out of one fetch.
pub const FETCH_RECORDS: usize = 2_048;
/// How long an idle worker waits for records before it looks for rebalances and shutdown.
const IDLE: Duration = Duration::from_millis(50);
/// How long the broker may take for one step of a transaction.
pub(super) const STEP: Duration = Duration::from_secs(10);
/// Most records in a batch of a careful session.
const CAREFUL_RECORDS: usize = 256;

/// Why a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything taken is committed, nothing is open.
    Shutdown,
    /// What the broker refused is committed as dead letters; a normal session may follow.
    Recovered,
}

/// Attempts in a row after which a batch's replies are taken for the reason.
const SUSPECTED_AFTER_FAILURES: u32 = 3;

/// A producer at work, with the consumer whose records it answers.
#[derive(Debug)]
pub struct Session<'s> {
    parts: &'s Parts,
    consumer: &'s mut BatchConsumer,
    producer: &'s ReportingProducer,
    memory: &'s mut Memory,
    reply_topics: ReplyTopics,
    batch: Batch,
    tally: Tally,
    pace: Pace,
    /// The requests topic, as librdkafka wants it.
    requests: CString,
    positions_reported: Instant,
    /// Health was told that this session works.
    well: bool,
    /// What at-least-once committed last, without waiting for the answer.
    unconfirmed: Option<TopicPartitionList>,
}

impl<'s> Session<'s> {
    pub fn new(
        parts: &'s Parts,
        consumer: &'s mut BatchConsumer,
        producer: &'s ReportingProducer,
        memory: &'s mut Memory,
    ) -> Self {
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
        let prefixes = parts.config.reply.allowed_prefixes.clone();
        let reply_topics = ReplyTopics::new(prefixes, own, Arc::new(consumer.topic_exists()));
        let pace = Pace::new(parts.config.delivery.batch_max);
        Self {
            parts,
            consumer,
            producer,
            memory,
            reply_topics,
            batch: Batch::default(),
            tally: Tally::default(),
            pace,
            requests: CString::new(topics.requests.as_str()).unwrap_or_default(),
            positions_reported: Instant::now(),
            well: false,
            unconfirmed: None,
        }
    }

    /// Opens, fills and commits batches until shutdown.
    pub fn run(mut self, responder: &mut impl Respond) -> Result<Ended, SessionError> {
        while !self.parts.shutdown.is_cancelled() {
            // Rebalances are served here only, so no batch is ever open when partitions change hands.
            self.consumer.serve().map_err(SessionError::Consumer)?;
            self.follow_assignment()?;
            self.memory.holds.release(self.consumer, &self.parts.config.topics.requests)?;
            if self.fill(responder)? {
                self.commit()?;
                if std::mem::take(&mut self.memory.careful) {
                    return Ok(Ended::Recovered);
                }
            }
            self.report_positions();
        }
        self.leave();
        Ok(Ended::Shutdown)
    }

    /// Takes records until the batch is full or its time is up. `false` if there were none.
    fn fill(&mut self, responder: &mut impl Respond) -> Result<bool, SessionError> {
        self.batch.clear();
        self.tally.clear();
        let mut patience = IDLE;
        let mut deadline = None;
        while !self.is_full() {
            let fetched = self.consumer.fetch(patience);
            self.pace.fetched(fetched.len(), FETCH_RECORDS);
            if fetched.is_empty() && deadline.is_none() {
                return Ok(false);
            }
            let deadline = match deadline {
                Some(deadline) => deadline,
                None => {
                    begin(self.producer, self.parts.config.delivery.mode)?;
                    *deadline.insert(self.pace.deadline(Instant::now()))
                }
            };
            let (busy, mut waited) = (Instant::now(), Duration::ZERO);
            responder.begin();
            let mut outbox = Outbox {
                topics: &self.parts.config.topics,
                producer: self.producer,
                batch: &mut self.batch,
                tally: &mut self.tally,
                amendments: &self.memory.amendments,
                reply_topics: &mut self.reply_topics,
                metrics: &self.parts.metrics,
            };
            for record in fetched.records() {
                let place = super::outbox::place(&record);
                if self.memory.holds.has(place) {
                    continue;
                }
                match responder.respond(&record, &mut outbox).map_err(SessionError::Producer)? {
                    Responded::Done => outbox.batch.advance(place, record.timestamp_ms()),
                    Responded::HeldUp(why) => self.memory.holds.hold(place, why),
                }
                if outbox.batch.is_round_full() {
                    // What was not delivered, or not in time, is told at the end.
                    let full = Instant::now();
                    self.producer.drain(STEP);
                    outbox.batch.flushed();
                    waited += full.elapsed();
                }
            }
            drop(fetched);
            self.batch.busy += busy.elapsed().saturating_sub(waited);
            self.hold()?;
            patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() || self.parts.shutdown.is_cancelled() {
                break;
            }
        }
        if self.batch.records == 0 && deadline.is_some() {
            self.commit_nothing()?;
        }
        Ok(self.batch.records > 0)
    }

    /// What was held up while this was filled waits from now on.
    fn hold(&mut self) -> Result<(), SessionError> {
        let topic = &self.parts.config.topics.requests;
        self.memory.holds.pause(self.consumer, topic).map_err(SessionError::Consumer)?;
        if let Some(why) = &self.memory.holds.why {
            self.memory.standing.degraded(format!("partitions wait: {why}"));
            self.well = false;
        }
        Ok(())
    }

    /// Everything that came waits.
    fn commit_nothing(&self) -> Result<(), SessionError> {
        match self.parts.config.delivery.mode {
            DeliveryMode::Transactional => {
                self.producer.inner().commit_transaction(STEP).map_err(SessionError::Commit)
            }
            DeliveryMode::AtLeastOnce => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        let delivery = &self.parts.config.delivery;
        let records = if self.memory.careful { CAREFUL_RECORDS } else { delivery.batch_max_messages };
        self.batch.records >= records || self.batch.bytes >= delivery.batch_max_bytes
    }

    /// The one place where a batch ends: all of it, or nothing.
    fn commit(&mut self) -> Result<(), SessionError> {
        let started = Instant::now();
        let offsets = self.offsets().map_err(SessionError::Commit)?;
        match self.parts.config.delivery.mode {
            DeliveryMode::Transactional => {
                let producer = self.producer.inner();
                let Some(group) = self.consumer.inner().group_metadata() else {
                    return Err(SessionError::Consumer(KafkaError::ConsumerCommit(RDKafkaErrorCode::State)));
                };
                // Before the drain, so that the two round trips overlap.
                let sent = producer.send_offsets_to_transaction(&offsets, &group, STEP);
                // A refused record ends the transaction, which then takes no offsets: the record is the reason
                // to be remembered, so it is looked for first.
                self.drain()?;
                sent.map_err(SessionError::Commit)?;
                producer.commit_transaction(STEP).map_err(SessionError::Commit)?;
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
        self.memory.has_failed = false;
        self.reports_well();
        for (partition, next) in self.batch.positions() {
            self.memory.standing.progress().committed(*partition, *next);
        }
        self.parts.metrics.requests.inc_by(self.batch.records as u64);
        self.memory.failures = 0;
        self.memory.amendments.committed(self.batch.positions());
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

    /// Waits for every acknowledgement; what was refused is remembered for the next attempt.
    fn drain(&mut self) -> Result<(), SessionError> {
        let acknowledged = self.producer.drain(STEP);
        let failures = self.producer.take_failures();
        if let Some(refused) = failures.iter().find(|failure| is_refusal(failure.code)) {
            self.amend(&failures);
            return Err(SessionError::Refused { count: failures.len(), first: refused.code });
        }
        self.drop_refused_replies(&failures, acknowledged);
        match failures.first() {
            Some(first) => Err(SessionError::Undelivered { count: failures.len(), first: first.code }),
            None if !acknowledged => Err(SessionError::Unacknowledged),
            None => Ok(()),
        }
    }

    /// A broker refuses a whole request of records for the sake of one, so the first refusal only makes the
    /// next session careful: one record per request. Then each refusal is the record's own.
    fn amend(&mut self, failures: &[Failure]) {
        if !std::mem::replace(&mut self.memory.careful, true) {
            return;
        }
        for failure in failures.iter().filter(|failure| is_refusal(failure.code)) {
            let Some((place, sent)) = self.batch.by_ticket(failure.ticket) else {
                continue;
            };
            match sent {
                Sent::Event { index, bytes } => {
                    let too_large = failure.code == RDKafkaErrorCode::MessageSizeTooLarge;
                    let code = if too_large { RefusalCode::TooLarge } else { RefusalCode::Refused };
                    if too_large {
                        self.memory.amendments.learn_refused_size(bytes);
                    }
                    self.memory.amendments.refuse_event(place, index, code);
                }
                Sent::DeadLetter => self.memory.amendments.omit_body(place),
                Sent::Reply { .. } => self.memory.amendments.drop_reply(place),
            }
        }
    }

    /// A reply that cannot be delivered costs the reply, not the batch: the next attempt leaves it out. Without
    /// a failure of its own (a transaction may refuse the topic as a whole) that takes some attempts, since a broker that
    /// has just come back, or a rebalance, makes batches fail too. While results time out beside it, it is the connection.
    fn drop_refused_replies(&mut self, failures: &[Failure], acknowledged: bool) {
        let is_reply =
            |failure: &Failure| matches!(self.batch.by_ticket(failure.ticket), Some((_, Sent::Reply { .. })));
        let is_away = failures.iter().any(|failure| is_of_connection(failure.code) && !is_reply(failure));
        let suspected = !is_away && self.memory.failures >= SUSPECTED_AFTER_FAILURES;
        let mut topics: Vec<usize> = Vec::new();
        for failure in failures {
            if let Some((place, Sent::Reply { topic })) = self.batch.by_ticket(failure.ticket)
                && (is_topic_refusal(failure.code) || suspected)
            {
                self.memory.amendments.drop_reply(place);
                topics.push(topic);
            }
        }
        let stuck = !acknowledged && suspected;
        let suspects = self.batch.reply_topics().iter().enumerate();
        for (_, topic) in suspects.filter(|(index, _)| stuck || topics.contains(index)) {
            self.reply_topics.ban(topic);
        }
    }

    /// At-least-once commits without waiting, but not the last time. The member stays in the group, so that
    /// its restart does not cost a rebalance.
    fn leave(&mut self) {
        let Some(offsets) = self.unconfirmed.take() else { return };
        if let Err(error) = self.consumer.commit_last(offsets) {
            tracing::warn!(%error, "last commit not confirmed; what it covered may be answered again");
        }
    }
}

fn begin(producer: &ReportingProducer, mode: DeliveryMode) -> Result<(), SessionError> {
    match mode {
        DeliveryMode::Transactional => producer.inner().begin_transaction().map_err(SessionError::Producer),
        DeliveryMode::AtLeastOnce => Ok(()),
    }
}
