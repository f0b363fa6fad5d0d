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
use crate::kafka::topics::TopicIds;
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
    topic_ids: Option<TopicIds>,
}

/// What ends a session. The next one reads the topic from its beginning.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("topic {topic}: {error}")]
    Kafka { topic: String, error: KafkaError },
    #[error("topic {topic} was deleted and made anew: it is read from its beginning")]
    MadeAnew { topic: String },
    #[error("topic {topic} has lost its records before offset {low}: it is read from its beginning")]
    Cut { topic: String, low: i64 },
}

/// What librdkafka's statistics say: when the broker was last heard (no record for hours is no sign of trouble), and
/// from which offset on the partition has records.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    millis: Arc<AtomicI64>,
    low: Arc<AtomicI64>,
}

/// A low watermark that is not known yet.
const UNKNOWN_OFFSET: i64 = -1;

/// What a session compares with, to notice that a topic is no longer what it read.
struct Seen {
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

    /// Follows the topic until `shutdown`.
    pub(super) fn run(&self, keeper: &mut Keeper, shutdown: &Shutdown) -> Result<(), SessionError> {
        keeper.begin_reading();
        let (mut seen, mut seen_switches) = (self.seen(&self.topic), self.seen(&self.switches_topic));
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
            self.compare(&self.topic, self.consumer.context(), &mut seen, keeper)?;
            self.compare(&self.switches_topic, self.switches.context(), &mut seen_switches, keeper)?;
            keeper.tick();
        }
        Ok(())
    }

    fn seen(&self, topic: &str) -> Seen {
        Seen { low: UNKNOWN_OFFSET, id: self.topic_id(topic) }
    }

    fn topic_id(&self, topic: &str) -> Option<String> {
        self.topic_ids.as_ref().and_then(|ids| ids.borrow().get(topic).cloned())
    }

    /// Whoever has read a topic to its end is told nothing when its older records go, or when another topic of the
    /// same name takes its place: an error says that such a thing happened.
    fn compare(
        &self,
        topic: &str,
        contact: &Contact,
        seen: &mut Seen,
        keeper: &mut Keeper,
    ) -> Result<(), SessionError> {
        let low = contact.low.load(Ordering::Relaxed);
        if low > seen.low {
            // Compaction never moves it: only retention, or somebody who deletes records, does.
            if low > 0 {
                keeper.note_cut();
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

    fn take_switches(&self, keeper: &mut Keeper) -> Result<(), SessionError> {
        while let Some(event) = self.switches.poll(Duration::ZERO) {
            match event {
                Ok(message) => keeper.take_switch(&record(&message), message.offset()),
                Err(KafkaError::PartitionEOF(_)) if keeper.waits_for_switches() => {
                    let (low, end) = offsets(&self.switches, &self.switches_topic);
                    if low > 0 {
                        keeper.note_cut();
                    }
                    // Written at some time, though compaction may have left no record of it.
                    keeper.switches_read(end > 0);
                }
                // Told again after every record.
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => trouble(&self.switches_topic, error, keeper)?,
            }
        }
        Ok(())
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
            Err(KafkaError::PartitionEOF(_)) => {
                if !keeper.is_live() && offsets(&self.consumer, &self.topic).0 > 0 {
                    keeper.note_cut();
                }
                keeper.reached_end();
            }
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
        .create_with_context(Contact::new())?;
    // Known beforehand, or librdkafka would look for the leader only at its next one-second round. It's no harm if
    // nobody answers: then polling tells.
    let _ = consumer.fetch_metadata(Some(topic), METADATA_PATIENCE);
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, PARTITION, Offset::Beginning)?;
    consumer.assign(&partitions)?;
    Ok(consumer)
}

/// The first offset that the topic has, and the one behind its last; zeros if nobody answers.
fn offsets(consumer: &BaseConsumer<Contact>, topic: &str) -> (i64, i64) {
    consumer.fetch_watermarks(topic, PARTITION, METADATA_PATIENCE).unwrap_or_default()
}

fn record<'m>(message: &'m BorrowedMessage<'_>) -> Record<'m> {
    Record { key: message.key(), value: message.payload(), version: header_version(message) }
}

/// An error that is not the session's end: librdkafka connects again by itself.
fn trouble(topic: &str, error: KafkaError, keeper: &mut Keeper) -> Result<(), SessionError> {
    if ends_session(&error) {
        return Err(SessionError::Kafka { topic: topic.to_owned(), error });
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
        // Polling returns it too.
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
