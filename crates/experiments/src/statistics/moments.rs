//! Mean and variance of a metric.

use crate::{Kind, Sample};

/// Variances below this share of the mean square are rounding errors of the sums, and count as zero.
const ROUNDING: f64 = 1e-10;

/// Number of users, mean and variance: the input of all tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    pub users: f64,
    pub mean: f64,
    pub variance: f64,
}

impl Moments {
    /// Computes the moments. `None` without users, or if a sum is not finite.
    pub fn of(sample: &Sample, kind: Kind) -> Option<Self> {
        let users = sample.users as f64;
        let (sum, squares) = match kind {
            Kind::Conversion => (sample.converted as f64, sample.converted as f64),
            Kind::Mean => (sample.sum, sample.sum_of_squares),
        };
        Self {
            users,
            mean: sum / users,
            variance: scatter(users, sum, sum, squares) / (users - 1.0).max(1.0),
        }
        .checked()
    }

    pub fn checked(self) -> Option<Self> {
        (self.users > 0.0 && self.mean.is_finite() && self.variance.is_finite()).then_some(self)
    }

    /// Squared standard error of the mean.
    pub fn error_squared(&self) -> f64 {
        self.variance / self.users
    }
}

/// Sum of the products of two values' deviations from their means.
pub(super) fn scatter(users: f64, sum: f64, other_sum: f64, product_sum: f64) -> f64 {
    let scatter = product_sum - sum * other_sum / users;
    if scatter.abs() <= ROUNDING * product_sum.abs() { 0.0 } else { scatter }
}

/// Merges the samples of several variants.
pub fn together<'s>(samples: impl IntoIterator<Item = &'s Sample>) -> Sample {
    samples.into_iter().fold(Sample::default(), |all, one| Sample {
        users: all.users + one.users,
        converted: all.converted + one.converted,
        sum: all.sum + one.sum,
        sum_of_squares: all.sum_of_squares + one.sum_of_squares,
        before_sum: all.before_sum + one.before_sum,
        before_sum_of_squares: all.before_sum_of_squares + one.before_sum_of_squares,
        product_sum: all.product_sum + one.product_sum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_become_mean_and_unbiased_variance() {
        let sample = Sample { users: 4, sum: 10.0, sum_of_squares: 30.0, ..Sample::default() };
        let moments = Moments::of(&sample, Kind::Mean).unwrap();
        assert_eq!((moments.mean, moments.variance), (2.5, 5.0 / 3.0));
        let all = together([&sample, &sample]);
        assert_eq!(Moments::of(&all, Kind::Mean).unwrap().mean, 2.5);
        let rate =
            Moments::of(&Sample { users: 4, converted: 1, ..Sample::default() }, Kind::Conversion).unwrap();
        assert_eq!((rate.mean, rate.variance), (0.25, 0.25));
    }

    #[test]
    fn nothing_and_nonsense_have_no_moments() {
        assert_eq!(Moments::of(&Sample::default(), Kind::Mean), None);
        assert_eq!(Moments::of(&Sample::default(), Kind::Conversion), None);
        for sum in [f64::NAN, f64::INFINITY] {
            let sample = Sample { users: 4, sum, sum_of_squares: 30.0, ..Sample::default() };
            assert_eq!(Moments::of(&sample, Kind::Mean), None);
        }
    }

    #[test]
    fn rounding_is_no_variance() {
        let (sum, sum_of_squares) = (0..1_000_000).fold((0.0, 0.0), |(s, q), _| (s + 0.1, q + 0.1 * 0.1));
        let sample = Sample { users: 1_000_000, sum, sum_of_squares, ..Sample::default() };
        assert_ne!(sum_of_squares, sum * sum / 1e6);
        assert_eq!(Moments::of(&sample, Kind::Mean).unwrap().variance, 0.0);
    }
}
