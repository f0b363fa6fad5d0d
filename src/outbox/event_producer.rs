//! Producer of events, with reports of what was acknowledged, what was rejected, and what must be sent again.

use std::cell::OnceCell;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig,
};
use rdkafka::{ClientConfig, ClientContext, Statistics};

use crate::config::Config;
use crate::kafka::client;
use crate::kafka::producer::{LINGER_MS, TopicHandle, flush, is_refusal};
use crate::kafka::statistics;
use crate::message::request::RefusalCode;
use crate::message::sequence::{HEADER, Sequence};
use crate::message::trace::{self, TRACEPARENT, Traceparent};

use super::event_batch::BatchTopic;
use super::in_flight::Sent;
use super::queue::Entry;

/// Selects the partition by the record's key.
const BY_KEY: i32 = -1;
/// Number of consecutive events without a key that go to the same partition, so that they are batched together.
const KEYLESS_RUN: u64 = 256;
/// Ticket of a dead letter.
pub const DEAD_LETTER_ID: usize = usize::MAX;
/// Upper bound of polls per call of [`EventProducer::poll`].
const POLLS_MAX: usize = 64;

/// Record that the broker or the client rejected.
#[derive(Debug, Clone)]
pub struct Refused {
    pub delivery_id: usize,
    pub code: RDKafkaErrorCode,
    pub trace: Option<Traceparent>,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

impl Refused {
    /// Code of the dead letter.
    pub fn reason(&self) -> &'static str {
        use RDKafkaErrorCode as Code;
        let too_large = matches!(self.code, Code::MessageSizeTooLarge | Code::InvalidMessageSize);
        if too_large { RefusalCode::TooLarge } else { RefusalCode::Refused }.as_str()
    }
}

/// Result of handing a batch to the producer.
#[derive(Debug)]
pub enum SendOutcome {
    Entirely,
    /// The producer's queue is full.
    NoRoom,
    /// One record of a batch that is sent one record at a time is in flight.
    Alone,
    /// The client itself rejects a record.
    Refused(Refused),
    Broken(RDKafkaErrorCode),
}

/// Delivery reports since the last call.
#[derive(Debug, Default)]
pub struct Reports {
    /// Tickets with the number of acknowledged records; a ticket may occur more than once.
    pub delivered: Vec<(usize, u32)>,
    /// Records that the broker rejects however often they are sent.
    pub refused: Vec<Refused>,
    /// Error after which the producer must be replaced.
    pub broken: Option<RDKafkaErrorCode>,
}

impl Reports {
    /// Adds other reports; `false` if they are empty.
    fn take(&mut self, came: Self) -> bool {
        let some = !came.delivered.is_empty() || !came.refused.is_empty() || came.broken.is_some();
        self.delivered.extend(came.delivered);
        self.refused.extend(came.refused);
        self.broken = self.broken.take().or(came.broken);
        some
    }
}

/// Collects the delivery reports of all records.
#[derive(Debug, Default)]
pub struct Deliveries(Mutex<Reports>);

/// Idempotent producer of events. Only its owner polls it.
pub struct EventProducer {
    // Dropped before the producer that they refer to.
    lane: TopicHandle,
    /// Opened when the first SDK metrics are sent: opening a handle may make a broker create the topic.
    metrics_lane: OnceCell<TopicHandle>,
    producer: BaseProducer<Deliveries>,
    /// Number of partitions of the events topic; 0 until it is known.
    partitions: u64,
    dead_letters: String,
    client_metrics: String,
}

impl std::fmt::Debug for EventProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

impl EventProducer {
    /// Creates the producer, which starts to connect in the background. It must not be given events before
    /// [`EventProducer::connect`] has succeeded.
    pub fn create(config: &Config) -> KafkaResult<Self> {
        let producer: BaseProducer<Deliveries> =
            client_config(config).create_with_context(Deliveries::default())?;
        Ok(Self {
            lane: TopicHandle::open(&producer, &config.topics.events)?,
            producer,
            partitions: 0,
            metrics_lane: OnceCell::new(),
            dead_letters: config.topics.dead_letters.clone(),
            client_metrics: config.topics.client_metrics.clone(),
        })
    }

    /// Requests the number of partitions of `topic`, with a timeout. May be called again after an error.
    pub fn connect(&mut self, topic: &str, timeout: Duration) -> KafkaResult<()> {
        let metadata = self.producer.client().fetch_metadata(Some(topic), timeout)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        if partitions == 0 {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        self.partitions = partitions as u64;
        Ok(())
    }

    /// Hands over the remaining records of a batch, or only one if they are sent one at a time.
    pub fn hand_over(&self, delivery_id: usize, sent: &mut Sent) -> SendOutcome {
        let Sent { entry: Entry { batch, .. }, handed, suspect, .. } = sent;
        let lane = match self.lane(batch.topic) {
            Ok(lane) => lane,
            Err(code) => return SendOutcome::Broken(code),
        };
        for ((key, value), index) in batch.records().zip(0..).skip(*handed as usize) {
            match self.send(lane, (key, value), batch.sequence(index), batch.trace, delivery_id) {
                Ok(true) => *handed += 1,
                Ok(false) => return SendOutcome::NoRoom,
                Err(code) if is_refusal(code) => {
                    let (key, value) = (key.map(<[u8]>::to_vec), value.to_vec());
                    return SendOutcome::Refused(Refused {
                        delivery_id,
                        code,
                        trace: batch.trace,
                        key,
                        value,
                    });
                }
                Err(code) => return SendOutcome::Broken(code),
            }
            if *suspect {
                return SendOutcome::Alone;
            }
        }
        SendOutcome::Entirely
    }

    /// Handle of a batch's topic.
    fn lane(&self, topic: BatchTopic) -> Result<&TopicHandle, RDKafkaErrorCode> {
        if topic == BatchTopic::Events {
            return Ok(&self.lane);
        }
        if self.metrics_lane.get().is_none() {
            let opened = TopicHandle::open(&self.producer, &self.client_metrics);
            let opened = opened
                .map_err(|error| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument))?;
            let _ = self.metrics_lane.set(opened);
        }
        self.metrics_lane.get().ok_or(RDKafkaErrorCode::InvalidArgument)
    }

    /// Hands over one event. `Ok(false)`: the producer's queue is full.
    ///
    /// An event that is sent again goes to the same partition, because consumers recognise duplicates only within a
    /// partition.
    fn send(
        &self,
        lane: &TopicHandle,
        (key, value): (Option<&[u8]>, &[u8]),
        sequence: Option<Sequence>,
        trace: Option<Traceparent>,
        delivery_id: usize,
    ) -> Result<bool, RDKafkaErrorCode> {
        let partition = match (key, sequence) {
            (None, Some(Sequence { number, .. })) => {
                i32::try_from(number / KEYLESS_RUN % self.partitions.max(1)).unwrap_or(BY_KEY)
            }
            _ => BY_KEY,
        };
        let text = sequence.map(Sequence::text);
        let sequence = text.as_ref().map(|text| (HEADER, text.as_bytes()));
        let trace = trace.as_ref().map(|trace| (trace::HEADER, trace.as_bytes()));
        match (sequence, trace) {
            (None, None) => room(lane.send(partition, key, value, delivery_id)),
            (Some(one), None) | (None, Some(one)) => {
                room(lane.send_with(&[one], partition, key, value, delivery_id))
            }
            (Some(one), Some(other)) => {
                room(lane.send_with(&[one, other], partition, key, value, delivery_id))
            }
        }
    }

    /// Sends a dead letter for an event that the topic does not accept. `Ok(false)`: the producer's queue is full.
    pub fn send_dead_letter(&self, refused: &Refused) -> Result<bool, RDKafkaErrorCode> {
        let message =
            format!("event: rejected by the broker ({}), {} bytes", refused.code, refused.value.len());
        let headers = [
            ("error-code", refused.reason()),
            ("error-message", &message),
            ("event-id", event_id(&refused.value)),
            ("body-omitted", "true"),
        ];
        let mut headers = headers.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        if let Some(trace) = &refused.trace {
            headers = headers.insert(Header { key: TRACEPARENT, value: Some(trace.as_bytes()) });
        }
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.dead_letters, DEAD_LETTER_ID).headers(headers);
        record.key = refused.key.as_deref();
        room(
            self.producer.send(record).map_err(|(error, _)| {
                error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument)
            }),
        )
    }

    /// Sends buffered records and collects delivery reports, waiting for them up to `patience`.
    pub fn poll(&self, patience: Duration) -> Reports {
        flush(&self.producer, patience);
        let mut reports = Reports::default();
        for _ in 0..POLLS_MAX {
            self.producer.poll(Duration::ZERO);
            let came = self.producer.context().0.lock().map(|mut came| std::mem::take(&mut *came));
            if !came.is_ok_and(|came| reports.take(came)) {
                break;
            }
        }
        reports
    }

    /// Number of records in flight.
    pub fn in_flight(&self) -> i32 {
        self.producer.in_flight_count()
    }
}

impl Drop for EventProducer {
    fn drop(&mut self) {
        // The worker still has the records and sends them again.
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }
}

fn client_config(config: &Config) -> ClientConfig {
    let mut client = client::base(&config.kafka, "api");
    statistics::enable(&mut client, "api");
    client::compress(&mut client, &config.kafka)
        .set("enable.idempotence", "true")
        // After a rejection nothing may overtake what is sent again: numbers must grow within a partition.
        .set("enable.gapless.guarantee", "true")
        // Requests are sent when they are full or flushed, and each poll flushes.
        .set("linger.ms", LINGER_MS)
        // Records never expire in the client; they wait in memory or in the spool.
        .set("message.timeout.ms", "0")
        // The size limit is that of the topic, not of the client.
        .set("message.max.bytes", "8388608")
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "500000");
    client
}

fn room(sent: Result<(), RDKafkaErrorCode>) -> Result<bool, RDKafkaErrorCode> {
    match sent {
        Ok(()) => Ok(true),
        Err(RDKafkaErrorCode::QueueFull) => Ok(false),
        Err(code) => Err(code),
    }
}

fn trace_of(headers: &BorrowedHeaders) -> Option<Traceparent> {
    headers.iter().find(|header| header.key == TRACEPARENT).and_then(|found| Traceparent::parse(found.value?))
}

/// Extracts the event id from an event in the form that `message::event` writes. Empty if there is none.
fn event_id(event: &[u8]) -> &str {
    const BEFORE: &[u8] = br#""event_id":""#;
    const LENGTH: usize = 36;
    let place = event.windows(BEFORE.len()).position(|window| window == BEFORE);
    let id = place.and_then(|place| event.get(place + BEFORE.len()..place + BEFORE.len() + LENGTH));
    id.and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default()
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code @ (RDKafkaErrorCode::Fatal | RDKafkaErrorCode::Fenced)) = error.rdkafka_error_code()
            && let Ok(mut reports) = self.0.lock()
        {
            reports.broken = Some(code);
        }
        // The worker reports lasting errors, librdkafka's log the transient ones.
        tracing::debug!(%error, reason, "producer error");
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        statistics::record(&statistics);
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery_id: usize) {
        let Ok(mut reports) = self.0.lock() else { return };
        match result {
            // Records of one ticket mostly arrive one after the other.
            Ok(_) => match reports.delivered.last_mut() {
                Some((last, count)) if *last == delivery_id => *count += 1,
                _ => reports.delivered.push((delivery_id, 1)),
            },
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                if is_refusal(code) {
                    reports.refused.push(Refused {
                        delivery_id,
                        code,
                        trace: message.headers().and_then(trace_of),
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.payload().unwrap_or_default().to_vec(),
                    });
                } else {
                    reports.broken.get_or_insert(code);
                }
            }
        }
    }
}
