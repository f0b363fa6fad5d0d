//! Leader election: the owner of the single partition of the changes topic leads.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance, StreamConsumer,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, Message};
use tokio::sync::watch;
use tracing::debug;

use crate::config::Config;
use crate::kafka::client;
use crate::message::avro::{Subject, split};
use crate::schema_registry::{Formats, Reader};

use super::hint::{self, HINT_BYTES_MAX, Reading};
use super::publish::Handled;

const PARTITION: i32 = 0;
/// Longest heartbeat interval; with a short session timeout it is a third of that.
const HEARTBEAT_MAX: Duration = Duration::from_secs(1);

/// Membership of this instance in the feeder's consumer group.
pub struct Election {
    consumer: StreamConsumer<Assignment>,
    leads: watch::Receiver<bool>,
    topic: String,
    reader: Mutex<Reader>,
}

/// Hint with its offset.
#[derive(Debug)]
pub struct Received {
    pub reading: Reading,
    pub offset: i64,
}

/// Consumer context that tracks leadership in rebalances. Rebalances happen only inside [`Election::recv`],
/// which is never awaited while a transaction is open, so the partition is revoked only between transactions.
struct Assignment {
    leads: watch::Sender<bool>,
}

impl ClientContext for Assignment {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    /// Logs at debug level only, because [`Election::recv`] returns the error too.
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "error of the feeder's consumer");
    }
}

impl ConsumerContext for Assignment {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if !matches!(rebalance, Rebalance::Assign(_)) {
            self.leads.send_replace(false);
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            let elements = partitions.elements();
            self.leads.send_replace(elements.iter().any(|element| element.partition() == PARTITION));
        }
    }
}

impl std::fmt::Debug for Election {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Election").field("leads", &*self.leads.borrow()).finish_non_exhaustive()
    }
}

impl Election {
    pub fn join(config: &Config, formats: &Formats) -> anyhow::Result<Self> {
        let group = format!("{}-feeder", config.kafka.group_id);
        let session = config.delivery.session_timeout;
        let heartbeat = HEARTBEAT_MAX.min(session / 3);
        let (sender, leads) = watch::channel(false);
        let consumer: StreamConsumer<Assignment> = client::base(&config.kafka, "feeder")
            .set("group.id", &group)
            .set("group.instance.id", format!("{group}-{}", config.instance))
            .set("session.timeout.ms", session.as_millis().to_string())
            .set("heartbeat.interval.ms", heartbeat.as_millis().to_string())
            .set("partition.assignment.strategy", "range")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            // The default is 10 s, which would delay the election after a broker has recovered.
            .set("reconnect.backoff.max.ms", "1000")
            .create_with_context(Assignment { leads: sender })
            .context("the feeder's consumer cannot be created")?;
        let topic = config.topics.changes.clone();
        consumer.subscribe(&[&topic]).with_context(|| format!("cannot subscribe to {topic}"))?;
        let reader = Mutex::new(formats.reader(Subject::HINTS, config.formats.changes));
        Ok(Self { consumer, leads, topic, reader })
    }

    pub fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Receives the next hint. It must be awaited most of the time, because rebalances are processed in it.
    pub async fn recv(&self) -> Result<Received, KafkaError> {
        let message = self.consumer.recv().await?;
        let read = || self.read(message.payload());
        // There is no await between receiving and reading a record: cancelling this future must not lose a
        // hint.
        let is_avro = message.payload().is_some_and(|payload| split(payload).is_some());
        let reading = if is_avro { tokio::task::block_in_place(read) } else { read() };
        Ok(Received { reading, offset: message.offset() })
    }

    /// Reads a hint. If its schema cannot be resolved, the hint is treated as a change of anything.
    fn read(&self, payload: Option<&[u8]>) -> Reading {
        let (payload, mut text) = (payload.unwrap_or_default(), Vec::new());
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match reader.read(payload, &mut text, HINT_BYTES_MAX) {
            Ok(json) => hint::read(Some(json)),
            Err(unread) => {
                debug!(topic = self.topic, %unread, "a hint cannot be decoded; all sources are polled");
                Reading::NotUnderstood
            }
        }
    }

    /// Waits until leadership differs from `leading`; returns at once if it already does.
    pub async fn turn(&self, leading: bool) {
        let mut leads = self.leads.clone();
        // An error means that the consumer is gone, so there is nothing left to wait for.
        drop(leads.wait_for(|leads| *leads != leading).await);
    }

    /// Offsets for the transaction that handles all hints before `offset`; `None` if the group metadata is
    /// not available.
    pub fn handled(&self, offset: i64) -> Option<Handled> {
        let group: ConsumerGroupMetadata = self.consumer.group_metadata()?;
        Some(Handled { offsets: self.offsets(offset)?, group })
    }

    /// Commits hints that led to no transaction. A lost commit only causes them to be processed again.
    pub fn commit(&self, offset: i64) {
        if let Some(offsets) = self.offsets(offset)
            && let Err(error) = self.consumer.commit(&offsets, CommitMode::Async)
        {
            debug!(topic = self.topic, offset, %error, "the offsets of hints could not be committed; they are read \
                again later");
        }
    }

    fn offsets(&self, offset: i64) -> Option<TopicPartitionList> {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&self.topic, PARTITION, Offset::Offset(offset)).ok()?;
        Some(offsets)
    }
}

/// Whether the consumer cannot recover from this error.
pub fn is_final(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::FencedInstanceId)
        )
}
