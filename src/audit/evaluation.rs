//! Evaluations, decoded from their events and ready to become rows.

mod fields;

use std::borrow::Cow;

use chrono::DateTime;
use uuid::Uuid;

use crate::message::evaluations::{EvaluationMembers, EventRecord, Malformed, Place};
use crate::message::json::{Kind, Span};

use super::sanitize;
use super::switch::SwitchChange;

use self::fields::{boolean, missing, number, present, short, source, text};

/// Longest flag or environment name in a row, in bytes, so that the name fits into an index.
pub const MAX_NAME_BYTES: usize = 255;

/// One row of evaluations. Texts are borrowed from the event if they need no change.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation<'a> {
    pub event_id: Uuid,
    pub request_id: Option<Cow<'a, str>>,
    pub flag_name: Cow<'a, str>,
    pub user_id: Option<Cow<'a, str>>,
    pub session_id: Option<Cow<'a, str>>,
    pub environment: Cow<'a, str>,
    /// Value of a boolean flag. `None` for every other type.
    pub result: Option<bool>,
    /// Value of a flag of any other type, as JSON text.
    pub evaluated_value: Option<Cow<'a, str>>,
    pub enabled: bool,
    pub variant: Option<Cow<'a, str>>,
    pub reason: Cow<'a, str>,
    pub error_code: Option<Cow<'a, str>>,
    pub error_message: Option<Cow<'a, str>>,
    pub flag_version: Option<i64>,
    /// Version of the snapshot that the evaluation used.
    pub flags_version: Option<i64>,
    /// Value type that the request asked for. `None`: the request named none.
    pub value_type: Option<Cow<'a, str>>,
    /// Block of the hash chain that the row belongs to ([`super::chain::place`]). `None` until it is known, and for
    /// rows outside the chain.
    pub audit_block: Option<i64>,
    /// Evaluation context as JSON text.
    pub context: Cow<'a, str>,
    /// Attributes that tables added to the context, as the JSON text of an object. `None`: there are none.
    pub attributes: Option<Cow<'a, str>>,
    /// Default value as JSON text.
    pub default_value: Option<Cow<'a, str>>,
    /// Time of the evaluation, in microseconds since 1970.
    pub evaluated_at: i64,
    /// Duration of the evaluation in nanoseconds. `None`: not measured.
    pub evaluation_ns: Option<i64>,
    pub source: Source<'a>,
    /// Choice of an experiment's variant, as JSON text. It is not part of the row.
    pub assignment: Option<Cow<'a, str>>,
    /// Whether some value was changed because a database cannot hold the original.
    pub amended: bool,
}

/// Origin of the request.
#[derive(Debug, Clone, PartialEq)]
pub enum Source<'a> {
    Kafka {
        topic: Cow<'a, str>,
        /// Kafka's topic id, which distinguishes a recreated topic of the same name.
        topic_id: Option<Cow<'a, str>>,
        partition: i32,
        offset: i64,
        index: i32,
        /// Name of the tap that read the record. It is not part of the row.
        tap: Option<Cow<'a, str>>,
    },
    Api(Cow<'a, str>),
    Unknown,
}

/// Decoded record of the events topic.
#[derive(Debug)]
pub enum Event<'a> {
    Evaluated(Box<Evaluation<'a>>),
    /// Evaluations of one request or call, of which there is at least one.
    Together(Vec<Evaluation<'a>>),
    /// Change of a kill switch.
    Switched(Box<SwitchChange>),
    /// Change of a flag, or an event type that the sink does not store.
    Other,
}

/// Reason why an event cannot become a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

impl From<Malformed> for Unreadable {
    fn from(malformed: Malformed) -> Self {
        Self(malformed.to_string())
    }
}

/// Members of an evaluation, not yet validated.
#[derive(Debug, Default)]
struct Members<'a> {
    event_id: Option<Cow<'a, str>>,
    request_id: Option<Cow<'a, str>>,
    flag_name: Option<Cow<'a, str>>,
    user_id: Option<Cow<'a, str>>,
    session_id: Option<Cow<'a, str>>,
    environment: Option<Cow<'a, str>>,
    typed_value: Option<Span<'a>>,
    enabled: Option<bool>,
    variant: Option<Cow<'a, str>>,
    reason: Option<Cow<'a, str>>,
    error_code: Option<Cow<'a, str>>,
    error_message: Option<Cow<'a, str>>,
    flag_version: Option<i64>,
    flags_version: Option<i64>,
    value_type: Option<Cow<'a, str>>,
    context: Option<Span<'a>>,
    attributes: Option<Span<'a>>,
    default_value: Option<Span<'a>>,
    evaluated_at: Option<Cow<'a, str>>,
    evaluation_ns: Option<i64>,
    source: Option<Source<'a>>,
    assignment: Option<Span<'a>>,
    /// Identity of a result of a bulk event.
    place: Option<Place>,
}

impl<'a> Event<'a> {
    /// Decodes the value of a record of the events topic.
    pub fn read(payload: &'a [u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(payload).map_err(|error| {
            Unreadable(format!("expected UTF-8, got an invalid byte at {}", error.valid_up_to()))
        })?;
        let record = EventRecord::read(text)?;
        let evaluations = record.evaluations()?;
        match evaluations.as_slice() {
            [] if record.event_type()? == "FEATURE_FLAG_UPDATED" && has_switch(&record) => {
                SwitchChange::read(text).map(|change| Self::Switched(Box::new(change)))
            }
            [] => Ok(Self::Other),
            [one] if one.place.is_none() => {
                Members::read(one)?.into_evaluation().map(|row| Self::Evaluated(Box::new(row)))
            }
            results => {
                let row = |(index, result): (usize, &EvaluationMembers<'_, 'a>)| {
                    let row = Members::read(result).and_then(Members::into_evaluation);
                    row.map_err(|error| Unreadable(format!("results[{index}]: {error}")))
                };
                results.iter().enumerate().map(row).collect::<Result<_, _>>().map(Self::Together)
            }
        }
    }

    /// The evaluations of the record, whatever its form.
    pub fn evaluations(&self) -> &[Evaluation<'a>] {
        match self {
            Self::Evaluated(evaluation) => std::slice::from_ref(evaluation),
            Self::Together(evaluations) => evaluations,
            Self::Switched(_) | Self::Other => &[],
        }
    }
}

/// Whether a change event contains a change of a kill switch.
fn has_switch(record: &EventRecord<'_>) -> bool {
    record.members().iter().any(|(name, span)| name == "override" && present(*span).is_some())
}

impl Evaluation<'_> {
    /// Time of the request in milliseconds since 1970, taken from the event's id.
    pub fn requested_ms(&self) -> i64 {
        i64::try_from(self.event_id.as_u128() >> 80).unwrap_or_default()
    }

    /// Whether the evaluation counts for its flag. Unknown flags are not counted.
    pub fn counts(&self) -> bool {
        self.flag_version.is_some()
    }
}

impl<'a> Members<'a> {
    fn read(evaluation: &EvaluationMembers<'_, 'a>) -> Result<Self, Unreadable> {
        let mut members = Self { place: evaluation.place, ..Self::default() };
        for (name, span) in evaluation.members() {
            members.enter(name, span)?;
        }
        Ok(members)
    }

    fn enter(&mut self, key: &str, span: Span<'a>) -> Result<(), Unreadable> {
        match key {
            "event_id" => self.event_id = text(key, span)?,
            "request_id" => self.request_id = text(key, span)?,
            "flag_name" => self.flag_name = text(key, span)?,
            "user_id" => self.user_id = text(key, span)?,
            "session_id" => self.session_id = text(key, span)?,
            "environment" => self.environment = text(key, span)?,
            "typed_value" => self.typed_value = present(span),
            "enabled" => self.enabled = boolean(key, span)?,
            "variant" => self.variant = text(key, span)?,
            "reason" => self.reason = text(key, span)?,
            "error_code" => self.error_code = text(key, span)?,
            "error_message" => self.error_message = text(key, span)?,
            "flag_version" => self.flag_version = number(key, span)?,
            "flags_version" => self.flags_version = number(key, span)?,
            "value_type" => self.value_type = text(key, span)?,
            "context" => self.context = present(span),
            "attributes" => self.attributes = present(span).filter(|span| span.kind == Kind::Object),
            "default_value" => self.default_value = present(span),
            "evaluated_at" => self.evaluated_at = text(key, span)?,
            "evaluation_ns" => self.evaluation_ns = number(key, span)?,
            "source" => self.source = Some(source(span)?),
            "assignment" => self.assignment = present(span).filter(|span| span.kind == Kind::Object),
            // Newer versions of flagstream may add members.
            _ => {}
        }
        Ok(())
    }

    fn event_id(&self) -> Result<Uuid, Unreadable> {
        if let Some(place) = self.place {
            return Ok(place.event_id);
        }
        let id = self.event_id.as_deref().ok_or_else(|| missing("event_id"))?;
        id.parse().map_err(|_| Unreadable(format!("event_id: expected a UUID, got {}", short(id))))
    }

    /// The source, with the index of the result.
    fn take_source(&mut self) -> Source<'a> {
        let mut source = self.source.take().unwrap_or(Source::Unknown);
        if let (Source::Kafka { index, .. }, Some(place)) = (&mut source, self.place) {
            *index = i32::try_from(place.index).unwrap_or(i32::MAX);
        }
        source
    }

    fn into_evaluation(mut self) -> Result<Evaluation<'a>, Unreadable> {
        let (event_id, source) = (self.event_id()?, self.take_source());
        let at = self.evaluated_at.ok_or_else(|| missing("evaluated_at"))?;
        let evaluated_at = DateTime::parse_from_rfc3339(&at).map_err(|_| {
            Unreadable(format!("evaluated_at: expected a time in RFC 3339 format, got {}", short(&at)))
        })?;
        let (result, evaluated_value) = match self.typed_value {
            Some(Span { kind: Kind::Boolean, text }) => (Some(text == "true"), None),
            Some(span) => (None, Some(Cow::Borrowed(span.text))),
            None => (None, None),
        };
        let mut row = Evaluation {
            event_id,
            request_id: self.request_id,
            flag_name: self.flag_name.ok_or_else(|| missing("flag_name"))?,
            user_id: self.user_id,
            session_id: self.session_id,
            environment: self.environment.ok_or_else(|| missing("environment"))?,
            result,
            evaluated_value,
            enabled: self.enabled.ok_or_else(|| missing("enabled"))?,
            variant: self.variant,
            reason: self.reason.ok_or_else(|| missing("reason"))?,
            error_code: self.error_code,
            error_message: self.error_message,
            flag_version: self.flag_version,
            flags_version: self.flags_version,
            value_type: self.value_type,
            context: self.context.map_or(Cow::Borrowed("{}"), |span| Cow::Borrowed(span.text)),
            attributes: self.attributes.map(|span| Cow::Borrowed(span.text)),
            default_value: self.default_value.map(|span| Cow::Borrowed(span.text)),
            evaluated_at: evaluated_at.timestamp_micros(),
            evaluation_ns: self.evaluation_ns,
            source,
            assignment: self.assignment.map(|span| Cow::Borrowed(span.text)),
            amended: false,
            audit_block: None,
        };
        row.sanitize();
        Ok(row)
    }
}

impl Evaluation<'_> {
    /// Replaces values that a database cannot hold, and sets `amended` if there were any.
    fn sanitize(&mut self) {
        let names = [&mut self.flag_name, &mut self.environment];
        let mut amended = names.into_iter().fold(false, |amended, name| {
            sanitize::clip(name, MAX_NAME_BYTES) | sanitize::text(name) | amended
        });
        let texts = [
            &mut self.request_id,
            &mut self.user_id,
            &mut self.session_id,
            &mut self.variant,
            &mut self.error_code,
            &mut self.error_message,
            &mut self.value_type,
        ];
        let source = match &mut self.source {
            Source::Kafka { topic: text, .. } | Source::Api(text) => Some(text),
            Source::Unknown => None,
        };
        for text in texts.into_iter().flatten().chain(source).chain([&mut self.reason]) {
            amended |= sanitize::text(text);
        }
        let values = [&mut self.evaluated_value, &mut self.default_value, &mut self.attributes];
        for json in values.into_iter().flatten().chain([&mut self.context]) {
            amended |= sanitize::json(json);
        }
        // It is written to another table, so the row stays as it is.
        if let Some(json) = &mut self.assignment {
            sanitize::json(json);
        }
        self.amended = amended;
    }
}

#[cfg(test)]
mod tests;
