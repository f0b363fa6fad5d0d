//! A group consumer that hands out records in batches.
//!
//! The safe crate hands out one record per event. Here all partitions of a consumer are forwarded to one queue
//! of our own, which librdkafka empties into an array, while rebalances and errors stay on the crate's queue:
//! so a rebalance is served only when [`BatchConsumer::serve`] is called, which is between batches.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::{ClientConfig, ClientContext, Message as _};
use rdkafka_sys as sys;

/// How long the broker may take to say whether a topic exists.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// A consumer in a group, with its own queue.
pub struct BatchConsumer {
    // Both dropped before the consumer that they belong to.
    queue: QueueRef,
    /// The crate's: everything but records.
    events: QueueRef,
    buffer: Vec<*mut sys::rd_kafka_message_t>,
    consumer: Arc<BaseConsumer<Forwarding>>,
}

// The raw pointers in `buffer` are only alive inside `fetch`'s result, which borrows the consumer mutably.
unsafe impl Send for BatchConsumer {}

/// Forwards each newly assigned partition to the queue, before fetching starts.
#[derive(Default)]
pub struct Forwarding {
    queue: OnceLock<usize>,
    assigned: AtomicUsize,
    rebalances: AtomicUsize,
    closing: AtomicBool,
}

/// A reference to a queue of librdkafka's.
struct QueueRef(*mut sys::rd_kafka_queue_t);

/// The records of one fetch; they are given back to librdkafka when this is dropped.
#[derive(Debug)]
pub struct Fetched<'c> {
    messages: &'c [*mut sys::rd_kafka_message_t],
}

/// One record, in librdkafka's memory.
#[derive(Debug, Clone, Copy)]
pub struct Record<'c> {
    raw: &'c sys::rd_kafka_message_t,
    _owner: PhantomData<&'c ()>,
}

impl std::fmt::Debug for BatchConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchConsumer").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Forwarding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarding").field("assigned", &self.assigned).finish_non_exhaustive()
    }
}

impl BatchConsumer {
    /// Joins the group and subscribes to `topic`; at most `max_records` come out of one fetch.
    pub fn subscribe(config: &ClientConfig, topic: &str, max_records: usize) -> KafkaResult<Self> {
        let consumer: BaseConsumer<Forwarding> = config.create_with_context(Forwarding::default())?;
        let queue = QueueRef(unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) });
        let events = QueueRef(unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) });
        let _ = consumer.context().queue.set(queue.0 as usize);
        consumer.subscribe(&[topic])?;
        Ok(Self { queue, events, buffer: Vec::with_capacity(max_records), consumer: Arc::new(consumer) })
    }

    /// The crate's consumer: positions, offsets, group metadata.
    pub fn inner(&self) -> &BaseConsumer<Forwarding> {
        &self.consumer
    }

    /// Asks the broker whether a topic exists; `None` if it does not answer in time. Through a consumer, because
    /// a producer's question may create the topic.
    pub fn topic_exists(&self) -> impl Fn(&str) -> Option<bool> + Send + Sync + 'static {
        let consumer = Arc::clone(&self.consumer);
        move |topic| {
            let metadata = consumer.client().fetch_metadata(Some(topic), METADATA_TIMEOUT).ok()?;
            Some(
                metadata
                    .topics()
                    .iter()
                    .any(|known| known.error().is_none() && !known.partitions().is_empty()),
            )
        }
    }

    /// How far the partition reaches, as far as this consumer has heard.
    pub fn high_watermark(&self, topic: &CStr, partition: i32) -> Option<i64> {
        let (mut low, mut high) = (0, 0);
        let client = self.consumer.client().native_ptr();
        let known = unsafe {
            sys::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &mut low, &mut high)
        };
        (known == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
    }

    /// How many partitions are assigned.
    pub fn assigned(&self) -> usize {
        self.consumer.context().assigned.load(Ordering::Relaxed)
    }

    /// How often partitions came or went.
    pub fn rebalances(&self) -> usize {
        self.consumer.context().rebalances.load(Ordering::Relaxed)
    }

    /// Serves the rebalances, errors and log lines that are waiting. An error is returned if the consumer is beyond
    /// repair.
    pub fn serve(&self) -> KafkaResult<()> {
        // One poll takes one event, and its `None` does not say whether there was one. Were only one taken between
        // two batches, a rebalance would never end: while it is under way every commit is refused, and every
        // refusal is a log line in front of the rebalance's own events.
        for _ in 0..self.events.len().max(1) {
            match self.consumer.poll(Duration::ZERO) {
                // Every partition is forwarded before its first fetch, so no record arrives here.
                Some(Ok(record)) => {
                    let (partition, offset) = (record.partition(), record.offset());
                    tracing::error!(partition, offset, "record on the wrong queue");
                    return Err(KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::State));
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error),
                Some(Err(error)) => tracing::warn!(%error, "consumer error"),
                None => {}
            }
        }
        Ok(())
    }

    /// What has arrived; waits up to `patience` for the first record, and not at all for more.
    pub fn fetch(&mut self, patience: Duration) -> Fetched<'_> {
        self.buffer.clear();
        let mut filled = self.take(Duration::ZERO, self.buffer.capacity());
        if filled == 0 && !patience.is_zero() {
            // A batch call waits until its array is full, so wait for one record and take the rest at once.
            filled = self.take(patience, 1);
            if filled == 1 {
                filled += self.take(Duration::ZERO, self.buffer.capacity() - 1);
            }
        }
        debug_assert_eq!(filled, self.buffer.len());
        Fetched { messages: &self.buffer }
    }

    fn take(&mut self, patience: Duration, limit: usize) -> usize {
        let spare = self.buffer.spare_capacity_mut();
        let limit = limit.min(spare.len());
        let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // At least a millisecond where waiting was asked for: zero would spin.
        let millis = if patience.is_zero() { 0 } else { millis.max(1) };
        let taken = unsafe {
            sys::rd_kafka_consume_batch_queue(self.queue.0, millis, spare.as_mut_ptr().cast(), limit)
        };
        let taken = usize::try_from(taken).unwrap_or(0).min(limit);
        // librdkafka has written `taken` pointers behind the current length.
        unsafe { self.buffer.set_len(self.buffer.len() + taken) };
        taken
    }
}

impl QueueRef {
    fn len(&self) -> usize {
        unsafe { sys::rd_kafka_queue_length(self.0) }
    }
}

impl Drop for QueueRef {
    fn drop(&mut self) {
        unsafe { sys::rd_kafka_queue_destroy(self.0) };
    }
}

impl Drop for BatchConsumer {
    fn drop(&mut self) {
        // Closing the consumer may still serve an assignment, when the queue is gone.
        self.consumer.context().closing.store(true, Ordering::Release);
    }
}

impl ClientContext for Forwarding {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::client::log(level, facility, message);
    }
}

impl ConsumerContext for Forwarding {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.rebalances.fetch_add(1, Ordering::Relaxed);
        match rebalance {
            Rebalance::Assign(partitions) => {
                for element in partitions.elements() {
                    self.forward(consumer, element.topic(), element.partition());
                }
                self.assigned.fetch_add(partitions.count(), Ordering::Relaxed);
                tracing::info!(partitions = partitions.count(), "partitions assigned");
            }
            Rebalance::Revoke(partitions) => {
                let _ = self.assigned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |assigned| {
                    Some(assigned.saturating_sub(partitions.count()))
                });
                tracing::info!(partitions = partitions.count(), "partitions revoked");
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}

impl Forwarding {
    /// A partition forwarded by the application stays so when fetching starts, so no record can slip by.
    fn forward(&self, consumer: &BaseConsumer<Self>, topic: &str, partition: i32) {
        let (Some(queue), Ok(topic)) = (self.queue.get(), CString::new(topic)) else {
            return;
        };
        if self.closing.load(Ordering::Acquire) {
            return;
        }
        unsafe {
            let client = consumer.client().native_ptr();
            let source = sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            if !source.is_null() {
                sys::rd_kafka_queue_forward(source, *queue as *mut _);
                sys::rd_kafka_queue_destroy(source);
            }
        }
    }
}

impl<'c> Fetched<'c> {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The records in order; what librdkafka reports in place of a record is logged and left out.
    pub fn records(&self) -> impl Iterator<Item = Record<'c>> + use<'c> {
        self.messages.iter().filter_map(|message| {
            let raw = unsafe { &**message };
            if raw.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Some(Record { raw, _owner: PhantomData });
            }
            let error = RDKafkaErrorCode::from(raw.err);
            tracing::warn!(partition = raw.partition, offset = raw.offset, %error, "fetch error");
            None
        })
    }
}

impl Drop for Fetched<'_> {
    fn drop(&mut self) {
        for message in self.messages {
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

impl<'c> Record<'c> {
    pub fn partition(&self) -> i32 {
        self.raw.partition
    }

    pub fn offset(&self) -> i64 {
        self.raw.offset
    }

    /// Milliseconds since 1970; 0 where the record has none.
    pub fn timestamp_ms(&self) -> i64 {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        unsafe { sys::rd_kafka_message_timestamp(self.raw, &mut kind) }.max(0)
    }

    pub fn payload(&self) -> &'c [u8] {
        slice(self.raw.payload, self.raw.len)
    }

    /// `None` for a null key, which is not the same as an empty one.
    pub fn key(&self) -> Option<&'c [u8]> {
        (!self.raw.key.is_null()).then(|| slice(self.raw.key, self.raw.key_len))
    }

    /// A null value: a tombstone.
    pub fn is_null(&self) -> bool {
        self.raw.payload.is_null()
    }

    pub fn has_headers(&self) -> bool {
        self.raw_headers().is_some()
    }

    /// The last header of this name, if it is UTF-8.
    pub fn header(&self, name: &CStr) -> Option<&'c str> {
        let headers = self.raw_headers()?;
        let (mut value, mut size) = (std::ptr::null(), 0);
        let found = unsafe { sys::rd_kafka_header_get_last(headers, name.as_ptr(), &mut value, &mut size) };
        (found == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR)
            .then(|| std::str::from_utf8(slice(value, size)).ok())
            .flatten()
    }

    /// All headers, copied.
    pub fn headers(&self) -> OwnedHeaders {
        let mut owned = OwnedHeaders::new();
        let Some(headers) = self.raw_headers() else {
            return owned;
        };
        for index in 0.. {
            let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
            let found =
                unsafe { sys::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size) };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            let key = unsafe { CStr::from_ptr(name) }.to_string_lossy();
            let value = (!value.is_null()).then(|| slice(value, size));
            owned = owned.insert(Header { key: &key, value });
        }
        owned
    }

    fn raw_headers(&self) -> Option<*mut sys::rd_kafka_headers_t> {
        let mut headers = std::ptr::null_mut();
        let found = unsafe { sys::rd_kafka_message_headers(self.raw, &mut headers) };
        (found == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(headers)
    }
}

/// librdkafka's memory, alive as long as the fetch it came from.
fn slice<'c, T>(start: *const T, length: usize) -> &'c [u8] {
    if start.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(start.cast(), length) } }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
#[path = "consumer_tests.rs"]
mod tests;
