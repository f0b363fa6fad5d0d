//! Consumers of the warmer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::evaluate::Parts;
use crate::kafka::client;
use crate::kafka::consumer::BatchConsumer;

/// Timeout of one request to the broker.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which offsets are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Creates a static member of the group `{group}-{role}`.
pub(super) fn consumer(parts: &Parts, role: &str, topic: &str, records: usize) -> KafkaResult<BatchConsumer> {
    let config = &parts.config;
    let member = format!("{}-{role}-{}", config.kafka.group_id, config.instance);
    let mut settings = client::member(&config.kafka, config.membership(), role, role, &member);
    client::wait_for_records(&mut settings, &config.kafka, client::RECORDS_WAIT)
        .set("queued.max.messages.kbytes", "16384");
    BatchConsumer::subscribe(&settings, topic, records)
}

/// Seeks the partitions to the first record at or after a time, in milliseconds since 1970.
pub(super) fn seek_to(
    consumer: &BatchConsumer,
    topic: &str,
    at_ms: i64,
    partitions: &[i32],
) -> KafkaResult<()> {
    let mut moments = TopicPartitionList::new();
    for partition in partitions {
        moments.add_partition_offset(topic, *partition, Offset::Offset(at_ms))?;
    }
    let inner = consumer.inner();
    let found = inner.offsets_for_times(moments, CALL_TIMEOUT)?;
    let mut targets = TopicPartitionList::new();
    for element in found.elements() {
        element.error()?;
        targets.add_partition_offset(topic, element.partition(), element.offset())?;
    }
    if targets.count() == 0 {
        return Ok(());
    }
    for element in inner.seek_partitions(targets, CALL_TIMEOUT)?.elements() {
        element.error()?;
    }
    Ok(())
}

/// Partitions that are assigned to this consumer.
pub(super) fn assigned(consumer: &BatchConsumer) -> KafkaResult<Vec<i32>> {
    Ok(consumer.inner().assignment()?.elements().iter().map(|element| element.partition()).collect())
}

/// Offsets of processed records that are to be committed. Records may be processed twice, which is harmless here.
#[derive(Debug)]
pub(super) struct Progress {
    topic: String,
    next: BTreeMap<i32, i64>,
    committed_at: Instant,
}

impl Progress {
    pub(super) fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), next: BTreeMap::new(), committed_at: Instant::now() }
    }

    /// Marks a record as processed.
    pub(super) fn done(&mut self, partition: i32, offset: i64) {
        self.next.insert(partition, offset + 1);
    }

    /// Commits once per [`COMMIT_INTERVAL`].
    pub(super) fn commit(&mut self, consumer: &BatchConsumer) -> KafkaResult<()> {
        if self.committed_at.elapsed() < COMMIT_INTERVAL {
            return Ok(());
        }
        self.commit_with(|offsets| consumer.inner().commit(&offsets, CommitMode::Async))
    }

    /// Commits at shutdown.
    pub(super) fn finish(&mut self, consumer: &BatchConsumer) {
        let finished = self.commit_with(|offsets| consumer.commit_last(offsets));
        if let Err(error) = finished {
            tracing::debug!(topic = self.topic, %error, "the last offsets could not be committed; their records are \
                read again");
        }
    }

    fn commit_with(&mut self, commit: impl FnOnce(TopicPartitionList) -> KafkaResult<()>) -> KafkaResult<()> {
        self.committed_at = Instant::now();
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in std::mem::take(&mut self.next) {
            offsets.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        }
        if offsets.count() == 0 {
            return Ok(());
        }
        match commit(offsets) {
            // Another consumer owns the partition now and reads it from the last commit.
            Err(KafkaError::ConsumerCommit(
                RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId,
            )) => Ok(()),
            committed => committed,
        }
    }
}
