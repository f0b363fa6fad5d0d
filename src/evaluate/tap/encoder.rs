//! Writes the values of flags into a record: as headers, or as a member of its JSON object.

use std::ffi::{CStr, CString};

use crate::config::{TapConfig, TapWrite};
use crate::flag::Answer;
use crate::flag::value::Value;
use crate::message::json::write_string;

/// Prefix of the headers.
const PREFIX: &str = "flag-";

/// Encoder of one tap. Its buffers are reused for every record.
#[derive(Debug)]
pub struct Encoder {
    /// Names of the headers, in the order of the flags.
    names: Vec<CString>,
    /// Names of the flags as JSON strings, with the colon.
    quoted: Vec<Vec<u8>>,
    /// Name of the member as a JSON string, with the colon; `None`: headers are written.
    member: Option<Vec<u8>>,
    values: Vec<u8>,
    /// End of each flag's value in `values`.
    ends: Vec<usize>,
    record: Vec<u8>,
}

impl Encoder {
    pub fn new(tap: &TapConfig) -> Self {
        let quoted = |name: &str| {
            let mut quoted = Vec::new();
            write_string(&mut quoted, name);
            quoted.push(b':');
            quoted
        };
        let header = |flag: &String| CString::new(format!("{PREFIX}{flag}")).unwrap_or_default();
        Self {
            names: tap.flags.iter().map(header).collect(),
            quoted: tap.flags.iter().map(|flag| quoted(flag)).collect(),
            member: match &tap.write {
                TapWrite::Headers => None,
                TapWrite::Member(name) => Some(quoted(name)),
            },
            values: Vec::new(),
            ends: Vec::new(),
            record: Vec::new(),
        }
    }

    /// Begins a record.
    pub fn begin(&mut self) {
        self.values.clear();
        self.ends.clear();
    }

    /// Adds the answer for the next flag. A flag with variants that chooses none has no value; then it is written whether
    /// the flag is on.
    pub fn add(&mut self, answer: &Answer<'_>) {
        let on = Value::Boolean(answer.enabled);
        let value = if answer.value == Value::Null { &on } else { &answer.value };
        match self.member {
            None => self.values.extend_from_slice(value.as_text().as_bytes()),
            Some(_) => value.write_json(&mut self.values),
        }
        self.ends.push(self.values.len());
    }

    /// Headers to add to the record; empty if a member is written.
    pub fn headers(&self) -> Vec<(&CStr, &[u8])> {
        if self.member.is_some() {
            return Vec::new();
        }
        self.names.iter().map(CString::as_c_str).zip(self.each()).collect()
    }

    /// The record's value with the member; `None` if headers are written. `json` is a valid JSON object, and `existing`
    /// the value of its last member of this name. All other bytes stay as they are.
    pub fn value(&mut self, json: &[u8], existing: Option<&str>) -> Option<&[u8]> {
        let member = self.member.as_ref()?;
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        let (before, after) = match existing {
            // The text is a part of `json`.
            Some(text) => {
                let start = (text.as_ptr() as usize).saturating_sub(json.as_ptr() as usize);
                (json.get(..start)?, json.get(start + text.len()..)?)
            }
            None => json.split_at(json.iter().rposition(|byte| *byte == b'}')?),
        };
        record.extend_from_slice(before);
        if existing.is_none() {
            let is_empty = before.iter().rfind(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
            if !is_empty {
                record.push(b',');
            }
            record.extend_from_slice(member);
        }
        record.push(b'{');
        for (index, (name, value)) in self.quoted.iter().zip(self.each()).enumerate() {
            if index > 0 {
                record.push(b',');
            }
            record.extend_from_slice(name);
            record.extend_from_slice(value);
        }
        record.push(b'}');
        record.extend_from_slice(after);
        self.record = record;
        Some(&self.record)
    }

    /// The value of each flag that was added.
    fn each(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.values.get(start..*end).unwrap_or_default())
    }
}
