//! How messages leave, settled at the start: under which ids.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Handle;

use crate::config::{Config, InputFormat, OutputFormat, SubjectStrategy};
use crate::message::avro::{Format, Kind, Subject, header};

use super::{Reader, RegistryError, SchemaRegistry};

/// How long a start waits for the registry: without ids nothing can be written.
const START_PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// The formats of all kinds of messages; JSON unless it is told otherwise.
#[derive(Debug, Default)]
pub struct Formats {
    registry: Option<Arc<SchemaRegistry>>,
    pub evaluated: Format,
    pub changed: Format,
    pub reply: Format,
}

/// A schema as it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub subject: String,
    pub schema: String,
    /// Each kind of message that it has, and what stands before its fields in a union.
    pub kinds: Vec<(Kind, Option<u8>)>,
}

impl Formats {
    /// Asks the registry for the ids of what is written.
    pub async fn open(config: &Config) -> anyhow::Result<Arc<Self>> {
        let registry = SchemaRegistry::open(&config.schema_registry, Handle::current())
            .context("SCHEMA_REGISTRY_URL")?;
        let mut formats = Self { registry, ..Self::default() };
        for registration in registrations(config) {
            let id = formats.id_of(&registration).await.with_context(|| {
                format!("the schema registry has no id of subject {}", registration.subject)
            })?;
            for (kind, branch) in registration.kinds {
                let prefix = header(id).into_iter().chain(branch).collect();
                match kind {
                    Kind::Evaluated => formats.evaluated = Format::Avro(prefix),
                    Kind::Changed => formats.changed = Format::Avro(prefix),
                    Kind::Reply => formats.reply = Format::Avro(prefix),
                    _ => {}
                }
            }
        }
        Ok(Arc::new(formats))
    }

    /// A reader of a topic with these messages.
    pub fn reader(&self, subject: Subject, format: InputFormat) -> Reader {
        Reader::new(self.registry.clone(), subject, format)
    }

    async fn id_of(&self, wanted: &Registration) -> Result<u32, RegistryError> {
        let Some(registry) = &self.registry else {
            return Err(RegistryError::Refused("there is no schema registry".to_owned()));
        };
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match registry.client.id_of(&wanted.subject, &wanted.schema).await {
                Err(RegistryError::Away(why)) if Instant::now() < deadline => {
                    tracing::warn!("waits for the schema registry: {why}");
                    tokio::time::sleep(PAUSE).await;
                }
                ended => return ended,
            }
        }
    }
}

/// What must be registered for what is written as Avro.
pub fn registrations(config: &Config) -> Vec<Registration> {
    let (formats, topics) = (&config.formats, &config.topics);
    let mut wanted = Vec::new();
    if formats.events == OutputFormat::Avro {
        wanted.extend(registrations_of(formats.subjects, &topics.events, Subject::EVENTS));
    }
    if formats.replies == OutputFormat::Avro {
        // The topics of replies are the askers'; what they have in common is the prefix.
        let prefixes = config.reply.allowed_prefixes.iter();
        wanted
            .extend(prefixes.flat_map(|prefix| registrations_of(formats.subjects, prefix, Subject::REPLIES)));
    }
    wanted
}

/// The subjects of a topic.
pub fn registrations_of(strategy: SubjectStrategy, topic: &str, messages: Subject) -> Vec<Registration> {
    let alone = |subject: String, kind: Kind| Registration {
        subject,
        schema: kind.text().to_owned(),
        kinds: vec![(kind, None)],
    };
    match (strategy, messages.kinds) {
        (SubjectStrategy::Topic, [kind]) => vec![alone(format!("{topic}-value"), *kind)],
        (SubjectStrategy::Topic, kinds) => vec![Registration {
            subject: format!("{topic}-value"),
            schema: messages.text(),
            // The index of a union's branch, as Avro writes numbers.
            kinds: kinds.iter().zip((0u8..).step_by(2)).map(|(kind, index)| (*kind, Some(index))).collect(),
        }],
        (SubjectStrategy::Record, kinds) => kinds.iter().map(|kind| alone(kind.full_name(), *kind)).collect(),
        (SubjectStrategy::TopicRecord, kinds) => {
            kinds.iter().map(|kind| alone(format!("{topic}-{}", kind.full_name()), *kind)).collect()
        }
    }
}
