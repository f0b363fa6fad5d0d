//! First and end offsets of topics, with one request per broker.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::KafkaConfig;
use super::client::{self, Logged};
use super::describe::{self, DescribeError};

/// Offsets of a topic's partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicEnds {
    /// Id that Kafka assigned to the topic at creation.
    pub id: String,
    /// First offset, and the offset after the last committed record, by partition.
    pub partitions: BTreeMap<i32, (i64, i64)>,
}

/// Reason why the offsets are not known.
#[derive(Debug, thiserror::Error)]
pub enum EndsError {
    #[error(transparent)]
    Describe(#[from] DescribeError),
    #[error("offsets: {0}")]
    Kafka(#[from] KafkaError),
}

/// Client that reads offsets and no records. All its calls block.
pub struct EndsClient(BaseConsumer<Logged>);

impl EndsClient {
    /// Creates the client, without a request to Kafka. `role` is part of the client id.
    pub fn new(kafka: &KafkaConfig, role: &str) -> Result<Self, KafkaError> {
        let mut settings = client::base(kafka, role);
        settings.set("allow.auto.create.topics", "false").set("isolation.level", "read_committed");
        Ok(Self(settings.create_with_context(Logged)?))
    }

    /// Returns the offsets of those `topics` that exist. `timeout` limits each of the requests.
    pub fn read(&self, topics: &[&str], timeout: Duration) -> Result<BTreeMap<String, TopicEnds>, EndsError> {
        let overview = describe::overview(self.0.client(), topics, &[], timeout)?;
        let list = |offset: Offset| -> Result<TopicPartitionList, KafkaError> {
            let mut list = TopicPartitionList::new();
            for (topic, described) in &overview.topics {
                for partition in 0..described.partitions {
                    list.add_partition_offset(topic, partition, offset)?;
                }
            }
            Ok(list)
        };
        // In a lookup by time, the logical offsets are passed through and resolved by the broker.
        let lows = self.0.offsets_for_times(list(Offset::Beginning)?, timeout)?;
        let ends = self.0.offsets_for_times(list(Offset::End)?, timeout)?;
        let offset = |list: &TopicPartitionList, topic: &str, partition| {
            let found = list.find_partition(topic, partition)?;
            found.error().ok()?;
            found.offset().to_raw().filter(|offset| *offset >= 0)
        };
        let topics = overview.topics.iter().map(|(topic, described)| {
            let partitions = (0..described.partitions).filter_map(|partition| {
                Some((partition, (offset(&lows, topic, partition)?, offset(&ends, topic, partition)?)))
            });
            (topic.clone(), TopicEnds { id: described.id.clone(), partitions: partitions.collect() })
        });
        Ok(topics.collect())
    }
}

impl std::fmt::Debug for EndsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndsClient").finish_non_exhaustive()
    }
}
