//! The formats of written messages, with the schema ids that are determined at start-up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Handle;

use crate::config::{BulkForm, Config, InputFormat, OutputFormat, SubjectStrategy};
use crate::message::avro::{EventFormat, Format, Kind, Subject, header};
use crate::metrics::Metrics;

use super::texts::Texts;
use super::{Lookups, Reader, RegistryError, SchemaRegistry};

/// How long start-up waits for the registry. Without ids nothing can be written.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between attempts to reach the registry during start-up.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The first id used by [`Formats::unregistered`], for requests.
pub const UNREGISTERED_ID: u32 = 1;

/// The formats of all kinds of messages. The default is JSON for all of them.
#[derive(Debug, Default)]
pub struct Formats {
    registry: Option<Arc<SchemaRegistry>>,
    pub evaluated: EventFormat,
    /// Change events in the events topic.
    pub changed: Format,
    /// Invalidations.
    pub updated: Format,
    pub hint: Format,
    pub conversion: Format,
    pub reply: Format,
}

/// A schema and the subject to register it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub subject: String,
    pub schema: String,
    /// The messages of the topic.
    pub messages: Subject,
    /// The messages that the schema contains, each with the branch index before its fields if the schema is a union.
    pub kinds: Vec<(Kind, Option<u8>)>,
}

impl Formats {
    /// Requests the ids of all written schemas from the registry.
    pub async fn open(config: &Config, metrics: &Metrics) -> anyhow::Result<Arc<Self>> {
        let (folder, lookups) = (Some(config.state_dir.as_path()), metrics.schema_lookups.clone());
        let registry = SchemaRegistry::open(&config.schema_registry, folder, lookups, Handle::current())
            .context("SCHEMA_REGISTRY_URL")?;
        let mut formats = Self { registry, evaluated: evaluated(config), ..Self::default() };
        for registration in registrations(config) {
            let id = formats.id_of(&registration).await.with_context(|| {
                format!(
                    "cannot get the schema id of subject {} from the schema registry",
                    registration.subject
                )
            })?;
            formats.set(&registration, id);
        }
        Ok(Arc::new(formats))
    }

    /// Formats with made-up ids that no registry assigned. The load tool uses them, because it both writes and reads
    /// the messages.
    pub fn unregistered(config: &Config) -> anyhow::Result<Arc<Self>> {
        if config.schema_registry.urls.is_empty() {
            return Ok(Arc::new(Self { evaluated: evaluated(config), ..Self::default() }));
        }
        let registry =
            SchemaRegistry::open(&config.schema_registry, None, Lookups::default(), Handle::current())?;
        let mut formats = Self { registry, evaluated: evaluated(config), ..Self::default() };
        let requests = registrations_of(config.formats.subjects, &config.topics.requests, Subject::REQUESTS);
        for (registration, id) in requests.iter().chain(&registrations(config)).zip(UNREGISTERED_ID..) {
            if let Some(registry) = &formats.registry {
                registry.learn(id, &Texts::alone(&registration.schema)).map_err(anyhow::Error::msg)?;
            }
            formats.set(registration, id);
        }
        Ok(Arc::new(formats))
    }

    /// Creates a reader for a topic with these messages.
    pub fn reader(&self, messages: Subject, format: InputFormat) -> Reader {
        Reader::new(self.registry.clone(), messages, format)
    }

    pub fn registry(&self) -> Option<Arc<SchemaRegistry>> {
        self.registry.clone()
    }

    fn set(&mut self, registration: &Registration, id: u32) {
        for (kind, branch) in &registration.kinds {
            let format = match kind {
                Kind::Evaluated => &mut self.evaluated.format,
                Kind::EvaluatedTogether => self.evaluated.together.get_or_insert_default(),
                Kind::Changed if registration.messages == Subject::UPDATES => &mut self.updated,
                Kind::Changed => &mut self.changed,
                Kind::Hint => &mut self.hint,
                Kind::Conversion => &mut self.conversion,
                Kind::Reply => &mut self.reply,
                Kind::Request | Kind::Definition => continue,
            };
            *format = Format::Avro(header(id).into_iter().chain(*branch).collect());
        }
    }

    async fn id_of(&self, wanted: &Registration) -> Result<u32, RegistryError> {
        let Some(registry) = &self.registry else {
            return Err(RegistryError::Refused("SCHEMA_REGISTRY_URL is not set".to_owned()));
        };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match registry.id_of(&wanted.subject, &wanted.schema).await {
                Err(RegistryError::Away(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_INTERVAL).await
                }
                ended => return ended,
            }
        }
    }
}

/// The form of evaluated events, in JSON until their schemas are known.
fn evaluated(config: &Config) -> EventFormat {
    let together = (config.events.bulk == BulkForm::Together).then_some(Format::Json);
    EventFormat::new(config.events.nulls, together)
}

/// Messages that are written to the events topic.
pub fn written_events(config: &Config) -> Subject {
    match config.events.bulk {
        BulkForm::Each => Subject::EVENTS_WITHOUT_BULK,
        BulkForm::Together => Subject::EVENTS,
    }
}

/// The schemas that must be registered for everything that is written as Avro.
pub fn registrations(config: &Config) -> Vec<Registration> {
    let (formats, topics) = (&config.formats, &config.topics);
    let mut topics = vec![
        (formats.events == OutputFormat::Avro, topics.events.as_str(), written_events(config)),
        (formats.updates == OutputFormat::Avro, &topics.updates, Subject::UPDATES),
        (formats.changes == InputFormat::Avro, &topics.changes, Subject::HINTS),
        (formats.conversions == InputFormat::Avro, &topics.conversions, Subject::CONVERSIONS),
    ];
    // Callers choose their reply topics, so the subject is named after the common prefix.
    let prefixes = config.reply.allowed_prefixes.iter();
    let replies = formats.replies == OutputFormat::Avro;
    topics.extend(prefixes.map(|prefix| (replies, prefix.as_str(), Subject::REPLIES)));
    let wanted = topics.into_iter().filter(|(wanted, ..)| *wanted);
    wanted.flat_map(|(_, topic, messages)| registrations_of(formats.subjects, topic, messages)).collect()
}

/// The registrations of one topic.
pub fn registrations_of(strategy: SubjectStrategy, topic: &str, messages: Subject) -> Vec<Registration> {
    let alone = |subject: String, kind: Kind| Registration {
        subject,
        schema: kind.text().to_owned(),
        messages,
        kinds: vec![(kind, None)],
    };
    match (strategy, messages.kinds) {
        (SubjectStrategy::Topic, [kind]) => vec![alone(format!("{topic}-value"), *kind)],
        (SubjectStrategy::Topic, kinds) => vec![Registration {
            subject: format!("{topic}-value"),
            schema: messages.text(),
            messages,
            // The index of the union's branch, in Avro's zigzag encoding.
            kinds: kinds.iter().zip((0u8..).step_by(2)).map(|(kind, index)| (*kind, Some(index))).collect(),
        }],
        (SubjectStrategy::Record, kinds) => kinds.iter().map(|kind| alone(kind.full_name(), *kind)).collect(),
        (SubjectStrategy::TopicRecord, kinds) => {
            kinds.iter().map(|kind| alone(format!("{topic}-{}", kind.full_name()), *kind)).collect()
        }
    }
}
