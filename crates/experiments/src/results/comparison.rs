//! Comparison of two variants in one metric.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::statistics::{
    Boundary, Cuped, Difference, Estimate, Interval, Moments, Pair, boundary, difference, planning, rare,
    readings,
};
use crate::{Design, Kind, Metric, Role, Sample};

use super::{Effect, Rare, Relative, Verdict};

/// Minimum users in each variant. With fewer, a mean is not close enough to a normal distribution for the intervals.
const USERS_MIN: u64 = 100;
/// Minimum number of users in each variant who would have converted, and for a rate of users who would not have, if the
/// variants were equal. With fewer, the variances are too uncertain. The simulation shows this for small treatment
/// groups.
const CONVERTED_MIN: f64 = 20.0;
/// Maximum share of a single user in the sum of squares of a variant. Above it, the variance depends on a few users, and
/// no interval holds.
const LARGEST_SHARE_MAX: f64 = 0.2;

/// Reason why a comparison is not possible yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The phase does not have the variant to compare with.
    NoControl,
    /// A variant has fewer than 100 users.
    TooFewUsers,
    /// If both variants were equal, fewer than 20 users of one would have converted or, for a rate, would not have. A rate
    /// then has a `rare` comparison.
    TooFewConversions,
    /// No user of either variant converted.
    NoConversions,
    /// All users have the same value.
    NoVariance,
    /// A sum is not a finite number.
    NotFinite,
    /// One user has more than a fifth of a variant's sum of squares: the values need a cap, or there are too few users.
    TooSkewed,
    /// The mean of one variant is so uncertain that the interval has no end.
    TooUncertain,
}

/// Comparisons that share one probability of a false positive.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub confidence: f64,
    pub power: f64,
    pub comparisons: usize,
    /// Number of users at which the intervals are narrowest.
    pub tuned_for: f64,
}

/// Error probability of one comparison.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    pub confidence: f64,
    pub power: f64,
    pub boundary: Boundary,
    correction: Correction,
}

/// Correction of p-values for the number of comparisons.
#[derive(Debug, Clone, Copy)]
enum Correction {
    Factor(f64),
    /// Corrected together with those of other comparisons.
    Known(f64),
}

impl Family {
    /// Builds the family of a metric of this role. A false positive in any treatment counts, for primary metrics in any
    /// of them, and for guardrails in any of these.
    pub fn of(design: &Design, role: Role, treatments: usize) -> Self {
        let of_role = design.metrics.iter().filter(|metric| metric.role == role).count();
        let metrics = if role == Role::Secondary { 1 } else { of_role };
        Self {
            confidence: design.confidence,
            power: design.power,
            comparisons: (treatments * metrics).max(1),
            tuned_for: design.planned_users.map_or(boundary::TUNED_FOR_USERS, |users| users as f64),
        }
    }

    /// Level of a comparison if α is divided equally (Bonferroni).
    pub fn level(&self) -> Level {
        let comparisons = self.comparisons as f64;
        Level {
            confidence: self.confidence,
            power: self.power,
            boundary: Boundary::tuned((1.0 - self.confidence) / comparisons, self.tuned_for),
            correction: Correction::Factor(comparisons),
        }
    }

    /// Levels of all comparisons of the family by Holm's method, which divides α by the number of comparisons that are
    /// not rejected yet. `p_values` are not corrected; one for each comparison of the family.
    pub fn holm(&self, p_values: &[f64]) -> Vec<Level> {
        let (alpha, count) = (1.0 - self.confidence, p_values.len());
        let mut order: Vec<usize> = (0..count).collect();
        let p = |index: usize| p_values.get(index).copied().unwrap_or(1.0);
        order.sort_by(|a, b| p(*a).total_cmp(&p(*b)));
        let mut levels = vec![self.level(); count];
        let (mut corrected, mut rejected, mut is_open) = (0.0_f64, 0, true);
        for (rank, index) in order.into_iter().enumerate() {
            corrected = corrected.max(p(index) * (count - rank) as f64).min(1.0);
            // A comparison that is not rejected stops the division for all with larger p-values.
            let left = (count - rejected).max(1) as f64;
            is_open &= p(index) <= alpha / left;
            if let Some(level) = levels.get_mut(index) {
                level.boundary = level.boundary.at(alpha / left);
                level.correction = Correction::Known(corrected);
            }
            rejected += usize::from(is_open);
        }
        levels
    }
}

impl Level {
    fn corrected(&self, p_value: f64) -> f64 {
        match self.correction {
            Correction::Factor(factor) => (p_value * factor).min(1.0),
            Correction::Known(corrected) => corrected,
        }
    }

    fn factor(&self) -> f64 {
        (1.0 - self.confidence) / self.boundary.alpha()
    }
}

/// Samples of both variants in one stratum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arms {
    /// Index of the stratum.
    pub stratum: usize,
    pub control: Sample,
    pub treatment: Sample,
    /// Share of the treatment in both, according to the weights.
    pub share: f64,
}

/// Difference of two variants before it is compared at a level.
#[derive(Debug)]
pub struct Prepared {
    pub difference: Difference,
    pub pairs: Vec<Pair>,
    /// Users in strata that have too few for a comparison.
    pub left_out: u64,
}

/// Result of a comparison.
pub type Compared = (Verdict, Option<Missing>, Option<Rare>, Option<Effect>);

/// Selects the strata with enough users and computes the difference over these.
pub fn prepare(metric: &Metric, cuped: Option<&Cuped>, arms: &[Arms]) -> Result<Prepared, Missing> {
    let (mut pairs, mut left_out, mut missing) = (Vec::new(), 0, None);
    for of in arms {
        let users = of.control.users + of.treatment.users;
        match enough(metric.kind, &of.control, &of.treatment) {
            Ok(()) => {
                let moments = |sample: &Sample| match cuped {
                    Some(cuped) => cuped.moments(of.stratum, sample),
                    None => Moments::of(sample, metric.kind),
                };
                let found = moments(&of.control).zip(moments(&of.treatment)).ok_or(Missing::NotFinite)?;
                pairs.push(Pair { control: found.0, treatment: found.1 });
            }
            Err(reason) => {
                left_out += users;
                // The reason of the largest stratum is reported. One without conversions counts only if no other has any.
                let says_more = missing.is_none_or(|(largest, known)| match (known, reason) {
                    (Missing::NoConversions, Missing::TooFewConversions) => true,
                    (Missing::TooFewConversions, Missing::NoConversions) => false,
                    _ => users > largest,
                });
                if says_more {
                    missing = Some((users, reason));
                }
            }
        }
    }
    if pairs.is_empty() {
        return Err(missing.map_or(Missing::TooFewUsers, |(_, reason)| reason));
    }
    let difference = Difference::of(&pairs, !metric.kind.is_rate());
    if difference.absolute().error <= 0.0 {
        return Err(Missing::NoVariance);
    }
    Ok(Prepared { difference, pairs, left_out })
}

/// Result of a comparison in a phase that does not have the control.
pub fn without_control() -> Compared {
    (Verdict::NotKnownYet, Some(Missing::NoControl), None, None)
}

/// p-value before any correction, by the method that [`compare`] uses.
pub fn raw_p_value(
    metric: &Metric,
    cuped: Option<&Cuped>,
    arms: &[Arms],
    boundary: &Boundary,
) -> Option<f64> {
    match prepare(metric, cuped, arms) {
        Ok(prepared) => Some(prepared.difference.p_value(boundary)),
        Err(missing) => Some(rare::p_value(&converted(metric.kind, missing, arms)?, 1.0)),
    }
}

/// Compares two variants. Sets all of the [`Effect`] except the remaining time; `users_left` counts users of these two
/// variants.
pub fn compare(metric: &Metric, level: &Level, cuped: Option<&Cuped>, arms: &[Arms]) -> Compared {
    let prepared = match prepare(metric, cuped, arms) {
        Ok(prepared) => prepared,
        Err(missing) => {
            let Some(rare) = converted(metric.kind, missing, arms) else {
                return (Verdict::NotKnownYet, Some(missing), None, None);
            };
            let (low, high) = rare::interval(&rare, level.boundary.alpha());
            let [low, high] = [low, high].map(|end| end.map(|ratio| ratio - 1.0));
            let interval =
                Interval { low: low.unwrap_or(f64::NEG_INFINITY), high: high.unwrap_or(f64::INFINITY) };
            let p_value = level.corrected(rare::p_value(&rare, 1.0));
            let verdict = Verdict::of(metric, interval, Some(interval));
            return (verdict, Some(missing), Some(Rare { p_value, low, high }), None);
        }
    };
    match effect(metric, level, &prepared, cuped.is_some()) {
        Ok((verdict, effect)) => (verdict, None, None, Some(effect)),
        Err(missing) => (Verdict::NotKnownYet, Some(missing), None, None),
    }
}

fn effect(
    metric: &Metric,
    level: &Level,
    prepared: &Prepared,
    is_adjusted: bool,
) -> Result<(Verdict, Effect), Missing> {
    let Prepared { difference: between, pairs, .. } = prepared;
    let (boundary, absolute) = (&level.boundary, between.absolute());
    let errors = boundary.half_width(between.users);
    let base = between.control.abs();
    let interval = between.interval(errors).ok_or(Missing::TooUncertain)?;
    let relative = between.relative(errors).map(|(difference, interval)| Relative {
        difference,
        interval,
        minimum_detectable_effect: planning::detectable(&absolute, between.users, boundary, level.power)
            / base,
    });
    let is_rate = metric.kind.is_rate() && !is_adjusted;
    let single_look = difference::single_look(pairs, is_rate, boundary.alpha());
    let needed =
        planning::users_needed(&absolute, between.users, metric.minimum_effect * base, boundary, level.power);
    let verdict = Verdict::of(metric, interval, relative.map(|relative| relative.interval));
    let bayesian = Estimate { error: plain_error(pairs), ..absolute };
    let effect = Effect {
        difference: absolute.value,
        interval,
        p_value: level.corrected(between.p_value(boundary)),
        alpha: boundary.alpha(),
        users: between.users as u64,
        left_out: prepared.left_out,
        relative,
        single_look: single_look
            .map(|look| difference::SingleLook { p_value: (look.p_value * level.factor()).min(1.0), ..look }),
        bayesian: readings::bayesian(&bayesian, level.confidence),
        users_left: needed.map(|needed| needed.saturating_sub(between.users as u64)),
        seconds_left: None,
    };
    Ok((verdict, effect))
}

/// Standard error without any correction.
fn plain_error(pairs: &[Pair]) -> f64 {
    let users: f64 = pairs.iter().map(|pair| pair.control.users + pair.treatment.users).sum();
    let squared = |pair: &Pair| {
        let share = (pair.control.users + pair.treatment.users) / users;
        share * share * (pair.control.error_squared() + pair.treatment.error_squared())
    };
    pairs.iter().map(squared).sum::<f64>().sqrt()
}

/// Users who converted, for the exact test. `None` if the test does not apply.
fn converted(kind: Kind, missing: Missing, arms: &[Arms]) -> Option<Vec<rare::Converted>> {
    let applies = kind.is_rate() && missing == Missing::TooFewConversions;
    let converted = |of: &Arms| rare::Converted {
        control: of.control.converted,
        treatment: of.treatment.converted,
        share: of.share,
    };
    applies.then(|| arms.iter().map(converted).collect())
}

fn enough(kind: Kind, control: &Sample, treatment: &Sample) -> Result<(), Missing> {
    let users = control.users + treatment.users;
    let converted = control.converted + treatment.converted;
    let smaller = control.users.min(treatment.users);
    if smaller == 0 || users < USERS_MIN || (smaller < USERS_MIN && !kind.is_rate()) {
        return Err(Missing::TooFewUsers);
    }
    if kind.is_rate() && converted == 0 {
        return Err(Missing::NoConversions);
    }
    if smaller < USERS_MIN {
        // A rate can be compared exactly with any number of users.
        return Err(Missing::TooFewConversions);
    }
    if converted == 0 && kind != Kind::Quantile {
        return Err(Missing::NoConversions);
    }
    let share_of_smaller = smaller as f64 / users as f64;
    let not_converted = users.saturating_sub(converted);
    let too_few = |of_both: u64| of_both as f64 * share_of_smaller < CONVERTED_MIN;
    if too_few(converted) || (kind.is_rate() && too_few(not_converted)) {
        return Err(Missing::TooFewConversions);
    }
    let is_skewed = |sample: &Sample| sample.share_of_largest() > LARGEST_SHARE_MAX;
    if matches!(kind, Kind::Mean | Kind::Count | Kind::Ratio) && (is_skewed(control) || is_skewed(treatment))
    {
        return Err(Missing::TooSkewed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_divides_by_what_is_not_rejected_yet() {
        let family = Family { confidence: 0.95, power: 0.8, comparisons: 4, tuned_for: 10_000.0 };
        let levels = family.holm(&[0.9, 0.001, 0.02, 0.016]);
        let alphas: Vec<f64> = levels.iter().map(|level| level.boundary.alpha()).collect();
        let third = 0.05 / 3.0;
        let half = 0.05 / 2.0;
        assert!((alphas[1] - 0.05 / 4.0).abs() < 1e-12 && (alphas[3] - third).abs() < 1e-12, "{alphas:?}");
        assert!((alphas[2] - half).abs() < 1e-12 && (alphas[0] - 0.05).abs() < 1e-12, "{alphas:?}");
        let corrected: Vec<f64> = levels.iter().map(|level| level.corrected(0.0)).collect();
        assert!(
            (corrected[3] - 0.048).abs() < 1e-12 && (corrected[2] - 0.048).abs() < 1e-12,
            "{corrected:?}"
        );
        let none = family.holm(&[0.9, 0.02, 0.02, 0.016]);
        assert!(none.iter().all(|level| (level.boundary.alpha() - 0.05 / 4.0).abs() < 1e-12));
    }
}
