//! One topic's messages, in either format, as JSON.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;

use crate::config::InputFormat;
use crate::message::avro::{Broken, Misfit, Plan, Subject, split};
use crate::message::request::{Refusal, RefusalCode};

use super::{Lookup, SchemaRegistry};

/// Most bytes of JSON that an event in Avro may become.
pub const MAX_EVENT_BYTES: usize = 16 << 20;
/// Most schemas whose plans a reader keeps.
const MAX_PLANS_COUNT: usize = 1_000;

/// Between two looks of a reader that waits for a lookup.
const PATIENT_PAUSE: Duration = Duration::from_millis(20);

/// Reads what a topic has; each thread has its own.
#[derive(Debug)]
pub struct Reader {
    registry: Option<Arc<SchemaRegistry>>,
    subject: Subject,
    format: InputFormat,
    plans: AHashMap<u32, Result<Plan, Misfit>>,
    is_patient: bool,
}

/// Why a record was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// What its schema is cannot be found out now. It is no fault of the record's.
    #[error("the schema registry is away: {0}")]
    Away(Arc<str>),
    /// Its schema is being looked up: a moment later it is known. It is no fault of the record's.
    #[error("{0}")]
    Pending(Arc<str>),
    #[error("{0}")]
    UnknownSchema(Arc<str>),
    /// Its schema is known, and not one of this topic's messages.
    #[error("schema {id}: {misfit}")]
    Misfit { id: u32, misfit: Misfit },
    #[error("not a message of schema {id}: {broken}")]
    Broken { id: u32, broken: Broken },
    /// The topic is of Avro, the record is not.
    #[error("expected Avro in Confluent's wire format: a zero and the schema's id")]
    NotAvro,
}

impl Reader {
    pub fn new(registry: Option<Arc<SchemaRegistry>>, subject: Subject, format: InputFormat) -> Self {
        Self { registry, subject, format, plans: AHashMap::new(), is_patient: false }
    }

    /// The same reader, which waits for a lookup however long it takes: for threads that nobody waits for.
    pub fn patient(self) -> Self {
        Self { is_patient: true, ..self }
    }

    /// Begins to look up what this record needs, unless it is known.
    pub fn prepare(&self, payload: &[u8]) {
        if let (Some(registry), Ok(Some((id, _)))) = (&self.registry, self.avro(payload))
            && !self.plans.contains_key(&id)
        {
            registry.prepare(id);
        }
    }

    /// The record's JSON, of `max_bytes` at most: as it came, or made of Avro in `text`.
    pub fn read<'r>(
        &mut self,
        payload: &'r [u8],
        text: &'r mut Vec<u8>,
        max_bytes: usize,
    ) -> Result<&'r [u8], Unread> {
        let Some((id, message)) = self.avro(payload)? else { return Ok(payload) };
        self.settle(id)?;
        match self.plans.get(&id) {
            Some(Ok(plan)) => {
                text.clear();
                plan.to_json(message, text, max_bytes).map_err(|broken| Unread::Broken { id, broken })?;
                Ok(text)
            }
            Some(Err(misfit)) => Err(Unread::Misfit { id, misfit: misfit.clone() }),
            None => Err(Unread::UnknownSchema(format!("no schema {id}").into())),
        }
    }

    /// Why the record cannot be read now, though another time it may.
    pub fn holds_up(&mut self, payload: &[u8]) -> Option<Arc<str>> {
        let (id, _) = self.avro(payload).ok().flatten()?;
        match self.settle(id) {
            Err(Unread::Away(why) | Unread::Pending(why)) => Some(why),
            _ => None,
        }
    }

    /// The schema's id and the message; `None` for JSON.
    fn avro<'r>(&self, payload: &'r [u8]) -> Result<Option<(u32, &'r [u8])>, Unread> {
        match (self.format, split(payload)) {
            (InputFormat::Json, _) | (InputFormat::Auto, None) => Ok(None),
            // An empty record is nothing in either.
            (InputFormat::Avro, None) if payload.is_empty() => Ok(None),
            (InputFormat::Avro, None) => Err(Unread::NotAvro),
            (InputFormat::Avro | InputFormat::Auto, avro) => Ok(avro),
        }
    }

    /// Finds out how messages of this schema are read, unless it is known.
    fn settle(&mut self, id: u32) -> Result<(), Unread> {
        if self.plans.contains_key(&id) {
            return Ok(());
        }
        let Some(registry) = &self.registry else {
            return Err(Unread::UnknownSchema("there is no schema registry: set SCHEMA_REGISTRY_URL".into()));
        };
        let mut found = registry.schema(id);
        while self.is_patient && matches!(found, Lookup::Pending(_)) {
            std::thread::park_timeout(PATIENT_PAUSE);
            found = registry.schema(id);
        }
        let schema = match found {
            Lookup::Known(schema) => schema,
            Lookup::Pending(why) => return Err(Unread::Pending(why)),
            Lookup::Unknown(why) => return Err(Unread::UnknownSchema(why)),
            Lookup::Away(why) => return Err(Unread::Away(why)),
        };
        if self.plans.len() >= MAX_PLANS_COUNT {
            self.plans.clear();
        }
        self.plans.insert(id, self.subject.resolve(&schema));
        Ok(())
    }
}

impl From<Unread> for Refusal {
    fn from(unread: Unread) -> Self {
        let code = match &unread {
            Unread::Away(_) | Unread::Pending(_) | Unread::UnknownSchema(_) => RefusalCode::UnknownSchema,
            Unread::Misfit { .. } => RefusalCode::SchemaMismatch,
            Unread::Broken { .. } | Unread::NotAvro => RefusalCode::NotAvro,
        };
        Self { code, field: String::new(), message: unread.to_string(), wrong_type: false }
    }
}
