//! What was counted of an experiment: all that its statistics need.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The counts of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub phase: Phase,
    /// Up to when the rows were counted.
    pub counted_at: DateTime<Utc>,
    /// In the order of the phase's variants.
    pub variants: Vec<VariantTally>,
}

/// As long as the flag's variants and their weights stay the same. Counts of different phases are kept apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// From 1 on.
    pub number: u32,
    /// Of the flag.
    pub first_version: u64,
    pub started_at: DateTime<Utc>,
    /// `None` while it runs.
    pub ended_at: Option<DateTime<Utc>>,
    pub variants: Vec<Weighted>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Weighted {
    pub name: String,
    /// `None` where the flag gives the variant different weights in different rules.
    pub weight: Option<f64>,
}

/// The users of one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantTally {
    pub variant: String,
    /// Each counts once, in the phase's first variant that it saw.
    pub users: u64,
    /// How many of them saw another variant later on.
    pub crossed: u64,
    /// In the order of the design's metrics.
    pub samples: Vec<Sample>,
}

/// Moments of a metric over all users of a variant. A user's value is 1 or 0 of a conversion, the sum of its values of
/// a mean; the value before is the same of the window before the exposure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub users: u64,
    /// Users with at least one conversion.
    pub converted: u64,
    pub sum: f64,
    pub sum_of_squares: f64,
    pub before_sum: f64,
    pub before_sum_of_squares: f64,
    /// Sum of the products of both.
    pub product_sum: f64,
}
