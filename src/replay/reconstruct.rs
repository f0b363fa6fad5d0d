//! Reconstructs the request of a recorded evaluation, and compares an answer with the record.

use serde_json::Value as Json;

use crate::audit::evaluation::Evaluation;
use crate::flag::value::{Lookup, answer, natural_answer};
use crate::flag::{Answer, Value, ValueType};
use crate::message::json::Span;
use crate::message::request::{Ask, MAX_DEPTH_LEVELS};

#[derive(Debug)]
pub struct ReconstructedCall<'r> {
    ask: Ask<'r>,
    value_type: Option<ValueType>,
}

impl<'r> ReconstructedCall<'r> {
    pub fn of(row: &'r Evaluation<'_>) -> Self {
        let default = row.default_value.as_deref();
        let span = default.and_then(|default| Span::parse(default, MAX_DEPTH_LEVELS).ok());
        let value_type = row.value_type.as_deref().and_then(|name| name.parse().ok());
        Self { ask: Ask::new((&*row.flag_name).into(), span, value_type), value_type }
    }

    pub fn answer<'a>(&'a self, lookup: Lookup<'a>) -> Answer<'a> {
        match self.value_type {
            Some(of) => answer(&self.ask.flag, lookup, of, self.ask.default.as_ref()),
            None => natural_answer(&self.ask.flag, lookup),
        }
    }

    /// Whether the answer equals the recorded one.
    pub fn agrees(&self, row: &Evaluation<'_>, answer: &Answer<'_>) -> bool {
        answer.enabled == row.enabled
            && answer.variant == row.variant.as_deref()
            && answer.reason.as_str() == row.reason
            && answer.error_code.map(|code| code.as_str()) == row.error_code.as_deref()
            && is_same(&answer.value, row)
    }
}

fn is_same(value: &Value<'_>, row: &Evaluation<'_>) -> bool {
    match (value, row.result, row.evaluated_value.as_deref()) {
        (Value::Boolean(value), Some(result), _) => *value == result,
        (Value::Null, None, None) => true,
        (Value::Null | Value::Boolean(_), ..) | (_, Some(_), _) | (_, None, None) => false,
        (value, None, Some(recorded)) => {
            let mut text = Vec::new();
            value.write_json(&mut text);
            // The database keeps the JSON value but not its original text.
            text == recorded.as_bytes() || is_same_json(&text, recorded.as_bytes())
        }
    }
}

fn is_same_json(one: &[u8], other: &[u8]) -> bool {
    let read = |text| serde_json::from_slice::<Json>(text).ok().map(as_floats);
    read(one).zip(read(other)).is_some_and(|(one, other)| one == other)
}

/// Converts all numbers to floats, so that `5` and `5.0` are equal.
fn as_floats(value: Json) -> Json {
    match value {
        Json::Number(number) => number.as_f64().map_or(Json::Number(number), Json::from),
        Json::Array(items) => items.into_iter().map(as_floats).collect(),
        Json::Object(members) => members.into_iter().map(|(name, value)| (name, as_floats(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_by_what_they_mean() {
        let same = |one: &str, other: &str| is_same_json(one.as_bytes(), other.as_bytes());
        assert!(same(r#"{"a":5,"b":[1.50]}"#, r#"{"b": [1.5], "a": 5.0}"#));
        assert!(same(r#""\u00e9""#, "\"é\""));
        assert!(!same("5", "6") && !same("5", r#""5""#) && !same("{", "{"));
    }
}
