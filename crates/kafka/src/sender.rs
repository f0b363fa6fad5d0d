//! A producer of single records, created when the first one is sent.

use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::KafkaConfig;
use super::client::{self, Logged};

/// Timeout for Kafka to acknowledge a record.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends records and waits for their acknowledgement. A record that timed out may still have been written.
pub struct Sender {
    kafka: KafkaConfig,
    /// Part of the client id.
    role: &'static str,
    producer: OnceLock<FutureProducer<Logged>>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Sender {
    pub fn new(kafka: KafkaConfig, role: &'static str) -> Self {
        Self { kafka, role, producer: OnceLock::new() }
    }

    pub async fn send(
        &self,
        topic: &str,
        key: &str,
        body: &[u8],
        header: Option<(&str, &str)>,
    ) -> Result<(), KafkaError> {
        let mut record = FutureRecord::to(topic).key(key).payload(body);
        if let Some((key, value)) = header {
            record = record.headers(OwnedHeaders::new().insert(Header { key, value: Some(value) }));
        }
        let sent = self.producer()?.send(record, DEFAULT_TIMEOUT).await;
        sent.map(drop).map_err(|(error, _)| error)
    }

    /// Sends a tombstone, which removes the key from a compacted topic.
    pub async fn delete(&self, topic: &str, key: &str) -> Result<(), KafkaError> {
        self.put(topic, key, None).await.map(drop)
    }

    /// Sends the last record of a key to a compacted topic, or its tombstone. Returns the record's partition and offset.
    pub async fn put(&self, topic: &str, key: &str, body: Option<&[u8]>) -> Result<(i32, i64), KafkaError> {
        let mut record: FutureRecord<'_, str, [u8]> = FutureRecord::to(topic).key(key);
        record.payload = body;
        let sent = self.producer()?.send(record, DEFAULT_TIMEOUT).await;
        sent.map(|delivery| (delivery.partition, delivery.offset)).map_err(|(error, _)| error)
    }

    /// Sends a record with any number of headers.
    pub async fn send_with(
        &self,
        topic: &str,
        key: &[u8],
        body: &[u8],
        headers: &[(&str, String)],
    ) -> Result<(), KafkaError> {
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let record = FutureRecord::to(topic).key(key).payload(body).headers(headers);
        let sent = self.producer()?.send(record, DEFAULT_TIMEOUT).await;
        sent.map(drop).map_err(|(error, _)| error)
    }

    fn producer(&self) -> Result<&FutureProducer<Logged>, KafkaError> {
        if let Some(producer) = self.producer.get() {
            return Ok(producer);
        }
        let mut config = client::base(&self.kafka, self.role);
        config.set("linger.ms", "0").set("message.timeout.ms", DEFAULT_TIMEOUT.as_millis().to_string());
        let producer = config.create_with_context(Logged)?;
        Ok(self.producer.get_or_init(|| producer))
    }
}
