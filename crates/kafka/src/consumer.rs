//! A group consumer that returns records in batches.
//!
//! The rdkafka crate returns one record per event. Here all partitions of a consumer are forwarded to one separate
//! queue, which librdkafka empties into an array.

use std::ops::Deref;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka_sys as sys;

pub use super::member::{Forwarding, GroupMember};
pub use super::record::{Fetched, Record};

use super::member::QueueRef;

/// A group member with one queue for the records of all its partitions.
pub struct BatchConsumer {
    // Dropped before the consumer that it belongs to.
    queue: QueueRef,
    /// The messages of the last fetch: records and end-of-partition markers.
    buffer: Vec<*mut sys::rd_kafka_message_t>,
    member: GroupMember,
}

// SAFETY: the raw pointers in `buffer` are only used through `fetch`'s result, which borrows the consumer mutably.
unsafe impl Send for BatchConsumer {}

impl std::fmt::Debug for BatchConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchConsumer").finish_non_exhaustive()
    }
}

impl Deref for BatchConsumer {
    type Target = GroupMember;

    fn deref(&self) -> &GroupMember {
        &self.member
    }
}

impl BatchConsumer {
    /// Joins the group and subscribes to `topic`. A fetch returns at most `max_records`.
    pub fn subscribe(config: &ClientConfig, topic: &str, max_records: usize) -> KafkaResult<Self> {
        let member = GroupMember::create(config, topic)?;
        let queue = QueueRef(unsafe { sys::rd_kafka_queue_new(member.inner().client().native_ptr()) });
        member.join(Some(&queue))?;
        Ok(Self { queue, buffer: Vec::with_capacity(max_records), member })
    }

    /// Number of records that have arrived and wait to be fetched.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Returns the records that have arrived. Waits up to `timeout` for the first one, and not for more.
    pub fn fetch(&mut self, timeout: Duration) -> Fetched<'_> {
        self.fetch_at_most(timeout, self.buffer.capacity())
    }

    /// Returns at most `limit` records, like [`fetch`](Self::fetch). The others stay in librdkafka's queue, and are
    /// discarded if their partition is revoked.
    pub fn fetch_at_most(&mut self, timeout: Duration, limit: usize) -> Fetched<'_> {
        self.buffer.clear();
        let limit = limit.min(self.buffer.capacity());
        let mut filled = self.take(Duration::ZERO, limit);
        if filled == 0 && !timeout.is_zero() {
            // A batch call waits until its array is full. So this waits for one record and then takes the rest without
            // waiting.
            filled = self.take(timeout, limit.min(1));
            if filled == 1 && limit > 1 {
                filled += self.take(Duration::ZERO, limit - 1);
            }
        }
        debug_assert_eq!(filled, self.buffer.len());
        Fetched { messages: &self.buffer }
    }

    fn take(&mut self, timeout: Duration, limit: usize) -> usize {
        let spare = self.buffer.spare_capacity_mut();
        let limit = limit.min(spare.len());
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // At least a millisecond if waiting is requested: zero would spin.
        let millis = if timeout.is_zero() { 0 } else { millis.max(1) };
        let taken = unsafe {
            sys::rd_kafka_consume_batch_queue(self.queue.0, millis, spare.as_mut_ptr().cast(), limit)
        };
        let taken = usize::try_from(taken).unwrap_or(0).min(limit);
        let before = self.buffer.len();
        // librdkafka has written `taken` pointers after the current length.
        unsafe { self.buffer.set_len(before + taken) };
        self.member.sort_out(&mut self.buffer, before)
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
#[path = "consumer_tests.rs"]
mod tests;
