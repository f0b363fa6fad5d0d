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
        let mut text = Vec::new();
        let read = self.0.read(record.payload().unwrap_or_default(), &mut text, MAX_EVENT_BYTES).map(drop);
        match read {
            // It is JSON already.
            Ok(()) if text.is_empty() => record,
            Ok(()) => OwnedMessage::new(
                Some(text),
                record.key().map(<[u8]>::to_vec),
                record.topic().to_owned(),
                record.timestamp(),
                record.partition(),
                record.offset(),
                record.headers().cloned(),
            ),
            Err(unread) => {
                tracing::debug!(partition = record.partition(), offset = record.offset(), %unread, "not decoded");
                record
            }
        }
    }
}
