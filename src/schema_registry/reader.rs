//! Reads the messages of one topic, in JSON or Avro, as JSON.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;

use crate::config::InputFormat;
use crate::message::avro::{Broken, Misfit, Plan, Subject, split};
use crate::message::request::{Refusal, RefusalCode};

use super::{Lookup, SchemaRegistry};

/// Upper bound in bytes of the JSON that an Avro event is converted to.
pub const MAX_EVENT_BYTES: usize = 16 << 20;
/// Maximum number of schemas whose read plans are cached by one reader.
const MAX_PLANS_COUNT: usize = 1_000;

/// Interval of retries while a reader waits for a lookup.
const WAIT_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Reads the messages of a topic. Each thread has its own reader.
#[derive(Debug)]
pub struct Reader {
    registry: Option<Arc<SchemaRegistry>>,
    subject: Subject,
    format: InputFormat,
    plans: AHashMap<u32, Result<Plan, Misfit>>,
    waits_for_registry: bool,
}

/// Reason why a record was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// The schema cannot be looked up at the moment. The record itself is not at fault.
    #[error("the schema registry is unreachable: {0}")]
    Away(Arc<str>),
    /// The schema is being looked up and will be known soon. The record itself is not at fault.
    #[error("{0}")]
    Pending(Arc<str>),
    #[error("{0}")]
    UnknownSchema(Arc<str>),
    /// The schema is known, but does not match any message of this topic.
    #[error("schema {id}: {misfit}")]
    Misfit { id: u32, misfit: Misfit },
    #[error("not a message of schema {id}: {broken}")]
    Broken { id: u32, broken: Broken },
    /// The topic requires Avro, but the record is not Avro.
    #[error("expected Avro in Confluent's wire format, which begins with a zero byte and the schema's id")]
    NotAvro,
}

impl Reader {
    pub fn new(registry: Option<Arc<SchemaRegistry>>, subject: Subject, format: InputFormat) -> Self {
        Self { registry, subject, format, plans: AHashMap::new(), waits_for_registry: false }
    }

    /// Makes the reader wait for every lookup without a time limit. For threads that no other part waits for.
    pub fn waiting(self) -> Self {
        Self { waits_for_registry: true, ..self }
    }

    /// Starts the lookup of the record's schema, unless it is known.
    pub fn prepare(&self, payload: &[u8]) {
        if let (Some(registry), Ok(Some((id, _)))) = (&self.registry, self.avro(payload))
            && !self.plans.contains_key(&id)
        {
            registry.prepare(id);
        }
    }

    /// The record's JSON, at most `max_bytes`: the payload itself, or converted from Avro into the buffer `text`.
    pub fn read<'r>(
        &mut self,
        payload: &'r [u8],
        text: &'r mut Vec<u8>,
        max_bytes: usize,
    ) -> Result<&'r [u8], Undecodable> {
        let Some((id, message)) = self.avro(payload)? else { return Ok(payload) };
        self.settle(id)?;
        match self.plans.get(&id) {
            Some(Ok(plan)) => {
                text.clear();
                plan.to_json(message, text, max_bytes)
                    .map_err(|broken| Undecodable::Broken { id, broken })?;
                Ok(text)
            }
            Some(Err(misfit)) => Err(Undecodable::Misfit { id, misfit: misfit.clone() }),
            None => Err(Undecodable::UnknownSchema(format!("no schema {id}").into())),
        }
    }

    /// The reason why the record cannot be read at the moment; `None` if reading succeeds or fails permanently.
    pub fn holds_up(&mut self, payload: &[u8]) -> Option<Arc<str>> {
        let (id, _) = self.avro(payload).ok().flatten()?;
        match self.settle(id) {
            Err(Undecodable::Away(why) | Undecodable::Pending(why)) => Some(why),
            _ => None,
        }
    }

    /// The schema id and the message; `None` for JSON.
    fn avro<'r>(&self, payload: &'r [u8]) -> Result<Option<(u32, &'r [u8])>, Undecodable> {
        match (self.format, split(payload)) {
            (InputFormat::Json, _) | (InputFormat::Auto, None) => Ok(None),
            // An empty record has no content in either format.
            (InputFormat::Avro, None) if payload.is_empty() => Ok(None),
            (InputFormat::Avro, None) => Err(Undecodable::NotAvro),
            (InputFormat::Avro | InputFormat::Auto, avro) => Ok(avro),
        }
    }

    /// Prepares the read plan of this schema, unless it is cached.
    fn settle(&mut self, id: u32) -> Result<(), Undecodable> {
        if self.plans.contains_key(&id) {
            return Ok(());
        }
        let Some(registry) = &self.registry else {
            return Err(Undecodable::UnknownSchema(
                "the record is in Avro, and SCHEMA_REGISTRY_URL is not set".into(),
            ));
        };
        let mut found = registry.schema(id);
        while self.waits_for_registry && matches!(found, Lookup::Pending(_)) {
            std::thread::park_timeout(WAIT_POLL_INTERVAL);
            found = registry.schema(id);
        }
        let schema = match found {
            Lookup::Known(schema) => schema,
            Lookup::Pending(why) => return Err(Undecodable::Pending(why)),
            Lookup::Unknown(why) => return Err(Undecodable::UnknownSchema(why)),
            Lookup::Away(why) => return Err(Undecodable::Away(why)),
        };
        if self.plans.len() >= MAX_PLANS_COUNT {
            self.plans.clear();
        }
        self.plans.insert(id, self.subject.resolve(&schema));
        Ok(())
    }
}

impl From<Undecodable> for Refusal {
    fn from(undecodable: Undecodable) -> Self {
        let code = match &undecodable {
            Undecodable::Away(_) | Undecodable::Pending(_) | Undecodable::UnknownSchema(_) => {
                RefusalCode::UnknownSchema
            }
            Undecodable::Misfit { .. } => RefusalCode::SchemaMismatch,
            Undecodable::Broken { .. } | Undecodable::NotAvro => RefusalCode::NotAvro,
        };
        Self { code, field: String::new(), message: undecodable.to_string(), wrong_type: false }
    }
}
