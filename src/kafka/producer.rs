//! A producer polled by its own caller, which reports what could not be delivered.

use std::ffi::{CStr, CString};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig,
};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext};
use rdkafka_sys as sys;

/// For idempotent producers, whose batches are flushed: longer than any round, and less than the shortest transaction. What
/// is due while a request of its partition is in flight makes librdkafka spin until that is acknowledged
/// (<https://github.com/confluentinc/librdkafka/issues/3692>), and the slower the broker, the more of the processor that
/// takes from it.
pub const LINGER_MS: &str = "500";
/// For the same reason: most bytes that are handed over for one partition between two flushes. With keys and headers less
/// than one request takes, which is `batch.size`.
pub const ROUND_BYTES: usize = 768 << 10;
/// Largest record that the evaluator's producers take, with key and headers, before compression. What a topic takes is the
/// topic's decision; this bounds what is held in memory for one record.
pub const MAX_RECORD_BYTES: usize = 8 << 20;
/// What the wire format may add to one record, and to each of its headers: lengths, offsets and timestamps.
const RECORD_OVERHEAD_BYTES: usize = 128;
const HEADER_OVERHEAD_BYTES: usize = 10;
/// How long one wait for acknowledgements takes at most.
const FLUSH: Duration = Duration::from_millis(10);
/// How long the reports of records that were given up may take.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks for room in the queue.
const PAUSE: Duration = Duration::from_micros(200);

/// A record that was not delivered, by the ticket it was sent with.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub ticket: usize,
    pub code: RDKafkaErrorCode,
}

/// Collects failures; with `delivery.report.only.error` that is all it hears of.
#[derive(Debug, Default)]
pub struct Failures {
    records: Mutex<Vec<Failure>>,
    client: Mutex<Option<RDKafkaErrorCode>>,
}

/// A producer with a fast lane to one topic.
pub struct ReportingProducer {
    // Dropped before the producer that made it.
    lane: Lane,
    producer: BaseProducer<Failures>,
}

/// The way to one topic, without looking it up for each record.
pub(crate) struct Lane {
    client: *mut sys::rd_kafka_t,
    topic: *mut sys::rd_kafka_topic_t,
}

// librdkafka's handles may be used from any thread.
unsafe impl Send for Lane {}

impl Lane {
    /// Must be dropped before `producer`.
    pub(crate) fn open<C: ProducerContext>(producer: &BaseProducer<C>, topic: &str) -> KafkaResult<Self> {
        let name = CString::new(topic)?;
        let client = producer.client().native_ptr();
        let handle = unsafe { sys::rd_kafka_topic_new(client, name.as_ptr(), std::ptr::null_mut()) };
        if handle.is_null() {
            return Err(KafkaError::ClientCreation(format!("cannot produce to topic {topic}")));
        }
        Ok(Self { client, topic: handle })
    }

    /// Hands a record over; it is copied. `ticket` comes back as the delivery's opaque.
    pub(crate) fn send(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        ticket: usize,
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
                ticket as *mut _,
            )
        };
        if sent == 0 { Ok(()) } else { Err(unsafe { sys::rd_kafka_last_error() }.into()) }
    }

    /// The same with headers.
    pub(crate) fn send_with(
        &self,
        headers: &[(&CStr, &[u8])],
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        ticket: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        use sys::rd_kafka_vtype_t as Field;
        let (key, key_length) = key.map_or((std::ptr::null(), 0), |key| (key.as_ptr(), key.len()));
        // A list of tags, each with what it stands for, in C's types. The headers are librdkafka's if it takes them.
        unsafe {
            let list = sys::rd_kafka_headers_new(headers.len());
            for (name, header) in headers {
                let (length, bytes) = (header.len().cast_signed(), header.as_ptr().cast());
                sys::rd_kafka_header_add(list, name.as_ptr(), -1, bytes, length);
            }
            let sent = sys::rd_kafka_producev(
                self.client,
                Field::RD_KAFKA_VTYPE_RKT,
                self.topic,
                Field::RD_KAFKA_VTYPE_PARTITION,
                partition,
                Field::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                Field::RD_KAFKA_VTYPE_VALUE,
                value.as_ptr(),
                value.len(),
                Field::RD_KAFKA_VTYPE_KEY,
                key,
                key_length,
                Field::RD_KAFKA_VTYPE_OPAQUE,
                ticket as *mut std::ffi::c_void,
                Field::RD_KAFKA_VTYPE_HEADERS,
                list,
                Field::RD_KAFKA_VTYPE_END,
            );
            if sent == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Ok(());
            }
            sys::rd_kafka_headers_destroy(list);
            Err(sent.into())
        }
    }
}

impl std::fmt::Debug for ReportingProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReportingProducer").finish_non_exhaustive()
    }
}

impl ReportingProducer {
    /// A producer whose fast lane leads to `topic`.
    pub fn create(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        let producer: BaseProducer<Failures> = config.create_with_context(Failures::default())?;
        Ok(Self { lane: Lane::open(&producer, topic)?, producer })
    }

    pub fn inner(&self) -> &BaseProducer<Failures> {
        &self.producer
    }

    /// Sends a record without headers down the fast lane; waits while the queue is full.
    pub fn send(&self, partition: i32, key: Option<&[u8]>, value: &[u8], ticket: usize) -> KafkaResult<()> {
        self.when_there_is_room(|| self.lane.send(partition, key, value, ticket))
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

    /// Waits until everything sent is delivered or has failed. `false` if `patience` ran out.
    ///
    /// Not the crate's `flush`: that one works in steps of 100 ms.
    pub fn drain(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.drain_until(|_| Instant::now() > deadline)
    }

    /// Waits until everything sent is delivered or has failed, or until `is_over`, which is given the number of records in
    /// flight, ends the wait: `false` then.
    pub fn drain_until(&self, mut is_over: impl FnMut(i32) -> bool) -> bool {
        let mut purged = false;
        while self.producer.in_flight_count() > 0 {
            if is_over(self.producer.in_flight_count()) {
                return false;
            }
            // A failed record stays in flight until its report is polled, so each wait is a short one.
            flush(&self.producer, FLUSH);
            self.producer.poll(Duration::ZERO);
            // A failure ends the transaction: librdkafka sends nothing more of it, nor does it give it back.
            if !purged && self.has_failures() {
                self.producer.purge(PurgeConfig::default().queue());
                purged = true;
            }
        }
        true
    }

    /// Gives up everything that is not acknowledged yet: it is reported as failed, so that what is not among the failures
    /// is known to be delivered. `false` if that cannot be told of every record.
    pub fn give_up(&self) -> bool {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        drain(&self.producer, GIVE_UP_TIMEOUT, || {})
    }

    /// How many records were handed over and are neither acknowledged nor reported as failed.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or_default()
    }

    /// Serves what has come and gives the core to those who are waited for.
    fn wait_a_little(&self) {
        // The crate's own wait would spin: it rounds what is left of a millisecond down to nothing.
        self.producer.poll(Duration::ZERO);
        std::thread::park_timeout(PAUSE);
    }

    fn has_failures(&self) -> bool {
        let records = self.producer.context().records.lock();
        records.is_ok_and(|records| !records.is_empty())
    }

    /// What failed since the last call.
    pub fn take_failures(&self) -> Vec<Failure> {
        let failures = self.producer.context();
        failures.records.lock().map(|mut records| std::mem::take(&mut *records)).unwrap_or_default()
    }

    /// The error that ended this producer, if one did.
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

impl Drop for Lane {
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
        tracing::warn!(%error, reason, "producer error");
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::client::log(level, facility, message);
    }
}

impl ProducerContext<NoCustomPartitioner> for Failures {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        if let Err((error, _)) = result
            && let Ok(mut records) = self.records.lock()
        {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            records.push(Failure { ticket, code });
        }
    }
}

/// Sends what still waits for company, and waits up to `patience` for its end; reports are left to `poll`.
pub(crate) fn flush<C: ProducerContext>(producer: &BaseProducer<C>, patience: Duration) {
    let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    unsafe { sys::rd_kafka_flush(producer.client().native_ptr(), patience) };
}

/// Waits until nothing is in flight, and calls `heard` after each look at what was reported. `false` if `patience` ran out.
pub(crate) fn drain<C: ProducerContext>(
    producer: &BaseProducer<C>,
    patience: Duration,
    mut heard: impl FnMut(),
) -> bool {
    let deadline = Instant::now() + patience;
    while producer.in_flight_count() > 0 {
        if Instant::now() > deadline {
            return false;
        }
        // Returns as soon as nothing is in flight. What failed stays in flight until it is heard of, so the wait is a
        // short one.
        flush(producer, FLUSH);
        producer.poll(Duration::ZERO);
        heard();
    }
    true
}

/// Whether a broker refused this very record, so that sending it again would end the same way.
pub fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge | Code::InvalidMessage | Code::InvalidMessageSize | Code::PolicyViolation
    ) || RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD as i32 == code as i32
}

/// Whether librdkafka itself refused to take this very record, at once and without asking a broker.
pub fn is_local_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::MessageSizeTooLarge | Code::BadMessage | Code::InvalidArgument)
}

/// Upper bound of what a record takes on the wire before compression; `headers` as [`header_bytes`] counts them.
pub fn record_bytes(key: Option<&[u8]>, body: &[u8], headers: usize) -> usize {
    RECORD_OVERHEAD_BYTES + key.map_or(0, <[u8]>::len) + body.len() + headers
}

/// Upper bound of what one header takes on the wire.
pub fn header_bytes(name: &str, value: Option<&[u8]>) -> usize {
    HEADER_OVERHEAD_BYTES + name.len() + value.map_or(0, <[u8]>::len)
}

/// The broker is away, or has just come back.
pub fn is_of_connection(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::MessageTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown)
}

/// The topic itself is the matter, not the connection.
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
