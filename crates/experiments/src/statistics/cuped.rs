//! Variance reduction by values from before the exposure (CUPED): Deng, Xu, Kohavi and Walker, "Improving the
//! sensitivity of online controlled experiments by utilizing pre-experiment data" (WSDM 2013).

use super::{Moments, moments};
use crate::{Kind, Sample};

/// Smallest reduction that is more than rounding.
const REDUCTION_MIN: f64 = 1e-12;

/// Adjustment of each user's value by `theta` times the distance of the value before from its mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Cuped {
    kind: Kind,
    pub theta: f64,
    /// Share of the variance that the adjustment removes.
    pub variance_reduction: f64,
    /// Mean of the values before over all variants, for each stratum. The means of the variants differ only by chance,
    /// which the adjustment corrects.
    before_means: Vec<f64>,
}

impl Cuped {
    /// Computes one `theta` for all variants from the deviations within each. `strata` has the samples of the variants
    /// of each stratum. `None` if the values before explain nothing, or the metric has none.
    pub fn of(strata: &[Vec<Sample>], kind: Kind) -> Option<Self> {
        if matches!(kind, Kind::Ratio | Kind::Quantile) {
            return None;
        }
        let (mut after, mut before, mut product) = (0.0, 0.0, 0.0);
        for sample in strata.iter().flatten() {
            after += sample.scatter;
            before += sample.other_scatter;
            product += sample.product_scatter;
        }
        let theta = product / before;
        let variance_reduction = theta * product / after;
        let before_means: Vec<f64> =
            strata.iter().map(|samples| moments::together(samples).other_mean).collect();
        let usable = theta.is_finite()
            && before_means.iter().all(|mean| mean.is_finite())
            && variance_reduction > REDUCTION_MIN;
        // More than the whole variance cannot be removed, except by rounding.
        (usable && variance_reduction <= 1.0 + 1e-9).then(|| Self {
            kind,
            theta,
            variance_reduction: variance_reduction.min(1.0),
            before_means,
        })
    }

    /// Adjusted moments of a sample of the stratum at this index.
    pub fn moments(&self, stratum: usize, sample: &Sample) -> Option<Moments> {
        let plain = Moments::of(sample, self.kind)?;
        let scatter = sample.scatter - 2.0 * self.theta * sample.product_scatter
            + self.theta.powi(2) * sample.other_scatter;
        let shift = self.theta * (sample.other_mean - self.before_means.get(stratum)?);
        let variance = scatter.max(0.0) / (plain.users - 1.0).max(1.0);
        Moments { users: plain.users, mean: plain.mean - shift, variance }.checked()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample(pairs: &[(f64, f64)]) -> Sample {
        let mut sample = Sample::default();
        pairs.iter().for_each(|(before, after)| sample.push(*after, *before));
        sample
    }

    #[test]
    fn what_was_before_explains_itself_away() {
        // The value after is twice the value before, plus one in the second variant, whose users had larger values
        // before.
        let control = sample(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]);
        let treatment = sample(&[(2.0, 5.0), (3.0, 7.0), (4.0, 9.0)]);
        let cuped = Cuped::of(&[vec![control, treatment]], Kind::Mean).unwrap();
        assert_eq!((cuped.theta, cuped.variance_reduction), (2.0, 1.0));
        let [control, treatment] = [control, treatment].map(|sample| cuped.moments(0, &sample).unwrap());
        assert_eq!((treatment.mean - control.mean, control.variance), (1.0, 0.0));
    }

    #[test]
    fn each_stratum_is_adjusted_to_its_own_mean() {
        let few = [(1.0, 1.0), (2.0, 2.0), (3.0, 3.5)].map(|pair| sample(&[pair, (pair.0 + 1.0, pair.1)]));
        let many = few.map(|sample| Sample { other_mean: sample.other_mean + 100.0, ..sample });
        let cuped = Cuped::of(&[few.to_vec(), many.to_vec()], Kind::Mean);
        if let Some(cuped) = cuped {
            assert_eq!(cuped.moments(0, &few[0]), cuped.moments(1, &many[0]));
        }
        let linear = [vec![sample(&[(1.0, 1.0), (2.0, 2.0)])], vec![sample(&[(101.0, 1.0), (102.0, 2.0)])]];
        let cuped = Cuped::of(&linear, Kind::Mean).unwrap();
        assert_eq!(cuped.moments(0, &linear[0][0]).unwrap().mean, 1.5);
        assert_eq!(cuped.moments(1, &linear[1][0]).unwrap().mean, 1.5);
    }

    #[test]
    fn without_anything_before_there_is_nothing_to_adjust() {
        let same = sample(&[(0.0, 1.0), (0.0, 2.0)]);
        assert_eq!(Cuped::of(&[vec![same, Sample::default()]], Kind::Mean), None);
        let unrelated = sample(&[(1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (2.0, 2.0)]);
        assert_eq!(Cuped::of(&[vec![unrelated]], Kind::Mean), None);
        let broken = Sample { other_scatter: f64::NAN, ..unrelated };
        assert_eq!(Cuped::of(&[vec![broken]], Kind::Mean), None);
        assert_eq!(Cuped::of(&[vec![sample(&[(1.0, 1.0), (2.0, 2.0)])]], Kind::Ratio), None);
    }
}
