//! Reads a topic outside any group: all its partitions, from their beginning or their end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::KafkaConfig;
use super::client;
use super::faults::is_lasting;

/// Timeout of one request to the broker.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that the broker keeps a fetch waiting, where the ends of partitions are wanted.
const ENDS_WAIT: Duration = Duration::from_millis(20);

/// The position at which reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Beginning,
    /// The end of the topic when the follower is opened. Records produced later are returned.
    End,
    /// The first record that is not older than this time, in milliseconds since 1970.
    At(i64),
    /// This number of offsets before the end of each partition.
    Last(i64),
}

/// A consumer of all partitions of a topic, for committed records only. All its calls block.
pub struct Follower {
    consumer: BaseConsumer<client::Logged>,
    topic: String,
    /// Partition numbers in ascending order.
    partitions: Vec<i32>,
}

/// Reason why a topic cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("Kafka at {servers} does not answer ({error}): is it running there? (KAFKA_BOOTSTRAP_SERVERS)")]
    Unreachable { servers: String, error: KafkaError },
    #[error("topic {topic} does not exist")]
    NoTopic { topic: String },
    #[error("no records from Kafka at {servers} within {} s", within.as_secs())]
    Silent { servers: String, within: Duration },
    #[error("topic {topic}: {error}")]
    Kafka { topic: String, error: KafkaError },
}

impl Follower {
    /// Opens a follower. `role` becomes part of the client id and of the group id; the group is never joined.
    pub fn open(kafka: &KafkaConfig, role: &str, topic: &str, start: Start) -> Result<Self, FollowError> {
        Self::open_within(kafka, role, topic, start, CALL_TIMEOUT)
    }

    /// Opens a follower with a timeout of each request to the broker, for threads that must notice a shutdown.
    pub fn open_within(
        kafka: &KafkaConfig,
        role: &str,
        topic: &str,
        start: Start,
        timeout: Duration,
    ) -> Result<Self, FollowError> {
        let consumer = consumer(kafka, role, topic, false)?;
        let mut partitions = partitions(kafka, &consumer, topic, timeout)?;
        partitions.sort_unstable();
        let later = match start {
            Start::At(from) => starts(&consumer, topic, &partitions, from, timeout)?,
            Start::Beginning | Start::End | Start::Last(_) => BTreeMap::new(),
        };
        let mut assignment = TopicPartitionList::new();
        for &partition in &partitions {
            let offset = match (start, later.get(&partition)) {
                (Start::Beginning, _) => Offset::Beginning,
                (Start::At(_), Some(offset)) => Offset::Offset(*offset),
                (Start::Last(count), _) => {
                    let ends = consumer.fetch_watermarks(topic, partition, timeout);
                    let (low, end) = ends.map_err(|error| failed(topic, error))?;
                    Offset::Offset((end - count).max(low))
                }
                // Looked up now: librdkafka would resolve `Offset::End` later and skip what was produced in between.
                (Start::End | Start::At(_), _) => Offset::Offset(end(&consumer, topic, partition, timeout)?),
            };
            assignment
                .add_partition_offset(topic, partition, offset)
                .map_err(|error| failed(topic, error))?;
        }
        consumer.assign(&assignment).map_err(|error| failed(topic, error))?;
        Ok(Self { consumer, topic: topic.to_owned(), partitions })
    }

    /// The followed partitions, in ascending order.
    pub fn partitions(&self) -> &[i32] {
        &self.partitions
    }

    /// The next record; `None` if none arrived within `timeout`.
    pub fn next(&self, timeout: Duration) -> Result<Option<BorrowedMessage<'_>>, FollowError> {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.consumer.poll(left) {
                Some(Ok(message)) => return Ok(Some(message)),
                Some(Err(error)) if is_lasting(&error) => return Err(failed(&self.topic, error)),
                // Connection errors are transient and are retried.
                Some(Err(error)) => {
                    tracing::debug!(topic = self.topic, %error, "the topic cannot be read; retrying")
                }
                None => {}
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }
}

/// A consumer that joins no group. With `tells_ends`, it reports the ends of partitions.
pub(super) fn consumer(
    kafka: &KafkaConfig,
    role: &str,
    topic: &str,
    tells_ends: bool,
) -> Result<BaseConsumer<client::Logged>, FollowError> {
    // The end of a partition is reported after this time only.
    let wait = if tells_ends { ENDS_WAIT } else { client::RECORDS_WAIT };
    client::wait_for_records(&mut client::base(kafka, role), kafka, wait)
        .set("group.id", format!("{}-{role}", kafka.group_id))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", if tells_ends { "true" } else { "false" })
        .set("fetch.queue.backoff.ms", "1")
        .create_with_context(client::Logged)
        .map_err(|error| failed(topic, error))
}

pub(super) fn partitions(
    kafka: &KafkaConfig,
    consumer: &BaseConsumer<client::Logged>,
    topic: &str,
    timeout: Duration,
) -> Result<Vec<i32>, FollowError> {
    let metadata = consumer
        .fetch_metadata(Some(topic), timeout)
        .map_err(|error| FollowError::Unreachable { servers: kafka.bootstrap_servers.clone(), error })?;
    let known = metadata.topics().iter().find(|known| known.name() == topic);
    let partitions: Vec<i32> = known
        .filter(|known| known.error().is_none())
        .map(|known| known.partitions().iter().map(|partition| partition.id()).collect())
        .unwrap_or_default();
    if partitions.is_empty() {
        let topic = topic.to_owned();
        return Err(FollowError::NoTopic { topic });
    }
    Ok(partitions)
}

/// For each partition, the first offset whose timestamp is not before `from`. Partitions without such a record are
/// missing.
pub(super) fn starts(
    consumer: &BaseConsumer<client::Logged>,
    topic: &str,
    partitions: &[i32],
    from: i64,
    timeout: Duration,
) -> Result<BTreeMap<i32, i64>, FollowError> {
    let failed = |error| failed(topic, error);
    // The embedded broker cannot look up timestamps, so all its records are included.
    if client::is_embedded(consumer.client(), timeout) {
        let low = |partition: &i32| {
            consumer.fetch_watermarks(topic, *partition, timeout).map(|(low, _)| (*partition, low))
        };
        return partitions.iter().map(low).collect::<Result<_, _>>().map_err(failed);
    }
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition_offset(topic, *partition, Offset::Offset(from.max(0))).map_err(failed)?;
    }
    let found = consumer.offsets_for_times(asked, timeout).map_err(failed)?;
    let mut starts = BTreeMap::new();
    for element in found.elements() {
        element.error().map_err(failed)?;
        if let Offset::Offset(offset) = element.offset() {
            starts.insert(element.partition(), offset);
        }
    }
    Ok(starts)
}

fn end(
    consumer: &BaseConsumer<client::Logged>,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> Result<i64, FollowError> {
    let marks = consumer.fetch_watermarks(topic, partition, timeout);
    marks.map(|(_, high)| high).map_err(|error| failed(topic, error))
}

pub(super) fn failed(topic: &str, error: KafkaError) -> FollowError {
    FollowError::Kafka { topic: topic.to_owned(), error }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("topic", &self.topic).finish_non_exhaustive()
    }
}
