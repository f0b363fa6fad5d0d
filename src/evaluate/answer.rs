//! The processing of one record: decode, evaluate on one snapshot, encode, send.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use rdkafka::error::KafkaResult;

use crate::attributes::{Completed, Joined, Joiner};
use crate::flag::value::{Lookup, answer};
use crate::flag::{Answer, EnvironmentFlags, EvaluationContext, Moment, Snapshot};
use crate::kafka::consumer::Record;
use crate::kafka::producer::MAX_RECORD_BYTES;
use crate::log_limit::limited;
use crate::message::avro::{Kind, Subject};
use crate::message::event::{EventFrame, EventSource, Timestamp, stream_event_id};
use crate::message::reply::{ReplyFrame, ReplyWriter};
use crate::message::request::{
    Ask, MAX_REQUEST_BYTES, Refusal, RefusalCode, Request, check_record, generated_session,
};
use crate::message::result_size::{Repeated, result_bytes};
use crate::privacy::{Privacy, Shown};
use crate::schema_registry::{Reader, Undecodable};

use super::Parts;
use super::batch_sender::{BatchSender, place, results_too_large};
use super::error_log::{self, Origin};
use super::event_writer::{Destination, Evaluated, EventWriter, Shared};
use super::headers::{Headers, reply_to};
use super::pipeline::Pipeline;
use super::unserved;

/// Upper bound in bytes of one request's events and reply together, estimated before they are encoded.
const MAX_RESULT_BYTES: usize = 64 * 1024 * 1024;

/// Upper bound in bytes of the JSON that an Avro request is converted to. A request larger than [`MAX_REQUEST_BYTES`]
/// is rejected later, by its size.
const MAX_TEXT_BYTES: usize = 2 * MAX_REQUEST_BYTES;

/// Delay before a record is retried whose schema lookup failed because the schema registry is unreachable.
const AWAY_RETRY: Duration = Duration::from_secs(1);
const PENDING_RETRY: Duration = Duration::from_millis(200);

/// Processes the records of a worker. The service uses [`Responder`]; the load tool's baseline is the other
/// implementation.
pub trait Respond: Send {
    /// Called before the records of one fetch, which all use the same snapshot, the same time and the same id of the
    /// requests topic. `None`: Kafka assigns no ids to topics, or has not answered yet.
    fn begin(&mut self, topic_id: Option<&Arc<str>>);
    /// Called for a record of a paused partition, so that its schema can be looked up in the meantime.
    fn prepare(&mut self, _record: &Record<'_>) {}
    /// Sends the record's results to the outbox.
    fn respond(&mut self, record: &Record<'_>, sender: &mut BatchSender<'_>) -> KafkaResult<Responded>;
}

/// The outcome of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Responded {
    /// All results of the record were sent, or a dead letter in their place.
    Done,
    /// The record cannot be decoded at the moment, for example because the schema registry is unreachable. Nothing was
    /// sent; the record is retried after `retry_after`.
    Deferred { why: Arc<str>, retry_after: Duration },
}

/// Evaluates requests on the flags in force. The buffers are reused for every record.
#[derive(Debug)]
pub struct Responder {
    shared: BatchContext,
    reader: Reader,
    /// Buffer for the JSON of an Avro request.
    text: Vec<u8>,
    events: EventWriter,
    reply: ReplyWriter,
}

/// State that all records of one fetch share.
#[derive(Debug)]
pub(super) struct BatchContext {
    pub(super) parts: Parts,
    pub(super) pipeline: Arc<Pipeline>,
    hostname: String,
    topic_hash: u32,
    /// The id of the topic that is read, if Kafka assigns ids to topics.
    topic_id: Option<Arc<str>>,
    /// `None`: user data is written to results unchanged.
    privacy: Option<Arc<Privacy>>,
    snapshot: Arc<Snapshot>,
    now: String,
    pub(super) now_micros: i64,
}

/// The environment of a request. `flags` is `None` if this deployment does not serve the environment.
pub(super) struct Environment<'s> {
    pub(super) name: &'s str,
    pub(super) flags: Option<(&'s Arc<str>, &'s Arc<EnvironmentFlags>)>,
}

/// The context of a request as one flag sees it.
pub(super) struct Seen<'a> {
    pub(super) context: &'a EvaluationContext<'a>,
    /// JSON text as it may be written to the event.
    pub(super) written: &'a str,
    /// The attributes that tables added.
    pub(super) used: Option<&'a str>,
}

impl<'a> Seen<'a> {
    pub(super) fn of(
        request: &'a Request<'_>,
        shown: &'a Shown<'_>,
        completed: Option<&'a Completed<'_>>,
    ) -> Self {
        match completed {
            Some(Completed { context, written, used }) => Self { context, written, used: *used },
            None => Self { context: &request.context, written: &shown.context, used: None },
        }
    }
}

impl Environment<'_> {
    pub(super) fn all(&self) -> Option<&EnvironmentFlags> {
        self.flags.map(|(_, flags)| flags.as_ref())
    }
}

impl Responder {
    pub fn new(parts: Parts) -> Self {
        let reader = parts.formats.reader(Subject::REQUESTS, parts.config.formats.requests);
        let pipeline = Arc::new(Pipeline::requests(&parts.config, &parts.metrics));
        Self {
            shared: BatchContext::new(parts, pipeline),
            reader,
            text: Vec::new(),
            events: EventWriter::default(),
            reply: ReplyWriter::default(),
        }
    }
}

impl Respond for Responder {
    fn prepare(&mut self, record: &Record<'_>) {
        self.reader.prepare(record.payload());
    }

    fn begin(&mut self, topic_id: Option<&Arc<str>>) {
        self.shared.begin(topic_id);
    }

    fn respond(&mut self, record: &Record<'_>, sender: &mut BatchSender<'_>) -> KafkaResult<Responded> {
        let Self { shared, reader, text, events, reply } = self;
        if sender.rejections.is_unprocessable(place(record)) {
            return sender.dead_letter(record, &unprocessable(), None).map(|()| Responded::Done);
        }
        let request = match reader.read(record.payload(), text, MAX_TEXT_BYTES) {
            Ok(json) => Request::decode(json),
            Err(unread) => match deferred(unread) {
                Ok(deferred) => return Ok(deferred),
                Err(refusal) => Err(refusal),
            },
        };
        let answered = match request {
            Ok(mut request) => {
                shared.name_nobody(&mut request, record);
                shared.answer(&request, record, sender, events, reply)
            }
            Err(refusal) => sender.dead_letter(record, &refusal, None),
        };
        answered.map(|()| Responded::Done)
    }
}

impl BatchContext {
    pub(super) fn new(parts: Parts, pipeline: Arc<Pipeline>) -> Self {
        let identity = pipeline.identity();
        Self {
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            // Reading from a slice cannot fail.
            topic_hash: murmur3::murmur3_32(&mut identity.as_bytes(), 0).unwrap_or_default(),
            topic_id: None,
            privacy: Privacy::of(&parts.config.privacy),
            snapshot: Arc::default(),
            now: String::new(),
            now_micros: 0,
            parts,
            pipeline,
        }
    }

    /// Begins a fetch: its records use the flags in force, and the time, of this moment.
    pub(super) fn begin(&mut self, topic_id: Option<&Arc<str>>) {
        self.snapshot = Arc::clone(&self.parts.store.load());
        self.topic_id = topic_id.cloned();
        let now = Utc::now();
        self.now = now.to_rfc3339_opts(SecondsFormat::Micros, true);
        self.now_micros = now.timestamp_micros();
    }

    /// Sends all results of one request: the events of its flags, and the reply.
    fn answer(
        &self,
        request: &Request<'_>,
        record: &Record<'_>,
        sender: &mut BatchSender<'_>,
        events: &mut EventWriter,
        reply: &mut ReplyWriter,
    ) -> KafkaResult<()> {
        let formats = &self.parts.formats;
        let asks = request.asks.as_slice();
        let served = self.serve(request.environment.as_deref());
        let headers = Headers::of(record, &self.pipeline.source);
        if let Err(refusal) = check(request, record, &served, &headers, self.added_bytes(request)) {
            return sender.dead_letter(record, &refusal, None);
        }
        let joiner = self.joiner(request);
        let mut reply_to = reply_to(record, sender);
        let (shown, key) = self.show(request, record);
        let frame = self.reply_frame(request, &shown, &served, &headers);
        if reply_to.is_some() {
            reply.begin(&frame);
        }
        let environment = served.flags.map(|(name, _)| name);
        let (key, form) = (key.as_deref(), &formats.evaluated);
        let to = Destination::new(record, key, &headers, environment, form, asks.len(), sender);
        events.begin();
        for (ask, index) in asks.iter().zip(0u32..) {
            let stopwatch = sender.tally.stopwatch();
            let joined = joiner.as_ref().and_then(|joiner| joiner.join(served.all(), &ask.flag));
            let completed = joined.as_ref().map(|joined| self.complete(request, joined));
            let seen = Seen::of(request, &shown, completed.as_ref());
            let answer = self.evaluate(&served, seen.context, ask, sender);
            let took = stopwatch.map(nanoseconds);
            error_log::note(&answer, &ask.flag, served.name, &shown, self.origin(request, record));
            let id = self.event_id(record, index);
            let frame = EventFrame {
                evaluation_ns: took,
                value_type: Some(ask.value_type),
                session_id: Self::session(&served, seen.context, &shown, ask),
                context: seen.written,
                attributes: seen.used,
                ..self.event_frame(request, &shown, &served, record, index, &id)
            };
            let shared = Shared { session_id: shown.session_id.as_deref(), context: &shown.context };
            events.write(&Evaluated { index, frame, shared, ask, answer: &answer }, &to, sender)?;
            let repeated = || asks.iter().take(index as usize).any(|earlier| earlier.flag == ask.flag);
            if let Some(topic) = reply_to
                && !repeated()
            {
                reply.result(&ask.flag, &answer);
                if reply.len() > MAX_RECORD_BYTES {
                    sender.drop_reply(place(record), topic, "too_large");
                    reply_to = None;
                }
            }
        }
        events.finish(&to, sender)?;
        let Some(topic) = reply_to else { return Ok(()) };
        match formats.reply.message(Kind::Reply, reply.finish(&frame).to_vec()) {
            Ok(body) => sender.reply(record, key, topic, &headers, &body),
            Err(broken) => {
                limited!(error, %broken, "a reply cannot be encoded with its Avro schema; it is dropped");
                sender.drop_reply(place(record), topic, "unfit");
                Ok(())
            }
        }
    }

    /// Upper bound in bytes of what tables of attributes add to the events of a request.
    pub(super) fn added_bytes(&self, request: &Request<'_>) -> usize {
        let Some(attributes) = &self.parts.attributes else { return 0 };
        let subject = (&request.context, request.context_json.as_ref());
        attributes.added_bytes(request.asks.as_slice().len(), std::iter::once(subject))
    }

    /// Completes the context of a request for each of its flags; `None` without tables of attributes.
    pub(super) fn joiner<'a>(&'a self, request: &'a Request<'_>) -> Option<Joiner<'a>> {
        let attributes = self.parts.attributes.as_deref()?;
        Some(attributes.joiner(&request.context, &request.context_json))
    }

    pub(super) fn complete<'j>(&self, request: &'j Request<'_>, joined: &'j Joined) -> Completed<'j> {
        joined.complete(&request.context, self.privacy.as_deref())
    }

    /// Id of the record's event with this index.
    pub(super) fn event_id(&self, record: &Record<'_>, index: u32) -> [u8; 36] {
        stream_event_id(self.topic_hash, record.partition(), record.offset(), index, record.timestamp_ms())
    }

    pub(super) fn origin<'r>(&'r self, request: &'r Request<'_>, record: &Record<'_>) -> Origin<'r> {
        Origin::Record {
            topic: &self.pipeline.source,
            partition: record.partition(),
            offset: record.offset(),
            request_id: request.request_id.as_deref(),
        }
    }

    /// Gives a caller without user and session an anonymous id derived from the record's position, so that all flags of
    /// the request are drawn alike, and again alike if the record is processed again.
    pub(super) fn name_nobody(&self, request: &mut Request<'_>, record: &Record<'_>) {
        let context = &mut request.context;
        if context.is_anonymous() && context.anonymous_id.is_none() {
            let topic = u128::from(self.topic_hash) << 96;
            let partition = u128::from(record.partition().cast_unsigned()) << 64;
            let number = topic | partition | u128::from(record.offset().cast_unsigned());
            context.anonymous_id = Some(Cow::Owned(generated_session(number)));
        }
    }

    /// The session id of an event: the caller's, or the generated id if a draw used it.
    pub(super) fn session<'a>(
        served: &Environment<'_>,
        context: &'a EvaluationContext<'_>,
        shown: &'a Shown<'_>,
        ask: &Ask<'_>,
    ) -> Option<&'a str> {
        let generated = || {
            let (_, flags) = served.flags.filter(|_| context.is_anonymous())?;
            let flag = flags.get(&ask.flag)?;
            context.anonymous_id.as_deref().filter(|_| flags.draws_for_nobody(flag, context))
        };
        shown.session_id.as_deref().or_else(generated)
    }

    pub(super) fn serve<'s>(&'s self, asked: Option<&'s str>) -> Environment<'s> {
        let name = asked.unwrap_or(&self.parts.config.unleash.default_environment);
        let flags = self.snapshot.environment_entry(name);
        if flags.is_none() {
            unserved::note(name, &self.snapshot);
        }
        Environment { name, flags }
    }

    /// The parts of a request that may be written to results, and the key of those results. Both are pseudonymized if
    /// privacy is configured.
    fn show<'r>(&self, request: &'r Request<'_>, record: &Record<'r>) -> (Shown<'r>, Option<Cow<'r, [u8]>>) {
        let key = record.key().map(|key| match &self.privacy {
            None => Cow::Borrowed(key),
            Some(privacy) => privacy.key(key),
        });
        (self.shown(request), key)
    }

    /// The parts of a request that may be written to results.
    pub(super) fn shown<'r>(&self, request: &'r Request<'_>) -> Shown<'r> {
        let (context, json) = (&request.context, &request.context_json);
        match &self.privacy {
            None => Shown::of(context, json),
            Some(privacy) => privacy.show(context, json),
        }
    }

    fn evaluate<'a>(
        &'a self,
        served: &'a Environment<'_>,
        context: &EvaluationContext<'_>,
        ask: &'a Ask<'_>,
        sender: &mut BatchSender<'_>,
    ) -> Answer<'a> {
        let lookup = self.look_up(served, context, ask, sender);
        answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref())
    }

    /// Evaluates one flag, and counts the outcome.
    pub(super) fn look_up<'a>(
        &'a self,
        served: &'a Environment<'_>,
        context: &EvaluationContext<'_>,
        ask: &'a Ask<'_>,
        sender: &mut BatchSender<'_>,
    ) -> Lookup<'a> {
        let app_name = &self.parts.config.unleash.app_name;
        let moment = Moment { now: &self.now, hostname: &self.hostname, app_name };
        match served.flags {
            None => Lookup::unserved(served.name),
            Some((_, flags)) => match flags.evaluate(&ask.flag, context, &moment) {
                None => Lookup::NotFound,
                Some(outcome) => {
                    sender.tally.outcome(&outcome);
                    Lookup::Found(outcome)
                }
            },
        }
    }

    pub(super) fn event_frame<'a>(
        &'a self,
        request: &'a Request<'_>,
        shown: &'a Shown<'_>,
        served: &Environment<'a>,
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
            attributes: None,
            evaluated_at: Timestamp { text: &self.now, micros: self.now_micros },
            flags_version: self.snapshot.version(),
            value_type: None,
            evaluation_ns: None,
            source: EventSource::Kafka {
                topic: &self.pipeline.source,
                topic_id: self.topic_id.as_deref(),
                partition: record.partition(),
                offset: record.offset(),
                index,
                tap: self.pipeline.tap.as_ref().map(|tap| tap.name.as_str()),
            },
        }
    }

    fn reply_frame<'a>(
        &'a self,
        request: &'a Request<'_>,
        shown: &'a Shown<'_>,
        served: &Environment<'a>,
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

/// Nanoseconds since `start`.
pub fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Rejects a request whose results would be too large, before any of them is encoded. `added_bytes` is what tables of
/// attributes may add.
fn check(
    request: &Request<'_>,
    record: &Record<'_>,
    served: &Environment<'_>,
    headers: &Headers<'_>,
    added_bytes: usize,
) -> Result<(), Refusal> {
    check_record(record.key(), headers.correlation_id)?;
    check_results(request, served, record.key().map_or(0, <[u8]>::len) + headers.bytes, added_bytes)
}

/// Rejects a request whose results would be too large. `record_bytes` are those of the key and the headers of each.
pub(super) fn check_results(
    request: &Request<'_>,
    served: &Environment<'_>,
    record_bytes: usize,
    added_bytes: usize,
) -> Result<(), Refusal> {
    let repeated = Repeated {
        environment: served.name,
        flags: served.flags.map(|(_, flags)| flags.as_ref()),
        request_id: request.request_id.as_deref(),
        record_bytes,
    };
    let subject = (&request.context, request.context_json.as_ref());
    let bytes =
        result_bytes(&repeated, request.asks.as_slice(), [subject]).total().saturating_add(added_bytes);
    if bytes > MAX_RESULT_BYTES { Err(results_too_large(bytes, MAX_RESULT_BYTES)) } else { Ok(()) }
}

/// The reason to retry a record later, or else to refuse it.
pub(super) fn deferred(unread: Undecodable) -> Result<Responded, Refusal> {
    match unread {
        Undecodable::Away(why) => Ok(Responded::Deferred { why, retry_after: AWAY_RETRY }),
        Undecodable::Pending(why) => Ok(Responded::Deferred { why, retry_after: PENDING_RETRY }),
        unread => Err(Refusal::from(unread)),
    }
}

/// The refusal of a record whose results repeatedly could not be committed within the transaction timeout.
pub(super) fn unprocessable() -> Refusal {
    let message = "the results could not be committed within the transaction timeout, although the request was \
        retried alone several times";
    Refusal {
        code: RefusalCode::ProcessingFailed,
        field: "request".into(),
        message: message.into(),
        wrong_type: false,
    }
}
