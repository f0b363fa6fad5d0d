//! Output format of messages.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::event::{self as json, EventFrame, Nulls};
use crate::request::Ask;
use flagstream_evaluation::Answer;

use super::{Broken, Kind, event};

/// Output format of one kind of message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    /// Avro with this prefix before the fields: the schema's id and, for a union, the index of the record.
    Avro(Vec<u8>),
}

impl Format {
    /// Converts a message from its JSON form into this format.
    pub fn message(&self, kind: Kind, json: Vec<u8>) -> Result<Vec<u8>, Broken> {
        let Self::Avro(prefix) = self else { return Ok(json) };
        let text =
            std::str::from_utf8(&json).map_err(|_| Broken::new("the JSON form of a message is not UTF-8"))?;
        let mut message = Vec::with_capacity(prefix.len() + json.len());
        message.extend_from_slice(prefix);
        kind.plan().from_json(text, &mut message)?;
        Ok(message)
    }
}

/// Upper bound in bytes of a bulk event with its key and headers, unless the topic's own limit is lower. By default,
/// brokers accept records of 1 MiB.
const BULK_MAX_BYTES: usize = 512 << 10;

/// Output form of evaluated events.
#[derive(Debug)]
pub struct EventFormat {
    pub format: Format,
    /// Form of members without a value in JSON events.
    pub nulls: Nulls,
    /// Format of bulk events; `None` if each evaluation has an event of its own.
    pub together: Option<Format>,
    bulk_max_bytes: AtomicUsize,
}

impl Default for EventFormat {
    fn default() -> Self {
        Self {
            format: Format::Json,
            nulls: Nulls::Write,
            together: None,
            bulk_max_bytes: AtomicUsize::new(BULK_MAX_BYTES),
        }
    }
}

impl EventFormat {
    /// Events in JSON, and bulk events if there is a format for them.
    pub fn new(nulls: Nulls, together: Option<Format>) -> Self {
        Self { nulls, together, ..Self::default() }
    }

    /// Appends the event of one evaluation.
    pub fn write_event(&self, out: &mut Vec<u8>, frame: &EventFrame<'_>, ask: &Ask<'_>, answer: &Answer<'_>) {
        match &self.format {
            Format::Json => json::write_event_as(out, self.nulls, frame, ask, answer),
            Format::Avro(prefix) => {
                out.extend_from_slice(prefix);
                event::write_event(out, frame, ask, answer);
            }
        }
    }

    /// Format of bulk events, if a request or call with this many flags has them.
    pub fn bulk(&self, flags: usize) -> Option<&Format> {
        self.together.as_ref().filter(|_| flags > 1)
    }

    /// Upper bound in bytes of a bulk event with its key and headers.
    pub fn bulk_max_bytes(&self) -> usize {
        self.bulk_max_bytes.load(Ordering::Relaxed)
    }

    /// Sets the size in bytes up to which the events topic accepts records.
    pub fn set_topic_max_bytes(&self, bytes: usize) {
        self.bulk_max_bytes.store(bytes.min(BULK_MAX_BYTES), Ordering::Relaxed);
    }
}
