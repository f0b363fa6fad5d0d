//! Statistics of experiments as pure functions of the counts. docs/experiments.md explains their meaning.
//!
//! - [`boundary`]: how far apart two means must be to differ significantly at any number of looks.
//! - [`difference`]: the difference between two variants, and the tests for a single look.
//! - [`cuped`]: variance reduction by values from before the exposure.
//! - [`planning`]: the detectable effect, and the number of users needed.
//! - [`rare`]: whether few conversions are split like the users.
//! - [`quantile`]: the standard error of a quantile.
//! - [`readings`]: the same difference as other methods read it.
//! - [`sample_ratio`]: whether the users were split according to the weights.

pub mod boundary;
pub mod cuped;
pub mod difference;
pub mod moments;
pub mod planning;
pub mod quantile;
pub mod rare;
pub mod readings;
pub mod sample_ratio;

pub use boundary::Boundary;
pub use cuped::Cuped;
pub use difference::{Difference, Estimate, Interval, Pair, SingleLook};
pub use moments::Moments;

use statrs::distribution::{ContinuousCDF, Normal};

/// Quantile of the standard normal distribution.
pub(crate) fn normal_quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}

/// Two-sided p-value of a standard normal value.
pub(crate) fn normal_p_value(z: f64) -> f64 {
    (2.0 * Normal::standard().sf(z.abs())).min(1.0)
}
