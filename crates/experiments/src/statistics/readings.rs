//! Readings of a difference by methods that are valid for a single look. They inform; verdicts never depend on them.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};
use utoipa::ToSchema;

use super::{Estimate, Interval, normal_quantile};

/// Bayesian reading with a flat prior: the posterior of the difference is normal around the estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = BayesianReading)]
pub struct Bayesian {
    /// Probability that the treatment's mean is higher.
    pub chance_higher: f64,
    /// Interval that contains the difference with the design's confidence, not corrected for the number of comparisons.
    pub credible_interval: Interval,
}

/// Reads an estimate. `None` if its error is zero or not finite.
pub fn bayesian(difference: &Estimate, confidence: f64) -> Option<Bayesian> {
    let z = difference.value / difference.error;
    let errors = normal_quantile(1.0 - (1.0 - confidence) / 2.0);
    z.is_finite().then(|| Bayesian {
        chance_higher: Normal::standard().cdf(z),
        credible_interval: difference.within(errors),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn two_errors_above_zero_are_nearly_certain() {
        let reading = bayesian(&Estimate { value: 1.96, error: 1.0 }, 0.95).unwrap();
        assert!((reading.chance_higher - 0.975).abs() < 1e-4);
        assert!(reading.credible_interval.low.abs() < 1e-3);
        assert_eq!(bayesian(&Estimate { value: 0.0, error: 0.0 }, 0.95), None);
    }
}
