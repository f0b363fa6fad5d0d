//! Conditions of local flags that the engine has no operators for: membership in lists, and numbers mixed
//! with other values.

use std::collections::HashSet;

use serde_json::Value;

use super::properties::ContextField;
use crate::definition::local::{LocalConditionExtension, LocalOperatorExtension};

/// Condition of a strategy that is checked in addition to the engine's rule.
#[derive(Debug)]
pub(crate) struct CompiledConstraint {
    /// The condition holds if it holds for any of these fields.
    pub(crate) fields: Box<[ContextField]>,
    operator: LocalOperatorExtension,
    scalars: Scalars,
    case_insensitive: bool,
    pub(crate) inverted: bool,
}

/// Values to compare with, separated by JSON type.
#[derive(Debug, Default)]
struct Scalars {
    texts: HashSet<Box<str>, ahash::RandomState>,
    numbers: Vec<f64>,
    booleans: Vec<bool>,
}

impl CompiledConstraint {
    pub(crate) fn of(condition: &LocalConditionExtension) -> Self {
        let LocalConditionExtension { context_names, operator, values, inverted, case_insensitive } =
            condition;
        let mut scalars = Scalars::default();
        for value in values {
            match value {
                Value::String(text) if *case_insensitive => {
                    scalars.texts.extend([text.to_lowercase().into()])
                }
                Value::String(text) => scalars.texts.extend([text.as_str().into()]),
                Value::Number(number) => scalars.numbers.extend(number.as_f64()),
                Value::Bool(boolean) => scalars.booleans.push(*boolean),
                Value::Null | Value::Array(_) | Value::Object(_) => {}
            }
        }
        Self {
            fields: context_names.iter().map(|name| ContextField::of(name)).collect(),
            operator: *operator,
            scalars,
            case_insensitive: *case_insensitive,
            inverted: *inverted,
        }
    }

    /// Whether the condition holds for this context value, before inversion.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let members = match self.operator {
            LocalOperatorExtension::In => None,
            LocalOperatorExtension::Has | LocalOperatorExtension::Contains => members(text),
        };
        if let Some(members) = members {
            return members.iter().any(|member| self.has(member));
        }
        match self.operator {
            LocalOperatorExtension::Contains => self.is_part(text) || self.scalars.say(text),
            LocalOperatorExtension::In | LocalOperatorExtension::Has => {
                self.scalars.texts.contains(text) || self.scalars.say(text)
            }
        }
    }

    fn has(&self, member: &Value) -> bool {
        match member {
            Value::String(text) if self.case_insensitive => {
                self.scalars.texts.contains(text.to_lowercase().as_str())
            }
            Value::String(text) => self.scalars.texts.contains(text.as_str()),
            Value::Number(number) => {
                number.as_f64().is_some_and(|number| self.scalars.numbers.contains(&number))
            }
            Value::Bool(boolean) => self.scalars.booleans.contains(boolean),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        }
    }

    fn is_part(&self, text: &str) -> bool {
        let lower = self.case_insensitive.then(|| text.to_lowercase());
        let text = lower.as_deref().unwrap_or(text);
        self.scalars.texts.iter().any(|part| text.contains(&**part))
    }
}

impl Scalars {
    /// Whether the text equals one of the numbers or booleans. Context values are texts, so the text is
    /// parsed.
    fn say(&self, text: &str) -> bool {
        let number = || text.parse::<f64>().is_ok_and(|number| self.numbers.contains(&number));
        let boolean = || text.parse::<bool>().is_ok_and(|boolean| self.booleans.contains(&boolean));
        (!self.numbers.is_empty() && number()) || (!self.booleans.is_empty() && boolean())
    }
}

/// The members of a JSON list; `None` if the text is not a list.
fn members(text: &str) -> Option<Vec<Value>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}
