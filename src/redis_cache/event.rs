//! Fields of an evaluation that the warmer reads.

use std::borrow::Cow;

use crate::message::evaluations::{EvaluationMembers, EventRecord};
use crate::message::json::{Kind, Span};

use super::Subject;

/// Evaluation in an event.
#[derive(Debug, Default)]
pub struct Event<'a> {
    flag_name: Cow<'a, str>,
    environment: Cow<'a, str>,
    user_id: Option<Cow<'a, str>>,
    session_id: Option<Cow<'a, str>>,
    pub flag_version: Option<u64>,
    context: Option<&'a str>,
    pub evaluated_at: Cow<'a, str>,
}

impl<'a> Event<'a> {
    /// Reads the evaluations of a record; empty for every other type of event. `None` if the record is not an event.
    pub fn read(payload: &'a [u8]) -> Option<Vec<Self>> {
        let record = EventRecord::read(std::str::from_utf8(payload).ok()?).ok()?;
        record.evaluations().ok()?.iter().map(Self::of).collect()
    }

    fn of(evaluation: &EvaluationMembers<'_, 'a>) -> Option<Self> {
        let mut event = Self::default();
        let (mut has_flag, mut has_environment) = (false, false);
        for (name, span) in evaluation.members() {
            match name {
                "flag_name" => (event.flag_name, has_flag) = (span.as_string()?, true),
                "environment" => (event.environment, has_environment) = (span.as_string()?, true),
                "user_id" => event.user_id = optional(span)?,
                "session_id" => event.session_id = optional(span)?,
                "flag_version" if span.kind == Kind::Null => event.flag_version = None,
                "flag_version" => event.flag_version = Some(span.text.parse().ok()?),
                "context" => event.context = (span.kind != Kind::Null).then_some(span.text),
                "evaluated_at" => event.evaluated_at = span.as_string()?,
                _ => {}
            }
        }
        (has_flag && has_environment).then_some(event)
    }

    pub fn subject(&self) -> Subject<'_> {
        Subject {
            environment: &self.environment,
            flag: &self.flag_name,
            user: self.user_id.as_deref(),
            session: self.session_id.as_deref(),
            context: self.context.unwrap_or("{}"),
        }
    }
}

/// A text, or the inner `None` for null. `None` if the value is neither.
fn optional(span: Span<'_>) -> Option<Option<Cow<'_, str>>> {
    if span.kind == Kind::Null { Some(None) } else { span.as_string().map(Some) }
}
