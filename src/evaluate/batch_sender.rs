//! Sends the results of a batch: events, dead letters and replies, each with a delivery id.
//!
//! A record that librdkafka rejects at once, or that is larger than [`MAX_RECORD_BYTES`], is handled as if a broker had
//! rejected it: an event becomes a dead letter, a dead letter contains less of its record, a reply is dropped.

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::kafka::consumer::Record;
use crate::kafka::producer::{
    Changes, MAX_RECORD_BYTES, TrackedProducer, header_bytes, is_local_refusal, record_bytes,
};
use crate::log_limit::LogLimit;
use crate::message::dead_letter::{DeadLetter, header};
use crate::message::request::{Refusal, RefusalCode};
use crate::metrics::{DropLabels, Metrics};
use crate::traces::Message;

use super::batch::{Batch, Sent, SourceOffset};
use super::headers::Headers;
use super::pipeline::Pipeline;
use super::rejections::{Rejections, RetainedParts};
use super::reply_topics::ReplyTopics;
use super::tally::Tally;

/// Bytes of a dead letter reserved for the headers that are added to the original record.
const LETTER_HEADERS_BYTES: usize = 64 << 10;
/// Upper bound in bytes of one record's dead letters together. Each contains the whole record, and there may be one per
/// flag; above this bound they contain only the record's position.
const MAX_LETTERS_BYTES: usize = 16 << 20;
/// Upper bound in bytes of what the wire format adds to one copied record with its headers.
const RECORD_BYTES: usize = 256;
/// Upper bound in bytes of what the wire format adds to one header.
const HEADER_BYTES: usize = 10;
/// Number of characters of a `reply-to` value that are logged.
const LOGGED_CHARS: usize = 249;

/// Access to an open batch for sending results.
#[derive(Debug)]
pub struct BatchSender<'b> {
    pub pipeline: &'b Pipeline,
    pub producer: &'b TrackedProducer,
    pub batch: &'b mut Batch,
    pub tally: &'b mut Tally,
    pub rejections: &'b Rejections,
    pub reply_topics: &'b ReplyTopics,
    pub metrics: &'b Metrics,
}

/// The results of a record that one event contains, by their indexes.
#[derive(Debug, Clone, Copy)]
pub enum Results {
    One(u32),
    /// The results of a bulk event.
    Several {
        first: u32,
        count: u32,
    },
}

impl Results {
    fn indexes(self) -> std::ops::Range<u32> {
        match self {
            Self::One(index) => index..index.saturating_add(1),
            Self::Several { first, count } => first..first.saturating_add(count),
        }
    }
}

/// The parts of the original record that go into a dead letter.
struct Original<'r> {
    key: Option<&'r [u8]>,
    headers: OwnedHeaders,
    /// `None`: a null value, either the original one or because the body is omitted.
    body: Option<&'r [u8]>,
    body_omitted: bool,
    key_omitted: bool,
    headers_omitted: usize,
    bytes: usize,
}

impl BatchSender<'_> {
    /// Sends one event under `key`, to the partition for events of the record. `Ok(false)` if the event is rejected, or
    /// known to be rejected by the broker; a dead letter for each of its results is sent in its place.
    pub fn event(
        &mut self,
        record: &Record<'_>,
        key: Option<&[u8]>,
        results: Results,
        headers: Option<&Headers<'_>>,
        body: &[u8],
    ) -> KafkaResult<bool> {
        let place = place(record);
        let index = results.indexes().start;
        if let Some(process) = headers.and_then(|headers| headers.process.as_ref()) {
            process.sends(Message::Event);
        }
        let headers = headers.and_then(|headers| Some((headers.passed_on.as_ref()?, headers.bytes)));
        let bytes = record_bytes(key, body, headers.map_or(0, |(_, bytes)| bytes));
        let lane = self.pipeline.events_lane();
        if let Some(code) = self.rejections.event_refusal(place, index, lane, bytes) {
            let message = format!("the broker rejected the event ({bytes} bytes with key and headers)");
            return self.refused_event(record, results, code, &message);
        }
        if bytes > MAX_RECORD_BYTES {
            let message = format!(
                "the event has {bytes} bytes with key and headers; the limit is {MAX_RECORD_BYTES} bytes"
            );
            return self.refused_event(record, results, RefusalCode::TooLarge, &message);
        }
        let sent = match results {
            Results::One(index) => Sent::Event { index, bytes },
            Results::Several { .. } => Sent::BulkEvent { bytes },
        };
        let delivery_id = self.batch.delivery_id(place, sent, bytes);
        let partition = self.pipeline.events_partition(record.partition());
        let sent = match headers {
            None => self.producer.send_to(lane, partition, key, body, delivery_id),
            Some((headers, _)) => {
                let mut event = BaseRecord::with_opaque_to(&self.pipeline.events, delivery_id);
                event.partition = Some(partition);
                self.send(event, key, body, headers.clone())
            }
        };
        match local_refusal(&sent) {
            None => sent.map(|()| true),
            Some(code) => {
                self.batch.withdraw_delivery_id();
                let message = format!("the Kafka client rejected the event ({bytes} bytes): {code}");
                let code = match code {
                    RDKafkaErrorCode::MessageSizeTooLarge => RefusalCode::TooLarge,
                    _ => RefusalCode::Refused,
                };
                self.refused_event(record, results, code, &message)
            }
        }
    }

    /// Sends a copy of the record with `changes` to one of the tap's output topics, in the partition of the record. If the
    /// copy is rejected, or known to be rejected by the broker, a dead letter is sent in its place.
    pub fn forward(&mut self, record: &Record<'_>, output: usize, changes: &Changes<'_>) -> KafkaResult<()> {
        let place = place(record);
        let value = changes.value.map_or(record.payload().len(), <[u8]>::len);
        let added =
            changes.headers.iter().map(|(name, header)| HEADER_BYTES + name.count_bytes() + header.len());
        let bytes =
            RECORD_BYTES + record.size_bytes() - record.payload().len() + value + added.sum::<usize>();
        let refused = match self.rejections.copy_refusal(place, output, bytes) {
            Some(code) => Some((code, "the broker rejected it")),
            None if bytes > MAX_RECORD_BYTES => Some((RefusalCode::TooLarge, "it is too large to be sent")),
            None => None,
        };
        if let Some((code, why)) = refused {
            return self.refused_copy(record, output, code, &format!("{why} ({bytes} bytes)"));
        }
        let delivery_id = self.batch.delivery_id(place, Sent::Forwarded { output, bytes }, bytes);
        let sent = self.producer.forward(output, record, changes, delivery_id);
        let Some(code) = local_refusal(&sent) else { return sent };
        self.batch.withdraw_delivery_id();
        let why = format!("the Kafka client rejected it ({bytes} bytes): {code}");
        let code = match code {
            RDKafkaErrorCode::MessageSizeTooLarge => RefusalCode::TooLarge,
            _ => RefusalCode::Refused,
        };
        self.refused_copy(record, output, code, &why)
    }

    fn refused_copy(
        &mut self,
        record: &Record<'_>,
        output: usize,
        code: RefusalCode,
        why: &str,
    ) -> KafkaResult<()> {
        let topic = self.pipeline.outputs.get(output).map_or("", String::as_str);
        let message = format!("the record with its flags was not written to topic {topic}: {why}");
        let refusal = Refusal { code, field: "record".into(), message, wrong_type: false };
        self.dead_letter(record, &refusal, None)
    }

    fn refused_event(
        &mut self,
        record: &Record<'_>,
        results: Results,
        code: RefusalCode,
        message: &str,
    ) -> KafkaResult<bool> {
        for index in results.indexes() {
            let (field, message) = (format!("event {index}"), message.to_owned());
            let refusal = Refusal { code, field, message, wrong_type: false };
            self.dead_letter(record, &refusal, Some(index))?;
        }
        Ok(false)
    }

    /// Sends the original record with the reason in headers. Parts that do not fit are omitted, and headers name what
    /// was omitted.
    pub fn dead_letter(
        &mut self,
        record: &Record<'_>,
        refusal: &Refusal,
        index: Option<u32>,
    ) -> KafkaResult<()> {
        let place = place(record);
        let mut original = Original::of(record, self.rejections.kept(place));
        if self.batch.letter_bytes(place, original.bytes) > MAX_LETTERS_BYTES {
            original = Original::of(record, RetainedParts::Nothing);
        }
        loop {
            let (sent, is_smallest) =
                (self.new_dead_letter(place, refusal, index, &original), original.bytes == 0);
            match local_refusal(&sent) {
                Some(_) if !is_smallest => {
                    self.batch.withdraw_delivery_id();
                    original = Original::of(record, RetainedParts::Nothing);
                }
                _ => {
                    self.batch.dead_letters.push(refusal.code);
                    return sent;
                }
            }
        }
    }

    fn new_dead_letter(
        &mut self,
        place: SourceOffset,
        refusal: &Refusal,
        index: Option<u32>,
        original: &Original<'_>,
    ) -> KafkaResult<()> {
        let message = refusal.text();
        let new_dead_letter = DeadLetter {
            code: refusal.code.as_str(),
            message: &message,
            topic: &self.pipeline.source,
            partition: place.partition,
            offset: place.offset,
            index,
            body_omitted: original.body_omitted,
        };
        tracing::debug!(
            topic = new_dead_letter.topic,
            partition = new_dead_letter.partition,
            offset = new_dead_letter.offset,
            error_code = new_dead_letter.code,
            "dead letter: {}",
            new_dead_letter.message
        );
        let mut added = new_dead_letter.headers();
        added.extend(original.key_omitted.then(|| (header::KEY_OMITTED, "true".to_owned())));
        let headers = original.headers_omitted;
        added.extend((headers > 0).then(|| (header::HEADERS_OMITTED, headers.to_string())));
        let headers = added.into_iter().fold(original.headers.clone(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(&value) })
        });
        let bytes = original.bytes + LETTER_HEADERS_BYTES.min(message.len());
        let delivery_id = self.batch.delivery_id(place, Sent::DeadLetter, bytes);
        let mut dead = BaseRecord::with_opaque_to(&self.pipeline.dead_letters, delivery_id).headers(headers);
        dead.key = original.key;
        dead.payload = original.body;
        self.producer.send_record(dead)
    }

    /// Sends a reply, or drops it and counts the reason.
    pub fn reply(
        &mut self,
        record: &Record<'_>,
        key: Option<&[u8]>,
        topic: &str,
        headers: &Headers<'_>,
        body: &[u8],
    ) -> KafkaResult<()> {
        let place = place(record);
        let bytes = record_bytes(key, body, headers.bytes);
        if bytes > MAX_RECORD_BYTES {
            self.drop_reply(place, topic, "too_large");
            return Ok(());
        }
        let sent = Sent::Reply { topic: self.batch.reply_topic(topic) };
        let delivery_id = self.batch.delivery_id(place, sent, bytes);
        if let Some(process) = &headers.process {
            process.sends(Message::Reply);
        }
        let passed_on = headers.passed_on.clone().unwrap_or_default();
        let sent = self.send(BaseRecord::with_opaque_to(topic, delivery_id), key, body, passed_on);
        let Some(code) = local_refusal(&sent) else { return sent };
        self.batch.withdraw_delivery_id();
        let too_large = code == RDKafkaErrorCode::MessageSizeTooLarge;
        self.drop_reply(place, topic, if too_large { "too_large" } else { "refused" });
        Ok(())
    }

    /// Counts and logs a reply that is not sent. The request's events are not affected.
    pub fn drop_reply(&self, place: SourceOffset, topic: &str, reason: &'static str) {
        static LIMIT: LogLimit = LogLimit::new();
        self.metrics.dropped.get_or_create(&DropLabels { what: "reply", reason }).inc();
        let Some(suppressed) = LIMIT.admit() else { return };
        // Logged as a field with escaping, because callers choose the name and it may contain line breaks.
        let reply_to: String = topic.chars().take(LOGGED_CHARS).collect();
        let (partition, offset) = (place.partition, place.offset);
        tracing::warn!(partition, offset, reply_to = ?reply_to, reason, suppressed, "reply dropped");
    }

    fn send(
        &self,
        mut out: BaseRecord<'_, [u8], [u8], usize>,
        key: Option<&[u8]>,
        body: &[u8],
        headers: OwnedHeaders,
    ) -> KafkaResult<()> {
        let mut record = BaseRecord::with_opaque_to(out.topic, out.delivery_opaque).headers(headers);
        record.partition = out.partition.take();
        record.key = key;
        record.payload = Some(body);
        self.producer.send_record(record)
    }
}

impl<'r> Original<'r> {
    /// Takes as much of the record as `kept` allows and as fits.
    fn of(record: &Record<'r>, kept: RetainedParts) -> Self {
        let mut room = MAX_RECORD_BYTES - LETTER_HEADERS_BYTES;
        let mut original = Self {
            key: None,
            headers: OwnedHeaders::new(),
            body: None,
            body_omitted: false,
            key_omitted: false,
            headers_omitted: 0,
            bytes: 0,
        };
        let mut take = |bytes: usize| match room.checked_sub(bytes) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        let keeps = |least: RetainedParts| kept <= least;
        if let Some(key) = record.key() {
            let fits = keeps(RetainedParts::KeyAndHeaders) && take(key.len());
            original.key = fits.then_some(key);
            original.key_omitted = !fits;
        }
        for header in record.headers().iter() {
            if keeps(RetainedParts::KeyAndHeaders) && take(header_bytes(header.key, header.value)) {
                original.headers = original.headers.insert(header);
            } else {
                original.headers_omitted += 1;
            }
        }
        // Without its key or all headers, a replay of the body would produce a different record.
        let is_cut = original.key_omitted || original.headers_omitted > 0;
        let fits = keeps(RetainedParts::Everything) && !is_cut && take(record.payload().len());
        original.body = (fits && !record.is_null()).then_some(record.payload());
        original.body_omitted = is_cut || !(fits || record.is_null());
        original.bytes = MAX_RECORD_BYTES - LETTER_HEADERS_BYTES - room;
        original
    }
}

/// The error code if librdkafka rejected only this record.
fn local_refusal(sent: &KafkaResult<()>) -> Option<RDKafkaErrorCode> {
    match sent {
        Err(KafkaError::MessageProduction(code)) if is_local_refusal(*code) => Some(*code),
        _ => None,
    }
}

/// Position of the record in the topic that is read.
pub fn place(record: &Record<'_>) -> SourceOffset {
    SourceOffset { partition: record.partition(), offset: record.offset() }
}

/// The refusal of a request whose results would exceed the memory limit for one request.
pub fn results_too_large(bytes: usize, limit: usize) -> Refusal {
    let message = format!(
        "expected results of at most {limit} bytes, got up to {bytes}; request fewer flags, or shorten the context"
    );
    Refusal { code: RefusalCode::TooLarge, field: "request".into(), message, wrong_type: false }
}
