//! The dead letters of one partition: their producer, and how far they are.

use std::time::Duration;

use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};

use crate::config::Config;
use crate::kafka::client;
use crate::kafka::producer::{LINGER_MS, ReportingProducer};
use crate::message::dead_letter::DeadLetter;
use crate::message::sequence::HEADER;

use super::super::batch::Batch;
use super::super::position::Log;
use super::{Letter, LetterError};

/// How long the broker may take for one step. The database's locks are held meanwhile.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the letters of a partition's records.
#[derive(Debug)]
pub(super) struct Desk {
    partition: i32,
    producer: ReportingProducer,
    dead_letters: String,
    group: Group,
    /// Behind the last record whose letter is committed.
    sent_to: i64,
}

/// A group that nobody joins; only its offsets are used.
struct Group(ConsumerGroupMetadata);

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl Desk {
    /// Fences whoever wrote the letters of this partition before, and asks how far they are.
    pub(super) fn open(config: &Config, log: &Log, partition: i32) -> Result<Self, LetterError> {
        let name = format!("{}-sink-letters", config.kafka.group_id);
        let mut settings = client::base(&config.kafka, &config.instance, "sink-dead-letters");
        settings
            .set("transactional.id", format!("{name}-{}-{partition}", log.topic))
            .set("transaction.timeout.ms", "10000")
            .set("delivery.report.only.error", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", LINGER_MS)
            .set("message.max.bytes", "8388608");
        let producer = ReportingProducer::create(&settings, &config.topics.dead_letters)?;
        producer.inner().init_transactions(CALL_TIMEOUT)?;
        // Only now: an open transaction of a former owner is ended, and its offsets are settled.
        let mut settings = client::base(&config.kafka, &config.instance, "sink-dead-letters");
        settings
            .set("group.id", name)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed");
        let consumer: BaseConsumer = settings.create()?;
        let sent_to = sent_to(&consumer, log, partition)?;
        let group = consumer.group_metadata().ok_or(LetterError::Lost)?;
        let dead_letters = config.topics.dead_letters.clone();
        Ok(Self { partition, producer, dead_letters, group: Group(group), sent_to })
    }

    /// Sends those of `letters` that were not sent yet, and says so, in one transaction. After an error the desk is of
    /// no more use.
    pub(super) fn commit(
        &mut self,
        log: &Log,
        batch: &Batch,
        letters: &[Letter<'_>],
        body_omitted: bool,
    ) -> Result<(), LetterError> {
        let unsent: Vec<_> = letters.iter().filter(|(entry, _)| entry.offset >= self.sent_to).collect();
        let Some((last, _)) = unsent.last() else {
            return Ok(());
        };
        let sent_to = last.offset + 1;
        let producer = self.producer.inner();
        producer.begin_transaction()?;
        for letter in unsent {
            self.send(log, batch, letter, body_omitted)?;
        }
        let acknowledged = self.producer.drain(CALL_TIMEOUT);
        if let Some(failure) = self.producer.take_failures().first() {
            return Err(LetterError::Undelivered(failure.code));
        }
        if !acknowledged {
            return Err(LetterError::Unacknowledged);
        }
        let mut offsets = TopicPartitionList::new();
        let mut element = offsets.add_partition(&log.topic, self.partition);
        element.set_offset(Offset::Offset(sent_to))?;
        element.set_metadata(&log.id);
        producer.send_offsets_to_transaction(&offsets, &self.group.0, CALL_TIMEOUT)?;
        producer.commit_transaction(CALL_TIMEOUT)?;
        self.sent_to = sent_to;
        Ok(())
    }

    fn send(
        &self,
        log: &Log,
        batch: &Batch,
        (entry, refusal): &Letter<'_>,
        body_omitted: bool,
    ) -> Result<(), KafkaError> {
        let letter = DeadLetter {
            code: refusal.code,
            message: &refusal.message,
            topic: &log.topic,
            partition: entry.partition,
            offset: entry.offset,
            index: None,
            body_omitted,
        };
        let headers =
            letter.headers().into_iter().fold(kept(&batch.headers(entry)), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(&value) })
            });
        let mut dead: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.dead_letters, 0).headers(headers);
        dead.key = batch.key(entry);
        dead.payload = batch.payload(entry).filter(|_| !body_omitted);
        self.producer.send_record(dead)
    }
}

/// A record's own headers, but for its number: what is sent back to the topic some day is not to be taken for something
/// that was there before.
fn kept(headers: &OwnedHeaders) -> OwnedHeaders {
    let kept = headers.iter().filter(|header| header.key.as_bytes() != HEADER.to_bytes());
    kept.fold(OwnedHeaders::new(), OwnedHeaders::insert)
}

/// What the last transaction said, if it was about the topic in its present life.
fn sent_to(consumer: &BaseConsumer, log: &Log, partition: i32) -> Result<i64, LetterError> {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&log.topic, partition);
    let committed = consumer.committed_offsets(asked, CALL_TIMEOUT)?;
    let element = committed.find_partition(&log.topic, partition).ok_or(LetterError::Lost)?;
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) if element.metadata() == log.id => offset,
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
