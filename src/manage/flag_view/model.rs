//! Members that only local flags have.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Number, Value};

use std::collections::BTreeMap;

use crate::flag::local::{
    Dependency, Link, LocalFlag, Rule, Status, Step, Strategy, ValueKind, Variant, Weights,
};

/// Members of a local flag. Empty for flags that are managed elsewhere.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Model {
    pub status: Option<Status>,
    pub value_type: Option<ValueKind>,
    pub default_value: Option<Value>,
    pub min_value: Option<Number>,
    pub max_value: Option<Number>,
    pub value_schema: Option<Value>,
    pub strategy: Option<Strategy>,
    pub percentage: Option<u8>,
    pub user_list: Vec<String>,
    pub attribute_rules: Map<String, Value>,
    pub rules: Vec<Rule>,
    pub variants: Vec<Variant>,
    pub distribution: BTreeMap<String, Number>,
    pub weights: Option<Weights>,
    pub default_variant: Option<String>,
    pub rollout_schedule: Vec<Step>,
    pub depends_on: Vec<Dependency>,
    pub links: Vec<Link>,
    pub expires_at: Option<DateTime<Utc>>,
    pub archived_at: Option<DateTime<Utc>>,
}

impl Model {
    pub fn of(flag: &LocalFlag) -> Self {
        let flag = flag.clone();
        Self {
            status: Some(flag.status),
            value_type: Some(flag.value_type),
            default_value: flag.default_value,
            min_value: flag.min_value,
            max_value: flag.max_value,
            value_schema: flag.value_schema,
            strategy: flag.strategy,
            percentage: flag.percentage,
            user_list: flag.user_list,
            attribute_rules: flag.attribute_rules,
            rules: flag.rules,
            variants: flag.variants,
            distribution: flag.distribution,
            weights: Some(flag.weights),
            default_variant: flag.default_variant,
            rollout_schedule: flag.rollout_schedule,
            depends_on: flag.depends_on,
            links: flag.links,
            expires_at: flag.expires_at,
            archived_at: flag.archived_at,
        }
    }
}
