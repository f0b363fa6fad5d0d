//! A group consumer that returns records in batches.
//!
//! The rdkafka crate returns one record per event. Here all partitions of a consumer are forwarded to one separate
//! queue, which librdkafka empties into an array, while rebalances and errors stay on the crate's queue. A rebalance is
//! therefore served only by [`BatchConsumer::serve`], which is called between batches.

use std::cell::{OnceCell, RefCell, RefMut};
use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientConfig, ClientContext, Message as _, TopicPartitionList};
use rdkafka_sys as sys;

use crate::log_limit::{KeyedLogLimit, LogLimit};

pub use super::record::{Fetched, Record};

use super::exists::TopicQuestions;
use super::reading::Reading;
use super::record;

/// Timeout for the group to confirm a final commit, and to process a member's departure.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(700);

static CONSUMER_ERRORS: LogLimit = LogLimit::new();
static FETCH_ERRORS: KeyedLogLimit = KeyedLogLimit::new();

/// A group member with its own record queue.
pub struct BatchConsumer {
    handles: ManuallyDrop<Handles>,
    /// The messages of the last fetch: records and end-of-partition markers.
    buffer: Vec<*mut sys::rd_kafka_message_t>,
    topic: CString,
    reading: RefCell<Reading>,
    /// The reason why the group has assigned no partitions to this member.
    trouble: RefCell<Option<String>>,
}

// The raw pointers in `buffer` are only used through `fetch`'s result, which borrows the consumer mutably.
unsafe impl Send for BatchConsumer {}

struct Handles {
    // Both queues are dropped before the consumer that they belong to.
    queue: QueueRef,
    /// The crate's queue: everything but records.
    events: QueueRef,
    consumer: Arc<BaseConsumer<Forwarding>>,
}

/// Forwards each newly assigned partition to the queue before fetching starts.
#[derive(Default)]
pub struct Forwarding {
    queue: OnceLock<usize>,
    assigned: AtomicUsize,
    rebalances: AtomicUsize,
    closing: AtomicBool,
}

/// A reference to a librdkafka queue.
struct QueueRef(*mut sys::rd_kafka_queue_t);

// librdkafka's handles may be used from any thread.
unsafe impl Send for QueueRef {}

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
    /// Joins the group and subscribes to `topic`. A fetch returns at most `max_records`.
    pub fn subscribe(config: &ClientConfig, topic: &str, max_records: usize) -> KafkaResult<Self> {
        let consumer: BaseConsumer<Forwarding> = config.create_with_context(Forwarding::default())?;
        let queue = QueueRef(unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) });
        let events = QueueRef(unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) });
        let _ = consumer.context().queue.set(queue.0 as usize);
        consumer.subscribe(&[topic])?;
        let handles = Handles { queue, events, consumer: Arc::new(consumer) };
        Ok(Self {
            handles: ManuallyDrop::new(handles),
            buffer: Vec::with_capacity(max_records),
            topic: CString::new(topic)
                .map_err(|_| KafkaError::Subscription("a topic with a zero byte".to_owned()))?,
            reading: RefCell::default(),
            trouble: RefCell::default(),
        })
    }

    /// The rdkafka crate's consumer, for positions, offsets and group metadata.
    pub fn inner(&self) -> &BaseConsumer<Forwarding> {
        &self.handles.consumer
    }

    /// Commits synchronously before the consumer is closed, and waits only `CLOSE_TIMEOUT` for the answer.
    pub fn commit_last(&self, offsets: TopicPartitionList) -> KafkaResult<()> {
        let consumer = Arc::clone(&self.handles.consumer);
        bounded(move || consumer.commit(&offsets, CommitMode::Sync))
            .unwrap_or(Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::RequestTimedOut)))
    }

    /// Creates a lookup of which topics exist; `topic` is an existing one. It uses a consumer, because a metadata
    /// request of a producer may create a topic.
    pub fn topic_questions(&self, topic: &str) -> TopicQuestions {
        TopicQuestions::new(Arc::clone(&self.handles.consumer), topic)
    }

    /// Number of records that have arrived and wait to be fetched.
    pub fn waiting(&self) -> usize {
        self.handles.queue.len()
    }

    /// The partition's end offset at the last fetch; `None` before the first fetch, and while Kafka answers with an
    /// error.
    pub fn high_watermark(&self, topic: &CStr, partition: i32) -> Option<i64> {
        self.handles.watermarks(topic, partition).map(|(_, high)| high)
    }

    /// The partition's first offset at the last fetch; `None` if it is not known.
    pub fn low_watermark(&self, topic: &CStr, partition: i32) -> Option<i64> {
        self.handles.watermarks(topic, partition).map(|(low, _)| low).filter(|low| *low >= 0)
    }

    /// The partition's first and end offset at the last fetch; `None` before the first fetch, and while Kafka answers
    /// with an error.
    pub fn watermarks(&self, partition: i32) -> Option<(i64, i64)> {
        self.handles.watermarks(&self.topic, partition)
    }

    /// Fetch errors and deleted records of the partitions.
    pub fn reading(&self) -> RefMut<'_, Reading> {
        self.reading.borrow_mut()
    }

    /// The reason why the group assigns no partitions to this member: the topic is missing, or may not be read. `None`
    /// if there is no such error.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Number of assigned partitions.
    pub fn assigned(&self) -> usize {
        self.handles.consumer.context().assigned.load(Ordering::Relaxed)
    }

    /// Number of rebalances so far: assignments and revocations.
    pub fn rebalances(&self) -> usize {
        self.handles.consumer.context().rebalances.load(Ordering::Relaxed)
    }

    /// Serves all waiting rebalances, errors and log lines. Returns an error only if the consumer cannot recover.
    pub fn serve(&self) -> KafkaResult<()> {
        let served = self.serve_waiting();
        if self.assigned() > 0 {
            self.trouble.replace(None);
        }
        served
    }

    fn serve_waiting(&self) -> KafkaResult<()> {
        // One poll takes one event, and its `None` does not say whether there was one. All waiting events are taken:
        // with one event per batch a rebalance would never finish, because every commit is rejected during a rebalance,
        // and every rejection adds a log line before the rebalance's own events.
        for _ in 0..self.handles.events.len().max(1) {
            match self.handles.consumer.poll(Duration::ZERO) {
                // Every partition is forwarded before its first fetch, so no record arrives here.
                Some(Ok(record)) => {
                    let (partition, offset) = (record.partition(), record.offset());
                    tracing::error!(partition, offset, "record on the wrong queue");
                    return Err(KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::State));
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error),
                // Logged by librdkafka itself, and reported by the health of every role.
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown))) => {}
                Some(Err(error)) => {
                    if is_of_subscription(&error) {
                        let text = format!("topic {}: {error}", self.topic.to_string_lossy());
                        self.trouble.replace(Some(text));
                    }
                    if let Some(suppressed) = CONSUMER_ERRORS.admit() {
                        tracing::warn!(topic = ?self.topic, %error, suppressed, "consumer error");
                    }
                }
                None => {}
            }
        }
        Ok(())
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

    /// Removes errors from the messages at `from` and after, and tracks the offsets of the records. Returns the number
    /// of messages left there.
    fn sort_out(&mut self, from: usize) -> usize {
        let Self { buffer, reading, handles, topic, .. } = self;
        let reading = reading.get_mut();
        let mut kept = from;
        for index in from..buffer.len() {
            let Some(message) = buffer.get(index).copied() else { break };
            // SAFETY: librdkafka returned the message, and it was not destroyed yet.
            let raw = unsafe { &*message };
            match record::fault(raw) {
                None => {
                    buffer.swap(kept, index);
                    kept += 1;
                    if record::is_end(raw) {
                        reading.end_fault(raw.partition);
                    }
                }
                Some(fault) => {
                    let partition = raw.partition;
                    if let Some(suppressed) = FETCH_ERRORS.admit(&format!("{topic:?}-{partition}")) {
                        let error = &fault.detail;
                        tracing::warn!(
                            ?topic,
                            partition,
                            offset = raw.offset,
                            error,
                            suppressed,
                            "fetch error"
                        );
                    }
                    reading.fault(partition, fault);
                    // SAFETY: the truncation below removes the message from the buffer, so it is not destroyed twice.
                    unsafe { sys::rd_kafka_message_destroy(message) };
                }
            }
        }
        buffer.truncate(kept);
        let new = buffer.get(from..).unwrap_or_default();
        // SAFETY: as above.
        let partition_of = |message: &*mut sys::rd_kafka_message_t| unsafe { (**message).partition };
        for run in new.chunk_by(|one, next| partition_of(one) == partition_of(next)) {
            let Some(partition) = run.first().map(partition_of) else { continue };
            let low = OnceCell::new();
            let low = || *low.get_or_init(|| Some(handles.watermarks(topic, partition)?.0));
            // SAFETY: as above.
            let records = run.iter().map(|message| unsafe { &**message }).filter(|raw| !record::is_end(raw));
            let offsets: Vec<i64> = records.map(|raw| raw.offset).collect();
            if !offsets.is_empty() {
                reading.records(partition, offsets.into_iter(), low);
            }
        }
        kept - from
    }

    fn take(&mut self, timeout: Duration, limit: usize) -> usize {
        let spare = self.buffer.spare_capacity_mut();
        let limit = limit.min(spare.len());
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // At least a millisecond if waiting is requested: zero would spin.
        let millis = if timeout.is_zero() { 0 } else { millis.max(1) };
        let taken = unsafe {
            sys::rd_kafka_consume_batch_queue(self.handles.queue.0, millis, spare.as_mut_ptr().cast(), limit)
        };
        let taken = usize::try_from(taken).unwrap_or(0).min(limit);
        let before = self.buffer.len();
        // librdkafka has written `taken` pointers after the current length.
        unsafe { self.buffer.set_len(before + taken) };
        self.sort_out(before)
    }
}

impl Handles {
    fn watermarks(&self, topic: &CStr, partition: i32) -> Option<(i64, i64)> {
        let (mut low, mut high) = (0, 0);
        let client = self.consumer.client().native_ptr();
        let known = unsafe {
            sys::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &mut low, &mut high)
        };
        let is_known = known == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0;
        is_known.then_some((low, high))
    }
}

/// Whether the error leaves a member without partitions until an operator intervenes.
fn is_of_subscription(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::InvalidTopic
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
        )
    )
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
        // Closing the consumer may still serve an assignment after the queue is destroyed.
        self.handles.consumer.context().closing.store(true, Ordering::Release);
        // SAFETY: nothing uses the handles after this.
        let handles = unsafe { ManuallyDrop::take(&mut self.handles) };
        if bounded(move || drop(handles)).is_none() {
            tracing::warn!("the consumer did not leave its group in time; it is closed in the background");
        }
    }
}

/// The result of `work`, or `None` after [`CLOSE_TIMEOUT`]: librdkafka waits without limit for a group in a rebalance. The
/// work then continues in its own thread.
fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, outcome) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("farewell".to_owned());
    let spawned = thread.spawn(move || {
        let _ = done.send(work());
    });
    spawned.ok().and_then(|_| outcome.recv_timeout(CLOSE_TIMEOUT).ok())
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
    /// Forwards a partition to the queue. A forwarded partition stays forwarded when fetching starts, so no record
    /// reaches the other queue.
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

#[allow(clippy::unwrap_used)]
#[cfg(test)]
#[path = "consumer_tests.rs"]
mod tests;
