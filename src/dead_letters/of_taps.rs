//! Dead letters of taps: whether they may go to the source of their tap again, and whether the tap accepts them now.

use std::sync::Arc;

use rdkafka::Timestamp;
use rdkafka::message::OwnedMessage;
use tokio::runtime::Handle;

use crate::config::{Config, TapConfig};
use crate::evaluate::tap::preview;
use crate::kafka::dead_letter::DeadLetterRecord;
use crate::message::avro::Subject;
use crate::message::request::Refusal;
use crate::schema_registry::{Lookups, Reader, SchemaRegistry};

/// First byte of Avro records with the id of a schema in the registry.
const AVRO_MAGIC: u8 = 0;

/// The configured taps.
#[derive(Debug)]
pub(super) struct OfTaps {
    taps: Vec<Arc<TapConfig>>,
    registry: Option<Arc<SchemaRegistry>>,
}

impl OfTaps {
    /// Must be called within a Tokio runtime.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let open =
            || SchemaRegistry::open(&config.schema_registry, None, Lookups::default(), Handle::current());
        Ok(Self {
            registry: if config.taps.is_empty() { None } else { open()? },
            taps: config.taps.iter().cloned().map(Arc::new).collect(),
        })
    }

    /// The taps that read a topic.
    fn reading(&self, topic: &str) -> impl Iterator<Item = &Arc<TapConfig>> {
        self.taps.iter().filter(move |tap| tap.source == topic)
    }

    /// Reason why the dead letter of a topic that is no input of flagstream cannot be sent, with a message. `None` if it
    /// can: a tap reads the topic, and `into_source` allows writing to it.
    pub(super) fn problem(
        &self,
        dead_letter: &DeadLetterRecord,
        into_source: bool,
        is_edited: bool,
    ) -> Option<(&'static str, String)> {
        let topic = &dead_letter.source_topic;
        let taps: Vec<&str> = self.reading(topic).map(|tap| tap.name.as_str()).collect();
        if taps.is_empty() {
            let why = "only requests, conversions and records of configured taps can be replayed: the sink would treat \
                a replayed event as a duplicate";
            return Some(("not_an_input", why.to_owned()));
        }
        if dead_letter.index.is_some() {
            let why = "the tap has forwarded the record: only the event of one flag was rejected";
            return Some(("forwarded", why.to_owned()));
        }
        if !into_source {
            let taps = taps.join(", ");
            let why = format!(
                "{topic} is the source of {taps}: all consumers of the topic would read the record again; send it \
                 nevertheless with --into-source (into_source over HTTP)"
            );
            return Some(("source_of_a_tap", why));
        }
        if is_edited && dead_letter.body.as_ref().is_some_and(|body| body.first() == Some(&AVRO_MAGIC)) {
            let why = "the record is Avro in a schema of its producer: an edited body cannot be encoded; correct the \
                producer, and let it send the record";
            return Some(("edited_avro", why.to_owned()));
        }
        None
    }

    /// Reason why all taps of the dead letter's topic would reject its record with this body again. `None` if one accepts
    /// it, or none reads the topic.
    pub(super) async fn refusal(
        &self,
        dead_letter: &DeadLetterRecord,
        body: Option<Vec<u8>>,
    ) -> Option<Refusal> {
        let taps: Vec<_> = self.reading(&dead_letter.source_topic).map(Arc::clone).collect();
        if taps.is_empty() {
            return None;
        }
        let record = OwnedMessage::new(
            body,
            dead_letter.key.clone(),
            dead_letter.source_topic.clone(),
            Timestamp::NotAvailable,
            dead_letter.source_partition,
            dead_letter.source_offset,
            Some(dead_letter.headers.clone()),
        );
        let registry = self.registry.clone();
        // On a thread of its own, because the lookup of a schema blocks.
        let checking = tokio::task::spawn_blocking(move || {
            let refusals = taps.iter().map(|tap| {
                let reader = Reader::new(registry.clone(), Subject::FOREIGN, tap.format);
                preview::refusal(tap, reader, &record)
            });
            let refusals: Option<Vec<Refusal>> = refusals.collect();
            refusals.and_then(|refusals| refusals.into_iter().next())
        });
        checking.await.ok().flatten()
    }
}
