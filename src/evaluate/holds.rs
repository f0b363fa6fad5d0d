//! Partitions that wait: their next record cannot be read yet, for a reason that is not its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;

use crate::kafka::consumer::BatchConsumer;
use crate::progress::{Progress, Reason};

use super::batch::Place;
use super::clients::rewind_these;
use super::error::SessionError;

/// The partitions of one worker that wait.
#[derive(Debug)]
pub struct Holds {
    partitions: Vec<i32>,
    /// When their records are looked at again.
    until: Option<Instant>,
    /// Why the last one waits.
    pub why: Option<Arc<str>>,
    /// Not told to the consumer yet.
    fresh: Vec<i32>,
    /// Counts those of all workers.
    waiting: Gauge,
    progress: Progress,
}

impl Holds {
    /// No partition waits yet. `waiting` counts those of all workers; each is reported to `progress` with its reason.
    pub fn new(waiting: Gauge, progress: Progress) -> Self {
        Self { partitions: Vec::new(), until: None, why: None, fresh: Vec::new(), waiting, progress }
    }

    /// Whether the record is of a partition that waits: it will come again.
    pub fn has(&self, place: Place) -> bool {
        self.partitions.contains(&place.partition)
    }

    pub fn has_partition(&self, partition: i32) -> bool {
        self.partitions.contains(&partition)
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// The record, and all behind it, will come again after `retry_after`, with all that are held meanwhile.
    pub fn hold(&mut self, place: Place, why: Arc<str>, retry_after: Duration) {
        tracing::debug!(partition = place.partition, offset = place.offset, "partition waits: {why}");
        self.until.get_or_insert_with(|| Instant::now() + retry_after);
        self.waiting.inc();
        self.progress.blocked(place.partition, Reason::Held, Arc::clone(&why));
        self.partitions.push(place.partition);
        self.fresh.push(place.partition);
        self.why = Some(why);
    }

    /// Nothing more is fetched for those that were added.
    pub fn pause(&mut self, consumer: &BatchConsumer, topic: &str) -> KafkaResult<()> {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh.is_empty() {
            return Ok(());
        }
        consumer.inner().pause(&list(topic, &fresh))
    }

    /// Looks again at those that have waited for long enough: they are read from what is committed.
    pub fn release(&mut self, consumer: &BatchConsumer, topic: &str) -> Result<(), SessionError> {
        if self.until.is_none_or(|until| Instant::now() < until) {
            return Ok(());
        }
        let released = self.resume(consumer, topic).map_err(SessionError::Consumer)?;
        if released.count() == 0 { Ok(()) } else { rewind_these(consumer, topic, released) }
    }

    /// Nothing waits any more; the partitions that did.
    pub fn forget(&mut self) -> Vec<i32> {
        (self.until, self.why) = (None, None);
        self.fresh.clear();
        self.waiting.dec_by(i64::try_from(self.partitions.len()).unwrap_or_default());
        std::mem::take(&mut self.partitions)
    }

    /// Nothing waits any more; those that are still ours.
    pub fn resume(&mut self, consumer: &BatchConsumer, topic: &str) -> KafkaResult<TopicPartitionList> {
        let waiting = self.forget();
        if waiting.is_empty() {
            return Ok(TopicPartitionList::new());
        }
        // All of them: a partition stays paused in this client also after it was assigned elsewhere and came back.
        consumer.inner().resume(&list(topic, &waiting))?;
        let assigned = consumer.inner().assignment()?;
        // Others have them now, and read them from what is committed too.
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
