//! Requests the offsets from Kafka that a reader does not report, so that lag and stuck partitions are known while it
//! is blocked.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::Config;
use crate::kafka::client::{self, Logged};
use crate::kafka::identity::TopicIdentity;
use crate::shutdown::{Shutdown, pause};

use super::{Progress, Reason};

/// Interval of the observations.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the checks that the topic is still the same.
const IDENTITY_INTERVAL: Duration = Duration::from_millis(250);
/// Age after which an end offset is requested again.
const MAX_END_AGE: Duration = Duration::from_secs(3);
/// Timeout of one request to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that requests the offsets of one group and topic. It never joins the group.
pub struct Watch {
    consumer: BaseConsumer<Logged>,
    /// A client with `read_committed`, for which a partition ends before the first open transaction. Created when it is
    /// first needed.
    committed: OnceCell<BaseConsumer<Logged>>,
    settings: ClientConfig,
    progress: Progress,
    /// The topic's id, if its changes are tracked.
    identity: Option<Arc<TopicIdentity>>,
}

impl Watch {
    /// Creates the client, without a request to Kafka. `role` is the part of the group's name after the prefix.
    pub fn new(config: &Config, role: &str, progress: Progress) -> Result<Self, KafkaError> {
        let mut settings = client::base(&config.kafka, &format!("{role}-offsets"));
        settings
            .set("group.id", format!("{}-{role}", config.kafka.group_id))
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false");
        // `read_uncommitted` returns the end of the log itself, and offsets even while a transaction is open.
        let consumer =
            settings.clone().set("isolation.level", "read_uncommitted").create_with_context(Logged)?;
        Ok(Self { consumer, committed: OnceCell::new(), settings, progress, identity: None })
    }

    /// Additionally confirms the topic's id periodically.
    #[must_use]
    pub fn confirming(self, identity: Arc<TopicIdentity>) -> Self {
        Self { identity: Some(identity), ..self }
    }

    /// Observes once per second until `shutdown`. Blocks.
    pub fn run(&self, shutdown: &Shutdown) {
        let mut observed = Instant::now();
        while pause(IDENTITY_INTERVAL, shutdown) {
            if let Some(identity) = &self.identity {
                identity.confirm(self.consumer.client(), IDENTITY_INTERVAL);
            }
            if observed.elapsed() >= INTERVAL {
                observed = Instant::now();
                self.refresh(observed);
                self.progress.observe(Instant::now());
            }
        }
    }

    /// Requests missing or outdated offsets. If Kafka is unreachable, the known values stay.
    pub fn refresh(&self, now: Instant) {
        let unknown = self.progress.without_committed();
        if let Err(error) = self.refresh_committed(&unknown) {
            tracing::debug!(topic = self.progress.topic(), %error, "the committed offsets cannot be read");
        }
        let old = self.progress.without_end_for(MAX_END_AGE, now);
        match self.offsets(&old, Offset::End) {
            Ok(ends) => ends.into_iter().for_each(|(partition, end)| self.progress.end(partition, end)),
            Err(error) => {
                tracing::debug!(topic = self.progress.topic(), %error, "the end offsets cannot be read")
            }
        }
        if let Err(error) = self.explain(&self.progress.unexplained(now)) {
            tracing::debug!(topic = self.progress.topic(), %error, "open transactions cannot be detected");
        }
    }

    /// Checks whether a stuck partition is at the first record of an open transaction.
    fn explain(&self, unexplained: &[(i32, i64)]) -> Result<(), KafkaError> {
        if unexplained.is_empty() {
            return Ok(());
        }
        if self.committed.get().is_none() {
            let mut settings = self.settings.clone();
            let made = settings.set("isolation.level", "read_committed").create_with_context(Logged)?;
            let _ = self.committed.set(made);
        }
        let Some(committed) = self.committed.get() else { return Ok(()) };
        let partitions: Vec<i32> = unexplained.iter().map(|(partition, _)| *partition).collect();
        let stable = committed.offsets_for_times(self.list(&partitions, Offset::End)?, CALL_TIMEOUT)?;
        for (partition, next) in unexplained {
            let found = stable.find_partition(self.progress.topic(), *partition).map(|found| found.offset());
            match found {
                Some(Offset::Offset(stable)) if stable <= *next => {
                    let text = format!("the transaction that begins at offset {stable} is still open");
                    self.progress.blocked(*partition, Reason::OpenTransaction, text);
                }
                _ => self.progress.unblocked(*partition, Reason::OpenTransaction),
            }
        }
        Ok(())
    }

    fn refresh_committed(&self, partitions: &[i32]) -> Result<(), KafkaError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let committed =
            self.consumer.committed_offsets(self.list(partitions, Offset::Invalid)?, CALL_TIMEOUT)?;
        let mut new = Vec::new();
        for element in committed.elements() {
            match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(next)) => self.progress.starts_at(element.partition(), next),
                (Ok(()), _) => new.push(element.partition()),
                (Err(error), _) => {
                    tracing::debug!(partition = element.partition(), %error, "the committed offset of the partition \
                        cannot be read")
                }
            }
        }
        // A group without a committed offset starts at the first record.
        for (partition, low) in self.offsets(&new, Offset::Beginning)? {
            self.progress.starts_at(partition, low);
        }
        Ok(())
    }

    /// The first or the end offset of partitions, with one request per broker.
    fn offsets(&self, partitions: &[i32], which: Offset) -> Result<Vec<(i32, i64)>, KafkaError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        // In a lookup by time, the logical offsets are passed through and resolved by the broker.
        let found = self.consumer.offsets_for_times(self.list(partitions, which)?, CALL_TIMEOUT)?;
        let mut offsets = Vec::new();
        for element in found.elements() {
            match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(offset)) => offsets.push((element.partition(), offset)),
                (Ok(()), _) => {}
                (Err(error), _) => {
                    self.progress.blocked(element.partition(), Reason::FetchError, error.to_string());
                }
            }
        }
        Ok(offsets)
    }

    fn list(&self, partitions: &[i32], offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition_offset(self.progress.topic(), *partition, offset)?;
        }
        Ok(list)
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("progress", &self.progress).finish_non_exhaustive()
    }
}
