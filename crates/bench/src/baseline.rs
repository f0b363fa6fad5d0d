//! The baseline loop: the same worker, consumer, producer, batches and commits, but without decoding, evaluation or
//! encoding. It sends events of the same sizes, variety and keys, which are built before the measurement.

use std::sync::Arc;

use rdkafka::error::KafkaResult;

use crate::load;
use flagstream::evaluate::answer::{Respond, Responded};
use flagstream::evaluate::batch_sender::{BatchSender, Results};
use flagstream::flag::Snapshot;
use flagstream::kafka::consumer::Record;
use flagstream::message::event::{EventSource, Timestamp, write_event};
use flagstream::message::request::Request;

/// Number of different events that the loop cycles through.
const EVENTS: u64 = 4_096;
/// Byte position of the 20-character stamp in requests and in these events.
pub const STAMP_AT: usize = r#"{"request_id":""#.len();
pub const STAMP_LENGTH: usize = 20;
/// Placeholder with the length of Kafka's topic ids.
const TOPIC_ID: &str = "AAAAAAAAAAAAAAAAAAAAAQ";

/// Sends prebuilt events.
#[derive(Debug)]
pub struct Baseline {
    events: Vec<Vec<u8>>,
    next: usize,
}

impl Baseline {
    /// Builds events from real evaluations of the load's requests.
    pub fn new(snapshot: &Snapshot, flags: usize, topic: &str) -> Self {
        let events = (0..EVENTS).filter_map(|number| event(snapshot, number, flags, topic)).collect();
        Self { events, next: 0 }
    }
}

impl Respond for Baseline {
    fn begin(&mut self, _: Option<&Arc<str>>) {}

    fn respond(&mut self, record: &Record<'_>, sender: &mut BatchSender<'_>) -> KafkaResult<Responded> {
        self.next = (self.next + 1) % self.events.len().max(1);
        let Some(event) = self.events.get_mut(self.next) else {
            return Ok(Responded::Done);
        };
        // Only the stamp is copied from the request, because the latency benchmark reads it.
        let stamp = STAMP_AT..STAMP_AT + STAMP_LENGTH;
        if let (Some(from), Some(to)) = (record.payload().get(stamp.clone()), event.get_mut(stamp)) {
            to.copy_from_slice(from);
        }
        sender.event(record, record.key(), Results::One(0), None, event).map(|_| Responded::Done)
    }
}

fn event(snapshot: &Snapshot, number: u64, flags: usize, topic: &str) -> Option<Vec<u8>> {
    let (_, body) = load::request(number, flags, 0);
    let request = Request::decode(body.as_bytes()).ok()?;
    let ask = request.asks.as_slice().first()?;
    let answer = load::evaluate(snapshot, &request, ask)?;
    let (id, offset) = ("019bc0e7-8ab0-8000-8000-000000000000", 500_000);
    let at = Timestamp { text: "2026-01-15T10:30:00.012345Z", micros: 1_768_473_000_012_345 };
    let source =
        EventSource::Kafka { topic, topic_id: Some(TOPIC_ID), partition: 0, offset, index: 0, tap: None };
    let mut written = Vec::new();
    write_event(&mut written, &load::frame(snapshot, &request, ask, id, at, source), ask, &answer);
    // The stamp is moved to the front, where the loop expects it. The length stays the same.
    let stamped = format!("{{\"request_id\":\"{:020}\"", 0);
    written.get_mut(..stamped.len())?.copy_from_slice(stamped.as_bytes());
    Some(written)
}
