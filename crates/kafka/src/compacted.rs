//! Reads a compacted topic with one partition to its end: the state that its records describe.

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use super::KafkaConfig;
use super::client;
use super::faults::is_lasting;

/// The only partition of the topic.
const PARTITION: i32 = 0;
/// Longest time that one poll of the topic blocks.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Timeout for requesting the topic's metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a record after which the broker is treated as unreachable.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Client context that logs no error at the end of the topic, because reaching it is the purpose of this consumer.
struct Reader;

/// Reason why a topic could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("topic {topic}: {error}")]
    Kafka { topic: String, error: KafkaError },
    #[error("topic {topic}: no response from the broker for {SILENCE_MAX:?}")]
    Silence { topic: String },
}

impl ClientContext for Reader {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "error of a consumer that reads a topic to its end");
    }
}

impl ConsumerContext for Reader {}

/// Reads all committed records of a topic with one partition, and passes each to `apply`. `role` becomes part of the
/// client id. Blocks.
///
/// The end is that of the moment at which it is reached. A caller that must not miss a record of another writer has to
/// make sure beforehand that there is none, for example by `init_transactions` under the writers' common transactional
/// id: only then is the last transaction of a former writer either committed or aborted.
pub fn read_to_end(
    kafka: &KafkaConfig,
    topic: &str,
    role: &str,
    mut apply: impl FnMut(&BorrowedMessage<'_>),
) -> Result<(), ReadError> {
    let failed = |error| ReadError::Kafka { topic: topic.to_owned(), error };
    let consumer = open(kafka, topic, role).map_err(failed)?;
    let mut heard = Instant::now();
    loop {
        match consumer.poll(POLL_TIMEOUT) {
            Some(Ok(message)) => {
                apply(&message);
                heard = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) if is_lasting(&error) => return Err(failed(error)),
            Some(Err(_)) | None if heard.elapsed() > SILENCE_MAX => {
                return Err(ReadError::Silence { topic: topic.to_owned() });
            }
            Some(Err(_)) | None => {}
        }
    }
}

fn open(kafka: &KafkaConfig, topic: &str, role: &str) -> Result<BaseConsumer<Reader>, KafkaError> {
    let consumer: BaseConsumer<Reader> = client::base(kafka, role)
        // The group is never joined, but librdkafka assigns no partitions to a consumer without a group id.
        .set("group.id", format!("{}-{role}", kafka.group_id))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "1")
        // The end is detected by a response without records, which the broker delays by this time.
        .set("fetch.wait.max.ms", "10")
        .create_with_context(Reader)?;
    // Fetching metadata first saves the assignment half a second of waiting for the next metadata refresh.
    consumer.fetch_metadata(Some(topic), METADATA_TIMEOUT)?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, PARTITION, Offset::Beginning)?;
    consumer.assign(&partitions)?;
    Ok(consumer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use rdkafka::{ClientConfig, Message};

    use super::*;

    const TOPIC: &str = "states";

    fn kafka(servers: String) -> KafkaConfig {
        KafkaConfig { bootstrap_servers: servers, ..KafkaConfig::default() }
    }

    #[test]
    fn every_record_up_to_the_end_is_passed_on_in_order() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let kafka = kafka(cluster.bootstrap_servers());
        let mut keys = Vec::new();
        let mut read = || {
            keys.clear();
            read_to_end(&kafka, TOPIC, "test", |message| {
                keys.push(String::from_utf8_lossy(message.key().unwrap()).into_owned());
            })
            .unwrap();
            keys.clone()
        };
        assert!(read().is_empty());
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        for key in ["a", "b", "a"] {
            producer
                .send(BaseRecord::<str, str>::to(TOPIC).key(key).payload("1"))
                .map_err(|(error, _)| error)
                .unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
        assert_eq!(read(), ["a", "b", "a"]);
    }

    #[test]
    fn a_broker_that_is_not_there_is_an_error_with_the_topic() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = read_to_end(&kafka(free.to_string()), TOPIC, "test", |_| {}).unwrap_err();
        assert!(error.to_string().starts_with("topic states: "), "{error}");
    }
}
