//! What an experiment has shown so far, computed from what was counted.

mod comparison;
mod conclusions;
mod phase;
mod verdict;
pub mod words;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::statistics::{Interval, SingleLook};
use super::{Design, Metric, Tally};

pub use comparison::{Family, Missing, compare};
pub use conclusions::{Conclusion, Finding};
pub use phase::SAMPLE_RATIO_ALPHA;
pub use verdict::Verdict;

/// What the API tells of an experiment, and the command line renders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentResults)]
pub struct Results {
    #[serde(flatten)]
    pub experiment: Experiment,
    pub conversions: Conversions,
    /// The current phase, or the one in which the experiment was stopped. `None` until the flag has been seen.
    pub phase: Option<PhaseResults>,
    /// Before the flag's variants or weights were changed, the oldest first.
    pub earlier_phases: Vec<PhaseResults>,
    /// In plain words; alarms first.
    pub conclusions: Vec<Conclusion>,
}

/// An experiment and how it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Experiment {
    #[serde(flatten)]
    pub design: Design,
    pub status: Status,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: DateTime<Utc>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub stopped_at: Option<DateTime<Utc>>,
    /// Why it was stopped.
    pub reason: Option<String>,
    /// The variant that was chosen when it was stopped.
    pub winner: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ExperimentStatus)]
pub enum Status {
    Running,
    Stopped,
}

/// What became of the conversions of all phases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ConversionCounts)]
pub struct Conversions {
    pub attributed: u64,
    /// For an exposure.
    pub waiting: u64,
    /// There was no exposure within the window.
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
    /// They are more than one per cent.
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
    /// What the weights say. `None` where they are unknown.
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
    /// `None` where a weight is unknown, or there is nothing to compare.
    pub tested: Option<SampleRatioTest>,
    /// Raised by the test that may be looked at all the time.
    pub alarm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleRatioTest {
    pub p_value: f64,
    /// Of the chi-squared test.
    pub single_look_p_value: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricResults {
    #[serde(flatten)]
    pub metric: Metric,
    /// In the order of the phase's variants.
    pub levels: Vec<Level>,
    /// Of each treatment with the control.
    pub comparisons: Vec<Comparison>,
    /// Of all others together with the holdout.
    pub holdout: Option<Comparison>,
    /// Where values from before the exposures say something: the comparisons are adjusted for them.
    pub cuped: Option<Adjustment>,
}

/// A metric in one variant, as counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = MetricLevel)]
pub struct Level {
    pub variant: String,
    pub converted: u64,
    /// The rate of a conversion.
    pub mean: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Adjustment {
    pub theta: f64,
    /// Share of the variance that is taken away.
    pub variance_reduction: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    pub variant: String,
    pub verdict: Verdict,
    /// Why there is nothing to compare yet.
    pub missing: Option<Missing>,
    #[serde(flatten)]
    pub effect: Option<Effect>,
}

/// Absent as a whole while something is missing. All intervals are corrected for the number of comparisons, and all but those under `single_look` hold however often
/// one looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Effect {
    #[schema(required = false)]
    pub difference: f64,
    #[schema(required = false)]
    pub interval: Interval,
    #[schema(required = false)]
    pub p_value: f64,
    /// `None` where the mean of what it is compared with is too near zero.
    pub relative: Option<Relative>,
    pub single_look: Option<SingleLook>,
    /// How many users more of the whole experiment it takes to find `minimum_effect`. `None`: too many.
    pub users_left: Option<u64>,
    /// The time in which they come if as many come as did so far. `None` for a phase that has ended, too.
    pub seconds_left: Option<u64>,
}

/// To the mean of what it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RelativeEffect)]
pub struct Relative {
    pub difference: f64,
    pub interval: Interval,
    /// The smallest effect that these users show with the design's power.
    pub minimum_detectable_effect: f64,
}

impl Results {
    /// `tallies`: one for each phase, the oldest first.
    pub fn of(experiment: Experiment, tallies: &[Tally], conversions: Conversions) -> Self {
        let mut phases: Vec<_> =
            tallies.iter().map(|tally| phase::results(&experiment.design, tally)).collect();
        let phase = phases.pop();
        let conclusions = conclusions::of(&experiment, phase.as_ref());
        Self { experiment, conversions, phase, earlier_phases: phases, conclusions }
    }
}

#[cfg(test)]
pub(crate) mod tests;
