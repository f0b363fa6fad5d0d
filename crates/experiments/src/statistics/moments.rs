//! Mean and variance of a metric.

use crate::{Kind, Sample};

use super::quantile;

/// Variances below this share of the mean square are rounding errors of 64-bit numbers, and count as zero.
const ROUNDING: f64 = 1e-24;

/// Number of users, mean and variance: the input of all tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    pub users: f64,
    pub mean: f64,
    pub variance: f64,
}

impl Moments {
    /// Computes the moments. `None` without users, or if a sum is not finite. For a ratio and a quantile, the variance is
    /// the one that the mean of a single value per user would need to have the same standard error.
    pub fn of(sample: &Sample, kind: Kind) -> Option<Self> {
        let users = sample.users as f64;
        let per_user = |scatter: f64| scatter.max(0.0) / (users - 1.0).max(1.0);
        let (mean, variance) = match kind {
            Kind::Ratio => {
                let ratio = sample.mean / sample.other_mean;
                // The delta method: a ratio of means varies like the mean of value - ratio × denominator.
                let scatter = sample.scatter - 2.0 * ratio * sample.product_scatter
                    + ratio * ratio * sample.other_scatter;
                (ratio, per_user(scatter) / (sample.other_mean * sample.other_mean))
            }
            Kind::Quantile => {
                let quantile = sample.quantile?;
                (quantile.value, users * quantile::error(&quantile).powi(2))
            }
            _ => (sample.mean, per_user(sample.scatter)),
        };
        let is_rounding = variance <= ROUNDING * mean * mean;
        Self { users, mean, variance: if is_rounding { 0.0 } else { variance } }.checked()
    }

    pub fn checked(self) -> Option<Self> {
        (self.users > 0.0 && self.mean.is_finite() && self.variance.is_finite()).then_some(self)
    }

    /// Squared standard error of the mean.
    pub fn error_squared(&self) -> f64 {
        self.variance / self.users
    }
}

/// Merges the samples of several variants.
pub fn together<'s>(samples: impl IntoIterator<Item = &'s Sample>) -> Sample {
    samples.into_iter().fold(Sample::default(), |all, one| all.merged(one))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample(values: &[(f64, f64)]) -> Sample {
        let mut sample = Sample::default();
        values.iter().for_each(|(value, other)| sample.push(*value, *other));
        sample
    }

    #[test]
    fn a_sample_becomes_mean_and_unbiased_variance() {
        let four = sample(&[(1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (4.0, 0.0)]);
        let moments = Moments::of(&four, Kind::Mean).unwrap();
        assert_eq!((moments.mean, moments.variance), (2.5, 5.0 / 3.0));
        assert_eq!(Moments::of(&together([&four, &four]), Kind::Mean).unwrap().mean, 2.5);
        let rate = Moments::of(&Sample::rate(4, 1), Kind::Conversion).unwrap();
        assert_eq!((rate.mean, rate.variance), (0.25, 0.25));
    }

    #[test]
    fn a_ratio_is_the_quotient_of_the_sums() {
        let orders = sample(&[(10.0, 1.0), (60.0, 3.0), (20.0, 2.0), (0.0, 0.0)]);
        let moments = Moments::of(&orders, Kind::Ratio).unwrap();
        assert_eq!(moments.mean, 90.0 / 6.0);
        let residuals = [10.0 - 15.0, 60.0 - 45.0, 20.0 - 30.0, 0.0];
        let variance = residuals.iter().map(|of| of * of).sum::<f64>() / 3.0 / 1.5_f64.powi(2);
        assert!((moments.variance - variance).abs() < 1e-12);
        assert_eq!(Moments::of(&sample(&[(1.0, 0.0)]), Kind::Ratio), None, "nothing to divide by");
    }

    #[test]
    fn nothing_and_nonsense_have_no_moments() {
        assert_eq!(Moments::of(&Sample::default(), Kind::Mean), None);
        assert_eq!(Moments::of(&Sample::default(), Kind::Conversion), None);
        for mean in [f64::NAN, f64::INFINITY] {
            assert_eq!(Moments::of(&Sample { users: 4, mean, ..Sample::default() }, Kind::Mean), None);
        }
    }

    #[test]
    fn small_differences_of_large_values_are_variance_and_rounding_is_not() {
        let values: Vec<_> = (0..1_000).map(|n| (1e6 + f64::from(n % 11) - 5.0, 0.0)).collect();
        let variance = Moments::of(&sample(&values), Kind::Mean).unwrap().variance;
        assert!((9.0..11.0).contains(&variance), "{variance}");
        let same: Vec<_> = (0..1_000).map(|_| (0.1 + 0.2, 0.0)).collect();
        assert_eq!(Moments::of(&sample(&same), Kind::Mean).unwrap().variance, 0.0);
    }
}
