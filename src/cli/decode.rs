//! Replaces the Avro values of records by JSON.

use rdkafka::Message;
use rdkafka::message::OwnedMessage;
use tokio::runtime::Handle;

use crate::config::{Config, InputFormat};
use crate::message::avro::Subject;
use crate::message::evaluations::single_events;
use crate::schema_registry::{Lookups, MAX_EVENT_BYTES, Reader, SchemaRegistry};

/// Reads messages of any kind. Its methods block.
#[derive(Debug)]
pub struct Decoder(Reader);

impl Decoder {
    /// Must be called within a Tokio runtime.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let registry =
            SchemaRegistry::open(&config.schema_registry, None, Lookups::default(), Handle::current())?;
        Ok(Self(Reader::new(registry, Subject::ANY, InputFormat::Auto)))
    }

    /// Decodes the record's value. A record that cannot be decoded is returned unchanged.
    pub fn decode(&mut self, record: OwnedMessage) -> OwnedMessage {
        let Some(json) = record.payload().and_then(|payload| self.json(payload)) else { return record };
        with_payload(&record, json)
    }

    /// Decodes the record's value, and replaces a bulk event by one record for each evaluation, all with the position of
    /// the original.
    pub fn evaluations(&mut self, record: OwnedMessage) -> Vec<OwnedMessage> {
        let record = self.decode(record);
        let text = record.payload().and_then(|payload| std::str::from_utf8(payload).ok());
        let singles = text.and_then(|text| single_events(text).ok()).unwrap_or_default();
        if singles.is_empty() {
            return vec![record];
        }
        singles.into_iter().map(|single| with_payload(&record, single)).collect()
    }

    /// The JSON of an Avro payload; `None` if it cannot be decoded or is empty.
    pub fn json(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        if let Err(unread) = self.0.read(payload, &mut text, MAX_EVENT_BYTES) {
            tracing::debug!("not decoded: {unread}");
            return None;
        }
        Some(text).filter(|text| !text.is_empty())
    }
}

/// A copy of the record with this value.
fn with_payload(record: &OwnedMessage, payload: Vec<u8>) -> OwnedMessage {
    OwnedMessage::new(
        Some(payload),
        record.key().map(<[u8]>::to_vec),
        record.topic().to_owned(),
        record.timestamp(),
        record.partition(),
        record.offset(),
        record.headers().cloned(),
    )
}
