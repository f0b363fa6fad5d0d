//! The headers of a request: those that are copied to its results, and the reply topic.

use rdkafka::message::{Header, OwnedHeaders};

use crate::kafka::consumer::Record;
use crate::kafka::producer::header_bytes;
use crate::message::request::MAX_CORRELATION_ID_BYTES;
use crate::message::trace;
use crate::traces::{self, Process};

use super::batch_sender::{BatchSender, place};
use super::pipeline::Pipeline;

/// Name of the header by which callers find their own replies and events.
pub const CORRELATION_ID: &str = "correlation-id";

/// The headers that are copied from a request to its results.
#[derive(Debug, Default)]
pub struct Headers<'r> {
    pub correlation_id: Option<&'r str>,
    /// The headers as Kafka headers for events; `None` if there are none.
    pub passed_on: Option<OwnedHeaders>,
    /// Size of the headers on the wire, in bytes.
    pub bytes: usize,
    /// The span in which the record is processed, until the headers are dropped; `None` if it is not sampled.
    pub process: Option<Process>,
}

impl<'r> Headers<'r> {
    /// Reads the headers of a record of `topic`, and opens the record's span if it is sampled. Its results name the span
    /// in their `traceparent`, or else the caller's.
    pub fn of(record: &Record<'r>, topic: &str) -> Self {
        let has_headers = record.has_headers();
        let correlation_id = if has_headers { record.header(c"correlation-id") } else { None };
        // A longer value than any valid one is malformed and treated as absent.
        let given = if has_headers { record.header(trace::HEADER) } else { None };
        let given = given.filter(|text| text.len() <= MAX_CORRELATION_ID_BYTES);
        let process = traces::process(topic, record.partition(), record.offset(), given);
        let traceparent = process.as_ref().map(Process::traceparent).or(given);
        let mut headers = Self { correlation_id, ..Self::default() };
        for (key, value) in [(CORRELATION_ID, correlation_id), (trace::TRACEPARENT, traceparent)] {
            if let Some(value) = value {
                let passed_on = headers.passed_on.take().unwrap_or_default();
                headers.passed_on = Some(passed_on.insert(Header { key, value: Some(value) }));
                headers.bytes += header_bytes(key, Some(value.as_bytes()));
            }
        }
        headers.process = process;
        headers
    }
}

/// The topic that the record names in its `reply-to` header; `None` in a pipeline without replies.
pub fn wanted_reply<'r>(pipeline: &Pipeline, record: &Record<'r>) -> Option<&'r str> {
    if pipeline.has_replies() && record.has_headers() { record.header(c"reply-to") } else { None }
}

/// The topic to reply to. A reply that is not allowed is dropped and counted; the request is still evaluated.
pub fn reply_to<'r>(record: &Record<'r>, sender: &BatchSender<'_>) -> Option<&'r str> {
    let topic = wanted_reply(sender.pipeline, record)?;
    let refused = sender.rejections.is_reply_dropped(place(record));
    let usable = if refused { Err("refused") } else { sender.reply_topics.check(topic) };
    usable.map_err(|reason| sender.drop_reply(place(record), topic, reason)).ok().map(|()| topic)
}
