//! Who leads: the owner of the single partition of the changes topic.

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

use super::hint::{self, Reading};
use super::publish::Handled;

const PARTITION: i32 = 0;
const HEARTBEAT_MAX: Duration = Duration::from_secs(1);

/// This instance's membership in the feeder's consumer group.
pub struct Election {
    consumer: StreamConsumer<Assignment>,
    leads: watch::Receiver<bool>,
    topic: String,
}

/// A hint and where it stood.
#[derive(Debug)]
pub struct Received {
    pub reading: Reading,
    pub offset: i64,
}

/// Told by rebalances. They happen only inside of [`Election::recv`], which is never awaited while a transaction
/// is open: the partition is given up between transactions.
struct Assignment {
    leads: watch::Sender<bool>,
}

impl ClientContext for Assignment {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    /// Comes out of [`Election::recv`] too.
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "the feeder's consumer");
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
    pub fn join(config: &Config) -> anyhow::Result<Self> {
        let group = format!("{}-feeder", config.kafka.group_id);
        let session = config.delivery.session_timeout;
        let heartbeat = HEARTBEAT_MAX.min(session / 3);
        let (sender, leads) = watch::channel(false);
        let consumer: StreamConsumer<Assignment> = client::base(&config.kafka, &config.instance, "feeder")
            .set("group.id", &group)
            .set("group.instance.id", format!("{group}-{}", config.instance))
            .set("session.timeout.ms", session.as_millis().to_string())
            .set("heartbeat.interval.ms", heartbeat.as_millis().to_string())
            .set("partition.assignment.strategy", "range")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            // 10 s by default: a broker that is back would wait for its leader as long.
            .set("reconnect.backoff.max.ms", "1000")
            .create_with_context(Assignment { leads: sender })
            .context("the feeder's consumer cannot be made")?;
        let topic = config.topics.changes.clone();
        consumer.subscribe(&[&topic]).with_context(|| format!("cannot subscribe to {topic}"))?;
        Ok(Self { consumer, leads, topic })
    }

    pub fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Waits for the next hint. Must be awaited most of the time: rebalances happen in here.
    pub async fn recv(&self) -> Result<Received, KafkaError> {
        let message = self.consumer.recv().await?;
        Ok(Received { reading: hint::read(message.payload()), offset: message.offset() })
    }

    /// Returns when leadership is no longer what it was thought to be; at once, if it already isn't.
    pub async fn turn(&self, leading: bool) {
        let mut leads = self.leads.clone();
        // An error means that the consumer is gone, and with it whoever waits here.
        drop(leads.wait_for(|leads| *leads != leading).await);
    }

    /// For the transaction that handles all hints before `offset`.
    pub fn handled(&self, offset: i64) -> Option<Handled> {
        let group: ConsumerGroupMetadata = self.consumer.group_metadata()?;
        Some(Handled { offsets: self.offsets(offset)?, group })
    }

    /// Commits hints that led to no transaction. Losing this does no harm.
    pub fn commit(&self, offset: i64) {
        if let Some(offsets) = self.offsets(offset)
            && let Err(error) = self.consumer.commit(&offsets, CommitMode::Async)
        {
            debug!(topic = self.topic, offset, %error, "hints could not be committed");
        }
    }

    fn offsets(&self, offset: i64) -> Option<TopicPartitionList> {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&self.topic, PARTITION, Offset::Offset(offset)).ok()?;
        Some(offsets)
    }
}

/// Whether a consumer that met this error will never work again.
pub fn is_final(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::FencedInstanceId)
        )
}
