//! The events of one call: one for each answer, or bulk events with the answers for one subject.

use std::sync::Arc;

use crate::flag::Answer;
use crate::kafka::producer::record_bytes;
use crate::message::bulk_event::{BulkEvent, Shared};
use crate::message::event::EventFrame;
use crate::message::request::Ask;
use crate::outbox::EventBatch;
use crate::privacy::Shown;
use crate::schema_registry::Formats;

/// Initial buffer size of an event without a large context, in bytes.
const EVENT_BYTES: usize = 640;
/// Initial buffer size of a result in a bulk event, in bytes.
const RESULT_BYTES: usize = 240;
/// Upper bound in bytes of the headers of an event: its number and its trace.
const HEADERS_BYTES: usize = 256;

/// Writes the events of one call into a batch.
#[derive(Debug)]
pub(super) struct CallEvents {
    formats: Arc<Formats>,
    batch: EventBatch,
    /// Whether answers are collected into bulk events.
    is_bulk: bool,
    bulk: BulkEvent,
    /// Subject of the open bulk event.
    subject: Option<OpenSubject>,
}

#[derive(Debug)]
struct OpenSubject {
    key: Option<Vec<u8>>,
    user_id: Option<String>,
    session_id: Option<String>,
    request_id: Option<String>,
    context: String,
}

impl CallEvents {
    pub(super) fn new(formats: &Arc<Formats>, environment: Arc<str>) -> Self {
        let batch = EventBatch::with_capacity(environment, EVENT_BYTES);
        Self {
            formats: Arc::clone(formats),
            batch,
            is_bulk: false,
            bulk: BulkEvent::default(),
            subject: None,
        }
    }

    /// Prepares for the events of this many flags for each of `subjects`. Without it, each answer has an event of its
    /// own.
    pub(super) fn expect(&mut self, flags: usize, subjects: usize) {
        self.is_bulk = self.formats.evaluated.bulk(flags).is_some();
        if self.is_bulk {
            self.batch.count_evaluations();
        }
        let bytes = if self.is_bulk { RESULT_BYTES } else { EVENT_BYTES };
        self.batch.reserve(flags.saturating_mul(subjects).saturating_mul(bytes));
    }

    /// Adds the event of an answer under `key`. Answers for one subject follow each other.
    pub(super) fn write(
        &mut self,
        key: Option<&[u8]>,
        shown: &Shown<'_>,
        frame: &EventFrame<'_>,
        ask: &Ask<'_>,
        answer: &Answer<'_>,
    ) {
        let formats = Arc::clone(&self.formats);
        let format = &formats.evaluated;
        let Some(bulk) = format.together.as_ref().filter(|_| self.is_bulk) else {
            return self.batch.record(key, |out| format.write_event(out, frame, ask, answer));
        };
        if self.subject.as_ref().is_none_or(|subject| !subject.is(shown, frame)) {
            self.end_bulk_event();
            self.subject = Some(OpenSubject::of(key, shown, frame));
        }
        let shared = Shared { session_id: shown.session_id.as_deref(), context: &shown.context };
        let max_bytes = format.bulk_max_bytes().saturating_sub(record_bytes(key, &[], HEADERS_BYTES));
        while !self.bulk.add(bulk, shared, frame, ask, answer, max_bytes) {
            self.end_bulk_event();
        }
    }

    /// Ends the last event. Returns the batch.
    pub(super) fn finish(mut self) -> EventBatch {
        self.end_bulk_event();
        self.batch
    }

    fn end_bulk_event(&mut self) {
        let Self { formats, batch, bulk, subject, .. } = self;
        let count = u32::try_from(bulk.count()).unwrap_or(u32::MAX);
        if let (Some(format), Some(subject), 1..) = (&formats.evaluated.together, subject, count) {
            batch.record_of(count, subject.key.as_deref(), |out| bulk.take(format, out));
        }
    }
}

impl OpenSubject {
    fn of(key: Option<&[u8]>, shown: &Shown<'_>, frame: &EventFrame<'_>) -> Self {
        Self {
            key: key.map(<[u8]>::to_vec),
            user_id: shown.user_id.as_deref().map(str::to_owned),
            session_id: shown.session_id.as_deref().map(str::to_owned),
            request_id: frame.request_id.map(str::to_owned),
            context: shown.context.to_string(),
        }
    }

    /// Whether an answer has the same subject and request id.
    fn is(&self, shown: &Shown<'_>, frame: &EventFrame<'_>) -> bool {
        self.request_id.as_deref() == frame.request_id
            && self.user_id.as_deref() == shown.user_id.as_deref()
            && self.session_id.as_deref() == shown.session_id.as_deref()
            && self.context == *shown.context
    }
}
