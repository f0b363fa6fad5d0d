//! What a local flag says. The shape is that of `schemas/local-flag.schema.json`, its defaults left out.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

use super::words::{FlagType, Operator, Status, Strategy, ValueKind, Weights};

/// A local flag, without its name and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalFlag {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub r#type: FlagType,
    #[serde(skip_serializing_if = "is_default")]
    pub status: Status,
    /// The master switch: nothing else brings a flag on that is not enabled.
    pub is_enabled: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub value_type: ValueKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_value: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_value: Option<Number>,
    /// A JSON Schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_schema: Option<Value>,
    /// `None`: everybody, or the target users only where there are some.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "percentage")]
    pub rollout_percentage: Option<u8>,
    /// On whatever the percentage.
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
    /// Of the flag's variants and those of its rules.
    #[serde(skip_serializing_if = "is_default")]
    pub weights: Weights,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_variant: Option<String>,
    /// In the order of their dates.
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
    /// Since when its status is `archived`; nobody can say so but the change of the status itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<DateTime<Utc>>,
}

/// Whom it takes, and what these get. All that it names must hold.
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
    /// `false`: off for whom it takes.
    #[serde(skip_serializing_if = "is_true")]
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
}

/// What an attribute of the context must be like.
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

/// What changes at its date, and stays so until a later step says otherwise.
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

/// What another flag must be for a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "DependencyText", into = "DependencyText")]
pub struct Dependency {
    pub flag: String,
    pub on: bool,
    /// On one of these; any if there is none.
    pub variants: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub url: String,
}

/// A dependency as it is written.
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

/// A whole number, or one as text; the schema has seen to that.
fn percentage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let number = match Option::<Value>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse::<f64>().ok(),
        Some(_) => None,
    };
    let whole = number.filter(|number| number.fract() == 0.0 && (0.0..=100.0).contains(number));
    // In bounds, so that nothing is cut off.
    whole.map(|number| Some(number as u8)).ok_or_else(|| serde::de::Error::custom("expected a percentage"))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_true(value: &bool) -> bool {
    *value
}
