//! Difference between two variants.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};
use utoipa::ToSchema;

use super::{Boundary, Moments, normal_p_value, normal_quantile};

/// Minimum distance of the control mean from zero, in standard errors, for a relative difference. Closer to zero it is
/// too uncertain to divide by.
const CONTROL_FROM_ZERO_ERRORS: f64 = 8.0;
/// Largest extension of an interval beyond the interval with a fixed error, as a multiple of its half. Beyond it, the
/// variances are too uncertain for an interval.
const EXTENSION_MAX: f64 = 20.0;
/// Factor between two steps of the search for an interval's end.
const EXTENSION_STEP: f64 = 1.1;
/// Steps that halve the distance to an interval's end.
const SEARCH_STEPS: u32 = 50;

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

/// Moments of both variants in one stratum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    pub control: Moments,
    pub treatment: Moments,
}

/// Treatment minus control, combined over the strata in proportion to their users.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Users of both variants.
    pub users: f64,
    pub control: f64,
    pub treatment: f64,
    /// Whether an effect is assumed to multiply the values, and so also their spread.
    scales: bool,
    /// Share of each stratum in the users, and its moments.
    strata: Vec<(f64, Pair)>,
}

/// Result of a test that is valid for a single look at a predetermined time, and not for deciding when to stop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SingleLook {
    pub interval: Interval,
    pub p_value: f64,
}

impl Difference {
    pub fn between(control: &Moments, treatment: &Moments, scales: bool) -> Self {
        Self::of(&[Pair { control: *control, treatment: *treatment }], scales)
    }

    pub fn of(pairs: &[Pair], scales: bool) -> Self {
        let of_pair = |pair: &Pair| pair.control.users + pair.treatment.users;
        let users: f64 = pairs.iter().map(of_pair).sum();
        let strata: Vec<_> = pairs.iter().map(|pair| (of_pair(pair) / users, *pair)).collect();
        let mean = |of: fn(&Pair) -> f64| strata.iter().map(|(share, pair)| share * of(pair)).sum();
        Self {
            users,
            control: mean(|pair| pair.control.mean),
            treatment: mean(|pair| pair.treatment.mean),
            scales,
            strata,
        }
    }

    /// The difference, with the standard error that it would have if there were no effect.
    pub fn absolute(&self) -> Estimate {
        let value = self.treatment - self.control;
        Estimate { value, error: self.error_at(0.0) }
    }

    /// Smallest error probability at which the interval excludes zero, at any number of looks.
    pub fn p_value(&self, boundary: &Boundary) -> f64 {
        let Estimate { value, error } = self.absolute();
        boundary.p_value(value / error, self.users)
    }

    /// Interval of the difference, `errors` standard errors wide on each side. `None` if it has no end, because the
    /// variances are too uncertain.
    pub fn interval(&self, errors: f64) -> Option<Interval> {
        let value = self.treatment - self.control;
        let contains = |effect: f64| (value - effect).abs() <= errors * self.error_at(effect);
        ends(value, errors * self.error_at(value).max(self.error_at(0.0)), contains)
    }

    /// Whether the interval of the difference contains a value.
    pub fn contains(&self, effect: f64, errors: f64) -> bool {
        (self.treatment - self.control - effect).abs() <= errors * self.error_at(effect)
    }

    /// Difference relative to the absolute value of the control mean, with its interval. `None` if the control mean is
    /// too close to zero, or the interval has no end.
    pub fn relative(&self, errors: f64) -> Option<(f64, Interval)> {
        let base = self.base()?;
        let value = (self.treatment - self.control) / base;
        let contains = |effect: f64| self.contains_relative(effect, errors);
        let error = self.error_of_ratio(self.treatment / self.control).max(self.error_of_ratio(1.0));
        let interval = ends(value, errors * error / base, contains)?;
        Some((value, interval))
    }

    /// Whether the interval of the relative difference contains a value.
    pub fn contains_relative(&self, effect: f64, errors: f64) -> bool {
        let ratio = 1.0 + effect * self.control.signum();
        (self.treatment - ratio * self.control).abs() <= errors * self.error_of_ratio(ratio)
    }

    /// Relative difference by the delta method, for a single look.
    pub fn relative_delta(&self) -> Option<Estimate> {
        let base = self.base()?;
        let ratio = self.treatment / self.control;
        let own = |pair: &Pair| pair.treatment.error_squared() + ratio * ratio * pair.control.error_squared();
        let error = self.combined(ratio, own).sqrt() / base;
        Some(Estimate { value: (self.treatment - self.control) / base, error })
    }

    /// Absolute value of the control mean, if it is far enough from zero.
    fn base(&self) -> Option<f64> {
        let squared: f64 =
            self.strata.iter().map(|(share, pair)| share * share * pair.control.error_squared()).sum();
        let base = self.control.abs();
        (base > CONTROL_FROM_ZERO_ERRORS * squared.sqrt()).then_some(base)
    }

    /// Standard error of the difference if its true value were `effect`.
    ///
    /// Without an effect both variants have one variance. With few treated users and a skewed metric, a low mean comes
    /// with an underestimated variance, so the error is never smaller than with the pooled variance. With an effect that
    /// multiplies the values, the variance of the one variant follows from the other's, and the same applies.
    fn error_at(&self, effect: f64) -> f64 {
        let ratio = self.ratio_at(effect);
        let own = |pair: &Pair| {
            let plain = pair.control.error_squared() + pair.treatment.error_squared();
            let scaled = ratio.map_or(0.0, |ratio| {
                let variance = pooled(pair, ratio);
                variance / pair.control.users + ratio * ratio * variance / pair.treatment.users
            });
            let one = pooled(pair, 1.0);
            plain.max(scaled).max(one / pair.control.users + one / pair.treatment.users)
        };
        self.combined(1.0, own).sqrt()
    }

    /// Ratio of the means if the true difference were `effect`, from the mean of the larger variant, which is more
    /// certain. `None` without a ratio.
    fn ratio_at(&self, effect: f64) -> Option<f64> {
        self.base().filter(|_| self.scales && effect != 0.0)?;
        let users = |of: fn(&Pair) -> f64| self.strata.iter().map(|(_, pair)| of(pair)).sum::<f64>();
        let ratio = if users(|pair| pair.control.users) >= users(|pair| pair.treatment.users) {
            (self.control + effect) / self.control
        } else {
            self.treatment / (self.treatment - effect)
        };
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }

    /// Standard error of `treatment - ratio × control` if `ratio` were the true ratio of the means.
    fn error_of_ratio(&self, ratio: f64) -> f64 {
        let squared = ratio * ratio;
        let own = |pair: &Pair| {
            let plain = pair.treatment.error_squared() + squared * pair.control.error_squared();
            let (of_treatment, of_control) = (1.0 / pair.treatment.users, 1.0 / pair.control.users);
            // The variance of the treatment, from both variants.
            let pooled = if self.scales {
                let Pair { control, treatment } = pair;
                let scatter = (control.users - 1.0) * squared * control.variance
                    + (treatment.users - 1.0) * treatment.variance;
                scatter / (control.users + treatment.users - 2.0) * (of_treatment + of_control)
            } else {
                pooled(pair, 1.0) * (of_treatment + squared * of_control)
            };
            plain.max(pooled)
        };
        self.combined(ratio, own).sqrt()
    }

    /// Squared error over all strata, and of their shares: each stratum may have another effect.
    fn combined(&self, ratio: f64, own: impl Fn(&Pair) -> f64) -> f64 {
        let all = self.treatment - ratio * self.control;
        let within: f64 = self.strata.iter().map(|(share, pair)| share * share * own(pair)).sum();
        let between = |(share, pair): &(f64, Pair)| {
            share * (pair.treatment.mean - ratio * pair.control.mean - all).powi(2)
        };
        if self.strata.len() == 1 {
            return within;
        }
        within + self.strata.iter().map(between).sum::<f64>() / self.users
    }
}

/// Variance of the control, estimated from both variants, if the values of the treatment are `ratio` times as large.
fn pooled(pair: &Pair, ratio: f64) -> f64 {
    let Pair { control, treatment } = pair;
    let freedom = control.users + treatment.users - 2.0;
    ((control.users - 1.0) * control.variance
        + (treatment.users - 1.0) * treatment.variance / (ratio * ratio))
        / freedom
}

/// Ends of the values around `value` that are contained, searched from `half` outwards. `None` if there is no end.
fn ends(value: f64, half: f64, contains: impl Fn(f64) -> bool) -> Option<Interval> {
    let end = |sign: f64| {
        let (mut inside, mut outside) = (0.0, half);
        while contains(value + sign * outside) {
            inside = outside;
            outside *= EXTENSION_STEP;
            if outside > EXTENSION_MAX * half {
                return None;
            }
        }
        for _ in 0..SEARCH_STEPS {
            let middle = f64::midpoint(inside, outside);
            if contains(value + sign * middle) { inside = middle } else { outside = middle }
        }
        Some(value + sign * f64::midpoint(inside, outside))
    };
    let found = half > 0.0 && half.is_finite();
    found.then(|| Some(Interval { low: end(-1.0)?, high: end(1.0)? })).flatten()
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

/// Test for a single look: of several strata by the normal distribution, otherwise Welch's or of two rates.
pub fn single_look(pairs: &[Pair], is_rate: bool, alpha: f64) -> Option<SingleLook> {
    match pairs {
        [pair] if is_rate => two_rates(&pair.control, &pair.treatment, alpha),
        [pair] => welch(&pair.control, &pair.treatment, alpha),
        _ => {
            let difference = Difference::of(pairs, false);
            let own = |pair: &Pair| pair.control.error_squared() + pair.treatment.error_squared();
            let error = difference.combined(1.0, own).sqrt();
            let value = difference.treatment - difference.control;
            let interval = Estimate { value, error }.within(normal_quantile(1.0 - alpha / 2.0));
            let z = value / error;
            z.is_finite().then(|| SingleLook { interval, p_value: normal_p_value(z) })
        }
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn moments(users: f64, mean: f64, variance: f64) -> Moments {
        Moments { users, mean, variance }
    }

    #[test]
    fn there_is_no_relative_difference_to_nothing() {
        let nothing = moments(100.0, 0.0, 0.0);
        let little = moments(100.0, 0.01, 1.0);
        let much = moments(100.0, -5.0, 1.0);
        let relative = |control, treatment| Difference::between(control, treatment, true).relative(3.0);
        assert_eq!(relative(&nothing, &much), None);
        assert_eq!(relative(&little, &much), None);
        let (value, interval) = relative(&much, &nothing).unwrap();
        assert!((value - 1.0).abs() < 1e-12, "more than a negative mean is more");
        assert!(interval.low < 1.0 && interval.high > 1.0 && interval.low > 0.5, "{interval:?}");
    }

    #[test]
    fn a_test_of_constants_has_no_answer() {
        let constant = moments(100.0, 1.0, 0.0);
        assert_eq!(welch(&constant, &constant, 0.05), None);
        assert_eq!(two_rates(&constant, &constant, 0.05), None);
        assert_eq!(Difference::between(&constant, &constant, true).interval(3.0), None);
    }

    #[test]
    fn both_intervals_exclude_zero_together() {
        for z in [2.9, 3.1] {
            let control = moments(9_000.0, 10.0, 50.0);
            let treatment = moments(1_000.0, 10.0, 20.0);
            let error = Difference::between(&control, &treatment, true).absolute().error;
            let treatment = Moments { mean: 10.0 + z * error, ..treatment };
            let difference = Difference::between(&control, &treatment, true);
            let (absolute, relative) =
                (difference.interval(3.0).unwrap(), difference.relative(3.0).unwrap().1);
            assert_eq!(
                (absolute.low > 0.0, relative.low > 0.0),
                (z > 3.0, z > 3.0),
                "{absolute:?} {relative:?}"
            );
        }
    }

    #[test]
    fn the_variance_of_few_users_is_derived_from_that_of_many() {
        // The treatment doubles the values, but its few users have not shown the large ones yet.
        let control = moments(54_000.0, 10.0, 10_000.0);
        let treatment = moments(6_000.0, 15.0, 2_000.0);
        let scaled = Difference::between(&control, &treatment, true);
        let plain = Difference::between(&control, &treatment, false);
        assert!(scaled.contains(10.0, 3.0) && !plain.contains(10.0, 3.0));
        assert!(scaled.contains_relative(1.0, 3.0) && !plain.contains_relative(1.0, 3.0));
        let interval = scaled.interval(3.0).unwrap();
        assert!(interval.high > 10.0 && scaled.contains(interval.high - 1e-6, 3.0), "{interval:?}");
        assert!(!scaled.contains(interval.high + 1e-6, 3.0));
    }

    #[test]
    fn strata_are_compared_each_and_combined_by_their_users() {
        // Premium users are split evenly and buy more; the others are split 9:1. Pooled, the treatment buys more.
        let pair = |control: f64, treatment: f64, rate: f64| Pair {
            control: moments(control, rate, rate * (1.0 - rate)),
            treatment: moments(treatment, rate, rate * (1.0 - rate)),
        };
        let pairs = [pair(6_300.0, 700.0, 0.05), pair(1_500.0, 1_500.0, 0.4)];
        let difference = Difference::of(&pairs, false);
        assert!(difference.absolute().value.abs() < 1e-12);
        assert!((difference.control - (0.7 * 0.05 + 0.3 * 0.4)).abs() < 1e-12);
        let own = |pair: &Pair| pair.control.error_squared() + pair.treatment.error_squared();
        let error = (0.49 * own(&pairs[0]) + 0.09 * own(&pairs[1])).sqrt();
        assert!((difference.absolute().error / error - 1.0).abs() < 1e-9);
        let look = single_look(&pairs, true, 0.05).unwrap();
        assert!((look.p_value - 1.0).abs() < 1e-9);
        assert_eq!(
            Difference::of(&pairs[..1], true),
            Difference::between(&pairs[0].control, &pairs[0].treatment, true)
        );
    }
}
