//! Messages in Avro.
//!
//! `schemas/*.avsc` define the messages. Each field corresponds to the JSON member of the same name: a time
//! is text (RFC 3339), a field with the attribute `json` is arbitrary JSON that Avro carries as text, and a
//! member that is absent or `null` in JSON has the field's default.
//!
//! Reading converts Avro to JSON: the record becomes the JSON text that its reader accepts anyway, so all
//! checks and limits of the JSON form apply ([`Plan::to_json`]). Resolving another producer's schema against
//! flagstream's is done once per schema ([`Subject::resolve`]). Messages that flagstream writes are converted
//! from JSON ([`Plan::from_json`]), except for evaluated events, which are written directly because there may
//! be a hundred thousand per second ([`event`]).

mod decode;
mod encode;
pub mod event;
mod format;
mod plan;
mod schemas;
mod wire;

pub use format::{EventFormat, Format};
pub use plan::{Misfit, Plan};
pub use schemas::{Kind, Subject, Writer};

/// Length of the prefix of each message in Confluent's wire format: a zero byte and the schema's id.
pub const HEADER_BYTES: usize = 5;

/// Error: bytes are not a message of their schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

impl Broken {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Schema id and message of a record in Confluent's wire format; `None` for any other record.
pub fn split(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (header, body) = payload.split_first_chunk::<HEADER_BYTES>()?;
    match header {
        [0, id @ ..] => Some((u32::from_be_bytes(*id), body)),
        _ => None,
    }
}

/// Prefix of a message with this schema id; the counterpart of [`split`].
pub fn header(id: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
