//! Collects the evaluations of one request or call into `FEATURE_FLAGS_EVALUATED` records, which contain the context
//! once. [`crate::evaluations`] is the counterpart.
//!
//! A record has at least one result and consecutive indexes. If a record would become too large, another one follows
//! with the next index.

use flagstream_evaluation::Answer;

use crate::avro::Format;
use crate::avro::event as avro;
use crate::evaluations::RESULTS_MAX_COUNT;
use crate::event::{self as json, EventFrame, Own};
use crate::request::Ask;

/// Bytes that the end of a record adds: of a list in JSON, or of its count in Avro.
const END_BYTES: usize = 16;

/// Members that the results of a record have in common, beside those of their frames.
#[derive(Debug, Clone, Copy)]
pub struct Shared<'a> {
    pub session_id: Option<&'a str>,
    /// Context as JSON text, without what tables of attributes add for some flags.
    pub context: &'a str,
}

/// An open record. The buffers are reused.
#[derive(Debug, Default)]
pub struct BulkEvent {
    head: Vec<u8>,
    results: Vec<u8>,
    /// The result that is being added.
    result: Vec<u8>,
    count: usize,
}

impl BulkEvent {
    /// Adds an evaluation; `frame` has its own id and index. `false`: the record is full, and the evaluation must be
    /// added after [`BulkEvent::take`]. A record with one result may be larger than `max_bytes`.
    pub fn add(
        &mut self,
        format: &Format,
        shared: Shared<'_>,
        frame: &EventFrame<'_>,
        ask: &Ask<'_>,
        answer: &Answer<'_>,
        max_bytes: usize,
    ) -> bool {
        let own = Own {
            session_id: frame.session_id.filter(|_| frame.session_id != shared.session_id),
            context: Some(frame.context)
                .filter(|context| !std::ptr::eq(*context, shared.context) && *context != shared.context),
        };
        self.result.clear();
        match format {
            Format::Json => json::write_bulk_result(&mut self.result, frame, own, ask, answer),
            Format::Avro(_) => avro::write_bulk_result(&mut self.result, frame, own, ask, answer),
        }
        if self.count == 0 {
            self.head.clear();
            self.results.clear();
            let frame = EventFrame {
                session_id: shared.session_id,
                context: shared.context,
                attributes: None,
                ..*frame
            };
            match format {
                Format::Json => json::write_bulk_head(&mut self.head, &frame),
                Format::Avro(prefix) => {
                    self.head.extend_from_slice(prefix);
                    avro::write_bulk_head(&mut self.head, &frame);
                }
            }
        } else if self.count == RESULTS_MAX_COUNT
            || self.head.len() + self.results.len() + self.result.len() + END_BYTES > max_bytes
        {
            return false;
        }
        if self.count > 0 && *format == Format::Json {
            self.results.push(b',');
        }
        self.results.extend_from_slice(&self.result);
        self.count += 1;
        true
    }

    /// Number of results of the open record.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Appends the record to `out` and begins a new one. Nothing is appended if the record has no results.
    pub fn take(&mut self, format: &Format, out: &mut Vec<u8>) {
        if self.count == 0 {
            return;
        }
        out.reserve(self.head.len() + self.results.len() + END_BYTES);
        out.extend_from_slice(&self.head);
        match format {
            Format::Json => {
                out.extend_from_slice(&self.results);
                out.extend_from_slice(b"]}");
            }
            Format::Avro(_) => avro::write_list(out, self.count, &self.results),
        }
        self.count = 0;
    }

    /// Drops the open record.
    pub fn clear(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests;
