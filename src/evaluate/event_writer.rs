//! Writes the events of one record: one for each flag, or bulk events with the results of several flags.

use std::sync::Arc;

use rdkafka::error::KafkaResult;

use crate::flag::{Answer, Reason};
use crate::kafka::consumer::Record;
use crate::kafka::producer::record_bytes;
use crate::message::avro::{EventFormat, Format};
use crate::message::bulk_event::BulkEvent;
pub(super) use crate::message::bulk_event::Shared;
use crate::message::event::EventFrame;
use crate::message::request::Ask;

use super::batch_sender::{BatchSender, Results, place};
use super::headers::Headers;

/// Destination of the events of one record, which have the same key and headers.
#[derive(Debug)]
pub(super) struct Destination<'d, 'r> {
    record: &'d Record<'r>,
    key: Option<&'d [u8]>,
    headers: &'d Headers<'r>,
    /// Environment under which the evaluations are counted; `None` if it is not served.
    environment: Option<&'d Arc<str>>,
    format: &'d EventFormat,
    /// Format of bulk events; `None` if each flag has an event of its own.
    bulk: Option<&'d Format>,
    /// Upper bound in bytes of the value of a bulk event.
    max_bytes: usize,
}

/// One evaluation of the record.
#[derive(Debug)]
pub(super) struct Evaluated<'e> {
    pub(super) index: u32,
    pub(super) frame: EventFrame<'e>,
    pub(super) shared: Shared<'e>,
    pub(super) ask: &'e Ask<'e>,
    pub(super) answer: &'e Answer<'e>,
}

/// Writes events. The buffers are reused for every record.
#[derive(Debug, Default)]
pub(super) struct EventWriter {
    event: Vec<u8>,
    bulk: BulkEvent,
    /// Index of the first result of the open bulk event.
    first: u32,
    /// Reasons of the results of the open bulk event, which are counted when it is sent.
    reasons: Vec<Reason>,
}

impl<'d, 'r> Destination<'d, 'r> {
    /// The destination of the events for `flags` flags. A record whose bulk events the broker has rejected gets one event
    /// per flag, so that only those that are rejected again become dead letters.
    pub(super) fn new(
        record: &'d Record<'r>,
        key: Option<&'d [u8]>,
        headers: &'d Headers<'r>,
        environment: Option<&'d Arc<str>>,
        format: &'d EventFormat,
        flags: usize,
        sender: &BatchSender<'_>,
    ) -> Self {
        let bulk = format.bulk(flags).filter(|_| !sender.rejections.is_split(place(record)));
        let accepted = sender.rejections.accepted_event_bytes(sender.pipeline.events_lane());
        let max_bytes = format.bulk_max_bytes().min(accepted.unwrap_or(usize::MAX));
        let max_bytes = max_bytes.saturating_sub(record_bytes(key, &[], headers.bytes));
        Self { record, key, headers, environment, format, bulk, max_bytes }
    }
}

impl EventWriter {
    /// Drops what an earlier record left behind, whose events could not be sent.
    pub(super) fn begin(&mut self) {
        self.bulk.clear();
        self.reasons.clear();
    }

    /// Sends the event of an evaluation, or adds the evaluation to the open bulk event. Indexes must increase.
    pub(super) fn write(
        &mut self,
        evaluated: &Evaluated<'_>,
        to: &Destination<'_, '_>,
        sender: &mut BatchSender<'_>,
    ) -> KafkaResult<()> {
        let Evaluated { index, frame, shared, ask, answer } = evaluated;
        let Some(bulk) = to.bulk else {
            self.event.clear();
            to.format.write_event(&mut self.event, frame, ask, answer);
            let results = Results::One(*index);
            if sender.event(to.record, to.key, results, Some(to.headers), &self.event)? {
                sender.tally.answer(to.environment, answer);
            }
            return Ok(());
        };
        let next = self.first.wrapping_add(u32::try_from(self.reasons.len()).unwrap_or(u32::MAX));
        if *index != next {
            self.finish(to, sender)?;
        }
        while !self.bulk.add(bulk, *shared, frame, ask, answer, to.max_bytes) {
            self.finish(to, sender)?;
        }
        if self.reasons.is_empty() {
            self.first = *index;
        }
        self.reasons.push(answer.reason);
        Ok(())
    }

    /// Sends the open bulk event, if there is one.
    pub(super) fn finish(
        &mut self,
        to: &Destination<'_, '_>,
        sender: &mut BatchSender<'_>,
    ) -> KafkaResult<()> {
        let Some(bulk) = to.bulk.filter(|_| !self.reasons.is_empty()) else { return Ok(()) };
        self.event.clear();
        self.bulk.take(bulk, &mut self.event);
        let count = u32::try_from(self.reasons.len()).unwrap_or(u32::MAX);
        let results = Results::Several { first: self.first, count };
        let sent = sender.event(to.record, to.key, results, Some(to.headers), &self.event);
        let reasons = std::mem::take(&mut self.reasons);
        if sent? {
            for reason in &reasons {
                sender.tally.reason(to.environment, *reason);
            }
        }
        self.reasons = reasons;
        self.reasons.clear();
        Ok(())
    }
}
