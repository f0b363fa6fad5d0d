//! Converts Avro bodies to JSON for editing, and back for topics that accept only Avro.

use anyhow::Context;
use tokio::runtime::Handle;

use crate::config::{Config, InputFormat};
use crate::kafka::dead_letter::DeadLetterRecord;
use crate::message::avro::{Broken, HEADER_BYTES, Kind, Subject, header};
use crate::message::conversion::MAX_CONVERSION_BYTES;
use crate::message::request::MAX_REQUEST_BYTES;
use crate::schema_registry::{Client, Lookups, Reader, SchemaRegistry, Undecodable, registrations_of};

/// A topic to which records may be replayed.
struct Input<'c> {
    topic: &'c str,
    kind: Kind,
    messages: Subject,
    format: InputFormat,
    max_bytes: usize,
}

/// Reads bodies with the same rules as the consumers that rejected them.
#[derive(Debug)]
pub struct Readers(Vec<(String, Reader, usize)>);

/// Encodes edited bodies.
#[derive(Debug, Default)]
pub struct Writers(Vec<(String, Kind, [u8; HEADER_BYTES])>);

fn inputs(config: &Config) -> [Input<'_>; 2] {
    let (topics, formats) = (&config.topics, &config.formats);
    let requests = Input {
        topic: &topics.requests,
        kind: Kind::Request,
        messages: Subject::REQUESTS,
        format: formats.requests,
        max_bytes: MAX_REQUEST_BYTES,
    };
    let conversions = Input {
        topic: &topics.conversions,
        kind: Kind::Conversion,
        messages: Subject::CONVERSIONS,
        format: formats.conversions,
        max_bytes: MAX_CONVERSION_BYTES,
    };
    [requests, conversions]
}

impl Readers {
    /// Must be called within a Tokio runtime.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let registry =
            SchemaRegistry::open(&config.schema_registry, None, Lookups::default(), Handle::current())?;
        let reader = |input: Input<'_>| {
            let reader = Reader::new(registry.clone(), input.messages, input.format);
            (input.topic.to_owned(), reader, input.max_bytes)
        };
        Ok(Self(inputs(config).map(reader).into()))
    }

    /// The dead letter's body as JSON, or unchanged if its topic cannot be replayed to. Blocks.
    pub fn json(&mut self, dead_letter: &DeadLetterRecord) -> Result<Vec<u8>, Undecodable> {
        let body = dead_letter.body.as_deref().unwrap_or_default();
        match self.0.iter_mut().find(|(topic, ..)| *topic == dead_letter.source_topic) {
            Some((_, reader, max_bytes)) => {
                reader.read(body, &mut Vec::new(), *max_bytes).map(<[u8]>::to_vec)
            }
            None => Ok(body.to_vec()),
        }
    }
}

impl Writers {
    /// Creates writers for the topics that accept only Avro.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let mut writers = Vec::new();
        for input in inputs(config).into_iter().filter(|input| input.format == InputFormat::Avro) {
            let client = Client::new(&config.schema_registry)?.context("SCHEMA_REGISTRY_URL is not set")?;
            for wanted in registrations_of(config.formats.subjects, input.topic, input.messages) {
                let id = client.id_of(&wanted.subject, &wanted.schema).await?;
                writers.push((input.topic.to_owned(), input.kind, header(id)));
            }
        }
        Ok(Self(writers))
    }

    /// Encodes JSON in the format of the topic.
    pub fn write(&self, topic: &str, json: Vec<u8>) -> Result<Vec<u8>, Broken> {
        let Some((_, kind, header)) = self.0.iter().find(|(of, ..)| of == topic) else { return Ok(json) };
        let mut bytes = header.to_vec();
        kind.plan().from_json(&String::from_utf8_lossy(&json), &mut bytes)?;
        Ok(bytes)
    }
}
