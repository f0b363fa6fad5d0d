//! The headers of a request: what is passed on, and where the reply goes.

use rdkafka::message::{Header, OwnedHeaders};

use crate::kafka::consumer::Record;
use crate::kafka::producer::header_bytes;
use crate::message::request::MAX_CORRELATION_ID_BYTES;
use crate::message::trace;

use super::outbox::{Outbox, place};

/// Name of the header that callers find their own replies and events by.
pub const CORRELATION_ID: &str = "correlation-id";

/// The headers that go from a request to its results.
#[derive(Debug, Default)]
pub struct Headers<'r> {
    pub correlation_id: Option<&'r str>,
    pub traceparent: Option<&'r str>,
    /// As events take them; `None` where there are none.
    pub passed_on: Option<OwnedHeaders>,
    /// What they take on the wire.
    pub bytes: usize,
}

impl<'r> Headers<'r> {
    pub fn of(record: &Record<'r>) -> Self {
        if !record.has_headers() {
            return Self::default();
        }
        let correlation_id = record.header(c"correlation-id");
        // What is longer than any that the standard knows is malformed, and so absent.
        let traceparent = record.header(trace::HEADER).filter(|text| text.len() <= MAX_CORRELATION_ID_BYTES);
        let mut headers = Self { correlation_id, traceparent, ..Self::default() };
        for (key, value) in [(CORRELATION_ID, correlation_id), (trace::TRACEPARENT, traceparent)] {
            if let Some(value) = value {
                let passed_on = headers.passed_on.take().unwrap_or_default();
                headers.passed_on = Some(passed_on.insert(Header { key, value: Some(value) }));
                headers.bytes += header_bytes(key, Some(value.as_bytes()));
            }
        }
        headers
    }
}

/// The topic that the record asks for its reply in.
pub fn wanted_reply<'r>(record: &Record<'r>) -> Option<&'r str> {
    if record.has_headers() { record.header(c"reply-to") } else { None }
}

/// The topic to reply to. A reply that may not be sent is dropped and counted; the request is evaluated as usual.
pub fn reply_to<'r>(record: &Record<'r>, outbox: &Outbox<'_>) -> Option<&'r str> {
    let topic = wanted_reply(record)?;
    let refused = outbox.amendments.is_unanswered(place(record));
    let usable = if refused { Err("refused") } else { outbox.reply_topics.check(topic) };
    usable.map_err(|reason| outbox.drop_reply(place(record), topic, reason)).ok().map(|()| topic)
}
