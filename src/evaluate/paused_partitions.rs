//! Paused partitions: their next record cannot be decoded yet, for example because the schema registry is unreachable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;

use crate::kafka::partition_consumer::PartitionConsumer;
use crate::progress::{Progress, Reason};

use super::batch::SourceOffset;
use super::clients::rewind_these;
use super::error::SessionError;

/// The paused partitions of one worker.
#[derive(Debug)]
pub struct PausedPartitions {
    partitions: Vec<i32>,
    /// Time of the next attempt to read the paused partitions. `None` if no partition is paused.
    until: Option<Instant>,
    /// Reason of the partition that was paused last.
    pub why: Option<Arc<str>>,
    /// Partitions that are not paused in the consumer yet.
    fresh: Vec<i32>,
    /// Gauge of the paused partitions of all workers.
    waiting: Gauge,
    progress: Progress,
}

impl PausedPartitions {
    /// Creates the set without paused partitions. `waiting` is the gauge of all workers; each paused partition is
    /// reported to `progress` with its reason.
    pub fn new(waiting: Gauge, progress: Progress) -> Self {
        Self { partitions: Vec::new(), until: None, why: None, fresh: Vec::new(), waiting, progress }
    }

    /// Whether the partition is paused. Its records are fetched again after the pause.
    pub fn has_partition(&self, partition: i32) -> bool {
        self.partitions.contains(&partition)
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Pauses the record's partition. The record and those after it are fetched again when all pauses end, at the
    /// latest after `retry_after`.
    pub fn hold(&mut self, place: SourceOffset, why: Arc<str>, retry_after: Duration) {
        tracing::debug!(partition = place.partition, offset = place.offset, "partition paused: {why}");
        self.until.get_or_insert_with(|| Instant::now() + retry_after);
        self.waiting.inc();
        self.progress.blocked(place.partition, Reason::Held, Arc::clone(&why));
        self.partitions.push(place.partition);
        self.fresh.push(place.partition);
        self.why = Some(why);
    }

    /// Pauses newly added partitions in the consumer, so that nothing more is fetched from them.
    pub fn pause(&mut self, consumer: &mut PartitionConsumer, topic: &str) -> KafkaResult<()> {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh.is_empty() {
            return Ok(());
        }
        consumer.pause(&list(topic, &fresh))
    }

    /// Resumes the paused partitions once their retry time has come, and seeks them back to their committed offsets.
    pub fn release(&mut self, consumer: &mut PartitionConsumer, topic: &str) -> Result<(), SessionError> {
        if self.until.is_none_or(|until| Instant::now() < until) {
            return Ok(());
        }
        let released = self.resume(consumer, topic).map_err(SessionError::Consumer)?;
        if released.count() == 0 { Ok(()) } else { rewind_these(consumer, topic, released) }
    }

    /// Clears the set and returns the partitions that were paused.
    pub fn forget(&mut self) -> Vec<i32> {
        (self.until, self.why) = (None, None);
        self.fresh.clear();
        self.waiting.dec_by(i64::try_from(self.partitions.len()).unwrap_or_default());
        std::mem::take(&mut self.partitions)
    }

    /// Clears the set, resumes its partitions in the consumer, and returns those that are still assigned to this
    /// worker.
    pub fn resume(
        &mut self,
        consumer: &mut PartitionConsumer,
        topic: &str,
    ) -> KafkaResult<TopicPartitionList> {
        let waiting = self.forget();
        if waiting.is_empty() {
            return Ok(TopicPartitionList::new());
        }
        // Also partitions that were reassigned: librdkafka keeps a partition paused in this client even after it was
        // assigned elsewhere and came back.
        consumer.inner().resume(&list(topic, &waiting))?;
        let assigned = consumer.inner().assignment()?;
        // Partitions of other workers by now are read from their committed offsets there.
        let ours = |partition: &i32| assigned.find_partition(topic, *partition).is_some();
        let ours = list(topic, &waiting.into_iter().filter(ours).collect::<Vec<_>>());
        Ok(ours)
    }
}

fn list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    list
}
