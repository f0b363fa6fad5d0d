//! The consumers of the definitions topic and of that of kill switches, from the beginning until something is wrong.
//!
//! Two consumers on one thread: the end of a partition is told without the name of its topic. And two topics: records
//! of definitions may have to wait for the end of a leader's transaction, which a kill switch must not.

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

use crate::feed::definitions::header_version;
use crate::kafka::client;
use crate::shutdown::Shutdown;

use super::keeper::Keeper;
use super::reader::ReaderConfig;
use super::record::Record;

/// The topic has one partition.
const PARTITION: i32 = 0;
/// How long a poll may wait; shutdown is noticed this late.
/// So is a kill switch while no definition comes.
const POLL_STEP: Duration = Duration::from_millis(10);
/// How long a start may wait for the topic's leader.
const METADATA_PATIENCE: Duration = Duration::from_secs(1);
/// Records that are put in force together at most.
const MAX_BATCH_RECORDS: usize = 4_096;
/// A broker that answered within this time is there: a fetch without news is answered twice a second.
const MAX_IDLE: Duration = Duration::from_secs(2);

/// A consumer for each topic, assigned to the whole of it.
pub(super) struct Session {
    consumer: BaseConsumer<Contact>,
    topic: String,
    switches: BaseConsumer<Contact>,
    switches_topic: String,
}

/// What ends a session. The next one reads the topic from its beginning.
#[derive(Debug, thiserror::Error)]
#[error("topic {topic}: {error}")]
pub(super) struct SessionError {
    topic: String,
    error: KafkaError,
}

/// When the broker was last heard, from librdkafka's statistics: no record for hours is no sign of trouble.
#[derive(Debug, Clone, Default)]
pub(super) struct Contact {
    millis: Arc<AtomicI64>,
}

impl Session {
    pub(super) fn open(config: &ReaderConfig) -> Result<Self, SessionError> {
        let (topic, switches_topic) = (config.definitions.clone(), config.overrides.clone());
        let open = |topic: &str, role| {
            consumer(config, topic, role).map_err(|error| SessionError { topic: topic.to_owned(), error })
        };
        Ok(Self {
            consumer: open(&topic, "store")?,
            switches: open(&switches_topic, "store-switches")?,
            topic,
            switches_topic,
        })
    }

    /// Follows the topic until `shutdown`.
    pub(super) fn run(&self, keeper: &mut Keeper, shutdown: &Shutdown) -> Result<(), SessionError> {
        keeper.begin_reading();
        while !shutdown.is_cancelled() {
            self.take_switches(keeper)?;
            let mut polled = self.consumer.poll(POLL_STEP);
            let mut records = 0;
            while let Some(event) = polled {
                self.handle(event, keeper)?;
                records += 1;
                if records == MAX_BATCH_RECORDS {
                    break;
                }
                polled = self.consumer.poll(Duration::ZERO);
            }
            self.take_switches(keeper)?;
            keeper.flush();
            if let Some(at) = self.consumer.context().last() {
                keeper.contact(at);
            }
            keeper.tick();
        }
        Ok(())
    }

    fn take_switches(&self, keeper: &mut Keeper) -> Result<(), SessionError> {
        while let Some(event) = self.switches.poll(Duration::ZERO) {
            match event {
                Ok(message) => keeper.take_switch(&record(&message), message.offset()),
                Err(KafkaError::PartitionEOF(_)) if keeper.waits_for_switches() => {
                    keeper.switches_read(self.switches_were_written());
                }
                // Told again after every record.
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => trouble(&self.switches_topic, error, keeper)?,
            }
        }
        Ok(())
    }

    /// Whether the topic has an offset behind its first, though compaction may have left no record of it.
    fn switches_were_written(&self) -> bool {
        let topic = &self.switches_topic;
        let watermarks = self.switches.fetch_watermarks(topic, PARTITION, METADATA_PATIENCE);
        watermarks.is_ok_and(|(_, end)| end > 0)
    }

    fn handle(
        &self,
        event: Result<BorrowedMessage<'_>, KafkaError>,
        keeper: &mut Keeper,
    ) -> Result<(), SessionError> {
        match event {
            Ok(message) => {
                keeper.take(&record(&message), message.offset(), message.timestamp().to_millis());
            }
            Err(KafkaError::PartitionEOF(_)) => keeper.reached_end(),
            Err(error) => trouble(&self.topic, error, keeper)?,
        }
        Ok(())
    }
}

fn consumer(config: &ReaderConfig, topic: &str, role: &str) -> Result<BaseConsumer<Contact>, KafkaError> {
    let mut settings: ClientConfig = client::base(&config.kafka, &config.instance, role);
    let consumer: BaseConsumer<Contact> = settings
        // Never joined: librdkafka assigns nothing to a consumer without a group.
        .set("group.id", format!("{}-store", config.kafka.group_id))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "1")
        // A topic made anew is read from its beginning by a new session, which then knows about it.
        .set("auto.offset.reset", "error")
        .set("topic.metadata.propagation.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("reconnect.backoff.max.ms", "1000")
        .set("queued.max.messages.kbytes", "16384")
        .set("statistics.interval.ms", "1000")
        .create_with_context(Contact::default())?;
    // Known beforehand, or librdkafka would look for the leader only at its next one-second round. It's no harm if
    // nobody answers: then polling tells.
    let _ = consumer.fetch_metadata(Some(topic), METADATA_PATIENCE);
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, PARTITION, Offset::Beginning)?;
    consumer.assign(&partitions)?;
    Ok(consumer)
}

fn record<'m>(message: &'m BorrowedMessage<'_>) -> Record<'m> {
    Record { key: message.key(), value: message.payload(), version: header_version(message) }
}

/// An error that is not the session's end: librdkafka connects again by itself.
fn trouble(topic: &str, error: KafkaError, keeper: &mut Keeper) -> Result<(), SessionError> {
    if ends_session(&error) {
        return Err(SessionError { topic: topic.to_owned(), error });
    }
    debug!(topic, %error, "the topic cannot be read at the moment");
    let unreachable = error.rdkafka_error_code() == Some(Code::AllBrokersDown);
    keeper.trouble(error.to_string(), unreachable);
    Ok(())
}

/// Connections come and go. A topic that is not there, not the one it was, or not ours to read, is another matter.
fn ends_session(error: &KafkaError) -> bool {
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return true;
    }
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownTopic
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopicId
                | Code::OffsetOutOfRange
                | Code::AutoOffsetReset
                | Code::LogTruncation
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::Authentication
                | Code::SaslAuthenticationFailed
        )
    )
}

impl Contact {
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
        // Polling returns it too.
        debug!(%error, reason, "kafka client error");
    }

    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().filter_map(|topic| topic.partitions.get(&PARTITION));
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
