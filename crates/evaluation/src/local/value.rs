//! Values of flags: validation against the flag's type, and conversion into payloads.

use jsonschema::Validator;
use serde_json::{Value, json};

use super::labels::ValueKind;
use super::model::LocalFlag;
use super::{Invalid, schema};

/// Largest value of a local flag, in bytes of JSON.
const MAX_VALUE_BYTES: usize = 65_536;
/// Maximum nesting of a value; below the limit of the definition that contains it.
const MAX_VALUE_LEVELS: usize = 24;
/// Largest absolute value up to which an `f64` represents every integer exactly (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Requirements for a flag's values.
#[derive(Debug, Default)]
pub struct Values {
    kind: ValueKind,
    min: Option<f64>,
    max: Option<f64>,
    schema: Option<Validator>,
}

impl Values {
    pub fn of(flag: &LocalFlag) -> Result<Self, Vec<Invalid>> {
        let kind = flag.value_type;
        let number =
            |number: &Option<serde_json::Number>| number.as_ref().and_then(serde_json::Number::as_f64);
        let (min, max) = (number(&flag.min_value), number(&flag.max_value));
        let mut problems = Vec::new();
        if !matches!(kind, ValueKind::Integer | ValueKind::Float) {
            let bounds = [("min_value", min), ("max_value", max)];
            let given = bounds.iter().filter(|(_, bound)| bound.is_some());
            problems.extend(given.map(|(field, _)| {
                Invalid::new(field, "is only allowed for the value types integer and float")
            }));
        }
        if min.zip(max).is_some_and(|(min, max)| min > max) {
            problems.push(Invalid::new("max_value", "must not be less than min_value"));
        }
        let mut compiled = None;
        if let Some(schema) = &flag.value_schema {
            if kind != ValueKind::Object {
                problems.push(Invalid::new("value_schema", "is only allowed for the value type object"));
            }
            match schema::of_values(schema) {
                Ok(validator) => compiled = Some(validator),
                Err(message) => problems.push(Invalid::new("value_schema", message)),
            }
        }
        if problems.is_empty() { Ok(Self { kind, min, max, schema: compiled }) } else { Err(problems) }
    }

    pub fn check(&self, value: &Value) -> Result<(), String> {
        bounded(value)?;
        let fits = match (self.kind, value) {
            (ValueKind::Boolean, Value::Bool(_))
            | (ValueKind::String, Value::String(_))
            | (ValueKind::Float, Value::Number(_))
            | (ValueKind::Object, Value::Object(_) | Value::Array(_)) => true,
            (ValueKind::Integer, Value::Number(number)) => {
                let whole = |number: f64| number.fract() == 0.0 && number.abs() <= EXACT;
                number.is_i64() || number.as_f64().is_some_and(whole)
            }
            _ => false,
        };
        if !fits {
            return Err(format!("expected {}", self.kind.name()));
        }
        self.within(value)?;
        self.schema.as_ref().and_then(|schema| schema::first_problem(schema, value)).map_or(Ok(()), Err)
    }

    fn within(&self, value: &Value) -> Result<(), String> {
        let Some(number) = value.as_f64() else {
            return Ok(());
        };
        match (self.min, self.max) {
            (Some(min), _) if number < min => Err(format!("must not be less than min_value {min}")),
            (_, Some(max)) if number > max => Err(format!("must not be greater than max_value {max}")),
            _ => Ok(()),
        }
    }
}

/// Checks the size and nesting of a value of any type.
pub fn bounded(value: &Value) -> Result<(), String> {
    if levels(value) > MAX_VALUE_LEVELS {
        return Err(format!("nested deeper than {MAX_VALUE_LEVELS} levels"));
    }
    match value.to_string().len() {
        0..=MAX_VALUE_BYTES => Ok(()),
        bytes => Err(format!("expected at most {MAX_VALUE_BYTES} bytes, got {bytes}")),
    }
}

/// The value as the payload of an Unleash variant.
pub fn payload(value: &Value) -> Value {
    match value {
        Value::String(text) => json!({"type": "string", "value": text}),
        Value::Number(number) => json!({"type": "number", "value": number.to_string()}),
        // The member `value` of a payload would be read as the whole value, so the object is wrapped.
        Value::Object(members) if members.contains_key("value") => {
            json!({"type": "json", "value": json!({"value": value}).to_string()})
        }
        other => json!({"type": "json", "value": other.to_string()}),
    }
}

/// Levels of nesting. The JSON parser's own limit bounds the recursion.
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}
