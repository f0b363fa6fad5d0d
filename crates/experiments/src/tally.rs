//! Counts of an experiment, which are the input of its statistics.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Counts of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub phase: Phase,
    /// Time up to which the rows were counted.
    pub counted_at: DateTime<Utc>,
    /// Counts in the order of the phase's variants.
    pub variants: Vec<VariantTally>,
}

/// Period in which the flag's variants and weights stay the same. Counts of different phases are not mixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Number of the phase, starting at 1.
    pub number: u32,
    /// First version of the flag in this phase.
    pub first_version: u64,
    pub started_at: DateTime<Utc>,
    /// End of the phase; `None` while it runs.
    pub ended_at: Option<DateTime<Utc>>,
    pub variants: Vec<Weighted>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Weighted {
    pub name: String,
    /// Weight of the variant; `None` if the flag's rules give it different weights.
    pub weight: Option<f64>,
}

/// Counts of one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantTally {
    pub variant: String,
    /// Number of users. Each counts once, in the first of the phase's variants that the user saw.
    pub users: u64,
    /// Number of these users who later saw another variant.
    pub crossed: u64,
    /// Samples in the order of the design's metrics.
    pub samples: Vec<Sample>,
}

/// Moments of a metric over all users of a variant. A user's value is 1 or 0 for a conversion, and the sum of the
/// user's values for a mean. The value before is the same for the window before the exposure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub users: u64,
    /// Users with at least one conversion.
    pub converted: u64,
    pub sum: f64,
    pub sum_of_squares: f64,
    pub before_sum: f64,
    pub before_sum_of_squares: f64,
    /// Sum of the products of a user's value and value before.
    pub product_sum: f64,
}
