//! Checks that the topics of a tap exist and have the same number of partitions.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::{Config, TapConfig};
use crate::kafka::client::{self, Logged};

/// Timeout of one request to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks up the partitions of topics without creating them.
pub struct TopicLookup {
    consumer: BaseConsumer<Logged>,
}

impl std::fmt::Debug for TopicLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicLookup").finish_non_exhaustive()
    }
}

impl TopicLookup {
    pub fn new(config: &Config) -> Result<Self, KafkaError> {
        let mut settings: ClientConfig = client::base(&config.kafka, "taps");
        settings.set("allow.auto.create.topics", "false");
        Ok(Self { consumer: settings.create_with_context(Logged)? })
    }

    /// Number of a topic's partitions; `None` if it does not exist. Blocks.
    pub fn partitions(&self, topic: &str) -> Result<Option<i32>, KafkaError> {
        let metadata = self.consumer.client().fetch_metadata(Some(topic), CALL_TIMEOUT)?;
        let found = metadata.topics().first();
        match found.and_then(|found| found.error()).map(RDKafkaErrorCode::from) {
            None => Ok(found.map(|found| i32::try_from(found.partitions().len()).unwrap_or(i32::MAX))),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(code) => Err(KafkaError::MetadataFetch(code)),
        }
    }

    /// The reasons why the tap cannot run; empty if its topics fit. Blocks.
    pub fn problems(&self, tap: &TapConfig) -> Result<Vec<String>, KafkaError> {
        let source = self.partitions(&tap.source)?;
        let mut problems = Vec::new();
        if source.is_none() {
            problems.push(format!("topic {} does not exist", tap.source));
        }
        for output in tap.outputs() {
            problems.extend(mismatch(&tap.source, source, output, self.partitions(output)?));
        }
        Ok(problems)
    }
}

/// The reason why records of `source` cannot be written to `output`, given the partitions of both; `None` stands for a
/// missing topic.
fn mismatch(source: &str, wanted: Option<i32>, output: &str, found: Option<i32>) -> Option<String> {
    match (wanted, found) {
        (_, None) => Some(format!("topic {output} does not exist")),
        (Some(wanted), Some(found)) if wanted != found => Some(format!(
            "topic {output} has {found} partitions and topic {source} has {wanted}: both need the same number, because \
             each record keeps its partition"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_topics_and_other_partition_counts_are_named() {
        let problem = |wanted, found| mismatch("orders", wanted, "flagged", found).unwrap_or_default();
        assert_eq!(problem(Some(3), Some(3)), "");
        assert_eq!(problem(Some(3), None), "topic flagged does not exist");
        assert!(
            problem(Some(3), Some(4)).starts_with("topic flagged has 4 partitions and topic orders has 3")
        );
        assert_eq!(problem(None, Some(4)), "", "the source is reported alone");
    }
}
