//! Consumers of the definitions topic and of the kill switch topic, from the beginning until an error.
//!
//! There are two consumers on one thread, because librdkafka reports the end of a partition without the name
//! of its topic. There are two topics, because records of definitions may have to wait for the end of a
//! leader's transaction, and kill switches must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext};
use tracing::debug;

use crate::Shutdown;
use crate::kafka::client;
use crate::kafka::faults::is_lasting;
use crate::kafka::identity::TopicIds;

use super::reader::ReaderConfig;
use super::record::{Record, header_version};
use super::updater::StoreUpdater;

/// The only partition of each topic.
const PARTITION: i32 = 0;
/// Maximum time that a poll blocks. It bounds the delay of a shutdown, and of kill switches while no
/// definitions arrive.
const POLL_TIMEOUT: Duration = Duration::from_millis(10);
/// Timeout for requesting a topic's metadata at start.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of records that are put in force together.
const MAX_BATCH_RECORDS: usize = 4_096;
/// A broker that answered within this time counts as reachable: it answers a fetch without new records twice
/// a second.
const MAX_IDLE: Duration = Duration::from_secs(2);

/// Consumers of both topics, each assigned to the whole topic.
pub(super) struct Session {
    consumer: BaseConsumer<Contact>,
    topic: String,
    switches: BaseConsumer<Contact>,
    switches_topic: String,
    topic_ids: Option<TopicIds>,
}

/// Error that ends a session. The next session reads the topic from its beginning.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("topic {topic}: {error}")]
    Kafka { topic: String, error: KafkaError },
    #[error("topic {topic} was deleted and recreated: it is read again from its beginning")]
    MadeAnew { topic: String },
    #[error(
        "the records of topic {topic} before offset {low} were removed: it is read again from its beginning"
    )]
    Cut { topic: String, low: i64 },
}

/// Values from librdkafka's statistics: the time of the last contact with the broker (no records for hours is
/// normal), and the first offset of the partition.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    millis: Arc<AtomicI64>,
    low: Arc<AtomicI64>,
}

/// Value of a low watermark that is not known yet.
const UNKNOWN_OFFSET: i64 = -1;

/// State of a topic that a session compares with, to detect that the topic was truncated or recreated.
struct TopicState {
    low: i64,
    id: Option<String>,
}

impl Session {
    pub(super) fn open(config: &ReaderConfig) -> Result<Self, SessionError> {
        let (topic, switches_topic) = (config.definitions.clone(), config.overrides.clone());
        let open = |topic: &str, role| {
            consumer(config, topic, role)
                .map_err(|error| SessionError::Kafka { topic: topic.to_owned(), error })
        };
        Ok(Self {
            consumer: open(&topic, "store")?,
            switches: open(&switches_topic, "store-switches")?,
            topic,
            switches_topic,
            topic_ids: config.topic_ids.clone(),
        })
    }

    /// Reads and follows the topics until `shutdown`.
    pub(super) fn run(&self, updater: &mut StoreUpdater, shutdown: &Shutdown) -> Result<(), SessionError> {
        updater.begin_reading();
        let (mut seen, mut seen_switches) = (self.seen(&self.topic), self.seen(&self.switches_topic));
        while !shutdown.is_cancelled() {
            self.take_switches(updater)?;
            let mut polled = self.consumer.poll(POLL_TIMEOUT);
            let mut records = 0;
            while let Some(event) = polled {
                self.handle(event, updater)?;
                records += 1;
                if records == MAX_BATCH_RECORDS {
                    break;
                }
                polled = self.consumer.poll(Duration::ZERO);
            }
            self.take_switches(updater)?;
            updater.flush();
            if let Some(at) = self.consumer.context().last() {
                updater.contact(at);
            }
            self.compare(&self.topic, self.consumer.context(), &mut seen, updater)?;
            self.compare(&self.switches_topic, self.switches.context(), &mut seen_switches, updater)?;
            updater.tick();
        }
        Ok(())
    }

    fn seen(&self, topic: &str) -> TopicState {
        TopicState { low: UNKNOWN_OFFSET, id: self.topic_id(topic) }
    }

    fn topic_id(&self, topic: &str) -> Option<String> {
        self.topic_ids.as_ref().and_then(|ids| ids.borrow().get(topic).cloned())
    }

    /// Detects that a topic lost its older records or was recreated, and returns it as an error. A consumer
    /// at the end of a topic is not notified of either.
    fn compare(
        &self,
        topic: &str,
        contact: &Contact,
        seen: &mut TopicState,
        updater: &mut StoreUpdater,
    ) -> Result<(), SessionError> {
        let low = contact.low.load(Ordering::Relaxed);
        if low > seen.low {
            // Compaction never moves the low watermark; only retention or the deletion of records does.
            if low > 0 {
                updater.note_cut();
            }
            if seen.low != UNKNOWN_OFFSET {
                return Err(SessionError::Cut { topic: topic.to_owned(), low });
            }
            seen.low = low;
        }
        let id = self.topic_id(topic);
        if id.is_some() && id != seen.id && seen.id.replace(id.unwrap_or_default()).is_some() {
            return Err(SessionError::MadeAnew { topic: topic.to_owned() });
        }
        Ok(())
    }

    fn take_switches(&self, updater: &mut StoreUpdater) -> Result<(), SessionError> {
        while let Some(event) = self.switches.poll(Duration::ZERO) {
            match event {
                Ok(message) => updater.take_switch(&record(&message), message.offset()),
                Err(KafkaError::PartitionEOF(_)) if updater.waits_for_switches() => {
                    let (low, end) = offsets(&self.switches, &self.switches_topic);
                    if low > 0 {
                        updater.note_cut();
                    }
                    // The topic has been written at some time, even if compaction has removed all records.
                    updater.switches_read(end > 0);
                }
                // The end is reported again after every record.
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => follow_error(&self.switches_topic, error, updater)?,
            }
        }
        Ok(())
    }

    fn handle(
        &self,
        event: Result<BorrowedMessage<'_>, KafkaError>,
        updater: &mut StoreUpdater,
    ) -> Result<(), SessionError> {
        match event {
            Ok(message) => {
                updater.take(&record(&message), message.offset(), message.timestamp().to_millis());
            }
            Err(KafkaError::PartitionEOF(_)) => {
                if !updater.is_live() && offsets(&self.consumer, &self.topic).0 > 0 {
                    updater.note_cut();
                }
                updater.reached_end();
            }
            Err(error) => follow_error(&self.topic, error, updater)?,
        }
        Ok(())
    }
}

fn consumer(config: &ReaderConfig, topic: &str, role: &str) -> Result<BaseConsumer<Contact>, KafkaError> {
    let mut settings: ClientConfig = client::base(&config.kafka, role);
    let consumer: BaseConsumer<Contact> = settings
        // The group is never joined, but librdkafka assigns no partitions to a consumer without a group id.
        .set("group.id", format!("{}-store", config.kafka.group_id))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "1")
        // A recreated topic is read from its beginning by a new session, which then accounts for the loss.
        .set("auto.offset.reset", "error")
        .set("topic.metadata.propagation.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("reconnect.backoff.max.ms", "1000")
        .set("queued.max.messages.kbytes", "16384")
        .set("statistics.interval.ms", "1000")
        .create_with_context(Contact::new())?;
    // Fetching metadata first saves waiting for librdkafka's next one-second round to find the leader. An
    // error is ignored, because polling reports it too.
    let _ = consumer.fetch_metadata(Some(topic), METADATA_TIMEOUT);
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, PARTITION, Offset::Beginning)?;
    consumer.assign(&partitions)?;
    Ok(consumer)
}

/// The first offset of the topic and the offset after its last record; zeros if no broker answers.
fn offsets(consumer: &BaseConsumer<Contact>, topic: &str) -> (i64, i64) {
    consumer.fetch_watermarks(topic, PARTITION, METADATA_TIMEOUT).unwrap_or_default()
}

fn record<'m>(message: &'m BorrowedMessage<'_>) -> Record<'m> {
    Record { key: message.key(), value: message.payload(), version: header_version(message) }
}

/// Handles an error: returns it if it ends the session. Otherwise reports it, and librdkafka reconnects by
/// itself.
fn follow_error(topic: &str, error: KafkaError, updater: &mut StoreUpdater) -> Result<(), SessionError> {
    if ends_session(&error) {
        return Err(SessionError::Kafka { topic: topic.to_owned(), error });
    }
    debug!(topic, %error, "the topic cannot be read; retrying");
    let unreachable = error.rdkafka_error_code() == Some(Code::AllBrokersDown);
    updater.follow_error(error.to_string(), unreachable);
    Ok(())
}

/// Whether an error ends the session: one that lasts, or one that shows that the topic was truncated or recreated.
fn ends_session(error: &KafkaError) -> bool {
    let is_of_the_log = matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownTopicId | Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::LogTruncation)
    );
    is_of_the_log || is_lasting(error)
}

impl Contact {
    fn new() -> Self {
        Self { millis: Arc::default(), low: Arc::new(AtomicI64::new(UNKNOWN_OFFSET)) }
    }

    fn last(&self) -> Option<DateTime<Utc>> {
        match self.millis.load(Ordering::Relaxed) {
            0 => None,
            millis => DateTime::from_timestamp_millis(millis),
        }
    }
}

impl ClientContext for Contact {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Polling returns the same error.
        debug!(%error, reason, "kafka client error");
    }

    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().filter_map(|topic| topic.partitions.get(&PARTITION));
        if let Some(low) = partitions.clone().map(|partition| partition.lo_offset).find(|low| *low >= 0) {
            self.low.store(low, Ordering::Relaxed);
        }
        let leaders = partitions.map(|partition| partition.broker);
        let heard = leaders
            .filter_map(|leader| statistics.brokers.values().find(|broker| broker.nodeid == leader))
            .filter(|broker| broker.state == "UP" && broker.rxidle >= 0)
            .map(|broker| Duration::from_micros(broker.rxidle.unsigned_abs()))
            .find(|idle| *idle < MAX_IDLE);
        if heard.is_some() {
            self.millis.store(Utc::now().timestamp_millis(), Ordering::Relaxed);
        }
    }
}

impl ConsumerContext for Contact {}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("topic", &self.topic).finish_non_exhaustive()
    }
}
