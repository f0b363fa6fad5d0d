//! Expands a record of the events topic into its evaluations.
//!
//! ```text
//!  FEATURE_FLAG_EVALUATED     members ───────────────────────────────► one evaluation
//!  FEATURE_FLAGS_EVALUATED    members ─┬─ results[0]: own members ───► evaluation, index i,     id
//!                                      └─ results[1]: own members ───► evaluation, index i + 1, id of the next index
//! ```
//!
//! An evaluation has the members of its record, replaced by those of its result. A member that is absent or null in a
//! result has the record's value. All readers of events use this module, so that both forms mean the same to them.

use std::borrow::Cow;

use uuid::Uuid;

use crate::event_id::{following_id, index_of};
use crate::json::{JsonError, Kind, Scanner, Span, write_string};
use crate::request::MAX_DEPTH_LEVELS;

/// Type of an event with one evaluation.
pub const EVALUATED: &str = "FEATURE_FLAG_EVALUATED";
/// Type of an event with the evaluations of one request or call.
pub const EVALUATED_TOGETHER: &str = "FEATURE_FLAGS_EVALUATED";
/// Maximum number of results of one record.
pub const RESULTS_MAX_COUNT: usize = 10_000;
/// Deepest nesting of an event: a request's limit and the levels that the event adds around it.
const EVENT_DEPTH_LEVELS: usize = MAX_DEPTH_LEVELS + 4;
/// Members of a record that a result cannot replace.
const OF_THE_RECORD: [&str; 4] = ["event_type", "event_id", "source", "results"];

/// A member of an event: its name and value.
pub type Member<'a> = (Cow<'a, str>, Span<'a>);

/// Error: a record is not an event. The text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// A record of the events topic, split into its members.
#[derive(Debug, Clone)]
pub struct EventRecord<'a> {
    members: Vec<Member<'a>>,
}

/// The members of one evaluation.
#[derive(Debug, Clone)]
pub struct EvaluationMembers<'r, 'a> {
    of_record: &'r [Member<'a>],
    of_result: Vec<Member<'a>>,
    /// Identity of a result; `None` if the record has one evaluation and `event_id` and `source` identify it.
    pub place: Option<Place>,
}

/// Identity of one result of a bulk event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub event_id: Uuid,
    /// Index of the flag in the request. It replaces the index of the source, if that has one.
    pub index: u32,
}

impl<'a> EventRecord<'a> {
    /// Splits the JSON text of a record.
    pub fn read(text: &'a str) -> Result<Self, Malformed> {
        let mut scanner = Scanner::new(text, EVENT_DEPTH_LEVELS);
        let members = members(&mut scanner, 32).map_err(not_an_event)?;
        scanner.end().map_err(not_an_event)?;
        Ok(Self { members })
    }

    /// All members, in the order of the record.
    pub fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// The type of the event; an error if it is missing.
    pub fn event_type(&self) -> Result<Cow<'a, str>, Malformed> {
        self.find("event_type").and_then(|span| span.as_string()).ok_or_else(|| missing("event_type"))
    }

    /// The evaluations, in the order of the request; empty for every other type of event.
    pub fn evaluations(&self) -> Result<Vec<EvaluationMembers<'_, 'a>>, Malformed> {
        match self.event_type()?.as_ref() {
            EVALUATED => {
                Ok(vec![EvaluationMembers { of_record: &self.members, of_result: Vec::new(), place: None }])
            }
            EVALUATED_TOGETHER => self.results(),
            _ => Ok(Vec::new()),
        }
    }

    fn results(&self) -> Result<Vec<EvaluationMembers<'_, 'a>>, Malformed> {
        let first = self.first_place()?;
        let list = self.find("results").ok_or_else(|| missing("results"))?;
        if list.kind != Kind::Array {
            return Err(Malformed(format!("results: expected a list, got {}", short(list.text))));
        }
        let mut scanner = Scanner::new(list.text, EVENT_DEPTH_LEVELS);
        let mut all = Vec::new();
        let mut is_first = true;
        scanner.begin_array().map_err(not_an_event)?;
        while scanner.next_element(&mut is_first).map_err(not_an_event)? {
            let count = all.len();
            if count == RESULTS_MAX_COUNT {
                return Err(Malformed(format!(
                    "results: expected at most {RESULTS_MAX_COUNT} results, got more"
                )));
            }
            if scanner.peek().map_err(not_an_event)? != Kind::Object {
                return Err(Malformed(format!("results[{count}]: expected an object")));
            }
            let of_result = members(&mut scanner, 16).map_err(not_an_event)?;
            let place = first.later(count as u64)?;
            all.push(EvaluationMembers { of_record: &self.members, of_result, place: Some(place) });
        }
        if all.is_empty() {
            return Err(Malformed("results: expected at least one result, got none".to_owned()));
        }
        Ok(all)
    }

    /// Identity of the first result, from `event_id` and `source`, which must agree.
    fn first_place(&self) -> Result<Place, Malformed> {
        let id =
            self.find("event_id").and_then(|span| span.as_string()).ok_or_else(|| missing("event_id"))?;
        let parsed = Uuid::parse_str(&id).ok().and_then(|id| Some((id, index_of(id)?)));
        let (event_id, index) = parsed.ok_or_else(|| {
            Malformed(format!("event_id: expected a UUID of version 7 or 8, got {}", short(&id)))
        })?;
        let index = u32::try_from(index).unwrap_or_default();
        if let Some(given) = self.source_index()?
            && given.text != index.to_string()
        {
            let got = short(given.text);
            return Err(Malformed(format!("source.index: expected {index}, as in event_id, got {got}")));
        }
        Ok(Place { event_id, index })
    }

    fn source_index(&self) -> Result<Option<Span<'a>>, Malformed> {
        let Some(source) = self.find("source").filter(|span| span.kind == Kind::Object) else {
            return Ok(None);
        };
        let members = members(&mut Scanner::new(source.text, EVENT_DEPTH_LEVELS), 8).map_err(not_an_event)?;
        Ok(find(&members, "index"))
    }

    fn find(&self, name: &str) -> Option<Span<'a>> {
        find(&self.members, name)
    }
}

impl<'a> EvaluationMembers<'_, 'a> {
    /// The members in effect: those of the record, then those of the result. A later member replaces an earlier one of
    /// the same name.
    pub fn members(&self) -> impl Iterator<Item = (&str, Span<'a>)> {
        let of_record = self.of_record.iter().filter(|(name, _)| name != "results");
        let of_result = self
            .of_result
            .iter()
            .filter(|(name, span)| span.kind != Kind::Null && !OF_THE_RECORD.contains(&name.as_ref()));
        of_record.chain(of_result).map(|(name, span)| (name.as_ref(), *span))
    }

    /// Appends the evaluation as an event of its own, without nulls.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let is_own = |name: &str, span: Span<'_>| span.kind != Kind::Null && !OF_THE_RECORD.contains(&name);
        out.extend_from_slice(br#"{"event_type":"FEATURE_FLAG_EVALUATED""#);
        let id = match self.place {
            Some(place) => Some(Cow::Owned(place.event_id.to_string())),
            None => find(self.of_record, "event_id").and_then(|id| id.as_string()),
        };
        if let Some(id) = id {
            out.extend_from_slice(br#","event_id":"#);
            write_string(out, &id);
        }
        for (name, span) in self.of_record {
            if is_own(name, *span) && find(&self.of_result, name).is_none() {
                write_member(out, name, span.text);
            }
        }
        for (name, span) in &self.of_result {
            if is_own(name, *span) {
                write_member(out, name, span.text);
            }
        }
        if let Some(source) = find(self.of_record, "source") {
            out.extend_from_slice(br#","source":"#);
            self.write_source(out, source);
        }
        out.push(b'}');
    }

    fn write_source(&self, out: &mut Vec<u8>, source: Span<'_>) {
        let mut scanner = Scanner::new(source.text, EVENT_DEPTH_LEVELS);
        let (Some(place), Ok(members)) = (self.place, members(&mut scanner, 8)) else {
            return out.extend_from_slice(source.text.as_bytes());
        };
        for (index, (name, span)) in members.iter().enumerate() {
            out.push(if index == 0 { b'{' } else { b',' });
            write_string(out, name);
            out.push(b':');
            match name.as_ref() {
                "index" => out.extend_from_slice(place.index.to_string().as_bytes()),
                _ => out.extend_from_slice(span.text.as_bytes()),
            }
        }
        out.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
    }
}

impl Place {
    /// Identity of the result `count` after this one.
    fn later(self, count: u64) -> Result<Self, Malformed> {
        let index = u64::from(self.index) + count;
        match (following_id(self.event_id, count), u32::try_from(index)) {
            (Some(event_id), Ok(index)) => Ok(Self { event_id, index }),
            _ => Err(Malformed(format!("results: no event id has the index {index}, of result {count}"))),
        }
    }
}

/// Returns an event in JSON for each evaluation of a bulk event, and none for every other record.
pub fn single_events(text: &str) -> Result<Vec<Vec<u8>>, Malformed> {
    let record = EventRecord::read(text)?;
    let evaluations = record.evaluations()?;
    let single = |evaluation: &EvaluationMembers<'_, '_>| {
        let mut out = Vec::with_capacity(640);
        evaluation.write_json(&mut out);
        out
    };
    Ok(evaluations.iter().filter(|evaluation| evaluation.place.is_some()).map(single).collect())
}

/// Consumes an object.
fn members<'a>(scanner: &mut Scanner<'a>, capacity: usize) -> Result<Vec<Member<'a>>, JsonError> {
    let mut members = Vec::with_capacity(capacity);
    let mut first = true;
    scanner.begin_object()?;
    while let Some(name) = scanner.next_key(&mut first)? {
        members.push((name, scanner.value()?));
    }
    Ok(members)
}

/// The value of a member; `None` if it is absent or null. The last one of this name is in effect.
fn find<'a>(members: &[Member<'a>], name: &str) -> Option<Span<'a>> {
    let member = members.iter().rev().find(|(known, _)| known == name);
    member.map(|(_, span)| *span).filter(|span| span.kind != Kind::Null)
}

fn write_member(out: &mut Vec<u8>, name: &str, json: &str) {
    out.push(b',');
    write_string(out, name);
    out.push(b':');
    out.extend_from_slice(json.as_bytes());
}

fn not_an_event(error: JsonError) -> Malformed {
    Malformed(format!("not an event: {error}"))
}

fn missing(field: &str) -> Malformed {
    Malformed(format!("{field}: a required value is missing"))
}

/// Shortens a text for an error message.
fn short(text: &str) -> String {
    let text: String = text.chars().take(40).collect();
    format!("`{text}`")
}

#[cfg(test)]
mod tests;
