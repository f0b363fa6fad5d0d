//! Reply: all results of one request in one message, for callers that wait for them.

use flagstream_evaluation::Answer;

use super::event::{member, write_answer, write_integer};
use super::json::write_string;

/// Data of a reply other than its results.
#[derive(Debug)]
pub struct ReplyFrame<'a> {
    pub request_id: Option<&'a str>,
    pub correlation_id: Option<&'a str>,
    pub user_id: Option<&'a str>,
    pub environment: &'a str,
    pub flags_version: u64,
    /// Time of the evaluation (RFC 3339, UTC, microseconds).
    pub evaluated_at: &'a str,
}

/// Writer of a reply. Results are added in the order of the request.
#[derive(Debug, Default)]
pub struct ReplyWriter {
    buffer: Vec<u8>,
    empty: bool,
}

impl ReplyWriter {
    pub fn begin(&mut self, frame: &ReplyFrame<'_>) {
        let out = &mut self.buffer;
        out.clear();
        out.extend_from_slice(br#"{"request_id":"#);
        match frame.request_id {
            Some(text) => write_string(out, text),
            None => out.extend_from_slice(b"null"),
        }
        member(out, "correlation_id", frame.correlation_id);
        member(out, "user_id", frame.user_id);
        member(out, "environment", Some(frame.environment));
        out.extend_from_slice(br#","results":{"#);
        self.empty = true;
    }

    /// Adds the result of one flag. Its `value` has the requested type.
    pub fn result(&mut self, flag: &str, answer: &Answer<'_>) {
        let out = &mut self.buffer;
        if !std::mem::take(&mut self.empty) {
            out.push(b',');
        }
        write_string(out, flag);
        out.extend_from_slice(br#":{"value":"#);
        answer.value.write_json(out);
        write_answer(out, answer);
        out.push(b'}');
    }

    /// Number of bytes written so far.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Completes the reply and returns its body.
    pub fn finish(&mut self, frame: &ReplyFrame<'_>) -> &[u8] {
        let out = &mut self.buffer;
        out.extend_from_slice(br#"},"flags_version":"#);
        write_integer(out, frame.flags_version);
        member(out, "evaluated_at", Some(frame.evaluated_at));
        out.push(b'}');
        out
    }
}
