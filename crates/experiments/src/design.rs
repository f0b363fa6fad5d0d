//! Design of an experiment: flag, variants, metrics and statistical parameters.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Design of an experiment. Unique by environment and name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentDesign)]
pub struct Design {
    pub name: String,
    pub environment: String,
    pub flag_name: String,
    pub hypothesis: Option<String>,
    pub owner: Option<String>,
    /// Variant that the others are compared with.
    pub control: String,
    /// Variant of users who are excluded from the change. All other variants together are compared with it.
    pub holdout: Option<String>,
    pub metrics: Vec<Metric>,
    /// Hours after a user's exposure during which conversions count.
    pub window_hours: u32,
    /// Confidence level of the intervals: with 0.95, at most one in twenty may miss the true value.
    pub confidence: f64,
    /// Probability of detecting an effect of a metric's minimum size.
    pub power: f64,
}

/// A value measured for each exposed user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentMetric)]
pub struct Metric {
    pub name: String,
    pub kind: Kind,
    pub goal: Goal,
    pub role: Role,
    /// Smallest effect that the experiment should detect, relative to the control: 0.05 for five per cent.
    pub minimum_effect: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MetricKind)]
pub enum Kind {
    /// Whether the user converted: a rate.
    Conversion,
    /// Sum of the user's values, zero without any: a mean.
    Mean,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MetricGoal)]
pub enum Goal {
    Increase,
    Decrease,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MetricRole)]
pub enum Role {
    /// Metric that decides between the variants.
    Primary,
    Secondary,
    /// Metric that must not become worse.
    Guardrail,
}
