//! The producer: what Kafka has, what it refused, and what must be sent again.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig,
};
use rdkafka::{ClientConfig, ClientContext};

use crate::config::{Config, Durability};
use crate::kafka::client;
use crate::kafka::producer::{Lane, is_refusal};
use crate::message::trace::{TRACEPARENT, Traceparent};

/// Any partition: the key decides, or chance where there is none.
const BY_KEY: i32 = -1;
/// Of a record that nobody counts.
const UNCOUNTED: usize = usize::MAX;

/// One record that the broker did not take.
#[derive(Debug, Clone)]
pub struct Refused {
    pub ticket: usize,
    pub code: RDKafkaErrorCode,
    pub trace: Option<Traceparent>,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

/// What came back since the last look.
#[derive(Debug, Default)]
pub struct Reports {
    /// How many records of a ticket Kafka has; tickets may be repeated.
    pub delivered: Vec<(usize, u32)>,
    /// The broker will not take these, however often they are sent.
    pub refused: Vec<Refused>,
    /// Why the producer is of no more use.
    pub broken: Option<RDKafkaErrorCode>,
}

/// Hears of every record.
#[derive(Debug, Default)]
pub struct Deliveries(Mutex<Reports>);

/// An idempotent producer of events. Polled by its owner only.
pub struct Outlet {
    // Dropped before the producer that made it.
    lane: Lane,
    producer: BaseProducer<Deliveries>,
    events: String,
    dead_letters: String,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

impl Outlet {
    pub fn create(config: &Config) -> KafkaResult<Self> {
        let producer: BaseProducer<Deliveries> =
            client_config(config).create_with_context(Deliveries::default())?;
        Ok(Self {
            lane: Lane::open(&producer, &config.topics.events)?,
            producer,
            events: config.topics.events.clone(),
            dead_letters: config.topics.dead_letters.clone(),
        })
    }

    /// Hands an event over. `Ok(false)`: there is no room at the moment.
    pub fn send(
        &self,
        key: Option<&[u8]>,
        value: &[u8],
        trace: Option<Traceparent>,
        ticket: usize,
    ) -> Result<bool, RDKafkaErrorCode> {
        let sent = match trace {
            None => self.lane.send(BY_KEY, key, value, ticket),
            Some(trace) => self.send_traced(key, value, &trace, ticket),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(RDKafkaErrorCode::QueueFull) => Ok(false),
            Err(code) => Err(code),
        }
    }

    /// The fast lane takes no headers.
    fn send_traced(
        &self,
        key: Option<&[u8]>,
        value: &[u8],
        trace: &Traceparent,
        ticket: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        let header = Header { key: TRACEPARENT, value: Some(trace.as_bytes()) };
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.events, ticket).headers(OwnedHeaders::new().insert(header));
        (record.key, record.payload) = (key, Some(value));
        self.producer.send(record).map_err(|(error, _)| match error {
            KafkaError::MessageProduction(code) => code,
            _ => RDKafkaErrorCode::Fail,
        })
    }

    /// What stands for an event that the topic does not take.
    pub fn send_dead_letter(&self, refused: &Refused, code: &str) {
        let message =
            format!("event: refused by the broker ({}), {} bytes", refused.code, refused.value.len());
        let id = event_id(&refused.value);
        let mut headers =
            [("error-code", code), ("error-message", &message), ("event-id", id), ("body-omitted", "true")]
                .into_iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(value) })
                });
        if let Some(trace) = &refused.trace {
            headers = headers.insert(Header { key: TRACEPARENT, value: Some(trace.as_bytes()) });
        }
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.dead_letters, UNCOUNTED).headers(headers);
        record.key = refused.key.as_deref();
        if let Err((error, _)) = self.producer.send(record) {
            tracing::error!(%error, event_id = id, "a dead letter could not be sent");
        }
    }

    /// Serves what came back, waiting for it up to `patience`.
    pub fn poll(&self, patience: Duration) -> Reports {
        self.producer.poll(patience);
        self.producer.context().0.lock().map(|mut reports| std::mem::take(&mut *reports)).unwrap_or_default()
    }

    /// How many records are on their way.
    pub fn in_flight(&self) -> i32 {
        self.producer.in_flight_count()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // Whoever sent it has it still.
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }
}

fn client_config(config: &Config) -> ClientConfig {
    // Who waits for the acknowledgement does not want to wait for company as well.
    let linger_ms = if config.api.durability == Durability::Sync { "0" } else { "5" };
    let mut client = client::base(&config.kafka, &config.instance, "api");
    client
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", linger_ms)
        // What is not delivered yet is not lost: it waits, in memory or on disk.
        .set("message.timeout.ms", "0")
        // What the topic takes is the topic's decision.
        .set("message.max.bytes", "8388608")
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "500000");
    client
}

fn trace_of(headers: &BorrowedHeaders) -> Option<Traceparent> {
    headers.iter().find(|header| header.key == TRACEPARENT).and_then(|found| Traceparent::parse(found.value?))
}

/// Of an event as `message::event` writes it.
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
        // What is lasting is told by the worker, what is passing by librdkafka.
        tracing::debug!(%error, reason, "producer error");
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let Ok(mut reports) = self.0.lock() else { return };
        if ticket == UNCOUNTED {
            return;
        }
        match result {
            // Records of a ticket mostly come back one after the other.
            Ok(_) => match reports.delivered.last_mut() {
                Some((last, count)) if *last == ticket => *count += 1,
                _ => reports.delivered.push((ticket, 1)),
            },
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                if is_refusal(code) {
                    reports.refused.push(Refused {
                        ticket,
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
