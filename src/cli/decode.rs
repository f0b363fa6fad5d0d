//! Records in Avro, with their JSON in its place.

use rdkafka::Message;
use rdkafka::message::OwnedMessage;
use tokio::runtime::Handle;

use crate::config::{Config, InputFormat};
use crate::message::avro::Subject;
use crate::registry::{Lookups, MAX_EVENT_BYTES, Reader, SchemaRegistry};

/// Reads messages of any kind. It blocks.
#[derive(Debug)]
pub struct Decoder(Reader);

impl Decoder {
    /// Within a runtime.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let registry =
            SchemaRegistry::open(&config.schema_registry, None, Lookups::default(), Handle::current())?;
        Ok(Self(Reader::new(registry, Subject::ANY, InputFormat::Auto)))
    }

    /// What cannot be read stays as it is.
    pub fn decode(&mut self, record: OwnedMessage) -> OwnedMessage {
        let Some(json) = record.payload().and_then(|payload| self.json(payload)) else { return record };
        OwnedMessage::new(
            Some(json),
            record.key().map(<[u8]>::to_vec),
            record.topic().to_owned(),
            record.timestamp(),
            record.partition(),
            record.offset(),
            record.headers().cloned(),
        )
    }

    /// The JSON of what is in Avro, if it can be read.
    pub fn json(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        if let Err(unread) = self.0.read(payload, &mut text, MAX_EVENT_BYTES) {
            tracing::debug!("not decoded: {unread}");
            return None;
        }
        Some(text).filter(|text| !text.is_empty())
    }
}
