//! Where results leave: events, dead letters and replies, each with a ticket in the open batch.

use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::config::TopicsConfig;
use crate::kafka::consumer::Record;
use crate::kafka::producer::ReportingProducer;
use crate::message::dead_letter::DeadLetter;
use crate::message::request::{Refusal, RefusalCode};
use crate::message::trace;
use crate::metrics::{DropLabels, Metrics};

use super::amend::Amendments;
use super::batch::{Batch, Place, Sent};
use super::reply_topics::ReplyTopics;
use super::tally::Tally;

/// The way out of an open batch.
#[derive(Debug)]
pub struct Outbox<'b> {
    pub topics: &'b TopicsConfig,
    pub producer: &'b ReportingProducer,
    pub batch: &'b mut Batch,
    pub tally: &'b mut Tally,
    pub amendments: &'b Amendments,
    pub reply_topics: &'b mut ReplyTopics,
    pub metrics: &'b Metrics,
}

impl Outbox<'_> {
    /// Sends one event to the partition its request came from, under `key`: the request's, unless privacy hides it. `Ok(false)` if the
    /// broker is known to refuse it; a dead letter then stands in its place.
    pub fn event(
        &mut self,
        record: &Record<'_>,
        key: Option<&[u8]>,
        index: u32,
        headers: Option<&OwnedHeaders>,
        body: &[u8],
    ) -> KafkaResult<bool> {
        let place = place(record);
        if let Some(code) = self.amendments.event_refusal(place, index, body.len()) {
            let field = format!("event {index}");
            let message = format!("refused by the broker, {} bytes", body.len());
            self.dead_letter(record, &Refusal { code, field, message, wrong_type: false }, Some(index))?;
            return Ok(false);
        }
        let ticket = self.batch.ticket(place, Sent::Event { index, bytes: body.len() }, body.len());
        let partition = record.partition();
        match headers {
            None => self.producer.send(partition, key, body, ticket)?,
            Some(headers) => {
                let event = BaseRecord::with_opaque_to(&self.topics.events, ticket).partition(partition);
                self.send(event, key, body, headers.clone())?;
            }
        }
        Ok(true)
    }

    /// Sends the record as it came, with the reason beside it.
    pub fn dead_letter(
        &mut self,
        record: &Record<'_>,
        refusal: &Refusal,
        index: Option<u32>,
    ) -> KafkaResult<()> {
        let place = place(record);
        let body_omitted = self.amendments.is_bodiless(place);
        let message = refusal.text();
        let letter = DeadLetter {
            code: refusal.code.as_str(),
            message: &message,
            topic: &self.topics.requests,
            partition: place.partition,
            offset: place.offset,
            index,
            body_omitted,
        };
        tracing::debug!(
            topic = letter.topic,
            partition = letter.partition,
            offset = letter.offset,
            error_code = letter.code,
            "dead letter: {}",
            letter.message
        );
        let headers = letter.headers().into_iter().fold(record.headers(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(&value) })
        });
        let body = if body_omitted { &[] } else { record.payload() };
        let ticket = self.batch.ticket(place, Sent::DeadLetter, body.len());
        let mut dead = BaseRecord::with_opaque_to(&self.topics.dead_letters, ticket).headers(headers);
        dead.key = record.key();
        dead.payload = (!body_omitted && !record.is_null()).then_some(body);
        self.batch.dead_letters.push(refusal.code);
        self.producer.send_record(dead)
    }

    /// Sends a reply, or drops it and counts why.
    pub fn reply(
        &mut self,
        record: &Record<'_>,
        key: Option<&[u8]>,
        topic: &str,
        correlation_id: Option<&str>,
        body: &[u8],
    ) -> KafkaResult<()> {
        let mut headers = OwnedHeaders::new();
        if let Some(value) = correlation_id {
            headers = headers.insert(Header { key: "correlation-id", value: Some(value) });
        }
        if let Some(value) = record.header(trace::HEADER) {
            headers = headers.insert(Header { key: trace::TRACEPARENT, value: Some(value) });
        }
        let sent = Sent::Reply { topic: self.batch.reply_topic(topic) };
        let ticket = self.batch.ticket(place(record), sent, body.len());
        self.send(BaseRecord::with_opaque_to(topic, ticket), key, body, headers)
    }

    /// Counts a reply that is not sent. The request's events are not affected.
    pub fn drop_reply(&self, place: Place, topic: &str, reason: &'static str) {
        self.metrics.dropped.get_or_create(&DropLabels { what: "reply", reason }).inc();
        tracing::warn!(
            partition = place.partition,
            offset = place.offset,
            reply_to = %topic.chars().take(249).collect::<String>(),
            reason,
            "reply dropped"
        );
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

/// Where a record stands in the requests topic.
pub fn place(record: &Record<'_>) -> Place {
    Place { partition: record.partition(), offset: record.offset() }
}

/// The refusal of a request whose results would be larger than we are willing to hold.
pub fn results_too_large(bytes: usize, limit: usize) -> Refusal {
    let message = format!("expected results of at most {limit} bytes, they would take {bytes}");
    Refusal { code: RefusalCode::TooLarge, field: "request".into(), message, wrong_type: false }
}
