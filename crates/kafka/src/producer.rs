//! A producer that its caller polls and that reports failed deliveries.

mod calls;
mod forward;

pub use calls::Call;
pub use forward::Changes;

use crate::log_limit::limited;

use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig,
};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext, Statistics};
use rdkafka_sys as sys;

/// `linger.ms` of idempotent producers, whose batches are flushed: longer than any round, and shorter than the shortest
/// transaction. If a batch is due while a request of its partition is in flight, librdkafka spins until the request is
/// acknowledged (<https://github.com/confluentinc/librdkafka/issues/3692>), which takes CPU time from the broker on the
/// same machine.
pub const LINGER_MS: &str = "500";
/// Upper bound in bytes of the records sent to one partition between two flushes, for the same reason. With keys and
/// headers, this is less than one produce request (`batch.size`).
pub const ROUND_BYTES: usize = 768 << 10;
/// Maximum size of a record that the evaluator's producers send, with key and headers, before compression. The topic
/// has its own limit; this one bounds the memory for one record.
pub const MAX_RECORD_BYTES: usize = 8 << 20;
/// Upper bound in bytes of what the wire format adds to one record: lengths, offset and timestamp.
const RECORD_OVERHEAD_BYTES: usize = 128;
/// Upper bound of the encoding overhead of a record's header, in bytes.
const HEADER_OVERHEAD_BYTES: usize = 10;
/// Maximum duration of one wait for acknowledgements.
const FLUSH: Duration = Duration::from_millis(10);
/// Timeout for the delivery reports of abandoned records.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of retries while the queue is full.
const QUEUE_FULL_BACKOFF: Duration = Duration::from_micros(200);

/// A record that was not delivered, identified by the delivery id it was sent with.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub delivery_id: usize,
    pub code: RDKafkaErrorCode,
}

/// Collects failed deliveries. With `delivery.report.only.error`, successful ones are not reported.
#[derive(Debug, Default)]
pub struct Failures {
    records: Mutex<Vec<Failure>>,
    client: Mutex<Option<RDKafkaErrorCode>>,
    /// Whether errors of the client are logged at debug level only.
    is_quiet: bool,
}

/// A producer that reports failed deliveries by the id with which each record was sent, with topic handles for fast sends.
pub struct TrackedProducer {
    // Dropped before the producer that created them.
    lanes: Vec<TopicHandle>,
    producer: Arc<BaseProducer<Failures>>,
}

/// A handle to one topic, which avoids a topic lookup for each record.
pub struct TopicHandle {
    client: *mut sys::rd_kafka_t,
    topic: *mut sys::rd_kafka_topic_t,
}

// librdkafka's handles may be used from any thread.
unsafe impl Send for TopicHandle {}

impl TopicHandle {
    /// Opens a handle. It must be dropped before `producer`.
    pub fn open<C: ProducerContext>(producer: &BaseProducer<C>, topic: &str) -> KafkaResult<Self> {
        let name = CString::new(topic)?;
        let client = producer.client().native_ptr();
        let handle = unsafe { sys::rd_kafka_topic_new(client, name.as_ptr(), std::ptr::null_mut()) };
        if handle.is_null() {
            return Err(KafkaError::ClientCreation(format!("cannot produce to topic {topic}")));
        }
        Ok(Self { client, topic: handle })
    }

    /// Queues a record, whose data is copied. `delivery_id` is returned as the opaque value of the delivery report.
    pub fn send(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        delivery_id: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        let (key, key_length) = key.map_or((std::ptr::null(), 0), |key| (key.as_ptr(), key.len()));
        let sent = unsafe {
            sys::rd_kafka_produce(
                self.topic,
                partition,
                sys::RD_KAFKA_MSG_F_COPY,
                value.as_ptr().cast_mut().cast(),
                value.len(),
                key.cast(),
                key_length,
                delivery_id as *mut _,
            )
        };
        if sent == 0 { Ok(()) } else { Err(unsafe { sys::rd_kafka_last_error() }.into()) }
    }

    /// Queues a record with headers, like [`send`](Self::send).
    pub fn send_with(
        &self,
        headers: &[(&CStr, &[u8])],
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        delivery_id: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        let (key, key_length) = key.map_or((std::ptr::null(), 0), |key| (key.as_ptr(), key.len()));
        let parts = RawParts {
            key: key.cast_mut().cast(),
            key_length,
            value: value.as_ptr().cast_mut().cast(),
            value_length: value.len(),
            timestamp_ms: 0,
        };
        // SAFETY: key and value live until the call returns, and the list is given away.
        unsafe {
            let list = sys::rd_kafka_headers_new(headers.len());
            add_headers(list, headers);
            self.produce(partition, &parts, list, delivery_id)
        }
    }

    /// Queues a record. Its data is copied before the call returns.
    ///
    /// # Safety
    ///
    /// The pointers must be valid until the call returns. The list of headers is owned by this call.
    unsafe fn produce(
        &self,
        partition: i32,
        parts: &RawParts,
        headers: *mut sys::rd_kafka_headers_t,
        delivery_id: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        use sys::rd_kafka_vtype_t as Field;
        // The variadic arguments are pairs of a tag and its value, in C types. librdkafka owns the headers only if the
        // call succeeds.
        unsafe {
            let sent = sys::rd_kafka_producev(
                self.client,
                Field::RD_KAFKA_VTYPE_RKT,
                self.topic,
                Field::RD_KAFKA_VTYPE_PARTITION,
                partition,
                Field::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                Field::RD_KAFKA_VTYPE_VALUE,
                parts.value,
                parts.value_length,
                Field::RD_KAFKA_VTYPE_KEY,
                parts.key,
                parts.key_length,
                Field::RD_KAFKA_VTYPE_TIMESTAMP,
                parts.timestamp_ms,
                Field::RD_KAFKA_VTYPE_OPAQUE,
                delivery_id as *mut std::ffi::c_void,
                Field::RD_KAFKA_VTYPE_HEADERS,
                headers,
                Field::RD_KAFKA_VTYPE_END,
            );
            if sent == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Ok(());
            }
            sys::rd_kafka_headers_destroy(headers);
            Err(sent.into())
        }
    }
}

/// Key, value and timestamp of a record as librdkafka takes them.
struct RawParts {
    key: *mut std::ffi::c_void,
    key_length: usize,
    value: *mut std::ffi::c_void,
    value_length: usize,
    /// Milliseconds since 1970; 0 means now.
    timestamp_ms: i64,
}

/// Adds copies of headers to a list.
///
/// # Safety
///
/// The list must be valid.
unsafe fn add_headers(list: *mut sys::rd_kafka_headers_t, headers: &[(&CStr, &[u8])]) {
    for (name, header) in headers {
        let (length, bytes) = (header.len().cast_signed(), header.as_ptr().cast());
        unsafe { sys::rd_kafka_header_add(list, name.as_ptr(), -1, bytes, length) };
    }
}

impl std::fmt::Debug for TopicHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicHandle").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TrackedProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrackedProducer").finish_non_exhaustive()
    }
}

impl TrackedProducer {
    /// Creates a producer with a topic handle for `topic`.
    pub fn create(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        Self::create_with(config, [topic], Failures::default())
    }

    /// Creates a producer with a topic handle for each of `topics`, in this order.
    pub fn create_for<'t>(
        config: &ClientConfig,
        topics: impl IntoIterator<Item = &'t str>,
    ) -> KafkaResult<Self> {
        Self::create_with(config, topics, Failures::default())
    }

    /// Like [`create`](Self::create), for a caller that reports the errors which its calls return: errors of the client
    /// are logged at debug level only.
    pub fn create_quiet(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        Self::create_with(config, [topic], Failures { is_quiet: true, ..Failures::default() })
    }

    fn create_with<'t>(
        config: &ClientConfig,
        topics: impl IntoIterator<Item = &'t str>,
        failures: Failures,
    ) -> KafkaResult<Self> {
        let producer: BaseProducer<Failures> = config.create_with_context(failures)?;
        let lanes = topics.into_iter().map(|topic| TopicHandle::open(&producer, topic));
        Ok(Self { lanes: lanes.collect::<KafkaResult<_>>()?, producer: Arc::new(producer) })
    }

    pub fn inner(&self) -> &BaseProducer<Failures> {
        &self.producer
    }

    /// Sends a record without headers through the first topic handle; waits while the queue is full.
    pub fn send(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        delivery_id: usize,
    ) -> KafkaResult<()> {
        self.send_to(0, partition, key, value, delivery_id)
    }

    /// Sends a record without headers through the topic handle with this index; waits while the queue is full.
    pub fn send_to(
        &self,
        lane: usize,
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        delivery_id: usize,
    ) -> KafkaResult<()> {
        let lane = self.lane(lane)?;
        self.when_there_is_room(|| lane.send(partition, key, value, delivery_id))
    }

    fn lane(&self, lane: usize) -> KafkaResult<&TopicHandle> {
        self.lanes.get(lane).ok_or(KafkaError::MessageProduction(RDKafkaErrorCode::UnknownTopic))
    }

    /// Sends any record; waits while the queue is full.
    pub fn send_record(&self, record: BaseRecord<'_, [u8], [u8], usize>) -> KafkaResult<()> {
        let mut pending = Some(record);
        self.when_there_is_room(|| {
            let Some(record) = pending.take() else {
                return Ok(());
            };
            match self.producer.send(record) {
                Ok(()) => Ok(()),
                Err((KafkaError::MessageProduction(code), record)) => {
                    pending = Some(record);
                    Err(code)
                }
                Err(_) => Err(RDKafkaErrorCode::InvalidArgument),
            }
        })
    }

    /// Waits until everything sent is delivered or has failed. `false` after `timeout`.
    ///
    /// The crate's `flush` is not used: it works in steps of 100 ms.
    pub fn drain(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        self.drain_until(|_| Instant::now() > deadline)
    }

    /// Waits until everything sent is delivered or has failed. `is_over` receives the number of records in flight; when
    /// it returns `true`, the wait ends and the result is `false`.
    pub fn drain_until(&self, mut is_over: impl FnMut(i32) -> bool) -> bool {
        let mut purged = false;
        while self.producer.in_flight_count() > 0 {
            if is_over(self.producer.in_flight_count()) {
                return false;
            }
            // A failed record stays in flight until its report is polled, so each wait is short.
            flush(&self.producer, FLUSH);
            self.producer.poll(Duration::ZERO);
            // A failure ends the transaction: librdkafka neither sends nor returns its remaining records, so they are
            // purged.
            if !purged && self.has_failures() {
                self.producer.purge(PurgeConfig::default().queue());
                purged = true;
            }
        }
        true
    }

    /// Abandons all unacknowledged records and reports them as failed, so that every record without a failure is known
    /// to be delivered. `false` if the reports did not all arrive in time.
    pub fn give_up(&self) -> bool {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        let deadline = Instant::now() + GIVE_UP_TIMEOUT;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() > deadline {
                return false;
            }
            flush(&self.producer, FLUSH);
            self.producer.poll(Duration::ZERO);
        }
        true
    }

    /// Number of records that were queued and are neither acknowledged nor reported as failed.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or_default()
    }

    /// Serves delivery reports and yields the CPU for a short time.
    fn wait_a_little(&self) {
        // The crate's own wait would spin: it rounds a remaining fraction of a millisecond down to zero.
        self.producer.poll(Duration::ZERO);
        std::thread::park_timeout(QUEUE_FULL_BACKOFF);
    }

    fn has_failures(&self) -> bool {
        let records = self.producer.context().records.lock();
        records.is_ok_and(|records| !records.is_empty())
    }

    /// The failures since the last call.
    pub fn take_failures(&self) -> Vec<Failure> {
        let failures = self.producer.context();
        failures.records.lock().map(|mut records| std::mem::take(&mut *records)).unwrap_or_default()
    }

    /// The fatal error of this producer, if one occurred.
    pub fn fatal(&self) -> Option<RDKafkaErrorCode> {
        self.producer.context().client.lock().ok().and_then(|fatal| *fatal)
    }

    fn when_there_is_room(&self, mut send: impl FnMut() -> Result<(), RDKafkaErrorCode>) -> KafkaResult<()> {
        loop {
            match send() {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::QueueFull) => {
                    self.wait_a_little();
                    if let Some(code) = self.fatal() {
                        return Err(KafkaError::MessageProduction(code));
                    }
                }
                Err(code) => return Err(KafkaError::MessageProduction(code)),
            }
        }
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        unsafe { sys::rd_kafka_topic_destroy(self.topic) };
    }
}

impl ClientContext for Failures {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code @ (RDKafkaErrorCode::Fatal | RDKafkaErrorCode::Fenced)) = error.rdkafka_error_code()
            && let Ok(mut fatal) = self.client.lock()
        {
            *fatal = Some(code);
        }
        if self.is_quiet {
            tracing::debug!(%error, reason, "producer error");
        } else {
            limited!(warn, key = &error.to_string(), %error, reason, "producer error");
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::client::log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        crate::statistics::record(&statistics);
    }
}

impl ProducerContext<NoCustomPartitioner> for Failures {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery_id: usize) {
        if let Err((error, _)) = result
            && let Ok(mut records) = self.records.lock()
        {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            records.push(Failure { delivery_id, code });
        }
    }
}

/// Sends records that still linger, and waits up to `timeout` until none is in flight. Delivery reports are left to
/// `poll`.
pub fn flush<C: ProducerContext>(producer: &BaseProducer<C>, timeout: Duration) {
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    unsafe { sys::rd_kafka_flush(producer.client().native_ptr(), timeout) };
}

/// Whether a broker rejected this record itself, so that a retry would fail too.
pub fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge | Code::InvalidMessage | Code::InvalidMessageSize | Code::PolicyViolation
    ) || RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD as i32 == code as i32
}

/// Whether librdkafka itself rejected this record immediately, without asking a broker.
pub fn is_local_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::MessageSizeTooLarge | Code::BadMessage | Code::InvalidArgument)
}

/// Upper bound in bytes of a record on the wire before compression; `headers` as counted by [`header_bytes`].
pub fn record_bytes(key: Option<&[u8]>, body: &[u8], headers: usize) -> usize {
    RECORD_OVERHEAD_BYTES + key.map_or(0, <[u8]>::len) + body.len() + headers
}

/// Upper bound in bytes of one header on the wire.
pub fn header_bytes(name: &str, value: Option<&[u8]>) -> usize {
    HEADER_OVERHEAD_BYTES + name.len() + value.map_or(0, <[u8]>::len)
}

/// Whether the broker is unreachable, or has just restarted.
pub fn is_of_connection(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::MessageTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown)
}

/// Whether the error concerns the topic itself and not the connection.
pub fn is_topic_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::TopicAuthorizationFailed
            | Code::InvalidTopic
    )
}
