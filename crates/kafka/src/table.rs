//! Reads all partitions of a compacted topic from given offsets, and reports the end of each partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::KafkaConfig;
use super::client::{self, Logged};
use super::faults::is_lasting;
use super::tail::{FollowError, failed, partitions};

/// A consumer of all partitions of a topic, for committed records only. It joins no group. All its calls block.
pub struct TableReader {
    consumer: BaseConsumer<Logged>,
    topic: String,
    /// Partition numbers in ascending order.
    partitions: Vec<i32>,
}

/// Result of a poll.
#[derive(Debug)]
pub enum Polled<'r> {
    Record(BorrowedMessage<'r>),
    /// Every record of this partition was returned.
    End(i32),
    /// The next offset of this partition does not exist in the topic: it was truncated, or created again.
    OutOfRange,
    /// The topic cannot be read at the moment; librdkafka retries.
    Failed(KafkaError),
    Nothing,
}

impl TableReader {
    /// Opens a reader without a position; [`start`](Self::start) sets it. `role` becomes part of the client id and of the
    /// group id, which has no members: transactions set its offsets as [`marks`](Self::marks).
    pub fn open(
        kafka: &KafkaConfig,
        role: &str,
        topic: &str,
        timeout: Duration,
    ) -> Result<Self, FollowError> {
        let consumer: BaseConsumer<Logged> =
            client::wait_for_records(&mut client::base(kafka, role), kafka, client::RECORDS_WAIT)
                .set("group.id", format!("{}-{role}", kafka.group_id))
                .set("enable.auto.commit", "false")
                // A position that does not exist any more is reported instead of skipping records.
                .set("auto.offset.reset", "error")
                .set("isolation.level", "read_committed")
                .set("enable.partition.eof", "true")
                .set("fetch.queue.backoff.ms", "1")
                .set("queued.max.messages.kbytes", "16384")
                .create_with_context(Logged)
                .map_err(|error| failed(topic, error))?;
        let mut partitions = partitions(kafka, &consumer, topic, timeout)?;
        partitions.sort_unstable();
        Ok(Self { consumer, topic: topic.to_owned(), partitions })
    }

    /// The partitions, in ascending order.
    pub fn partitions(&self) -> &[i32] {
        &self.partitions
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn client(&self) -> &Client<Logged> {
        self.consumer.client()
    }

    /// The first offset of a partition, and the offset behind its last committed record.
    pub fn bounds(&self, partition: i32, timeout: Duration) -> Result<(i64, i64), FollowError> {
        let marks = self.consumer.fetch_watermarks(&self.topic, partition, timeout);
        marks.map_err(|error| failed(&self.topic, error))
    }

    /// Starts reading at these offsets; partitions without one are read from their beginning.
    pub fn start(&self, offsets: &BTreeMap<i32, i64>) -> Result<(), FollowError> {
        let mut assignment = TopicPartitionList::new();
        for partition in &self.partitions {
            let offset = offsets.get(partition).map_or(Offset::Beginning, |offset| Offset::Offset(*offset));
            let added = assignment.add_partition_offset(&self.topic, *partition, offset);
            added.map_err(|error| failed(&self.topic, error))?;
        }
        self.consumer.assign(&assignment).map_err(|error| failed(&self.topic, error))
    }

    /// Polls once. An error is returned if it lasts until an operator intervenes.
    pub fn poll(&self, timeout: Duration) -> Result<Polled<'_>, FollowError> {
        Ok(match self.consumer.poll(timeout) {
            None => Polled::Nothing,
            Some(Ok(message)) => Polled::Record(message),
            Some(Err(KafkaError::PartitionEOF(partition))) => Polled::End(partition),
            Some(Err(error)) if is_lasting(&error) => return Err(failed(&self.topic, error)),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                    Polled::OutOfRange
                }
                _ => Polled::Failed(error),
            },
        })
    }

    /// The committed offsets of the reader's group, by partition.
    pub fn marks(&self, timeout: Duration) -> Result<BTreeMap<i32, i64>, FollowError> {
        let mut asked = TopicPartitionList::new();
        for partition in &self.partitions {
            asked.add_partition(&self.topic, *partition);
        }
        let found = self.consumer.committed_offsets(asked, timeout);
        let found = found.map_err(|error| failed(&self.topic, error))?;
        let offset =
            |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            };
        Ok(found.elements().iter().filter_map(offset).collect())
    }

    /// The group of this reader, in whose name a transaction sets marks.
    pub fn group(&self) -> Result<Arc<ConsumerGroupMetadata>, FollowError> {
        let group = self.consumer.group_metadata().map(Arc::new);
        // Never missing, because the group's id is set.
        group.ok_or_else(|| failed(&self.topic, KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownGroup)))
    }
}

impl std::fmt::Debug for TableReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableReader").field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use rdkafka::{ClientConfig, Message};

    use super::*;

    const TOPIC: &str = "rows";
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn produce(servers: &str, keys: &[&str]) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
        for key in keys {
            let record = BaseRecord::<str, str>::to(TOPIC).key(key).payload("{}").partition(1);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
    }

    /// Reads until both partitions have ended once, and returns the offsets of the records of partition 1.
    fn read(reader: &TableReader) -> Vec<i64> {
        let (mut ended, mut offsets) = (std::collections::BTreeSet::new(), Vec::new());
        while ended.len() < 2 {
            match reader.poll(TIMEOUT).unwrap() {
                Polled::Record(record) => offsets.push(record.offset()),
                Polled::End(partition) => drop(ended.insert(partition)),
                other => assert!(matches!(other, Polled::Failed(_)), "{other:?}"),
            }
        }
        offsets
    }

    #[test]
    fn reading_starts_at_the_given_offsets_and_reports_the_ends() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 2, 1).unwrap();
        let kafka = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        produce(&kafka.bootstrap_servers, &["a", "b", "c"]);
        let reader = TableReader::open(&kafka, "rows", TOPIC, TIMEOUT).unwrap();
        assert_eq!(reader.partitions(), [0, 1]);
        assert_eq!(reader.bounds(1, TIMEOUT).unwrap(), (0, 3));
        reader.start(&BTreeMap::new()).unwrap();
        assert_eq!(read(&reader), [0, 1, 2]);
        let again = TableReader::open(&kafka, "rows", TOPIC, TIMEOUT).unwrap();
        again.start(&[(1, 2)].into()).unwrap();
        assert_eq!(read(&again), [2]);
    }
}
