//! Messages in Avro.
//!
//! `schemas/*.avsc` say what each message is. Its JSON form has a member for each field, of the same name: a time is text
//! (RFC 3339), a field with the attribute `json` is any JSON where Avro has its text, and what is absent or `null` in
//! JSON is the field's default.
//!
//! So reading is writing JSON: a record's bytes become the JSON text that its reader takes anyway, with every check and
//! limit that it has ([`Plan::to_json`]). How a stranger's schema becomes ours is settled once for each schema
//! ([`Subject::resolve`]). Our own messages go the other way ([`Plan::from_json`]), but for the one that is written a
//! hundred thousand times a second ([`event`]).

mod decode;
mod encode;
pub mod event;
mod format;
mod plan;
mod schemas;
mod wire;

pub use format::Format;
pub use plan::{Misfit, Plan};
pub use schemas::{Kind, Subject, Writer};

/// Before each message in Confluent's wire format: a zero and the schema's id.
pub const HEADER_BYTES: usize = 5;

/// Why bytes are not a message of their schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

impl Broken {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// The id of the schema and the message, if a record is in Confluent's wire format.
pub fn split(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (header, body) = payload.split_first_chunk::<HEADER_BYTES>()?;
    match header {
        [0, id @ ..] => Some((u32::from_be_bytes(*id), body)),
        _ => None,
    }
}

/// What [`split`] takes off.
pub fn header(id: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
