//! Bodies in Avro: read for who edits them, and written again where the topic takes nothing else.

use anyhow::Context;
use tokio::runtime::Handle;

use crate::config::{Config, InputFormat};
use crate::message::avro::{Broken, HEADER_BYTES, Kind, Subject, header};
use crate::message::conversion::MAX_CONVERSION_BYTES;
use crate::message::dead_letter::Letter;
use crate::message::request::MAX_REQUEST_BYTES;
use crate::registry::{Client, Lookups, Reader, SchemaRegistry, Unread, registrations_of};

/// A topic whose records may be sent again.
struct Input<'c> {
    topic: &'c str,
    kind: Kind,
    messages: Subject,
    format: InputFormat,
    max_bytes: usize,
}

/// Reads bodies as those that refused them do.
#[derive(Debug)]
pub struct Readers(Vec<(String, Reader, usize)>);

/// Writes edited bodies.
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
    /// Within a runtime.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let registry =
            SchemaRegistry::open(&config.schema_registry, None, Lookups::default(), Handle::current())?;
        let reader = |input: Input<'_>| {
            let reader = Reader::new(registry.clone(), input.messages, input.format);
            (input.topic.to_owned(), reader, input.max_bytes)
        };
        Ok(Self(inputs(config).map(reader).into()))
    }

    /// The letter's body as JSON, or as it came if it is of no input. Blocks.
    pub fn json(&mut self, letter: &Letter) -> Result<Vec<u8>, Unread> {
        let body = letter.body.as_deref().unwrap_or_default();
        match self.0.iter_mut().find(|(topic, ..)| *topic == letter.source_topic) {
            Some((_, reader, max_bytes)) => {
                reader.read(body, &mut Vec::new(), *max_bytes).map(<[u8]>::to_vec)
            }
            None => Ok(body.to_vec()),
        }
    }
}

impl Writers {
    /// For the topics that take Avro alone.
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

    /// What the topic takes, of JSON.
    pub fn write(&self, topic: &str, json: Vec<u8>) -> Result<Vec<u8>, Broken> {
        let Some((_, kind, header)) = self.0.iter().find(|(of, ..)| of == topic) else { return Ok(json) };
        let mut bytes = header.to_vec();
        kind.plan().from_json(&String::from_utf8_lossy(&json), &mut bytes)?;
        Ok(bytes)
    }
}
