//! Taps: forward the records of any topic with the values of flags, in the transaction of their offsets.
//!
//! ```text
//!  record of the source                                      one Kafka transaction per batch
//!     │ selectors: user, session, context                  ┌──────────────────────────────────────┐
//!     ▼                                                    │                                      │
//!  evaluate on one snapshot ──► events of the audit ───────┼─► feature-flag-events                │
//!     │                                                    │                                      │
//!     ├── encoder: headers or a member ──► route ──────────┼─► target or a routed topic, same     │
//!     │                                                    │   partition, key, value and headers  │
//!     └── refused ─────────────────────► dead letter ──────┼─► feature-flag-dead-letters          │
//!                                        offsets ──────────┼─► __consumer_offsets                 │
//!                                                          └──────────────────────────────────────┘
//! ```
//!
//! Evaluation, events and everything about batches are those of the request pipeline. A record without a value is
//! forwarded unchanged to every topic of the tap, because it deletes what an earlier record of its key put there.

mod encoder;
pub mod outputs;
pub mod preview;
mod selectors;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use rdkafka::error::KafkaResult;

use crate::config::{OnMissingUser, TapAudit, TapConfig, TapWrite};
use crate::flag::value::natural_answer;
use crate::kafka::consumer::Record;
use crate::kafka::producer::Changes;
use crate::message::avro::Subject;
use crate::message::event::EventFrame;
use crate::message::request::{Ask, Asks, Refusal, RefusalCode, Request, recorded_context};
use crate::privacy::Shown;
use crate::schema_registry::Reader;

use super::Parts;
use super::answer::{
    BatchContext, Respond, Responded, Seen, check_results, deferred, nanoseconds, unprocessable,
};
use super::batch::Passed;
use super::batch_sender::{BatchSender, place};
use super::error_log;
use super::event_writer::{Destination, Evaluated, EventWriter, Shared};
use super::headers::Headers;
use super::pipeline::Pipeline;

use self::encoder::Encoder;
use self::selectors::{Readable, Selected, Selectors, refusal};

/// Upper bound in bytes of the JSON that an Avro value is converted to.
const MAX_VALUE_TEXT_BYTES: usize = 16 << 20;
/// A timestamp that is later than now by more than this is replaced by now: by default, brokers refuse such records.
const MAX_TIMESTAMP_AHEAD_MS: i64 = 3_600_000;

/// Processes the records of one tap. The buffers are reused for every record.
#[derive(Debug)]
pub struct TapResponder {
    shared: BatchContext,
    tap: Arc<TapConfig>,
    decoder: Decoder,
    encoder: Encoder,
    routes: Vec<Route>,
    events: EventWriter,
}

/// Reads what the flags are evaluated for.
#[derive(Debug)]
struct Decoder {
    selectors: Selectors,
    reader: Reader,
    reads_value: bool,
    /// Whether a member of the value is written, which needs JSON.
    writes_value: bool,
    /// Buffer for the JSON of an Avro value.
    text: Vec<u8>,
    /// Buffer for the context.
    context: Vec<u8>,
}

/// Route with the index of its flag and of its output topics.
#[derive(Debug)]
struct Route {
    flag: usize,
    outputs: Vec<(String, usize)>,
}

impl TapResponder {
    pub fn new(parts: Parts, pipeline: &Arc<Pipeline>, tap: &Arc<TapConfig>) -> Self {
        let reader = parts.formats.reader(Subject::FOREIGN, tap.format);
        Self {
            decoder: Decoder::new(tap, reader),
            encoder: Encoder::new(tap),
            routes: routes(tap, &pipeline.outputs),
            events: EventWriter::default(),
            shared: BatchContext::new(parts, Arc::clone(pipeline)),
            tap: Arc::clone(tap),
        }
    }
}

fn routes(tap: &TapConfig, outputs: &[String]) -> Vec<Route> {
    let index = |topic: &String| outputs.iter().position(|output| output == topic).unwrap_or_default();
    let routes = tap.routes.iter().map(|route| Route {
        flag: tap.flags.iter().position(|flag| *flag == route.flag).unwrap_or_default(),
        outputs: route.topics.iter().map(|(result, topic)| (result.clone(), index(topic))).collect(),
    });
    routes.collect()
}

impl Respond for TapResponder {
    fn begin(&mut self, topic_id: Option<&Arc<str>>) {
        self.shared.begin(topic_id);
    }

    fn prepare(&mut self, record: &Record<'_>) {
        if self.decoder.reads_value {
            self.decoder.reader.prepare(record.payload());
        }
    }

    fn respond(&mut self, record: &Record<'_>, sender: &mut BatchSender<'_>) -> KafkaResult<Responded> {
        let Self { shared, tap, decoder, encoder, routes, events } = self;
        if sender.rejections.is_unprocessable(place(record)) {
            return sender.dead_letter(record, &unprocessable(), None).map(|()| Responded::Done);
        }
        let timestamp_ms = timestamp(record, shared.now_micros / 1_000);
        let unchanged = Changes { timestamp_ms, ..Changes::default() };
        if record.is_null() {
            sender.batch.pass(Passed::Tombstone);
            let mut outputs = 0..shared.pipeline.outputs.len();
            let sent = outputs.try_for_each(|output| sender.forward(record, output, &unchanged));
            return sent.map(|()| Responded::Done);
        }
        let decoded = match decoder.read(record) {
            Ok(Ok(decoded)) => decoded,
            Ok(Err(deferred)) => return Ok(deferred),
            Err(refusal) => return sender.dead_letter(record, &refusal, None).map(|()| Responded::Done),
        };
        if decoded.selected.user.is_none() {
            match tap.on_missing_user {
                OnMissingUser::Evaluate => {}
                OnMissingUser::Pass => {
                    sender.batch.pass(Passed::NoUser);
                    return sender.forward(record, 0, &unchanged).map(|()| Responded::Done);
                }
                OnMissingUser::DeadLetter => {
                    return sender.dead_letter(record, &no_user(), None).map(|()| Responded::Done);
                }
            }
        }
        let json = decoded.json;
        let member = decoded.selected.member;
        encoder.begin();
        let output = match shared.evaluate_tap(tap, decoded, record, sender, encoder, routes, events) {
            Ok(sent) => sent?,
            Err(refusal) => return sender.dead_letter(record, &refusal, None).map(|()| Responded::Done),
        };
        let sent = match json.filter(|_| tap.write != TapWrite::Headers) {
            None => sender.forward(record, output, &Changes { headers: &encoder.headers(), ..unchanged }),
            Some(json) => match encoder.value(json, member) {
                value @ Some(_) => sender.forward(record, output, &Changes { value, ..unchanged }),
                None => sender.dead_letter(record, &not_an_object(), None),
            },
        };
        sent.map(|()| Responded::Done)
    }
}

/// The parts that were read from one record.
#[derive(Debug)]
struct Decoded<'r> {
    selected: Selected<'r>,
    context: &'r str,
    /// The value as JSON, if it was read.
    json: Option<&'r [u8]>,
}

impl Decoder {
    fn new(tap: &TapConfig, reader: Reader) -> Self {
        Self {
            selectors: Selectors::new(tap),
            reader,
            reads_value: tap.reads_value(),
            writes_value: matches!(tap.write, TapWrite::Member(_)),
            text: Vec::new(),
            context: Vec::new(),
        }
    }

    /// Reads a record. The inner error is the reason to read it later, because its schema is not known.
    fn read<'r>(&'r mut self, record: &impl Readable<'r>) -> Result<Result<Decoded<'r>, Responded>, Refusal> {
        let Self { selectors, reader, reads_value, writes_value, text, context } = self;
        let json = match *reads_value {
            false => None,
            true => match reader.read(record.payload(), text, MAX_VALUE_TEXT_BYTES) {
                Ok(json) => Some(json),
                Err(unread) => return deferred(unread).map(Err),
            },
        };
        let is_converted = json.is_some_and(|json| json.as_ptr() != record.payload().as_ptr());
        if *writes_value && is_converted {
            let message =
                "expected JSON, to which a member can be added, got Avro; write headers instead".to_owned();
            return Err(refusal(RefusalCode::InvalidField, "value", message));
        }
        let selected = selectors.read(record, json, context)?;
        // The context consists of valid texts.
        let context = std::str::from_utf8(context).unwrap_or("{}");
        Ok(Ok(Decoded { selected, context, json }))
    }
}

impl BatchContext {
    /// Evaluates all flags of the tap, adds their values to the encoder, and sends the events. Returns the index of the
    /// output topic. The outer error is the reason why the record becomes a dead letter.
    #[allow(clippy::too_many_arguments)] // The buffers belong to the caller.
    fn evaluate_tap(
        &self,
        tap: &TapConfig,
        decoded: Decoded<'_>,
        record: &Record<'_>,
        sender: &mut BatchSender<'_>,
        encoder: &mut Encoder,
        routes: &[Route],
        events: &mut EventWriter,
    ) -> Result<KafkaResult<usize>, Refusal> {
        let mut request = tap_request(tap, &decoded)?;
        self.name_nobody(&mut request, record);
        let served = self.serve(tap.environment.as_deref());
        let shown = self.shown(&request);
        let headers = if tap.audit == TapAudit::None {
            Headers::default()
        } else {
            Headers::of(record, &self.pipeline.source)
        };
        let key = event_key(&request, &shown);
        check_results(&request, &served, key.len() + headers.bytes, self.added_bytes(&request))?;
        let joiner = self.joiner(&request);
        let environment = served.flags.map(|(name, _)| name);
        let (form, count) = (&self.parts.formats.evaluated, tap.flags.len());
        let to = Destination::new(record, Some(&key), &headers, environment, form, count, sender);
        events.begin();
        let mut results: Vec<(Option<&str>, bool)> = Vec::with_capacity(tap.flags.len());
        for (ask, index) in request.asks.as_slice().iter().zip(0u32..) {
            let stopwatch = sender.tally.stopwatch();
            let joined = joiner.as_ref().and_then(|joiner| joiner.join(served.all(), &ask.flag));
            let completed = joined.as_ref().map(|joined| self.complete(&request, joined));
            let seen = Seen::of(&request, &shown, completed.as_ref());
            let answer = natural_answer(&ask.flag, self.look_up(&served, seen.context, ask, sender));
            let took = stopwatch.map(nanoseconds);
            error_log::note(&answer, &ask.flag, served.name, &shown, self.origin(&request, record));
            encoder.add(&answer);
            let is_audited = match tap.audit {
                TapAudit::All => true,
                TapAudit::Exposures => answer.assignment.is_some(),
                TapAudit::None => false,
            };
            if is_audited {
                let id = self.event_id(record, index);
                let frame = EventFrame {
                    evaluation_ns: took,
                    session_id: Self::session(&served, seen.context, &shown, ask),
                    context: seen.written,
                    attributes: seen.used,
                    ..self.event_frame(&request, &shown, &served, record, index, &id)
                };
                let shared = Shared { session_id: shown.session_id.as_deref(), context: &shown.context };
                let evaluated = Evaluated { index, frame, shared, ask, answer: &answer };
                if let Err(error) = events.write(&evaluated, &to, sender) {
                    return Ok(Err(error));
                }
            } else {
                sender.tally.unpublished_answer(environment, &answer);
            }
            results.push((answer.variant, answer.enabled));
        }
        Ok(events.finish(&to, sender).map(|()| output(routes, &results)))
    }
}

/// The request that is evaluated for a record. Neither a type nor a default is asked for: the flags decide.
fn tap_request<'r>(tap: &'r TapConfig, decoded: &'r Decoded<'_>) -> Result<Request<'r>, Refusal> {
    let asks = tap.flags.iter().map(|flag| Ask::new(Cow::Borrowed(flag), None, None));
    let Selected { user, session, .. } = &decoded.selected;
    let context = recorded_context(decoded.context, user.as_deref(), session.as_deref());
    let context = context.map_err(|error| refusal(RefusalCode::TooDeep, "context", error.to_string()))?;
    Ok(Request {
        request_id: None,
        environment: tap.environment.as_deref().map(Cow::Borrowed),
        asks: Asks::Many(asks.collect()),
        context,
        context_json: Cow::Borrowed(decoded.context),
    })
}

/// Key of a record's events, as of those of HTTP calls: the user as it is shown, otherwise the session or the generated id.
fn event_key(request: &Request<'_>, shown: &Shown<'_>) -> Vec<u8> {
    let id = shown.user_id.as_deref().or(shown.session_id.as_deref());
    id.or(request.context.anonymous_id.as_deref()).unwrap_or_default().as_bytes().to_vec()
}

/// Index of the output topic for the results of all flags, given as variant and whether the flag is on. The first route
/// that has a topic decides.
fn output(routes: &[Route], results: &[(Option<&str>, bool)]) -> usize {
    let routed = routes.iter().find_map(|route| {
        let (variant, enabled) = *results.get(route.flag)?;
        let topic = |wanted: &str| route.outputs.iter().find(|(result, _)| result == wanted);
        let state = if enabled { "on" } else { "off" };
        variant.and_then(topic).or_else(|| topic(state)).map(|(_, output)| *output)
    });
    routed.unwrap_or_default()
}

/// Timestamp of the forwarded record.
fn timestamp(record: &Record<'_>, now_ms: i64) -> i64 {
    let own = record.timestamp_ms();
    if own > now_ms + MAX_TIMESTAMP_AHEAD_MS { now_ms } else { own }
}

fn no_user() -> Refusal {
    refusal(
        RefusalCode::MissingField,
        "user",
        "a value is required, because on_missing_user is dead_letter".to_owned(),
    )
}

fn not_an_object() -> Refusal {
    let message = "expected a JSON object, to which a member can be added".to_owned();
    refusal(RefusalCode::InvalidField, "value", message)
}
