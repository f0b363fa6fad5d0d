//! A group consumer with a queue for each partition, so that no partition's records wait for another's.
//!
//! ```text
//!  Kafka ──► librdkafka ──► queue of partition 0 ──► taken records of 0 ──► `peek`, `advance`
//!                      └──► queue of partition 1 ──► taken records of 1 ──► `peek`, `advance`
//! ```
//!
//! The reader chooses the partition. Records that it leaves stay taken, across batches, and come next; librdkafka limits
//! what it fetches for each partition, so a partition that is read slowly does not stop the others. Taken records are
//! discarded when their partition is revoked, paused or sought.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientConfig, TopicPartitionList};
use rdkafka_sys as sys;

use super::arrivals::{Arrivals, Notification};
use super::exists::TopicQuestions;
use super::member::{GroupMember, QueueRef};
use super::record::{self, Records};

/// Maximum number of records taken from a partition's queue at once.
pub const TAKEN_RECORDS: usize = 64;

/// A group member that reads each partition by itself.
pub struct PartitionConsumer {
    // Dropped before the consumer that they belong to.
    queues: BTreeMap<i32, PartitionQueue>,
    arrivals: Arc<Arrivals>,
    /// The member's rebalance count when `queues` was last updated.
    rebalances: usize,
    member: GroupMember,
}

/// The records of one assigned partition.
struct PartitionQueue {
    /// Number of the rebalance that assigned the partition. The taken records are valid in this assignment only.
    assigned_by: usize,
    // Dropped before the queue that it belongs to.
    _notification: Notification,
    queue: QueueRef,
    /// Messages that were taken from the queue; those before `next` are destroyed.
    taken: Vec<*mut sys::rd_kafka_message_t>,
    next: usize,
}

// SAFETY: the messages in `taken` belong to the queue alone, and librdkafka's handles may be used from any thread.
unsafe impl Send for PartitionQueue {}

impl std::fmt::Debug for PartitionConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionConsumer").field("queues", &self.queues.len()).finish_non_exhaustive()
    }
}

impl Deref for PartitionConsumer {
    type Target = GroupMember;

    fn deref(&self) -> &GroupMember {
        &self.member
    }
}

impl PartitionConsumer {
    /// Joins the group and subscribes to `topic`.
    pub fn subscribe(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        let member = GroupMember::create(config, topic)?;
        member.join(None)?;
        Ok(Self { queues: BTreeMap::new(), arrivals: Arc::default(), rebalances: 0, member })
    }

    /// Serves all waiting rebalances, errors and log lines. Returns an error only if the consumer cannot recover.
    pub fn serve(&mut self) -> KafkaResult<()> {
        self.member.serve()?;
        let rebalances = self.member.rebalances();
        if self.rebalances != rebalances {
            self.follow_assignment()?;
            self.rebalances = rebalances;
        }
        Ok(())
    }

    /// Creates a lookup of which topics exist; `topic` is an existing one. It uses a consumer, because a metadata
    /// request of a producer may create a topic. An answer ends a [`wait`](Self::wait).
    pub fn topic_questions(&self, topic: &str) -> TopicQuestions {
        TopicQuestions::new(self.member.shared(), topic, &self.arrivals)
    }

    /// Number of records that wait in each assigned partition. Errors that librdkafka reports in place of records are
    /// counted too.
    pub fn waiting(&self) -> impl Iterator<Item = (i32, usize)> {
        self.queues.iter().map(|(partition, queue)| (*partition, queue.waiting()))
    }

    /// Waits up to `timeout` for an arrival on any queue that was empty. It also returns for an arrival since the last
    /// call.
    pub fn wait(&self, timeout: Duration) {
        self.arrivals.wait(timeout);
    }

    /// The next records of a partition in order, at most `limit` and [`TAKEN_RECORDS`]. They come again until
    /// [`advance`](Self::advance) is called. There may be fewer than wait.
    pub fn peek(&mut self, partition: i32, limit: usize) -> Records<'_> {
        let Self { queues, member, .. } = self;
        let queue = queues.get_mut(&partition);
        Records { messages: queue.map_or(&[], |queue| queue.peek(member, limit)) }
    }

    /// Releases the next `count` records of a partition.
    pub fn advance(&mut self, partition: i32, count: usize) {
        if let Some(queue) = self.queues.get_mut(&partition) {
            queue.advance(count);
        }
    }

    /// Number of records that wait in one partition.
    pub fn waiting_in(&self, partition: i32) -> usize {
        self.queues.get(&partition).map_or(0, PartitionQueue::waiting)
    }

    /// The offset of the partition's first taken record, which librdkafka counts as read already. `None` if none is
    /// taken.
    pub fn first_taken(&self, partition: i32) -> Option<i64> {
        let queue = self.queues.get(&partition)?;
        let message = queue.taken.get(queue.next)?;
        // SAFETY: taken messages after `next` are not destroyed.
        Some(unsafe { (**message).offset })
    }

    /// Releases the taken records of a partition whose position changes: they are not valid any more.
    pub fn discard(&mut self, partition: i32) {
        if let Some(queue) = self.queues.get_mut(&partition) {
            queue.advance(usize::MAX);
        }
    }

    /// Pauses partitions in the consumer. Their records are fetched again after a seek.
    pub fn pause(&mut self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        self.member.inner().pause(partitions)?;
        partitions.elements().iter().for_each(|element| self.discard(element.partition()));
        Ok(())
    }

    /// Closes the queues of partitions that were revoked, and opens those of partitions that were assigned. A partition
    /// that was revoked and assigned again since the last call gets a new queue: the taken records of the old one belong
    /// to another position.
    fn follow_assignment(&mut self) -> KafkaResult<()> {
        let assigned = self.member.assignments();
        self.queues.retain(|partition, queue| assigned.get(partition) == Some(&queue.assigned_by));
        for (partition, assigned_by) in assigned {
            if !self.queues.contains_key(&partition) {
                let queue = PartitionQueue::open(&self.member, partition, assigned_by, &self.arrivals)
                    .ok_or(KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::State))?;
                self.queues.insert(partition, queue);
            }
        }
        Ok(())
    }
}

impl PartitionQueue {
    /// Opens the queue of an assigned partition; `None` if librdkafka does not know the partition.
    fn open(
        member: &GroupMember,
        partition: i32,
        assigned_by: usize,
        arrivals: &Arc<Arrivals>,
    ) -> Option<Self> {
        let client = member.inner().client().native_ptr();
        // SAFETY: the client is alive, and outlives the queue: `PartitionConsumer` drops its queues first.
        unsafe {
            let queue = sys::rd_kafka_queue_get_partition(client, member.topic().as_ptr(), partition);
            if queue.is_null() {
                return None;
            }
            let _notification = Notification::enable(queue, arrivals);
            let taken = Vec::with_capacity(TAKEN_RECORDS);
            Some(Self { assigned_by, _notification, queue: QueueRef(queue), taken, next: 0 })
        }
    }

    fn waiting(&self) -> usize {
        self.taken.len() - self.next + self.queue.len()
    }

    fn peek(&mut self, member: &GroupMember, limit: usize) -> &[*mut sys::rd_kafka_message_t] {
        if self.taken.is_empty() {
            self.take(member);
        }
        let taken = self.taken.get(self.next..).unwrap_or_default();
        taken.get(..limit).unwrap_or(taken)
    }

    /// Moves records from the queue to `taken`, which is empty. Waits for none.
    fn take(&mut self, member: &GroupMember) {
        let spare = self.taken.spare_capacity_mut();
        // SAFETY: the array has room for so many pointers, and librdkafka writes as many as it returns.
        unsafe {
            let messages = spare.as_mut_ptr().cast();
            let taken = sys::rd_kafka_consume_batch_queue(self.queue.0, 0, messages, spare.len());
            let taken = usize::try_from(taken).unwrap_or_default().min(spare.len());
            self.taken.set_len(taken);
        }
        member.sort_out(&mut self.taken, 0);
        self.taken.retain(|message| {
            // SAFETY: taken messages are not destroyed yet, and one that is destroyed here is removed.
            let is_record = unsafe { !record::is_end(&**message) };
            if !is_record {
                unsafe { sys::rd_kafka_message_destroy(*message) };
            }
            is_record
        });
    }

    fn advance(&mut self, count: usize) {
        let end = self.next.saturating_add(count).min(self.taken.len());
        for message in self.taken.get(self.next..end).unwrap_or_default() {
            // SAFETY: messages from `next` on are not destroyed yet.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
        self.next = end;
        if self.next == self.taken.len() {
            self.taken.clear();
            self.next = 0;
        }
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        self.advance(usize::MAX);
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
#[path = "partition_consumer_tests.rs"]
mod tests;
