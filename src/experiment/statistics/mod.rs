//! The statistics of experiments: pure functions of what was counted. docs/experiments.md tells what they mean.
//!
//! - [`boundary`]: how far apart two means must be when one looks all the time.
//! - [`difference`]: two variants compared, and the tests for one look.
//! - [`cuped`]: the same with less noise, where values from before the exposure are known.
//! - [`planning`]: how small an effect can be found, and how many users more it takes.
//! - [`sample_ratio`]: whether the users were split as they should have been.

pub mod boundary;
pub mod cuped;
pub mod difference;
pub mod moments;
pub mod planning;
pub mod sample_ratio;

pub use boundary::Boundary;
pub use cuped::Cuped;
pub use difference::{Difference, Estimate, Interval, SingleLook};
pub use moments::Moments;

use statrs::distribution::{ContinuousCDF, Normal};

/// What a standard normal variable is at most with this probability.
pub(crate) fn normal_quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}

/// Two-sided.
pub(crate) fn normal_p_value(z: f64) -> f64 {
    (2.0 * Normal::standard().sf(z.abs())).min(1.0)
}
