//! Asks Kafka for the offsets that a reader does not report, so that lag and stuck partitions are known while it is blocked.

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

/// Between two observations.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two questions whether the topic is still the same.
const IDENTITY_INTERVAL: Duration = Duration::from_millis(250);
/// An end offset that is older than this is asked for.
const MAX_END_AGE: Duration = Duration::from_secs(3);
/// For one question to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that asks for offsets of one group and topic. It never joins the group.
pub struct Watch {
    consumer: BaseConsumer<Logged>,
    /// Sees the end of a partition before the first open transaction. Made when it is needed.
    committed: OnceCell<BaseConsumer<Logged>>,
    settings: ClientConfig,
    progress: Progress,
    /// The topic's id, if somebody wants to know whether it changes.
    identity: Option<Arc<TopicIdentity>>,
}

impl Watch {
    /// Makes the client; Kafka is not asked anything yet. `role` is the part of the group's name after the prefix.
    pub fn new(config: &Config, role: &str, progress: Progress) -> Result<Self, KafkaError> {
        let mut settings = client::base(&config.kafka, &config.instance, &format!("{role}-offsets"));
        settings
            .set("group.id", format!("{}-{role}", config.kafka.group_id))
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false");
        // The end of the log itself, and offsets as they are while a transaction is under way.
        let consumer =
            settings.clone().set("isolation.level", "read_uncommitted").create_with_context(Logged)?;
        Ok(Self { consumer, committed: OnceCell::new(), settings, progress, identity: None })
    }

    /// Asks for the topic's id as well.
    #[must_use]
    pub fn confirming(self, identity: Arc<TopicIdentity>) -> Self {
        Self { identity: Some(identity), ..self }
    }

    /// Observes once a second until `shutdown`. Blocks.
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

    /// Asks for what is missing or old. Kafka being away is no news: what is known stays.
    pub fn refresh(&self, now: Instant) {
        let unknown = self.progress.without_committed();
        if let Err(error) = self.refresh_committed(&unknown) {
            tracing::debug!(topic = self.progress.topic(), %error, "committed offsets are not known");
        }
        let old = self.progress.without_end_for(MAX_END_AGE, now);
        match self.offsets(&old, Offset::End) {
            Ok(ends) => ends.into_iter().for_each(|(partition, end)| self.progress.end(partition, end)),
            Err(error) => tracing::debug!(topic = self.progress.topic(), %error, "end offsets are not known"),
        }
        if let Err(error) = self.explain(&self.progress.unexplained(now)) {
            tracing::debug!(topic = self.progress.topic(), %error, "open transactions are not known");
        }
    }

    /// Finds out whether a partition stands at the first record of a transaction that has not ended.
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
                    let text = format!("a transaction that begins at offset {stable} has not ended");
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
                    tracing::debug!(partition = element.partition(), %error, "no committed offset")
                }
            }
        }
        // A group that is new to a partition begins with its first record.
        for (partition, low) in self.offsets(&new, Offset::Beginning)? {
            self.progress.starts_at(partition, low);
        }
        Ok(())
    }

    /// The first or the end offset of partitions, in one question per broker.
    fn offsets(&self, partitions: &[i32], which: Offset) -> Result<Vec<(i32, i64)>, KafkaError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        // In a question for times, the logical offsets stand for themselves.
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
