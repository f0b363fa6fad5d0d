//! Model of a local flag. It has the structure of `schemas/local-flag.schema.json`; default values are
//! omitted when it is written.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

use super::labels::{FlagType, Operator, Status, Strategy, ValueKind, Weights};

/// A local flag, without its name and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalFlag {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub r#type: FlagType,
    #[serde(skip_serializing_if = "is_default")]
    pub status: Status,
    /// Master switch: if false, the flag is off whatever its other fields say.
    pub is_enabled: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub value_type: ValueKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_value: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_value: Option<Number>,
    /// JSON Schema for the flag's values; only for the value type `object`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_schema: Option<Value>,
    /// Rollout percentage. `None`: on for the target users if there are any, otherwise for everyone.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "percentage")]
    pub rollout_percentage: Option<u8>,
    /// Users for whom the flag is on whatever the percentage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_users: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "percentage")]
    pub percentage: Option<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_list: Vec<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub attribute_rules: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub distribution: BTreeMap<String, Number>,
    /// Interpretation of the weights of the flag's variants and of its rules' variants.
    #[serde(skip_serializing_if = "is_default")]
    pub weights: Weights,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_variant: Option<String>,
    /// Steps in the order of their dates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rollout_schedule: Vec<Step>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Time at which the status became `archived`. It is only set by a change of the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<DateTime<Utc>>,
}

/// Targeting rule: its conditions, all of which must hold, and the result for contexts that match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "percentage")]
    pub percentage: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stickiness: Option<String>,
    /// `false`: the flag is off for contexts that match.
    #[serde(skip_serializing_if = "is_true")]
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
}

/// Condition on one attribute of the context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    pub attribute: String,
    pub operator: Operator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub negate: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ignore_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// Scheduled change, in force from its date until a later step overrides it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub date: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "percentage")]
    pub percentage: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Rule>>,
}

/// Required state of another flag for the same context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "DependencyText", into = "DependencyText")]
pub struct Dependency {
    pub flag: String,
    pub on: bool,
    /// Variants of the other flag of which one must be selected; empty if any is accepted.
    pub variants: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub url: String,
}

/// JSON form of a dependency: the name alone, or an object.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum DependencyText {
    Name(String),
    Whole {
        flag: String,
        #[serde(default, skip_serializing_if = "is_default")]
        state: State,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        variants: Vec<String>,
    },
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    On,
    Off,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            name: None,
            users: Vec::new(),
            groups: Vec::new(),
            attributes: Vec::new(),
            percentage: None,
            stickiness: None,
            enabled: true,
            value: None,
            variants: Vec::new(),
        }
    }
}

impl From<DependencyText> for Dependency {
    fn from(text: DependencyText) -> Self {
        match text {
            DependencyText::Name(flag) => Self { flag, on: true, variants: Vec::new() },
            DependencyText::Whole { flag, state, variants } => {
                Self { flag, on: state == State::On, variants }
            }
        }
    }
}

impl From<Dependency> for DependencyText {
    fn from(dependency: Dependency) -> Self {
        let Dependency { flag, on, variants } = dependency;
        match (on, variants.is_empty()) {
            (true, true) => Self::Name(flag),
            _ => Self::Whole { flag, state: if on { State::On } else { State::Off }, variants },
        }
    }
}

/// Reads a percentage given as a whole number or as text; the schema has validated it.
fn percentage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let number = match Option::<Value>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse::<f64>().ok(),
        Some(_) => None,
    };
    let whole = number.filter(|number| number.fract() == 0.0 && (0.0..=100.0).contains(number));
    // The value is within 0 to 100, so the cast does not truncate it.
    whole.map(|number| Some(number as u8)).ok_or_else(|| serde::de::Error::custom("expected a percentage"))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_true(value: &bool) -> bool {
    *value
}
