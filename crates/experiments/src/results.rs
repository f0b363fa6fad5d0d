//! Results of an experiment so far, computed from its counts.

mod comparison;
mod conclusions;
mod dimensions;
pub mod explanations;
pub mod history;
mod phase;
mod verdict;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::statistics::readings::Bayesian;
use super::statistics::{Interval, SingleLook};
use super::{Design, Excluded, Metric, Tally};

pub use comparison::{Arms, Family, Missing, compare, prepare};
pub use conclusions::{Conclusion, Finding};
pub use dimensions::{Breakdown, DimensionLevel, DimensionResults, LevelKind, LevelMetric, LevelResults};
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
    /// Whether a conclusion stays once it was drawn. It does not: each count draws the conclusions that its rows allow, so
    /// that a metric that was `better` may be `not_known_yet` again.
    #[serde(default)]
    pub latched: bool,
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

/// Number of conversions in all phases, by outcome. Their sum is the number of conversions that were accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ConversionCounts)]
pub struct Conversions {
    /// Conversions within the window of a metric that counts them.
    pub attributed: u64,
    /// Conversions of users who were not exposed yet.
    pub waiting: u64,
    /// Conversions of users who were not exposed within the window. They are deleted.
    pub expired: u64,
    /// Conversions before the user's first exposure, by more than the tolerated difference between clocks.
    #[serde(default)]
    pub before_exposure: u64,
    /// Conversions after the exposure but outside of the windows of the metrics that count them.
    #[serde(default)]
    pub after_window: u64,
    /// Conversions of users who are exposed but not compared.
    #[serde(default)]
    pub excluded: u64,
    /// Conversions with an `event_id` that was counted before.
    #[serde(default)]
    pub duplicates: u64,
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
    /// Users who saw another variant in an earlier phase.
    #[serde(default)]
    pub changed: u64,
    /// Exposed users who are not compared.
    #[serde(default)]
    pub excluded: Excluded,
    /// Draws of the flag that include the control. Variants are compared within each, and the differences are combined in
    /// proportion to their users.
    #[serde(default)]
    pub strata: Vec<StratumResults>,
    /// Context field by which variants are drawn, if it is not the user. No conclusion is drawn then, because users who
    /// share a value are not independent of each other.
    #[serde(default)]
    pub unit: Option<String>,
    pub variants: Vec<VariantResults>,
    pub sample_ratio: SampleRatio,
    pub metrics: Vec<MetricResults>,
    /// Results by the values of attributes, for the dimensions of the design. Only of the current phase.
    #[serde(default)]
    pub dimensions: Vec<DimensionResults>,
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

/// Users whose variant was drawn with the same weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StratumResults {
    /// Strategies of the flag that draw with these weights, as indexes. Empty: the flag's own variants.
    pub rules: Vec<u32>,
    pub users: u64,
    /// Users and share of each variant, in the order of the phase's variants.
    pub variants: Vec<StratumVariant>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StratumVariant {
    pub name: String,
    pub users: u64,
    pub expected_share: f64,
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
    /// Whether the values from before the exposures differ between the variants, which they must not. `None` without such
    /// values.
    #[serde(default)]
    pub covariate: Option<Covariate>,
    /// Users whose window is not over yet.
    #[serde(default)]
    pub unfinished: u64,
}

/// Comparison of the values from before the exposures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Covariate {
    /// Corrected for the number of treatments and metrics, and valid at any number of looks.
    pub p_value: f64,
    pub alarm: bool,
}

/// Level of a metric in one variant, as counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = MetricLevel)]
pub struct Level {
    pub variant: String,
    /// Users who count for the metric.
    #[serde(default)]
    pub users: u64,
    pub converted: u64,
    /// Mean of the users' values, or the rate of a conversion.
    pub mean: Option<f64>,
    /// Standard deviation of the users' values.
    #[serde(default)]
    pub deviation: Option<f64>,
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
    /// Exact comparison of a rate with too few conversions for an interval of the difference.
    #[serde(default)]
    pub rare: Option<Rare>,
    #[serde(flatten)]
    pub effect: Option<Effect>,
}

/// Comparison of the users who converted, valid at any number of looks and with any number of conversions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RareComparison)]
pub struct Rare {
    pub p_value: f64,
    /// Lower end of the relative difference of the rates; `None` if there is none.
    pub low: Option<f64>,
    /// Upper end of the relative difference of the rates; `None` if there is none.
    pub high: Option<f64>,
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
    /// Error probability of the interval, after the correction for the number of comparisons.
    #[schema(required = false)]
    #[serde(default)]
    pub alpha: f64,
    /// Users of both variants who are compared.
    #[schema(required = false)]
    #[serde(default)]
    pub users: u64,
    /// Users of both variants whose stratum has too few users to be compared.
    #[schema(required = false)]
    #[serde(default)]
    pub left_out: u64,
    /// Relative effect; `None` if the mean of the reference is too close to zero.
    pub relative: Option<Relative>,
    /// Fixed-horizon reading: valid for one look at a time that was fixed in advance.
    pub single_look: Option<SingleLook>,
    /// Bayesian reading: valid for one look, and not used for verdicts.
    #[serde(default)]
    pub bayesian: Option<Bayesian>,
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
        Self {
            experiment,
            counted: None,
            conversions,
            phase,
            earlier_phases: phases,
            conclusions,
            latched: false,
        }
    }

    /// Adds the results by dimensions of the current phase.
    pub fn break_down(&mut self, breakdowns: &[Breakdown]) {
        if let Some(phase) = &mut self.phase {
            let design = &self.experiment.design;
            phase.dimensions = breakdowns.iter().map(|of| dimensions::results(design, of)).collect();
        }
    }
}

#[cfg(test)]
mod tests;
