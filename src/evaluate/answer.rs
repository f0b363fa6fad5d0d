//! From one record to its results: decode, evaluate on one snapshot, encode, send.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use chrono::{SecondsFormat, Utc};
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};

use crate::flag::value::{Lookup, answer};
use crate::flag::{Answer, EnvironmentFlags, Moment, Snapshot};
use crate::kafka::consumer::Record;
use crate::message::event::{EventFrame, EventSource, stream_event_id, write_event};
use crate::message::reply::{ReplyFrame, ReplyWriter};
use crate::message::request::{Ask, Request};
use crate::message::trace;
use crate::privacy::{Privacy, Shown};

use super::Parts;
use super::outbox::{Outbox, place, results_too_large};

/// Most bytes that the events of one request may take: every event echoes the context, so a small request
/// could otherwise ask for gigabytes.
const MAX_RESULT_BYTES: usize = 64 * 1024 * 1024;

/// What a worker does with each record. The load tool's bare loop is the other implementation.
pub trait Respond: Send {
    /// Called before the records of one fetch: they share a snapshot and a moment.
    fn begin(&mut self);
    /// Sends everything that the record asks for.
    fn respond(&mut self, record: &Record<'_>, outbox: &mut Outbox<'_>) -> KafkaResult<()>;
}

/// The real thing. The buffers are reused from event to event.
#[derive(Debug)]
pub struct Responder {
    scene: Scene,
    event: Vec<u8>,
    reply: ReplyWriter,
}

/// What all records of a fetch have in common.
#[derive(Debug)]
struct Scene {
    parts: Parts,
    hostname: String,
    topic_hash: u32,
    /// `None`: what was asked is written as it is.
    privacy: Option<Arc<Privacy>>,
    snapshot: Arc<Snapshot>,
    now: String,
}

/// The environment of a request; without flags if this deployment does not serve it.
struct Served<'s> {
    name: &'s str,
    flags: Option<(&'s Arc<str>, &'s Arc<EnvironmentFlags>)>,
}

impl Responder {
    pub fn new(parts: Parts) -> Self {
        let mut topic = parts.config.topics.requests.as_bytes();
        let scene = Scene {
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            // Reading from a slice cannot fail.
            topic_hash: murmur3::murmur3_32(&mut topic, 0).unwrap_or_default(),
            privacy: Privacy::of(&parts.config.privacy),
            snapshot: Arc::default(),
            now: String::new(),
            parts,
        };
        Self { scene, event: Vec::with_capacity(1024), reply: ReplyWriter::default() }
    }
}

impl Respond for Responder {
    fn begin(&mut self) {
        self.scene.snapshot = Arc::clone(&self.scene.parts.store.load());
        self.scene.now = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
    }

    fn respond(&mut self, record: &Record<'_>, outbox: &mut Outbox<'_>) -> KafkaResult<()> {
        let Self { scene, event, reply } = self;
        let request = match Request::decode(record.payload()) {
            Ok(request) => request,
            Err(refusal) => return outbox.dead_letter(record, &refusal, None),
        };
        let asks = request.asks.as_slice();
        let echoed = echoed_bytes(&request).saturating_mul(asks.len());
        if echoed > MAX_RESULT_BYTES {
            return outbox.dead_letter(record, &results_too_large(echoed, MAX_RESULT_BYTES), None);
        }
        let served = scene.serve(request.environment.as_deref());
        let headers = Headers::of(record, outbox);
        let (shown, key) = scene.show(&request, record);
        let frame = scene.reply_frame(&request, &shown, &served, &headers);
        if headers.reply_to.is_some() {
            reply.begin(&frame);
        }
        for (ask, index) in asks.iter().zip(0u32..) {
            let stopwatch = outbox.tally.stopwatch();
            let answer = scene.evaluate(&served, &request, ask, outbox);
            let took = stopwatch.map(nanoseconds);
            event.clear();
            let id = stream_event_id(
                scene.topic_hash,
                record.partition(),
                record.offset(),
                index,
                record.timestamp_ms(),
            );
            write_event(
                event,
                &EventFrame {
                    evaluation_ns: took,
                    value_type: Some(ask.value_type),
                    ..scene.event_frame(&request, &shown, &served, record, index, &id)
                },
                ask,
                &answer,
            );
            if outbox.event(record, key.as_deref(), index, headers.passed_on.as_ref(), event)? {
                outbox.tally.answer(served.flags.map(|(name, _)| name), &answer);
            }
            let repeated = || asks.iter().take(index as usize).any(|earlier| earlier.flag == ask.flag);
            if headers.reply_to.is_some() && !repeated() {
                reply.result(&ask.flag, &answer);
            }
        }
        match headers.reply_to {
            Some(topic) => {
                outbox.reply(record, key.as_deref(), topic, headers.correlation_id, reply.finish(&frame))
            }
            None => Ok(()),
        }
    }
}

impl Scene {
    fn serve<'s>(&'s self, asked: Option<&'s str>) -> Served<'s> {
        let name = asked.unwrap_or(&self.parts.config.unleash.default_environment);
        Served { name, flags: self.snapshot.environment_entry(name) }
    }

    /// What may be written of a request, and the key of what is written.
    fn show<'r>(&self, request: &'r Request<'_>, record: &Record<'r>) -> (Shown<'r>, Option<Cow<'r, [u8]>>) {
        let (context, json) = (&request.context, &request.context_json);
        match &self.privacy {
            None => (Shown::of(context, json), record.key().map(Cow::Borrowed)),
            Some(privacy) => (privacy.show(context, json), record.key().map(|key| privacy.key(key))),
        }
    }

    fn evaluate<'a>(
        &'a self,
        served: &'a Served<'_>,
        request: &'a Request<'_>,
        ask: &'a Ask<'_>,
        outbox: &mut Outbox<'_>,
    ) -> Answer<'a> {
        let app_name = &self.parts.config.unleash.app_name;
        let moment = Moment { now: &self.now, hostname: &self.hostname, app_name };
        let lookup = match served.flags {
            None => Lookup::unserved(served.name),
            Some((_, flags)) => match flags.evaluate(&ask.flag, &request.context, &moment) {
                None => Lookup::NotFound,
                Some(outcome) => {
                    outbox.tally.outcome(&outcome);
                    Lookup::Found(outcome)
                }
            },
        };
        answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref())
    }

    fn event_frame<'a>(
        &'a self,
        request: &'a Request<'_>,
        shown: &'a Shown<'_>,
        served: &Served<'a>,
        record: &Record<'_>,
        index: u32,
        id: &'a [u8; 36],
    ) -> EventFrame<'a> {
        EventFrame {
            // Hyphenated hex digits are ASCII.
            event_id: std::str::from_utf8(id).unwrap_or_default(),
            request_id: request.request_id.as_deref(),
            user_id: shown.user_id.as_deref(),
            session_id: shown.session_id.as_deref(),
            environment: served.name,
            context: &shown.context,
            evaluated_at: &self.now,
            flags_version: self.snapshot.version(),
            value_type: None,
            evaluation_ns: None,
            source: EventSource::Kafka {
                topic: &self.parts.config.topics.requests,
                partition: record.partition(),
                offset: record.offset(),
                index,
            },
        }
    }

    fn reply_frame<'a>(
        &'a self,
        request: &'a Request<'_>,
        shown: &'a Shown<'_>,
        served: &Served<'a>,
        headers: &Headers<'a>,
    ) -> ReplyFrame<'a> {
        ReplyFrame {
            request_id: request.request_id.as_deref(),
            correlation_id: headers.correlation_id,
            user_id: shown.user_id.as_deref(),
            environment: served.name,
            flags_version: self.snapshot.version(),
            evaluated_at: &self.now,
        }
    }
}

/// Since then.
pub fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The headers that we honour.
#[derive(Default)]
struct Headers<'r> {
    /// The topic to reply to, if one is named that may be used.
    reply_to: Option<&'r str>,
    correlation_id: Option<&'r str>,
    /// What goes from the request to its events.
    passed_on: Option<OwnedHeaders>,
}

impl<'r> Headers<'r> {
    fn of(record: &Record<'r>, outbox: &mut Outbox<'_>) -> Self {
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

/// What every event of the request repeats.
fn echoed_bytes(request: &Request<'_>) -> usize {
    let texts = [&request.request_id, &request.context.user_id, &request.context.session_id];
    let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
    request.context_json.len() + request.environment.as_ref().map_or(0, |name| name.len()) + texts
}
