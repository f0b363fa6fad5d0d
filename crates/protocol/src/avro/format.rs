//! Output format of messages.

use crate::event::{self as json, EventFrame};
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
    /// Appends an evaluated event.
    pub fn write_event(&self, out: &mut Vec<u8>, frame: &EventFrame<'_>, ask: &Ask<'_>, answer: &Answer<'_>) {
        match self {
            Self::Json => json::write_event(out, frame, ask, answer),
            Self::Avro(prefix) => {
                out.extend_from_slice(prefix);
                event::write_event(out, frame, ask, answer);
            }
        }
    }

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
