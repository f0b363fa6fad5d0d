//! Results of an experiment so far, computed from its counts.

mod comparison;
mod conclusions;
pub mod explanations;
mod phase;
mod verdict;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::statistics::{Interval, SingleLook};
use super::{Design, Metric, Tally};

pub use comparison::{Family, Missing, compare};
pub use conclusions::{Conclusion, Finding};
pub use phase::SAMPLE_RATIO_ALPHA;
pub use verdict::Verdict;

/// Results of an experiment, returned by the API and rendered by the command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentResults)]
pub struct Results {
    #[serde(flatten)]
    pub experiment: Experiment,
    /// `None` in results that were counted by an earlier version of flagstream.
    #[serde(default)]
    pub counted: Option<Counted>,
    pub conversions: Conversions,
    /// Current phase, or the one in which the experiment was stopped. `None` until a version of the flag is known.
    pub phase: Option<PhaseResults>,
    /// Phases before the flag's variants or weights changed, oldest first.
    pub earlier_phases: Vec<PhaseResults>,
    /// Conclusions in plain language, alarms first.
    pub conclusions: Vec<Conclusion>,
}

/// Age of the results, and what they lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentCounted)]
pub struct Counted {
    /// Start of the count.
    #[schema(value_type = String, format = DateTime)]
    pub at: DateTime<Utc>,
    /// Age of the count in seconds.
    pub age_seconds: u64,
    /// Estimated number of evaluations, of all flags, that came after the count began. `None`: Kafka does not answer.
    pub evaluations_since: Option<u64>,
    /// Estimated number of conversions, of all experiments, that came after the count began. `None`: Kafka does not
    /// answer.
    pub conversions_since: Option<u64>,
}

/// An experiment and its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Experiment {
    #[serde(flatten)]
    pub design: Design,
    pub status: Status,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: DateTime<Utc>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub stopped_at: Option<DateTime<Utc>>,
    /// Reason for stopping it.
    pub reason: Option<String>,
    /// Variant that was chosen when it was stopped.
    pub winner: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ExperimentStatus)]
pub enum Status {
    Running,
    Stopped,
}

/// Number of conversions in all phases, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ConversionCounts)]
pub struct Conversions {
    pub attributed: u64,
    /// Conversions that wait for an exposure.
    pub waiting: u64,
    /// Conversions without an exposure within the window.
    pub expired: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PhaseResults {
    pub number: u32,
    pub first_version: u64,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: DateTime<Utc>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<DateTime<Utc>>,
    #[schema(value_type = String, format = DateTime)]
    pub counted_at: DateTime<Utc>,
    pub users: u64,
    /// Users who saw more than one variant.
    pub crossed: u64,
    /// Whether more than one per cent of the users have crossed over.
    pub crossed_alarm: bool,
    pub variants: Vec<VariantResults>,
    pub sample_ratio: SampleRatio,
    pub metrics: Vec<MetricResults>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VariantResults {
    pub name: String,
    pub part: Part,
    pub users: u64,
    pub share: Option<f64>,
    /// Share according to the weights. `None` if the weights are unknown.
    pub expected_share: Option<f64>,
    pub crossed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = VariantPart)]
pub enum Part {
    Control,
    Treatment,
    Holdout,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleRatio {
    /// `None` if a weight is unknown or there is nothing to compare.
    pub tested: Option<SampleRatioTest>,
    /// Whether the sequential test, which is valid at any time, found a mismatch.
    pub alarm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleRatioTest {
    pub p_value: f64,
    /// p-value of the chi-squared test, valid for a single look.
    pub single_look_p_value: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricResults {
    #[serde(flatten)]
    pub metric: Metric,
    /// Levels in the order of the phase's variants.
    pub levels: Vec<Level>,
    /// Comparison of each treatment with the control.
    pub comparisons: Vec<Comparison>,
    /// Comparison of all other variants together with the holdout.
    pub holdout: Option<Comparison>,
    /// Adjustment by values from before the exposures; `None` if they explain nothing.
    pub cuped: Option<Adjustment>,
}

/// Level of a metric in one variant, as counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = MetricLevel)]
pub struct Level {
    pub variant: String,
    pub converted: u64,
    /// Mean of the users' values, or the rate of a conversion.
    pub mean: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Adjustment {
    pub theta: f64,
    /// Share of the variance that the adjustment removes.
    pub variance_reduction: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    pub variant: String,
    pub verdict: Verdict,
    /// Reason why a comparison is not possible yet.
    pub missing: Option<Missing>,
    #[serde(flatten)]
    pub effect: Option<Effect>,
}

/// Absent as a whole while a comparison is not possible. All intervals are corrected for the number of comparisons. All
/// except those under `single_look` are valid at any number of looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Effect {
    #[schema(required = false)]
    pub difference: f64,
    #[schema(required = false)]
    pub interval: Interval,
    #[schema(required = false)]
    pub p_value: f64,
    /// Relative effect; `None` if the mean of the reference is too close to zero.
    pub relative: Option<Relative>,
    pub single_look: Option<SingleLook>,
    /// Number of further users of the whole experiment needed to find `minimum_effect`. `None`: too many.
    pub users_left: Option<u64>,
    /// Seconds until these users have come, at the rate so far. `None` also for a phase that has ended.
    pub seconds_left: Option<u64>,
}

/// Effect relative to the mean of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RelativeEffect)]
pub struct Relative {
    pub difference: f64,
    pub interval: Interval,
    /// Smallest effect that this number of users detects with the design's power.
    pub minimum_detectable_effect: f64,
}

impl Results {
    /// Computes the results. `tallies` has one entry per phase, oldest first.
    pub fn of(experiment: Experiment, tallies: &[Tally], conversions: Conversions) -> Self {
        let mut phases: Vec<_> =
            tallies.iter().map(|tally| phase::results(&experiment.design, tally)).collect();
        let phase = phases.pop();
        let conclusions = conclusions::of(&experiment, phase.as_ref());
        Self { experiment, counted: None, conversions, phase, earlier_phases: phases, conclusions }
    }
}

#[cfg(test)]
mod tests;
