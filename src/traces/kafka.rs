//! The spans of a record: its processing, and the sending of its events and of its reply.

use std::cell::Cell;
use std::fmt;
use std::time::SystemTime;

use opentelemetry::trace::{Link, Span as _, SpanKind, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, ContextGuard, KeyValue};

use super::subjects::Message;
use super::{ACTIVE, Active, beneath, remote, traceparent};
use crate::message::trace::Traceparent;

/// A record that is processed within a span. Dropping it ends the span.
pub struct Process {
    active: &'static Active,
    context: Context,
    /// Names the span, for the headers of events and reply.
    traceparent: String,
    events: Sent,
    replies: Sent,
    /// Makes the span the current one of this thread.
    _current: ContextGuard,
}

/// The messages that were handed to the client, for one `send` span.
#[derive(Debug, Default)]
struct Sent {
    count: Cell<i64>,
    begun: Cell<Option<SystemTime>>,
}

/// Opens the span of a record at `partition` and `offset` of `topic`. `None` if it is not sampled.
pub fn process(topic: &str, partition: i32, offset: i64, given: Option<&str>) -> Option<Process> {
    let active = ACTIVE.get()?;
    let parent = given.and_then(|given| Traceparent::parse(given.as_bytes()));
    let parent = parent.as_ref().and_then(remote);
    if !active.rule.samples(parent.as_ref()) {
        return None;
    }
    let context = beneath(parent.as_ref());
    let mut span = active.tracer.span_builder(format!("process {topic}")).with_kind(SpanKind::Consumer);
    if let Some(producer) = &parent {
        span = span.with_links(vec![Link::with_context(producer.clone())]);
    }
    let mut span = span.start_with_context(&active.tracer, &context);
    span.set_attributes([
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.name", topic.to_owned()),
        KeyValue::new("messaging.destination.partition.id", partition.to_string()),
        KeyValue::new("messaging.kafka.offset", offset),
    ]);
    let traceparent = traceparent(span.span_context());
    let context = Context::new().with_span(span);
    let current = context.clone().attach();
    let (events, replies) = (Sent::default(), Sent::default());
    Some(Process { active, context, traceparent, events, replies, _current: current })
}

impl Process {
    /// The `traceparent` of the record's events and reply.
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// Notes that an event or the reply is handed to the Kafka client.
    pub fn sends(&self, message: Message) {
        let sent = match message {
            Message::Event => &self.events,
            Message::Reply => &self.replies,
        };
        sent.count.set(sent.count.get() + 1);
        if sent.begun.get().is_none() {
            sent.begun.set(Some(SystemTime::now()));
        }
    }

    fn end_sending(&self, name: &'static str, sent: &Sent) {
        let Some(begun) = sent.begun.get() else { return };
        let span = self.active.tracer.span_builder(name).with_kind(SpanKind::Producer).with_start_time(begun);
        let span = span.with_attributes([
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.name", "send"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.batch.message_count", sent.count.get()),
        ]);
        span.start_with_context(&self.active.tracer, &self.context).end();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_sending("send events", &self.events);
        self.end_sending("send reply", &self.replies);
        self.context.span().end();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("traceparent", &self.traceparent).finish_non_exhaustive()
    }
}
