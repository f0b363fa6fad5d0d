//! Dead-letter producer of one partition, and the offset up to which its dead letters are sent.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};

use crate::config::Config;
use crate::flag::definition::shorten;
use crate::kafka::client;
use crate::kafka::producer::{LINGER_MS, TrackedProducer, is_refusal};
use crate::message::dead_letter::DeadLetter;
use crate::message::sequence::HEADER;

use super::super::batch::Batch;
use super::super::position::Log;
use super::{DeadLetterError, Extent, PendingDeadLetter};

/// Timeout of each call to the broker. The database's locks are held meanwhile.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest reason, in bytes, in a dead letter that has neither body nor headers.
const MAX_REASON_BYTES: usize = 1_000;

/// Sends the dead letters of one partition.
#[derive(Debug)]
pub(super) struct DeadLetterProducer {
    partition: i32,
    /// Identifies the partition's log ([`life`]).
    pub(super) life: String,
    producer: TrackedProducer,
    dead_letters: String,
    group: Group,
    /// Offset behind the last record whose dead letter is committed.
    sent_to: i64,
}

/// Consumer group without members; only its committed offsets are used.
struct Group(Arc<ConsumerGroupMetadata>);

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl DeadLetterProducer {
    /// Fences the previous dead-letter producer of this partition, and reads up to which offset dead letters were sent.
    pub(super) fn open(
        config: &Config,
        log: &Log,
        partition: i32,
        life: String,
    ) -> Result<Self, DeadLetterError> {
        let name = format!("{}-sink-letters", config.kafka.group_id);
        let mut settings = client::base(&config.kafka, "sink-dead-letters");
        client::compress(&mut settings, &config.kafka)
            .set("transactional.id", format!("{name}-{}-{partition}", log.topic))
            .set("transaction.timeout.ms", "10000")
            .set("delivery.report.only.error", "true")
            .set("linger.ms", LINGER_MS)
            .set("message.max.bytes", "8388608");
        let producer = TrackedProducer::create(&settings, &config.topics.dead_letters)?;
        producer.inner().init_transactions(CALL_TIMEOUT)?;
        // The consumer is created after `init_transactions`, which ends an open transaction of a previous owner and so
        // settles its offsets.
        let mut settings = client::base(&config.kafka, "sink-dead-letters");
        settings
            .set("group.id", name)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed");
        let consumer: BaseConsumer = settings.create()?;
        let sent_to = sent_to(&consumer, log, partition, &life)?;
        let group = consumer.group_metadata().ok_or(DeadLetterError::Lost)?;
        let dead_letters = config.topics.dead_letters.clone();
        Ok(Self { partition, life, producer, dead_letters, group: Group(Arc::new(group)), sent_to })
    }

    /// Sends the dead letters that were not sent before and their offset in one transaction. After an error this
    /// producer must not be used again.
    pub(super) fn commit(
        &mut self,
        log: &Log,
        batch: &Batch,
        pending_dead_letters: &[PendingDeadLetter<'_>],
        extent: Extent,
    ) -> Result<(), DeadLetterError> {
        let unsent: Vec<_> =
            pending_dead_letters.iter().filter(|(entry, _)| entry.offset >= self.sent_to).collect();
        let Some((last, _)) = unsent.last() else {
            return Ok(());
        };
        let sent_to = last.offset + 1;
        let producer = self.producer.inner();
        producer.begin_transaction()?;
        for dead_letter in unsent {
            self.send(log, batch, dead_letter, extent)?;
        }
        let acknowledged = self.producer.drain(CALL_TIMEOUT);
        let failures = self.producer.take_failures();
        // A rejection of one record fails the others of the same request, so the rejection is reported as the reason.
        let refused = failures.iter().find(|failure| is_refusal(failure.code));
        if let Some(failure) = refused.or(failures.first()) {
            return Err(self.reason(failure.code, acknowledged));
        }
        if !acknowledged {
            return Err(DeadLetterError::Unacknowledged);
        }
        let mut offsets = TopicPartitionList::new();
        let mut element = offsets.add_partition(&log.topic, self.partition);
        element.set_offset(Offset::Offset(sent_to))?;
        element.set_metadata(&self.life);
        let group = Arc::clone(&self.group.0);
        let sent = self.producer.begin_send_offsets(offsets, group, CALL_TIMEOUT).wait(|| false);
        let (sent, _) = sent.ok_or(DeadLetterError::Unacknowledged)?;
        sent?;
        producer.commit_transaction(CALL_TIMEOUT)?;
        self.sent_to = sent_to;
        Ok(())
    }

    /// Reason why a dead letter was not delivered. When a transaction fails, librdkafka only purges its records; the
    /// reason, such as a missing permission, is in the error of the transaction, which a commit returns at once.
    /// `acknowledged`: every record has a delivery report, so none was purged here.
    fn reason(&self, code: RDKafkaErrorCode, acknowledged: bool) -> DeadLetterError {
        let is_purged = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        if !is_purged || !acknowledged {
            return DeadLetterError::Undelivered(code);
        }
        match self.producer.inner().commit_transaction(CALL_TIMEOUT) {
            Err(error) => DeadLetterError::Kafka(error),
            Ok(()) => DeadLetterError::Undelivered(code),
        }
    }

    fn send(
        &self,
        log: &Log,
        batch: &Batch,
        (entry, refusal): &PendingDeadLetter<'_>,
        extent: Extent,
    ) -> Result<(), KafkaError> {
        let coordinates_only = extent == Extent::CoordinatesOnly;
        let dead_letter = DeadLetter {
            code: refusal.code,
            message: if coordinates_only {
                shorten(&refusal.message, MAX_REASON_BYTES)
            } else {
                &refusal.message
            },
            topic: &log.topic,
            partition: entry.partition,
            offset: entry.offset,
            index: None,
            body_omitted: entry.body_omitted || extent != Extent::Whole,
        };
        let original = if coordinates_only { OwnedHeaders::new() } else { kept(&batch.headers(entry)) };
        let headers = dead_letter
            .headers()
            .into_iter()
            .fold(original, |headers, (key, value)| headers.insert(Header { key, value: Some(&value) }));
        let mut dead: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.dead_letters, 0).headers(headers);
        dead.key = batch.key(entry).filter(|_| !coordinates_only);
        dead.payload = batch.payload(entry).filter(|_| extent == Extent::Whole);
        self.producer.send_record(dead)
    }
}

/// Returns a record's headers without its sequence number. If the dead letter is sent back to the topic later, it must
/// not count as a duplicate of the original.
fn kept(headers: &OwnedHeaders) -> OwnedHeaders {
    let kept = headers.iter().filter(|header| header.key.as_bytes() != HEADER.to_bytes());
    kept.fold(OwnedHeaders::new(), OwnedHeaders::insert)
}

/// Identifies a partition's log by topic id and generation. Equal offsets of different logs are different records.
pub(super) fn life(log: &Log, batch: &Batch, partition: i32) -> String {
    let moved = batch.moves.iter().find(|moved| moved.partition == partition);
    match moved.map_or(0, |moved| moved.generation) {
        0 => log.id.clone(),
        generation => format!("{}#{generation}", log.id),
    }
}

/// Reads the committed offset, or 0 if there is none or it belongs to an earlier log of the partition.
fn sent_to(consumer: &BaseConsumer, log: &Log, partition: i32, life: &str) -> Result<i64, DeadLetterError> {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&log.topic, partition);
    let committed = consumer.committed_offsets(asked, CALL_TIMEOUT)?;
    let element = committed.find_partition(&log.topic, partition).ok_or(DeadLetterError::Lost)?;
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) if element.metadata() == life => offset,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_keeps_all_headers_but_the_number() {
        let header = |key| Header { key, value: Some("x") };
        let headers = ["traceparent", "sequence", "b"]
            .into_iter()
            .fold(OwnedHeaders::new(), |headers, key| headers.insert(header(key)));
        let kept = kept(&headers);
        assert_eq!(kept.iter().map(|header| header.key).collect::<Vec<_>>(), ["traceparent", "b"]);
    }
}
