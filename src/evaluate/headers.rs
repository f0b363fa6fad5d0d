//! The headers of a request: what is passed on, and where the reply goes.

use rdkafka::message::{Header, OwnedHeaders};

use crate::kafka::consumer::Record;
use crate::message::trace;

use super::outbox::{Outbox, place};

/// The headers that we honour.
#[derive(Debug, Default)]
pub struct Headers<'r> {
    /// The topic to reply to, if one is named that may be used.
    pub reply_to: Option<&'r str>,
    pub correlation_id: Option<&'r str>,
    /// What goes from the request to its events.
    pub passed_on: Option<OwnedHeaders>,
}

impl<'r> Headers<'r> {
    pub fn of(record: &Record<'r>, outbox: &mut Outbox<'_>) -> Self {
        if !record.has_headers() {
            return Self::default();
        }
        let correlation_id = record.header(c"correlation-id");
        let known = [("correlation-id", correlation_id), (trace::TRACEPARENT, record.header(trace::HEADER))];
        let passed_on = known.into_iter().fold(None, |headers: Option<OwnedHeaders>, (key, value)| {
            let Some(value) = value else { return headers };
            Some(headers.unwrap_or_default().insert(Header { key, value: Some(value) }))
        });
        Self { reply_to: reply_to(record, outbox), correlation_id, passed_on }
    }
}

/// A reply that may not be sent is dropped and counted; the request is evaluated as usual.
fn reply_to<'r>(record: &Record<'r>, outbox: &mut Outbox<'_>) -> Option<&'r str> {
    let topic = record.header(c"reply-to")?;
    let refused = outbox.amendments.is_unanswered(place(record));
    let usable = if refused { Err("refused") } else { outbox.reply_topics.check(topic) };
    usable.map_err(|reason| outbox.drop_reply(place(record), topic, reason)).ok().map(|()| topic)
}
