//! Variance reduction by values from before the exposure (CUPED): Deng, Xu, Kohavi and Walker, "Improving the
//! sensitivity of online controlled experiments by utilizing pre-experiment data" (WSDM 2013).

use super::moments::scatter;
use super::{Moments, moments};
use crate::{Kind, Sample};

/// Adjustment of each user's value by `theta` times the distance of the value before from its mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cuped {
    kind: Kind,
    pub theta: f64,
    /// Share of the variance that the adjustment removes.
    pub variance_reduction: f64,
    /// Mean of the values before over all variants. The means of the variants differ only by chance, which the
    /// adjustment corrects.
    before_mean: f64,
}

/// Sums of squared deviations, and of their products, within one variant.
struct Scatter {
    after: f64,
    before: f64,
    product: f64,
}

impl Cuped {
    /// Computes one `theta` for all variants from the deviations within each. `None` if the values before explain
    /// nothing.
    pub fn of<'s>(samples: impl IntoIterator<Item = &'s Sample> + Clone, kind: Kind) -> Option<Self> {
        let all = moments::together(samples.clone());
        let mut sum = Scatter { after: 0.0, before: 0.0, product: 0.0 };
        for sample in samples.into_iter().filter(|sample| sample.users > 0) {
            let of_one = Scatter::of(sample, kind);
            sum.after += of_one.after;
            sum.before += of_one.before;
            sum.product += of_one.product;
        }
        let theta = sum.product / sum.before;
        let variance_reduction = theta * sum.product / sum.after;
        let before_mean = all.before_sum / all.users as f64;
        let usable = theta.is_finite() && before_mean.is_finite() && variance_reduction > 0.0;
        // More than the whole variance cannot be removed: such sums do not belong to one set of users.
        (usable && variance_reduction <= 1.0).then_some(Self { kind, theta, variance_reduction, before_mean })
    }

    pub fn moments(&self, sample: &Sample) -> Option<Moments> {
        let plain = Moments::of(sample, self.kind)?;
        let scatter = Scatter::of(sample, self.kind);
        let adjusted =
            scatter.after - 2.0 * self.theta * scatter.product + self.theta.powi(2) * scatter.before;
        let shift = self.theta * (sample.before_sum / plain.users - self.before_mean);
        let variance = adjusted.max(0.0) / (plain.users - 1.0).max(1.0);
        Moments { users: plain.users, mean: plain.mean - shift, variance }.checked()
    }
}

impl Scatter {
    fn of(sample: &Sample, kind: Kind) -> Self {
        let users = sample.users as f64;
        let (sum, squares) = match kind {
            Kind::Conversion => (sample.converted as f64, sample.converted as f64),
            Kind::Mean => (sample.sum, sample.sum_of_squares),
        };
        Self {
            after: scatter(users, sum, sum, squares),
            before: scatter(users, sample.before_sum, sample.before_sum, sample.before_sum_of_squares),
            product: scatter(users, sum, sample.before_sum, sample.product_sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pairs: &[(f64, f64)]) -> Sample {
        let total = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum();
        Sample {
            users: pairs.len() as u64,
            converted: 0,
            sum: total(|pair| pair.1),
            sum_of_squares: total(|pair| pair.1 * pair.1),
            before_sum: total(|pair| pair.0),
            before_sum_of_squares: total(|pair| pair.0 * pair.0),
            product_sum: total(|pair| pair.0 * pair.1),
        }
    }

    #[test]
    fn what_was_before_explains_itself_away() {
        // The value after is twice the value before, plus one in the second variant, whose users had larger values
        // before.
        let control = sample(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]);
        let treatment = sample(&[(2.0, 5.0), (3.0, 7.0), (4.0, 9.0)]);
        let cuped = Cuped::of([&control, &treatment], Kind::Mean).unwrap();
        assert_eq!((cuped.theta, cuped.variance_reduction), (2.0, 1.0));
        let [control, treatment] = [control, treatment].map(|sample| cuped.moments(&sample).unwrap());
        assert_eq!((treatment.mean - control.mean, control.variance), (1.0, 0.0));
    }

    #[test]
    fn without_anything_before_there_is_nothing_to_adjust() {
        let same = sample(&[(0.0, 1.0), (0.0, 2.0)]);
        assert_eq!(Cuped::of([&same, &Sample::default()], Kind::Mean), None);
        let unrelated = sample(&[(1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (2.0, 2.0)]);
        assert_eq!(Cuped::of([&unrelated], Kind::Mean), None);
        let broken = Sample { before_sum: f64::NAN, ..unrelated };
        assert_eq!(Cuped::of([&broken], Kind::Mean), None);
    }
}
