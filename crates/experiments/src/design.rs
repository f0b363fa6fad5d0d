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
    /// Hours after a user's exposure during which conversions count, for metrics without a window of their own.
    pub window_hours: u32,
    /// Confidence level of the intervals: with 0.95, at most one in twenty may miss the true value.
    pub confidence: f64,
    /// Probability of detecting an effect of a metric's minimum size.
    pub power: f64,
    /// Whether a user counts for a metric only when the metric's window is over.
    #[serde(default)]
    pub finished_windows: bool,
    /// Whether users who saw more than one variant are left out, also if they did in an earlier phase.
    #[serde(default)]
    pub exclude_crossed: bool,
    /// Number of users for which the intervals are narrowest, from the plan of the experiment. `None`: 10,000.
    #[serde(default)]
    pub planned_users: Option<u64>,
    /// Action when a guardrail is harmed. `None`: an alarm only.
    #[serde(default)]
    pub on_harm: Option<OnHarm>,
    /// Attributes by whose values the results are broken down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<Dimension>,
    /// Layer of the experiment: experiments with different variants of its flag have different users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Layer>,
    /// Global holdout: users with other variants of its flag are in no experiment that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_holdout: Option<Layer>,
}

/// Flag that the experiment's flag depends on, with the variants of which a user needs one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentLayer)]
pub struct Layer {
    pub flag_name: String,
    /// Names of the variants, sorted.
    pub variants: Vec<String>,
}

/// Attribute by whose values the results are broken down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dimension {
    /// Name of the attribute.
    pub name: String,
    #[serde(default)]
    pub source: DimensionSource,
}

/// Place of an attribute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DimensionSource {
    /// The context of the user's first exposure: users are compared with users of the same value.
    #[default]
    Context,
    /// The metadata of conversions: all users are compared, and only conversions with the value count.
    Conversion,
}

/// Action when a guardrail is harmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnHarm {
    /// Turns the kill switch of the flag on, once, with the conclusion as the reason.
    Kill,
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
    /// Name that conversions of this metric have. `None`: the metric's name.
    #[serde(default)]
    pub event: Option<String>,
    /// Conversions that a ratio is divided by: their sum is the denominator.
    #[serde(default)]
    pub denominator: Option<String>,
    /// Hours after the exposure from which on conversions count.
    #[serde(default)]
    pub delay_hours: u32,
    /// Hours after the delay during which conversions count. `None`: the design's.
    #[serde(default)]
    pub window_hours: Option<u32>,
    /// Largest value of one user; larger ones count as this value.
    #[serde(default)]
    pub cap: Option<Cap>,
    /// Quantile of the users' values that is compared: 0.5 for the median.
    #[serde(default)]
    pub quantile: Option<f64>,
}

/// Largest value of one user.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MetricCap)]
pub enum Cap {
    /// A fixed value.
    Value(f64),
    /// The value below which this share of the users with a value lies, over all variants: 0.99 for the 99th
    /// percentile.
    Percentile(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MetricKind)]
pub enum Kind {
    /// Whether the user converted: a rate.
    Conversion,
    /// Sum of the user's values, zero without any: a mean.
    Mean,
    /// Number of the user's conversions: a mean.
    Count,
    /// Sum of all values divided by the sum of the values of another event.
    Ratio,
    /// Quantile of the sums of users with a value.
    Quantile,
    /// Whether the user converted between `delay_hours` and the end of the window: a rate.
    Retention,
}

impl Kind {
    /// Whether a user's value is 1 or 0.
    pub fn is_rate(self) -> bool {
        matches!(self, Self::Conversion | Self::Retention)
    }
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

impl Default for Metric {
    /// A primary rate that should increase, with a minimum effect of 5%.
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: Kind::Conversion,
            goal: Goal::Increase,
            role: Role::Primary,
            minimum_effect: 0.05,
            event: None,
            denominator: None,
            delay_hours: 0,
            window_hours: None,
            cap: None,
            quantile: None,
        }
    }
}

impl Metric {
    /// Name of the conversions that the metric counts.
    pub fn event(&self) -> &str {
        self.event.as_deref().unwrap_or(&self.name)
    }
}

impl Design {
    /// Hours after the exposure at which the window of a metric is over.
    pub fn ends_after_hours(&self, metric: &Metric) -> u32 {
        metric.delay_hours.saturating_add(metric.window_hours.unwrap_or(self.window_hours))
    }

    /// Attributes of the context among dimensions.
    pub fn attributes_of(dimensions: &[Dimension]) -> impl Iterator<Item = &str> {
        let of_context = dimensions.iter().filter(|of| of.source == DimensionSource::Context);
        of_context.map(|of| of.name.as_str())
    }

    /// Metrics that count conversions of this name, as their values or as their denominator.
    pub fn metrics_of<'d>(&'d self, event: &'d str) -> impl Iterator<Item = &'d Metric> {
        let counts =
            move |metric: &&Metric| metric.event() == event || metric.denominator.as_deref() == Some(event);
        self.metrics.iter().filter(counts)
    }
}
