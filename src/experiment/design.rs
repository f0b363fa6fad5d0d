//! What an experiment asks: which flag, which metrics, how sure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An experiment as its maker wants it. Unique by environment and name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentDesign)]
pub struct Design {
    pub name: String,
    pub environment: String,
    pub flag_name: String,
    pub hypothesis: Option<String>,
    pub owner: Option<String>,
    /// The variant that the others are compared with.
    pub control: String,
    /// A variant of users who are kept out of the experiment: all others together are compared with it.
    pub holdout: Option<String>,
    pub metrics: Vec<Metric>,
    /// How long after an exposure a conversion counts for it, in hours.
    pub window_hours: u32,
    /// Of the intervals: 0.95 means that one of twenty may be wrong.
    pub confidence: f64,
    /// Chance of finding an effect of the size that a metric wants to see.
    pub power: f64,
}

/// What is measured of each exposed user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentMetric)]
pub struct Metric {
    pub name: String,
    pub kind: Kind,
    pub goal: Goal,
    pub role: Role,
    /// Smallest effect worth finding, relative to the control: 0.05 for five per cent.
    pub minimum_effect: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MetricKind)]
pub enum Kind {
    /// Whether the user converted: a rate.
    Conversion,
    /// The sum of the user's values, zero without one: a mean.
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
    /// What decides.
    Primary,
    Secondary,
    /// What must not become worse.
    Guardrail,
}
