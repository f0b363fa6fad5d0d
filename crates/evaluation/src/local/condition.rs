//! Conditions of rules, as Unleash's constraints or, where these are insufficient, as local conditions.

use serde_json::{Value, json};

use super::labels::Operator;
use super::model::{Attribute, Rule};

/// Context fields that hold the user's groups: a single one or a list.
const GROUP_FIELDS: [&str; 2] = ["group_id", "groups"];

/// Conditions that a strategy requires of the context.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Constraints in Unleash's format.
    pub constraints: Vec<Value>,
    /// Conditions of the local extension.
    pub own: Vec<Value>,
}

impl Conditions {
    pub fn of(rule: &Rule) -> Self {
        let mut conditions = Self::default();
        if !rule.users.is_empty() {
            conditions.constraints.push(users(&rule.users));
        }
        if !rule.groups.is_empty() {
            conditions
                .own
                .push(json!({"contextNames": GROUP_FIELDS, "operator": "HAS", "values": rule.groups}));
        }
        for attribute in &rule.attributes {
            conditions.add(attribute);
        }
        conditions
    }

    /// Conditions that require every attribute to equal its value.
    pub fn equal(attributes: &serde_json::Map<String, Value>) -> Self {
        let mut conditions = Self::default();
        for (name, value) in attributes {
            conditions.add(&Attribute {
                attribute: name.clone(),
                operator: Operator::Equals,
                value: Some(value.clone()),
                negate: false,
                ignore_case: false,
            });
        }
        conditions
    }

    fn add(&mut self, attribute: &Attribute) {
        let Attribute { attribute: name, operator, value, negate, ignore_case } = attribute;
        let name = context_name(name);
        let value = value.as_ref().unwrap_or(&Value::Null);
        let mut inverted = *negate;
        let mut constraint = |operator: &str, field: &str, value: Value, inverted: bool| {
            self.constraints.push(json!({"contextName": name, "operator": operator, field: value,
                "inverted": inverted, "caseInsensitive": ignore_case}));
        };
        match operator {
            Operator::Equals | Operator::NotEquals => {
                inverted ^= *operator == Operator::NotEquals;
                match value {
                    Value::Number(number) => {
                        constraint("NUM_EQ", "value", number.to_string().into(), inverted)
                    }
                    value => constraint("IN", "values", json!([text(value)]), inverted),
                }
            }
            Operator::In | Operator::NotIn => {
                inverted ^= *operator == Operator::NotIn;
                let values = value.as_array().map(Vec::as_slice).unwrap_or_default();
                if values.iter().any(Value::is_number) {
                    return self.own.push(json!({"contextNames": [name], "operator": "IN", "values": values,
                        "inverted": inverted}));
                }
                constraint("IN", "values", values.iter().map(text).collect(), inverted);
            }
            Operator::Contains => self.own.push(json!({"contextNames": [name], "operator": "CONTAINS",
                "values": listed(value), "inverted": inverted, "caseInsensitive": ignore_case})),
            Operator::StartsWith => constraint("STR_STARTS_WITH", "values", listed(value), inverted),
            Operator::EndsWith => constraint("STR_ENDS_WITH", "values", listed(value), inverted),
            Operator::GreaterThan => constraint("NUM_GT", "value", text(value).into(), inverted),
            Operator::GreaterOrEqual => constraint("NUM_GTE", "value", text(value).into(), inverted),
            Operator::LessThan => constraint("NUM_LT", "value", text(value).into(), inverted),
            Operator::LessOrEqual => constraint("NUM_LTE", "value", text(value).into(), inverted),
            Operator::Before => constraint("DATE_BEFORE", "value", value.clone(), inverted),
            Operator::After => constraint("DATE_AFTER", "value", value.clone(), inverted),
            Operator::SemverEquals => constraint("SEMVER_EQ", "value", value.clone(), inverted),
            Operator::SemverGreaterThan => constraint("SEMVER_GT", "value", value.clone(), inverted),
            Operator::SemverGreaterOrEqual => constraint("SEMVER_GTE", "value", value.clone(), inverted),
            Operator::SemverLessThan => constraint("SEMVER_LT", "value", value.clone(), inverted),
            Operator::SemverLessOrEqual => constraint("SEMVER_LTE", "value", value.clone(), inverted),
            // The empty expression matches any value that is present.
            Operator::Exists => {
                constraint("REGEX", "value", "".into(), inverted ^ (*value == Value::Bool(false)))
            }
            Operator::Matches => constraint("REGEX", "value", value.clone(), inverted),
        }
    }
}

pub fn users(users: &[String]) -> Value {
    json!({"contextName": "userId", "operator": "IN", "values": users})
}

/// Unleash's name of a context field; `user_id` and `session_id` have other names in requests.
pub fn context_name(name: &str) -> &str {
    match name {
        "user_id" => "userId",
        "session_id" => "sessionId",
        name => name,
    }
}

fn listed(value: &Value) -> Value {
    if value.is_array() { value.clone() } else { json!([value]) }
}

/// The value as text, in the form that it has in a context.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
