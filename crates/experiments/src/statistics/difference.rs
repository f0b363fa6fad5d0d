//! Difference between two variants.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};
use utoipa::ToSchema;

use super::{Boundary, Moments, normal_p_value, normal_quantile};

/// Minimum distance of the control mean from zero, in standard errors, for a relative difference. Closer to zero it is
/// too uncertain to divide by.
const CONTROL_FROM_ZERO_ERRORS: f64 = 8.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub error: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// Treatment minus control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Users of both variants.
    pub users: f64,
    pub absolute: Estimate,
    /// Difference relative to the absolute value of the control mean, by the delta method. It has the sign of the
    /// absolute difference.
    pub relative: Option<Estimate>,
}

/// Result of a test that is valid for a single look at a predetermined time, and not for deciding when to stop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SingleLook {
    pub interval: Interval,
    pub p_value: f64,
}

impl Difference {
    pub fn between(control: &Moments, treatment: &Moments) -> Self {
        let (of_control, of_treatment) = (control.error_squared(), treatment.error_squared());
        let value = treatment.mean - control.mean;
        let caution = caution(control, treatment);
        let error = caution * (of_control + of_treatment).sqrt();
        let base = control.mean.abs();
        let relative = (base > CONTROL_FROM_ZERO_ERRORS * of_control.sqrt()).then(|| {
            let ratio = treatment.mean / base;
            let error = caution * (of_treatment + ratio * ratio * of_control).sqrt() / base;
            Estimate { value: value / base, error }
        });
        Self { users: control.users + treatment.users, absolute: Estimate { value, error }, relative }
    }

    /// Smallest error probability at which the interval excludes zero, at any number of looks.
    pub fn p_value(&self, boundary: &Boundary) -> f64 {
        boundary.p_value(self.absolute.value / self.absolute.error, self.users)
    }
}

/// Factor that increases the standard error. With few treated users and a skewed metric, a low mean comes with an
/// underestimated variance. Therefore the error is never smaller than with one pooled variance; for equal group sizes
/// both are the same.
fn caution(control: &Moments, treatment: &Moments) -> f64 {
    let freedom = control.users + treatment.users - 2.0;
    let one =
        ((control.users - 1.0) * control.variance + (treatment.users - 1.0) * treatment.variance) / freedom;
    let of_one = one * (1.0 / control.users + 1.0 / treatment.users);
    let caution = (of_one / (control.error_squared() + treatment.error_squared())).sqrt();
    if caution > 1.0 { caution } else { 1.0 }
}

impl Estimate {
    pub fn within(&self, errors: f64) -> Interval {
        Interval { low: self.value - errors * self.error, high: self.value + errors * self.error }
    }
}

impl Interval {
    pub fn is_above(&self, bound: f64) -> bool {
        self.low > bound
    }

    pub fn is_below(&self, bound: f64) -> bool {
        self.high < bound
    }
}

/// Welch's t-test. `None` if it is undefined, for example for constants.
pub fn welch(control: &Moments, treatment: &Moments, alpha: f64) -> Option<SingleLook> {
    let value = treatment.mean - control.mean;
    let error = (control.error_squared() + treatment.error_squared()).sqrt();
    let part = |of: &Moments| of.error_squared().powi(2) / (of.users - 1.0);
    let freedom = error.powi(4) / (part(control) + part(treatment));
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let interval = Estimate { value, error }.within(t.inverse_cdf(1.0 - alpha / 2.0));
    Some(SingleLook { interval, p_value: (2.0 * t.sf((value / error).abs())).min(1.0) })
}

/// z-test of two rates: pooled for the p-value, whose hypothesis is that they are equal, and not pooled for the
/// interval. `None` if it is undefined.
pub fn two_rates(control: &Moments, treatment: &Moments, alpha: f64) -> Option<SingleLook> {
    let spread = |rate: f64| rate * (1.0 - rate);
    let users = control.users + treatment.users;
    let pooled = (control.mean * control.users + treatment.mean * treatment.users) / users;
    let value = treatment.mean - control.mean;
    let z = value / (spread(pooled) * (1.0 / control.users + 1.0 / treatment.users)).sqrt();
    let error = (spread(control.mean) / control.users + spread(treatment.mean) / treatment.users).sqrt();
    let interval = Estimate { value, error }.within(normal_quantile(1.0 - alpha / 2.0));
    z.is_finite().then(|| SingleLook { interval, p_value: normal_p_value(z) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_relative_difference_to_nothing() {
        let nothing = Moments { users: 100.0, mean: 0.0, variance: 0.0 };
        let little = Moments { users: 100.0, mean: 0.01, variance: 1.0 };
        let much = Moments { users: 100.0, mean: -5.0, variance: 1.0 };
        assert_eq!(Difference::between(&nothing, &much).relative, None);
        assert_eq!(Difference::between(&little, &much).relative, None);
        let relative = Difference::between(&much, &nothing).relative.unwrap();
        assert!((relative.value - 1.0).abs() < 1e-12, "more than a negative mean is more");
    }

    #[test]
    fn a_test_of_constants_has_no_answer() {
        let constant = Moments { users: 100.0, mean: 1.0, variance: 0.0 };
        assert_eq!(welch(&constant, &constant, 0.05), None);
        assert_eq!(two_rates(&constant, &constant, 0.05), None);
    }
}
