//! Detectable effects, and numbers of users needed.

use super::{Boundary, Estimate, normal_quantile};

/// Upper bound of the search, more users than any experiment has.
const USERS_MAX: u64 = 1_000_000_000_000;
/// Rounds of the search for the number of users to tune for.
const TUNING_ROUNDS: u32 = 8;

/// Smallest true difference that a single look with these users finds with the given power. With earlier looks the
/// overall power is higher.
pub fn detectable(difference: &Estimate, users: f64, boundary: &Boundary, power: f64) -> f64 {
    (boundary.half_width(users) + normal_quantile(power)) * difference.error
}

/// Users of both variants, in their current proportion, needed to find `effect`. `None` if it is more than the upper
/// bound.
pub fn users_needed(
    difference: &Estimate,
    users: f64,
    effect: f64,
    boundary: &Boundary,
    power: f64,
) -> Option<u64> {
    let found = |with: u64| {
        let with = with as f64;
        let later = Estimate { error: difference.error * (users / with).sqrt(), ..*difference };
        detectable(&later, with, boundary, power) <= effect
    };
    if !found(USERS_MAX) {
        return None;
    }
    // The width decreases with the number of users, so a binary search finds the smallest sufficient number.
    let (mut too_few, mut enough) = (0, USERS_MAX);
    while enough - too_few > 1 {
        let middle = u64::midpoint(too_few, enough);
        if found(middle) { enough = middle } else { too_few = middle }
    }
    Some(enough)
}

/// Question of a plan: the baseline, the effect to find, and how users are split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Mean of the control, or its rate.
    pub mean: f64,
    /// Standard deviation of the users' values; `None` for a rate.
    pub deviation: Option<f64>,
    /// Effect relative to the mean.
    pub effect: f64,
    /// Share of the control, and of one treatment, in all users.
    pub shares: [f64; 2],
    /// Number of comparisons that α is divided by.
    pub comparisons: u32,
    pub confidence: f64,
    pub power: f64,
}

/// Users of all variants that a plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// If the intervals are narrowest at the number of users of the two variants that this is for.
    pub tuned: u64,
    /// Users of the two variants of a comparison among them; the number to tune for.
    pub compared: u64,
    /// Users with the usual tuning.
    pub usual: u64,
    /// Users for a single look at the end.
    pub single_look: u64,
}

impl Plan {
    /// Computes the users. `None` if it is more than the upper bound, or the input is invalid.
    pub fn users(&self) -> Option<Needed> {
        let alpha = (1.0 - self.confidence) / f64::from(self.comparisons.max(1));
        let [control, treatment] = self.shares;
        let both = control + treatment;
        // Variances of both variants, if the effect is there.
        let variances = match self.deviation {
            Some(deviation) => [deviation.powi(2), (deviation * (1.0 + self.effect)).powi(2)],
            None => [self.mean, self.mean * (1.0 + self.effect)].map(|rate| rate * (1.0 - rate).max(0.0)),
        };
        let error = (variances[0] / (control / both) + variances[1] / (treatment / both)).sqrt();
        let one = Estimate { value: 0.0, error };
        let effect = (self.effect * self.mean).abs();
        let all = |users: u64| (users as f64 / both).ceil() as u64;
        let usual = users_needed(&one, 1.0, effect, &Boundary::new(alpha), self.power)?;
        let mut tuned = usual;
        // The width changes little with the tuning, so a few rounds are enough.
        for _ in 0..TUNING_ROUNDS {
            let boundary = Boundary::tuned(alpha, tuned as f64);
            tuned = users_needed(&one, 1.0, effect, &boundary, self.power)?;
        }
        let errors = normal_quantile(1.0 - alpha / 2.0) + normal_quantile(self.power);
        let single_look = (errors * error / effect).powi(2).ceil() as u64;
        Some(Needed { tuned: all(tuned), compared: tuned, usual: all(usual), single_look: all(single_look) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Estimate = Estimate { value: 0.0, error: 0.01 };

    #[test]
    fn with_the_users_needed_the_effect_is_just_detectable() {
        let boundary = Boundary::new(0.05);
        let needed = users_needed(&NOW, 1_000.0, 0.01, &boundary, 0.8).unwrap();
        let at = |users: f64| {
            detectable(&Estimate { error: 0.01 * (1_000.0 / users).sqrt(), ..NOW }, users, &boundary, 0.8)
        };
        assert!(at(needed as f64) <= 0.01 && at(needed as f64 - 1.0) > 0.01, "{needed}");
    }

    #[test]
    fn no_number_of_users_finds_nothing() {
        let boundary = Boundary::new(0.05);
        for effect in [0.0, -1.0, f64::NAN, 1e-9] {
            assert_eq!(users_needed(&NOW, 1_000.0, effect, &boundary, 0.8), None);
        }
    }

    #[test]
    fn a_plan_for_a_rate_needs_what_the_literature_says() {
        let plan = Plan {
            mean: 0.1,
            deviation: None,
            effect: 0.1,
            shares: [0.5, 0.5],
            comparisons: 1,
            confidence: 0.95,
            power: 0.8,
        };
        let needed = plan.users().unwrap();
        // statsmodels: 29,488 for a single look; the sequential test needs about twice as many.
        assert!(needed.single_look.abs_diff(29_500) < 300, "{needed:?}");
        assert!((1.7..2.1).contains(&(needed.usual as f64 / needed.single_look as f64)), "{needed:?}");
        assert!(needed.tuned < needed.usual && needed.compared == needed.tuned, "{needed:?}");
        let uneven = Plan { shares: [0.9, 0.1], ..plan }.users().unwrap();
        assert!(uneven.tuned > 2 * needed.tuned, "{uneven:?}");
        let one_of_three = Plan { shares: [0.25, 0.25], comparisons: 3, ..plan }.users().unwrap();
        assert!(one_of_three.tuned > 2 * needed.tuned && one_of_three.compared < one_of_three.tuned);
        assert_eq!(Plan { effect: 0.0, ..plan }.users(), None);
    }
}
