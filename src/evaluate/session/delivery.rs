//! Delivery results: how long a batch waits for them, and how failures are handled.

use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::DeliveryMode;
use crate::evaluate::batch::{Sent, SourceOffset};
use crate::evaluate::clients::in_slices;
use crate::evaluate::error::SessionError;
use crate::kafka::producer::{Failure, is_of_connection, is_refusal, is_topic_refusal};
use crate::log_limit::limited;
use crate::message::request::RefusalCode;

use super::{STEP_TIMEOUT, Session};

/// Number of consecutive failures after which a batch's replies are suspected as the cause.
const SUSPECTED_AFTER_FAILURES: u32 = 3;
/// Minimum timeout of each step of a batch, even if the batch is late.
const MIN_STEP_TIMEOUT: Duration = Duration::from_millis(200);
/// Maximum time for an open batch to end after a shutdown request.
const STOP_TIMEOUT: Duration = Duration::from_millis(3_500);

impl Session<'_> {
    /// How long a batch may take, from its start to its commit.
    pub(super) fn allowed(&self) -> Duration {
        super::allowed(self.parts)
    }

    /// Timeout of the next step of the open batch.
    pub(super) fn time_left(&mut self) -> Duration {
        let begun = self.open.opened.unwrap_or_else(Instant::now);
        let left = match self.parts.config.delivery.mode {
            // After this time the broker has aborted the transaction.
            DeliveryMode::Transactional => self.allowed().saturating_sub(begun.elapsed()).min(STEP_TIMEOUT),
            DeliveryMode::AtLeastOnce => STEP_TIMEOUT,
        };
        left.min(self.time_to_stop()).max(MIN_STEP_TIMEOUT)
    }

    /// Remaining time until the process must have stopped; [`Duration::MAX`] before a shutdown request.
    pub(super) fn time_to_stop(&mut self) -> Duration {
        if !self.parts.shutdown.is_cancelled() {
            return Duration::MAX;
        }
        let since = *self.stopping.get_or_insert_with(Instant::now);
        STOP_TIMEOUT.saturating_sub(since.elapsed())
    }

    /// Commits the transaction on this thread, when nothing can be done meanwhile. A commit in the background needs a
    /// thread of its own.
    pub(super) fn commit_transaction(&mut self) -> Result<(), SessionError> {
        let deadline = Instant::now() + self.time_left();
        let producer = self.producer.inner();
        let committed = in_slices(
            |slice| producer.commit_transaction(slice.max(MIN_STEP_TIMEOUT)),
            || deadline.saturating_duration_since(Instant::now()).min(self.time_to_stop()),
        );
        committed.map_err(SessionError::Commit)
    }

    /// Waits for all acknowledgements and records rejections for the next attempt.
    pub(super) fn drain(&mut self) -> Result<(), SessionError> {
        let acknowledged = match self.parts.config.delivery.mode {
            DeliveryMode::Transactional => {
                let deadline = Instant::now() + self.time_left();
                let producer = self.producer;
                producer.drain_until(|_| Instant::now() > deadline || self.time_to_stop().is_zero())
            }
            DeliveryMode::AtLeastOnce => self.drain_while_acknowledged(),
        };
        let failures = self.producer.take_failures();
        let open = failures.len() + self.producer.in_flight();
        self.open.acknowledged = self.open.batch.sent_count().saturating_sub(open);
        if self.parts.config.delivery.mode == DeliveryMode::AtLeastOnce
            && (!acknowledged || !failures.is_empty())
        {
            self.commit_acknowledged(&failures);
        }
        if let Some(refused) = failures.iter().find(|failure| is_refusal(failure.code)) {
            self.amend(&failures);
            return Err(SessionError::Refused { count: failures.len(), first: refused.code });
        }
        self.drop_refused_replies(&failures, acknowledged);
        match failures.first() {
            _ if !acknowledged => Err(SessionError::Unacknowledged),
            Some(first) => Err(SessionError::Undelivered { count: failures.len(), first: first.code }),
            None => Ok(()),
        }
    }

    /// Waits as long as acknowledgements arrive. Results without one would be sent again. `false` after a timeout.
    fn drain_while_acknowledged(&mut self) -> bool {
        let (mut fewest, mut since) = (i32::MAX, Instant::now());
        let producer = self.producer;
        producer.drain_until(|in_flight| {
            if in_flight < fewest {
                (fewest, since) = (in_flight, Instant::now());
            }
            since.elapsed() > STEP_TIMEOUT || self.time_to_stop().is_zero()
        })
    }

    /// Abandons unacknowledged results, and commits each partition up to its first record with a failed or abandoned
    /// result, so that the acknowledged records before it are not answered twice.
    fn commit_acknowledged(&mut self, failures: &[Failure]) {
        let all_told = self.producer.give_up();
        let given_up = self.producer.take_failures();
        if !all_told {
            return;
        }
        let topic = &self.pipeline.source;
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in self.open.batch.positions() {
            let failed = failures
                .iter()
                .chain(&given_up)
                .filter_map(|failure| self.open.batch.by_delivery_id(failure.delivery_id));
            let failed = failed.filter(|(place, _)| place.partition == *partition);
            let next = failed.map(|(place, _)| place.offset).fold(*next, i64::min);
            if offsets.add_partition_offset(topic, *partition, Offset::Offset(next)).is_err() {
                return;
            }
        }
        match self.consumer.commit_last(offsets) {
            Ok(()) => self.unconfirmed = None,
            Err(error) => {
                limited!(
                    warn,
                    %error,
                    "the offsets of acknowledged results could not be committed; the results may be sent \
                     again",
                )
            }
        }
    }

    /// Records which results were rejected. A broker rejects a whole produce request because of one record, so the
    /// first rejection only makes the next session send one record per request. After that each rejection applies to
    /// exactly one record.
    fn amend(&mut self, failures: &[Failure]) {
        if !std::mem::replace(&mut self.state.isolate_records, true) {
            return;
        }
        for failure in failures.iter().filter(|failure| is_refusal(failure.code)) {
            let Some((place, sent)) = self.open.batch.by_delivery_id(failure.delivery_id) else {
                continue;
            };
            match sent {
                Sent::Event { index, bytes } => {
                    let too_large = failure.code == RDKafkaErrorCode::MessageSizeTooLarge;
                    let code = if too_large { RefusalCode::TooLarge } else { RefusalCode::Refused };
                    if too_large {
                        self.state.rejections.learn_refused_size(self.pipeline.events_lane(), bytes);
                    }
                    self.state.rejections.refuse_event(place, index, code);
                }
                Sent::BulkEvent { bytes } => {
                    if failure.code == RDKafkaErrorCode::MessageSizeTooLarge {
                        self.state.rejections.learn_refused_size(self.pipeline.events_lane(), bytes);
                    }
                    self.state.rejections.split(place);
                }
                Sent::Forwarded { output, bytes } => {
                    let too_large = failure.code == RDKafkaErrorCode::MessageSizeTooLarge;
                    let code = if too_large { RefusalCode::TooLarge } else { RefusalCode::Refused };
                    if too_large {
                        self.state.rejections.learn_refused_size(output, bytes);
                    }
                    self.state.rejections.refuse_copy(place, output, code);
                }
                Sent::DeadLetter => self.state.rejections.shorten_dead_letter(place),
                Sent::Reply { .. } => self.state.rejections.drop_reply(place),
            }
        }
    }

    /// Excludes undeliverable replies from the next attempt, so that they do not fail the batch. If no reply has an
    /// error of its own (a transaction may reject the topic as a whole), replies are suspected only after several
    /// failures, because a rebalance or a broker that just restarted makes batches fail too. If other results time out
    /// as well, the connection is the cause.
    fn drop_refused_replies(&mut self, failures: &[Failure], acknowledged: bool) {
        let is_reply = |failure: &Failure| {
            matches!(self.open.batch.by_delivery_id(failure.delivery_id), Some((_, Sent::Reply { .. })))
        };
        let is_away = failures.iter().any(|failure| is_of_connection(failure.code) && !is_reply(failure));
        let suspected = !is_away && self.state.failures >= SUSPECTED_AFTER_FAILURES;
        let mut topics: Vec<usize> = Vec::new();
        for failure in failures {
            if let Some((place, Sent::Reply { topic })) = self.open.batch.by_delivery_id(failure.delivery_id)
                && (is_topic_refusal(failure.code) || suspected)
            {
                self.state.rejections.drop_reply(place);
                topics.push(topic);
            }
        }
        let stuck = !acknowledged && suspected;
        let suspects = self.open.batch.reply_topics().iter().enumerate();
        for (_, topic) in suspects.filter(|(index, _)| stuck || topics.contains(index)) {
            self.state.reply_topics.ban(topic);
        }
    }

    /// Reduces the size of the next batch. A record that repeatedly times out alone, while the broker acknowledges
    /// results, becomes a dead letter; if that cannot be committed either, the dead letter contains less of the record.
    pub(super) fn note_failure(&mut self, error: &SessionError) {
        if error.is_refusal() {
            return;
        }
        self.state.limit.failed(self.open.batch.records);
        let Some(place) = self.only_record().filter(|_| self.ran_out_of_time()) else { return };
        if self.state.rejections.is_unprocessable(place) {
            self.state.rejections.shorten_dead_letter(place);
        } else if self.state.limit.ran_out_of_time(place) {
            limited!(
                warn,
                partition = place.partition,
                offset = place.offset,
                results = self.open.batch.sent_count(),
                bytes = self.open.batch.bytes,
                "the results of a request cannot be committed in time; it is sent to the dead-letter topic",
            );
            self.state.rejections.give_up(place);
        }
    }

    /// The record of a batch with exactly one record.
    fn only_record(&self) -> Option<SourceOffset> {
        match self.open.batch.positions() {
            [(partition, next)] if self.open.batch.records == 1 => {
                Some(SourceOffset { partition: *partition, offset: next - 1 })
            }
            _ => None,
        }
    }

    /// Whether the transaction timed out although the broker was reachable, as its acknowledgements show.
    fn ran_out_of_time(&self) -> bool {
        let Some(begun) = self.open.opened else { return false };
        let is_late = begun.elapsed() + MIN_STEP_TIMEOUT >= self.allowed();
        let transactional = self.parts.config.delivery.mode == DeliveryMode::Transactional;
        transactional && is_late && !self.parts.shutdown.is_cancelled() && self.open.acknowledged > 0
    }
}
