//! Counts of an experiment, which are the input of its statistics.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::assignment::DrawList;

/// Counts of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub phase: Phase,
    /// Time up to which the rows were counted.
    pub counted_at: DateTime<Utc>,
    /// Users whose variant was drawn with the same probabilities, and who therefore can be compared.
    pub strata: Vec<Stratum>,
    pub excluded: Excluded,
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
    /// Draws of the flag that include the control.
    pub lists: Vec<DrawList>,
    /// Variants that a rule or an override of the flag serves without a draw.
    pub forced: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Weighted {
    pub name: String,
    /// Weight of the variant; `None` if the flag's rules give it different weights.
    pub weight: Option<f64>,
}

/// Users whose variant was drawn with the same weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stratum {
    pub list: DrawList,
    /// Counts in the order of the phase's variants.
    pub variants: Vec<VariantTally>,
}

/// Users who are not compared, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExcludedUsers)]
pub struct Excluded {
    /// Users whose variant was not drawn: a rule or an override gives it to everyone whom it matches.
    pub forced: u64,
    /// Users whose variant was drawn from variants without the control.
    pub other: u64,
    /// Users of whom it is not known how their variant was chosen. Their evaluations come from a version of flagstream
    /// that did not record it, and the flag's rules allow more than one way.
    pub unknown: u64,
    /// Users who saw more than one variant, if the design excludes them.
    #[serde(default)]
    pub crossed: u64,
}

/// Counts of one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantTally {
    pub variant: String,
    /// Number of users. Each counts once, in the first variant that the user saw.
    pub users: u64,
    /// Number of these users who later saw another variant.
    pub crossed: u64,
    /// Number of these users who saw another variant in an earlier phase.
    #[serde(default)]
    pub changed: u64,
    /// Samples in the order of the design's metrics.
    pub samples: Vec<Sample>,
}

/// Moments of a metric over all users of a variant. A user's value is 1 or 0 for a rate, and the sum of the user's values
/// for a mean. The other value of a user is the same for the window before the user's first exposure; for a ratio it is
/// the user's denominator.
///
/// Deviations from the mean are summed, not values: sums of squares of large values that differ little would lose them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Users who count for the metric.
    pub users: u64,
    /// Users whose window is not over.
    pub unfinished: u64,
    /// Users with at least one conversion.
    pub converted: u64,
    pub mean: f64,
    /// Sum of the squared deviations of the values.
    pub scatter: f64,
    pub other_mean: f64,
    pub other_scatter: f64,
    /// Sum of the products of both deviations.
    pub product_scatter: f64,
    /// Largest absolute value of a user.
    pub largest: f64,
    /// Quantile of the values, for metrics that compare it.
    pub quantile: Option<QuantileSample>,
}

/// Quantile of the users' values, with two neighbours that determine its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QuantileSample {
    pub value: f64,
    /// Quantiles [`crate::statistics::quantile::NEIGHBOUR_ERRORS`] standard errors of the share below and above.
    pub low: f64,
    pub high: f64,
}

impl Excluded {
    pub fn total(&self) -> u64 {
        self.forced + self.other + self.unknown + self.crossed
    }
}

impl Tally {
    /// Counts of a variant in all strata.
    pub fn of_variant<'t>(&'t self, name: &'t str) -> impl Iterator<Item = &'t VariantTally> {
        self.strata.iter().flat_map(|stratum| &stratum.variants).filter(move |of| of.variant == name)
    }

    pub fn users(&self) -> u64 {
        self.strata.iter().map(Stratum::users).sum()
    }
}

impl Stratum {
    pub fn users(&self) -> u64 {
        self.variants.iter().map(|variant| variant.users).sum()
    }
}

impl Sample {
    /// Sample of a rate.
    pub fn rate(users: u64, converted: u64) -> Self {
        Self { users: converted, converted, mean: 1.0, largest: 1.0, ..Self::default() }
            .with_zeros(users.saturating_sub(converted))
    }

    /// Adds one user.
    pub fn push(&mut self, value: f64, other: f64) {
        *self = self.merged(&Self {
            users: 1,
            converted: 1,
            mean: value,
            other_mean: other,
            largest: value.abs(),
            ..Self::default()
        });
    }

    /// Adds users whose values are zero.
    pub fn with_zeros(self, users: u64) -> Self {
        self.merged(&Self { users, ..Self::default() })
    }

    /// Merges two samples (Chan, Golub and LeVeque, 1979): no large numbers are subtracted from each other.
    pub fn merged(&self, more: &Self) -> Self {
        let counts = Self {
            users: self.users + more.users,
            unfinished: self.unfinished + more.unfinished,
            converted: self.converted + more.converted,
            largest: self.largest.max(more.largest),
            ..Self::default()
        };
        if self.users == 0 || more.users == 0 {
            let one = if self.users == 0 { more } else { self };
            return Self { users: counts.users, unfinished: counts.unfinished, ..*one };
        }
        let (n, m) = (self.users as f64, more.users as f64);
        let (share, between) = (m / (n + m), n * m / (n + m));
        let (value, other) = (more.mean - self.mean, more.other_mean - self.other_mean);
        Self {
            mean: self.mean + share * value,
            scatter: self.scatter + more.scatter + between * value * value,
            other_mean: self.other_mean + share * other,
            other_scatter: self.other_scatter + more.other_scatter + between * other * other,
            product_scatter: self.product_scatter + more.product_scatter + between * value * other,
            ..counts
        }
    }

    /// Share of the largest user in the sum of squares.
    pub fn share_of_largest(&self) -> f64 {
        let squares = self.scatter + self.users as f64 * self.mean * self.mean;
        if squares > 0.0 { self.largest * self.largest / squares } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} is not {b}");
    }

    #[test]
    fn merged_samples_are_the_sample_of_all() {
        let pairs: Vec<(f64, f64)> =
            (0..50).map(|n| (f64::from(n * n % 17), f64::from(n * 7 % 11))).collect();
        let sample = |pairs: &[(f64, f64)]| {
            let mut sample = Sample::default();
            pairs.iter().for_each(|(value, other)| sample.push(*value, *other));
            sample
        };
        let (all, parts) = (sample(&pairs), sample(&pairs[..20]).merged(&sample(&pairs[20..])));
        let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / 50.0;
        let (value, other) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let scatter = pairs.iter().map(|pair| (pair.0 - value).powi(2)).sum::<f64>();
        let product = pairs.iter().map(|pair| (pair.0 - value) * (pair.1 - other)).sum::<f64>();
        for sample in [all, parts] {
            assert_eq!((sample.users, sample.largest), (50, 16.0));
            close(sample.mean, value);
            close(sample.other_mean, other);
            close(sample.scatter, scatter);
            close(sample.product_scatter, product);
        }
    }

    #[test]
    fn zeros_count_as_users() {
        let rate = Sample::rate(200, 50);
        assert_eq!((rate.users, rate.converted, rate.mean), (200, 50, 0.25));
        close(rate.scatter, 200.0 * 0.25 * 0.75);
        assert_eq!(Sample::rate(10, 0).mean, 0.0);
        assert_eq!(Sample::rate(0, 0), Sample::default());
    }

    #[test]
    fn large_values_that_differ_little_keep_their_variance() {
        let mut sample = Sample::default();
        (0..1_000).for_each(|n| sample.push(1e6 + f64::from(n % 11) - 5.0, 0.0));
        let mut small = Sample::default();
        (0..1_000).for_each(|n| small.push(f64::from(n % 11) - 5.0, 0.0));
        assert!((sample.scatter / small.scatter - 1.0).abs() < 1e-9);
    }
}
