//! Reads the whole definitions topic, which is the initial state of a new leader.

use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, Message};
use tracing::{debug, warn};

use crate::config::Config;
use crate::kafka::client;
use crate::store::record::header_version;

use super::state::State;

/// The only partition of the topic.
const PARTITION: i32 = 0;
/// Longest time that one poll of the topic blocks.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Timeout for requesting the topic's metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a record after which the broker is treated as unreachable.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Client context that logs no error at the end of the topic, because reaching it is the purpose of this
/// consumer.
struct Reader;

/// Reason why a topic could not be read.
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
        debug!(%error, reason, "error of the consumer that reads the definitions topic");
    }
}

impl ConsumerContext for Reader {}

/// Reads all committed definitions. Blocks. Must be called after `init_transactions`: only then is the last
/// transaction of a former leader either committed or aborted, and no further one is possible.
pub fn read(config: &Config) -> Result<State, ReadError> {
    let mut state = State::default();
    read_topic(config, &config.topics.definitions, "feeder-state", |message| apply(&mut state, message))?;
    Ok(state)
}

/// Reads any topic with one partition to its end, and passes every record to `apply`. Blocks.
pub fn read_topic(
    config: &Config,
    topic: &str,
    role: &str,
    mut apply: impl FnMut(&BorrowedMessage<'_>),
) -> Result<(), ReadError> {
    let failed = |error| ReadError::Kafka { topic: topic.to_owned(), error };
    let consumer = open(config, topic, role).map_err(failed)?;
    let mut heard = Instant::now();
    loop {
        match consumer.poll(POLL_TIMEOUT) {
            Some(Ok(message)) => {
                apply(&message);
                heard = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) if lasting(&error) => return Err(failed(error)),
            Some(Err(_)) | None if heard.elapsed() > SILENCE_MAX => {
                return Err(ReadError::Silence { topic: topic.to_owned() });
            }
            Some(Err(_)) | None => {}
        }
    }
}

fn open(config: &Config, topic: &str, role: &str) -> Result<BaseConsumer<Reader>, KafkaError> {
    let consumer: BaseConsumer<Reader> = client::base(&config.kafka, role)
        // The group is never joined, but librdkafka assigns no partitions to a consumer without a group id.
        .set("group.id", format!("{}-{role}", config.kafka.group_id))
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

/// Whether an error is permanent. Connection errors are temporary; a topic that is missing or not readable is
/// not.
fn lasting(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownTopic
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::Authentication
                | Code::Fatal
        )
    )
}

fn apply(state: &mut State, message: &BorrowedMessage<'_>) {
    let version = message.payload().is_none().then(|| header_version(message)).flatten();
    if let Err(error) = state.apply(message.key().unwrap_or_default(), message.payload(), version) {
        let (topic, offset) = (message.topic(), message.offset());
        warn!(topic, offset, %error, "a definition cannot be decoded; it is treated as absent");
    }
}
