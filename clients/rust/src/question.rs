//! The request body of an evaluation, which is the same for both providers.

use std::collections::BTreeMap;

use open_feature::{
    EvaluationContext, EvaluationContextFieldValue as Field, EvaluationError, EvaluationErrorCode,
    StructValue, Value as Given,
};
use serde::Serialize;
use serde_json::{Number, Value};
use time::format_description::well_known::Rfc3339;

/// Maximum depth of structures. The service rejects deeper ones too.
const MAX_DEPTH_LEVELS: usize = 32;

#[derive(Debug, Serialize)]
struct Question<'q> {
    flag_name: &'q str,
    value_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'q str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    context: BTreeMap<&'q str, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'q str>,
}

/// The body of an evaluation request. Equal requests have equal bodies, so that they can be cache keys.
pub(crate) fn body(
    flag: &str,
    value_type: &'static str,
    asked_in: &EvaluationContext,
    environment: Option<&str>,
) -> Result<String, EvaluationError> {
    let fields = asked_in.custom_fields.iter();
    let context = fields
        .map(|(name, field)| match json(field) {
            Some(value) => Ok((name.as_str(), value)),
            None => Err(unfit(name, field)),
        })
        .collect::<Result<_, _>>()?;
    let user_id = asked_in.targeting_key.as_deref();
    let question = Question { flag_name: flag, value_type, user_id, context, environment };
    serde_json::to_string(&question).map_err(|error| invalid(error.to_string()))
}

/// Converts a context field to JSON; `None` if JSON cannot represent it.
fn json(field: &Field) -> Option<Value> {
    match field {
        Field::Bool(value) => Some(Value::from(*value)),
        Field::Int(value) => Some(Value::from(*value)),
        Field::Float(value) => Number::from_f64(*value).map(Value::Number),
        Field::String(value) => Some(Value::from(value.as_str())),
        Field::DateTime(value) => value.format(&Rfc3339).ok().map(Value::from),
        Field::Struct(value) => {
            let structure = value.downcast_ref::<StructValue>().map(|value| structure(value, 1));
            let given = || value.downcast_ref::<Given>().map(|value| member(value, 0));
            let free = || value.downcast_ref::<Value>().cloned().map(Some);
            structure.or_else(given).or_else(free)?
        }
    }
}

fn structure(given: &StructValue, depth: usize) -> Option<Value> {
    let members = given.fields.iter().map(|(name, value)| Some((name.clone(), member(value, depth)?)));
    // Sorted, in case the JSON map preserves the insertion order.
    let members: BTreeMap<String, Value> = members.collect::<Option<_>>()?;
    Some(Value::Object(members.into_iter().collect()))
}

fn member(given: &Given, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH_LEVELS {
        return None;
    }
    match given {
        Given::Bool(value) => Some(Value::from(*value)),
        Given::Int(value) => Some(Value::from(*value)),
        Given::Float(value) => Number::from_f64(*value).map(Value::Number),
        Given::String(value) => Some(Value::from(value.as_str())),
        Given::Array(values) => values.iter().map(|value| member(value, depth + 1)).collect(),
        Given::Struct(value) => structure(value, depth + 1),
    }
}

fn unfit(name: &str, field: &Field) -> EvaluationError {
    invalid(match field {
        Field::Struct(_) => format!(
            "context.{name}: expected a StructValue, an open_feature::Value or a serde_json::Value of finite numbers, \
             at most {MAX_DEPTH_LEVELS} levels deep"
        ),
        Field::DateTime(_) => format!("context.{name}: expected a date that RFC 3339 can write"),
        _ => format!("context.{name}: expected a finite number"),
    })
}

fn invalid(message: String) -> EvaluationError {
    EvaluationError { code: EvaluationErrorCode::InvalidContext, message: Some(message) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::OffsetDateTime;

    use super::*;

    fn asked_in(name: &str, field: Field) -> Result<Value, String> {
        let context = EvaluationContext::default().with_targeting_key("u").with_custom_field(name, field);
        let body = body("f", "boolean", &context, Some("production")).map_err(|error| {
            assert_eq!(error.code, EvaluationErrorCode::InvalidContext);
            error.message.unwrap()
        })?;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["user_id"], &body["environment"]), (&json!("u"), &json!("production")));
        Ok(body["context"][name].clone())
    }

    #[test]
    fn every_kind_of_field_is_sent_as_json() {
        let nested = StructValue::default().with_field("a", vec![1_i64, 2]).with_field("b", 1.5);
        let date = OffsetDateTime::from_unix_timestamp(1_768_473_000).unwrap();
        let table = [
            (Field::Bool(true), json!(true)),
            (Field::Int(-7), json!(-7)),
            (Field::Float(2.5), json!(2.5)),
            (Field::String("é\"".into()), json!("é\"")),
            (Field::DateTime(date), json!("2026-01-15T10:30:00Z")),
            (Field::new_struct(nested.clone()), json!({"a": [1, 2], "b": 1.5})),
            (Field::new_struct(Given::Struct(nested)), json!({"a": [1, 2], "b": 1.5})),
            (Field::new_struct(json!({"x": null})), json!({"x": null})),
        ];
        for (field, expected) in table {
            assert_eq!(asked_in("x", field), Ok(expected));
        }
    }

    #[test]
    fn what_json_has_not_is_refused_and_named() {
        let deep = (0..40).fold(Given::Bool(true), |inner, _| Given::Array(vec![inner]));
        let infinite = Given::Float(f64::INFINITY);
        for field in [
            Field::Float(f64::NAN),
            Field::new_struct(7_u8),
            Field::new_struct(deep),
            Field::new_struct(infinite),
        ] {
            let message = asked_in("tier", field).unwrap_err();
            assert!(message.starts_with("context.tier: expected "), "{message}");
        }
    }

    #[test]
    fn what_is_not_given_is_not_sent_and_order_does_not_matter() {
        let nobody = body("f", "string", &EvaluationContext::default(), None).unwrap();
        assert_eq!(nobody, r#"{"flag_name":"f","value_type":"string"}"#);
        let forwards = EvaluationContext::default().with_custom_field("a", 1).with_custom_field("b", 2);
        let backwards = EvaluationContext::default().with_custom_field("b", 2).with_custom_field("a", 1);
        assert_eq!(
            body("f", "string", &forwards, None).unwrap(),
            body("f", "string", &backwards, None).unwrap()
        );
    }
}
