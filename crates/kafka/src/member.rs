//! A member of a consumer group: the part that all group consumers have in common.
//!
//! Records never arrive on the rdkafka crate's own queue: each partition is directed elsewhere before its first fetch. A
//! rebalance is therefore served only by [`GroupMember::serve`], which is called between batches.

use std::cell::{OnceCell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientConfig, ClientContext, Message as _, Statistics, TopicPartitionList};
use rdkafka_sys as sys;

use crate::log_limit::{KeyedLogLimit, LogLimit, limited};

use super::reading::Reading;
use super::record;

/// Timeout for the group to confirm a final commit, and to process a member's departure.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(700);

static CONSUMER_ERRORS: LogLimit = LogLimit::new();
static FETCH_ERRORS: KeyedLogLimit = KeyedLogLimit::new();

/// A consumer that is subscribed to one topic. Its records arrive on the queues of the type that contains it.
pub struct GroupMember {
    handles: ManuallyDrop<Handles>,
    topic: CString,
    reading: RefCell<Reading>,
    /// The reason why the group has assigned no partitions to this member.
    trouble: RefCell<Option<String>>,
}

struct Handles {
    // Dropped before the consumer that it belongs to.
    /// The crate's queue: everything but records.
    events: QueueRef,
    consumer: Arc<BaseConsumer<Forwarding>>,
}

/// Directs each newly assigned partition to its queue before fetching starts.
#[derive(Default)]
pub struct Forwarding {
    /// Address of the queue that all partitions are forwarded to; 0 if each partition keeps its own queue.
    queue: OnceLock<usize>,
    /// The assigned partitions, each with the number of the rebalance that assigned it.
    assigned: Mutex<BTreeMap<i32, usize>>,
    rebalances: AtomicUsize,
    closing: AtomicBool,
}

/// A reference to a librdkafka queue.
pub(super) struct QueueRef(pub(super) *mut sys::rd_kafka_queue_t);

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl Send for QueueRef {}

impl std::fmt::Debug for GroupMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupMember").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for QueueRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QueueRef")
    }
}

impl std::fmt::Debug for Forwarding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarding").field("assigned", &self.assigned).finish_non_exhaustive()
    }
}

impl GroupMember {
    /// Creates the consumer. It joins the group with [`join`](Self::join), after the queues are prepared.
    pub(super) fn create(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        let consumer: BaseConsumer<Forwarding> = config.create_with_context(Forwarding::default())?;
        let events = QueueRef(unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) });
        let topic = CString::new(topic)
            .map_err(|_| KafkaError::Subscription("a topic with a zero byte".to_owned()))?;
        Ok(Self {
            handles: ManuallyDrop::new(Handles { events, consumer: Arc::new(consumer) }),
            topic,
            reading: RefCell::default(),
            trouble: RefCell::default(),
        })
    }

    /// Subscribes to the topic. All partitions are forwarded to `queue`; with `None` each keeps its own queue.
    pub(super) fn join(&self, queue: Option<&QueueRef>) -> KafkaResult<()> {
        let _ = self.inner().context().queue.set(queue.map_or(0, |queue| queue.0 as usize));
        self.inner().subscribe(&[&self.topic.to_string_lossy()])
    }

    pub(super) fn topic(&self) -> &CStr {
        &self.topic
    }

    pub(super) fn shared(&self) -> Arc<BaseConsumer<Forwarding>> {
        Arc::clone(&self.handles.consumer)
    }

    /// The assigned partitions, each with the number of the rebalance that assigned it. A partition that was revoked and
    /// assigned again has another number.
    pub(super) fn assignments(&self) -> BTreeMap<i32, usize> {
        self.inner().context().assigned().clone()
    }

    /// Number of rebalances, errors and log lines that wait to be served.
    pub fn waiting_events(&self) -> usize {
        self.handles.events.len()
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
        self.handles.consumer.context().assigned().len()
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
                    // Not limited: the consumer ends.
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

    /// Removes errors from the messages at `from` and after, and tracks the offsets of the records. Returns the number
    /// of messages left there.
    pub(super) fn sort_out(&self, buffer: &mut Vec<*mut sys::rd_kafka_message_t>, from: usize) -> usize {
        let Self { handles, topic, .. } = self;
        let mut reading = self.reading.borrow_mut();
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
            let mut offsets = records.map(|raw| raw.offset).peekable();
            if offsets.peek().is_some() {
                reading.records(partition, offsets, low);
            }
        }
        kept - from
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
    pub(super) fn len(&self) -> usize {
        unsafe { sys::rd_kafka_queue_length(self.0) }
    }
}

impl Drop for QueueRef {
    fn drop(&mut self) {
        unsafe { sys::rd_kafka_queue_destroy(self.0) };
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        // Closing the consumer may still serve an assignment after the queue is destroyed.
        self.handles.consumer.context().closing.store(true, Ordering::Release);
        // SAFETY: nothing uses the handles after this.
        let handles = unsafe { ManuallyDrop::take(&mut self.handles) };
        if bounded(move || drop(handles)).is_none() {
            limited!(warn, "the consumer did not leave its group in time; it is closed in the background");
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

    fn stats(&self, statistics: Statistics) {
        super::statistics::record(&statistics);
    }
}

impl ConsumerContext for Forwarding {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let number = self.rebalances.fetch_add(1, Ordering::Relaxed) + 1;
        match rebalance {
            Rebalance::Assign(partitions) => {
                for element in partitions.elements() {
                    self.forward(consumer, element.topic(), element.partition());
                    self.assigned().insert(element.partition(), number);
                }
                tracing::info!(partitions = partitions.count(), "partitions assigned");
            }
            Rebalance::Revoke(partitions) => {
                for element in partitions.elements() {
                    self.assigned().remove(&element.partition());
                }
                tracing::info!(partitions = partitions.count(), "partitions revoked");
            }
            Rebalance::Error(error) => limited!(warn, %error, "rebalance failed"),
        }
    }
}

impl Forwarding {
    fn assigned(&self) -> MutexGuard<'_, BTreeMap<i32, usize>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Directs a partition to the common queue, or to its own queue if there is none. The direction stays when fetching
    /// starts, so no record reaches the crate's queue.
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
