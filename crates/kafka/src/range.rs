//! Reads a topic from a given time up to its end at the moment of opening.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::KafkaConfig;
use super::client::Logged;
use super::faults::is_lasting;
use super::tail::{self, CALL_TIMEOUT, FollowError};

/// Time without an answer from Kafka after which reading fails.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Reads committed records of a topic, in order within each partition. All its calls block.
pub struct Range {
    consumer: BaseConsumer<Logged>,
    topic: String,
    servers: String,
    partitions: Vec<i32>,
    /// Unfinished partitions, each with the next offset to read and the end offset (exclusive).
    open: BTreeMap<i32, (i64, i64)>,
    /// Number of offsets between the two at opening: an upper bound of the number of records.
    expected: u64,
    /// Whether older records were left out.
    is_cut: bool,
}

impl Range {
    /// Opens a range that starts at the first record not before `from` (milliseconds since 1970), or at the beginning
    /// of the topic.
    pub fn open(
        kafka: &KafkaConfig,
        role: &str,
        topic: &str,
        from: Option<i64>,
    ) -> Result<Self, FollowError> {
        let consumer = tail::consumer(kafka, role, topic, true)?;
        let partitions = tail::partitions(kafka, &consumer, topic, CALL_TIMEOUT)?;
        let starts =
            from.map(|from| tail::starts(&consumer, topic, &partitions, from, CALL_TIMEOUT)).transpose()?;
        Self::assigned(kafka, consumer, topic, partitions, |partition, low, high| match &starts {
            None => (low, high),
            // The partition may have no record that late.
            Some(starts) => (starts.get(&partition).copied().unwrap_or(high), high),
        })
    }

    /// Opens a range of the last `count` offsets of each partition.
    pub fn latest(kafka: &KafkaConfig, role: &str, topic: &str, count: i64) -> Result<Self, FollowError> {
        let consumer = tail::consumer(kafka, role, topic, true)?;
        let partitions = tail::partitions(kafka, &consumer, topic, CALL_TIMEOUT)?;
        let mut is_cut = false;
        let mut range = Self::assigned(kafka, consumer, topic, partitions, |_, low, high| {
            is_cut |= high - low > count;
            (low.max(high - count), high)
        })?;
        range.is_cut = is_cut;
        Ok(range)
    }

    /// Opens an empty range. [`Range::select`] chooses what is read.
    pub fn empty(kafka: &KafkaConfig, role: &str, topic: &str) -> Result<Self, FollowError> {
        let consumer = tail::consumer(kafka, role, topic, true)?;
        let partitions = tail::partitions(kafka, &consumer, topic, CALL_TIMEOUT)?;
        Self::assigned(kafka, consumer, topic, partitions, |_, _, high| (high, high))
    }

    /// Reads one offset next, and nothing after it. Nothing is left to read if the partition or the offset does not
    /// exist.
    pub fn select(&mut self, partition: i32, offset: i64) -> Result<(), FollowError> {
        let partitions: Vec<i32> = self.partitions.iter().copied().filter(|it| *it == partition).collect();
        self.assign(&partitions, |_, low, high| {
            if (low..high).contains(&offset) { (offset, offset + 1) } else { (high, high) }
        })
    }

    /// Assigns the partitions, each with the part that `bounds` returns for its first offset and its end.
    fn assigned(
        kafka: &KafkaConfig,
        consumer: BaseConsumer<Logged>,
        topic: &str,
        partitions: Vec<i32>,
        bounds: impl FnMut(i32, i64, i64) -> (i64, i64),
    ) -> Result<Self, FollowError> {
        let (topic, servers) = (topic.to_owned(), kafka.bootstrap_servers.clone());
        let (assigned, open) = (partitions.clone(), BTreeMap::new());
        let mut range = Self { consumer, topic, servers, partitions, open, expected: 0, is_cut: false };
        range.assign(&assigned, bounds)?;
        Ok(range)
    }

    fn assign(
        &mut self,
        partitions: &[i32],
        mut bounds: impl FnMut(i32, i64, i64) -> (i64, i64),
    ) -> Result<(), FollowError> {
        let (consumer, topic) = (&self.consumer, self.topic.as_str());
        let failed = |error| tail::failed(topic, error);
        let (mut open, mut assignment) = (BTreeMap::new(), TopicPartitionList::new());
        for &partition in partitions {
            let (low, high) = consumer.fetch_watermarks(topic, partition, CALL_TIMEOUT).map_err(failed)?;
            let (start, end) = bounds(partition, low, high);
            if start < end {
                open.insert(partition, (start, end));
                assignment.add_partition_offset(topic, partition, Offset::Offset(start)).map_err(failed)?;
            }
        }
        consumer.assign(&assignment).map_err(failed)?;
        let span = |(start, end): &(i64, i64)| u64::try_from(end - start).unwrap_or_default();
        self.expected = open.values().map(span).sum();
        self.open = open;
        Ok(())
    }

    /// Whether a range of the latest records left out older ones.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Upper bound of the number of records.
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// Number of offsets processed so far, including offsets without a record.
    pub fn passed(&self) -> u64 {
        let left = self.open.values().map(|(next, end)| u64::try_from(end - next).unwrap_or_default());
        self.expected.saturating_sub(left.sum())
    }

    /// The next record; `None` at the end.
    pub fn record(&mut self) -> Result<Option<BorrowedMessage<'_>>, FollowError> {
        let Self { consumer, topic, servers, open, .. } = self;
        let until = Instant::now() + SILENCE_MAX;
        while !open.is_empty() {
            match consumer.poll(until.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) => {
                    let partition = message.partition();
                    let Some((next, end)) = open.get_mut(&partition) else { continue };
                    *next = message.offset() + 1;
                    let (is_last, is_inside) = (*next >= *end, *next <= *end);
                    if is_last {
                        open.remove(&partition);
                    }
                    if is_inside {
                        return Ok(Some(message));
                    }
                }
                // The offsets after the last committed record belong to uncommitted transactions.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Err(error)) if is_lasting(&error) => return Err(tail::failed(topic, error)),
                Some(Err(error)) => tracing::debug!(topic, %error, "the topic cannot be read; retrying"),
                None => return Err(FollowError::Silent { servers: servers.clone(), within: SILENCE_MAX }),
            }
        }
        Ok(None)
    }
}

impl std::fmt::Debug for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Range").field("topic", &self.topic).field("open", &self.open).finish_non_exhaustive()
    }
}
