//! What a recorded evaluation asked for. Its default is recorded, the type that may have been given is not.

use serde_json::Value as Json;

use crate::audit::evaluation::{Evaluation, Source};
use crate::flag::value::{Lookup, answer, natural_answer};
use crate::flag::{Answer, Value, ValueType};
use crate::message::json::{Kind, Span};
use crate::message::request::{Ask, MAX_DEPTH_LEVELS};

const TYPES: [ValueType; 6] = [
    ValueType::Boolean,
    ValueType::String,
    ValueType::Integer,
    ValueType::Float,
    ValueType::Number,
    ValueType::Object,
];

#[derive(Debug)]
pub struct Asked<'r> {
    ask: Ask<'r>,
    has_default: bool,
}

impl<'r> Asked<'r> {
    pub fn of(row: &'r Evaluation<'_>) -> Self {
        let default = row.default_value.as_deref();
        let span = default.and_then(|default| Span::parse(default, MAX_DEPTH_LEVELS).ok());
        let ask = Ask::new((&*row.flag_name).into(), span, None);
        Self { has_default: ask.default.is_some(), ask }
    }

    /// The answer to the likeliest question.
    pub fn guess<'a>(&'a self, row: &Evaluation<'_>, lookup: Lookup<'a>) -> Answer<'a> {
        let is_natural = matches!(&row.source, Source::Api(api) if api == "ofrep");
        match self.likeliest(row) {
            Some(of) if !is_natural => self.typed(lookup, of),
            _ => natural_answer(&self.ask.flag, lookup),
        }
    }

    /// The answers to all questions that there are.
    pub fn others<'a, 'l: 'a>(&'a self, lookup: impl Fn() -> Lookup<'l>) -> impl Iterator<Item = Answer<'a>> {
        let natural = natural_answer(&self.ask.flag, lookup());
        TYPES.into_iter().map(move |of| self.typed(lookup(), of)).chain([natural])
    }

    fn typed<'a>(&'a self, lookup: Lookup<'a>, of: ValueType) -> Answer<'a> {
        answer(&self.ask.flag, lookup, of, self.ask.default.as_ref())
    }

    /// What the default says, or else the value; `None`: neither says anything.
    fn likeliest(&self, row: &Evaluation<'_>) -> Option<ValueType> {
        if row.result.is_some() {
            return Some(ValueType::Boolean);
        }
        if self.has_default {
            return Some(self.ask.value_type);
        }
        let value = Span::parse(row.evaluated_value.as_deref()?, MAX_DEPTH_LEVELS).ok()?;
        match value.kind {
            Kind::String => Some(ValueType::String),
            Kind::Number => Some(ValueType::Number),
            Kind::Object | Kind::Array => Some(ValueType::Object),
            Kind::Null | Kind::Boolean => None,
        }
    }

    /// Whether the answer is what was recorded.
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
            // The database keeps what a text means, not how it was written.
            text == recorded.as_bytes() || is_same_json(&text, recorded.as_bytes())
        }
    }
}

fn is_same_json(one: &[u8], other: &[u8]) -> bool {
    let read = |text| serde_json::from_slice::<Json>(text).ok().map(as_floats);
    read(one).zip(read(other)).is_some_and(|(one, other)| one == other)
}

/// `5` and `5.0` are the same number.
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
