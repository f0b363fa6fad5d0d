//! Exact sequential test of rare conversions: whether the users who converted are split between two variants like all
//! users. It needs no minimum number of conversions, because it does not rely on the central limit theorem.
//!
//! If both rates are equal, each user who converts is one of the treatment with the probability of its weight. The test
//! is the sequential multinomial test of Lindon and Malek (see [`super::sample_ratio`]) on these users. If the
//! treatment's rate is `r` times the control's, the probability follows from `r`, so that every `r` can be tested: those
//! that are not rejected form an interval for the relative effect that is valid at any number of looks.

use super::sample_ratio::log_ratio;

/// Weight of the prior, in conversions split like the users.
const PRIOR_CONVERSIONS: f64 = 10.0;
/// Bounds of the search for the interval's ends, as ratios of the rates.
const RATIO_MIN: f64 = 1e-6;
const RATIO_MAX: f64 = 1e6;
/// Steps of the search. Each halves the distance, so that the end is exact to nine digits.
const SEARCH_STEPS: u32 = 80;

/// Users who converted in one stratum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Converted {
    pub control: u64,
    pub treatment: u64,
    /// Share of the treatment in the users of both variants, according to the weights.
    pub share: f64,
}

/// Smallest error probability at which this ratio of the rates (treatment to control) is rejected, at any number of
/// looks.
pub fn p_value(strata: &[Converted], ratio: f64) -> f64 {
    (-evidence(strata, ratio)).exp().min(1.0)
}

/// Ratios of the rates that are not rejected. `None` for an end that is not bounded.
pub fn interval(strata: &[Converted], alpha: f64) -> (Option<f64>, Option<f64>) {
    let limit = -alpha.ln();
    let is_rejected = |ratio: f64| evidence(strata, ratio) >= limit;
    // The evidence is smallest at the most likely ratio, and increases in both directions.
    let likely = minimum(strata);
    let end = |bound: f64| {
        if !is_rejected(bound) {
            return None;
        }
        let (mut inside, mut outside) = (likely.ln(), bound.ln());
        for _ in 0..SEARCH_STEPS {
            let middle = f64::midpoint(inside, outside);
            if is_rejected(middle.exp()) { outside = middle } else { inside = middle }
        }
        Some(inside.exp())
    };
    (end(RATIO_MIN), end(RATIO_MAX))
}

fn evidence(strata: &[Converted], ratio: f64) -> f64 {
    let of_one = |of: &Converted| {
        let expected = of.share * ratio / (of.share * ratio + 1.0 - of.share);
        let (treatment, control) = (of.treatment as f64, of.control as f64);
        // The prior stays where it is for every ratio; only the tested share moves.
        log_ratio(&[(treatment, of.share), (control, 1.0 - of.share)], PRIOR_CONVERSIONS)
            + treatment * (of.share / expected).ln()
            + control * ((1.0 - of.share) / (1.0 - expected)).ln()
    };
    strata.iter().filter(|of| of.share > 0.0 && of.share < 1.0).map(of_one).sum()
}

/// Most likely ratio within the bounds.
fn minimum(strata: &[Converted]) -> f64 {
    let (mut low, mut high) = (RATIO_MIN.ln(), RATIO_MAX.ln());
    for _ in 0..SEARCH_STEPS {
        let [left, right] = [low + (high - low) / 3.0, high - (high - low) / 3.0];
        if evidence(strata, left.exp()) < evidence(strata, right.exp()) { high = right } else { low = left }
    }
    f64::midpoint(low, high).exp()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn halves(control: u64, treatment: u64) -> [Converted; 1] {
        [Converted { control, treatment, share: 0.5 }]
    }

    #[test]
    fn crashes_of_one_variant_only_are_found() {
        let p = p_value(&halves(0, 38), 1.0);
        assert!((1e-9..1e-7).contains(&p), "{p}");
        assert!(p_value(&halves(2, 3), 1.0) > 0.9);
        let canary = [Converted { control: 0, treatment: 3, share: 0.01 }];
        assert!(p_value(&canary, 1.0) < 0.01, "three of three crashes under one of a hundred users");
    }

    #[test]
    fn the_interval_ends_where_the_p_value_is_alpha() {
        let counts = halves(10, 30);
        let (low, high) = interval(&counts, 0.05);
        let (low, high) = (low.unwrap(), high.unwrap());
        assert!(low < 3.0 && high > 3.0, "{low} to {high}");
        for end in [low, high] {
            assert!((p_value(&counts, end) - 0.05).abs() < 1e-6, "{end}");
        }
        let (low, high) = interval(&halves(0, 38), 0.05);
        assert!(low.unwrap() > 2.0 && high.is_none(), "{low:?} {high:?}");
        assert_eq!(interval(&halves(0, 0), 0.05), (None, None));
    }

    #[test]
    fn evidence_of_strata_is_combined() {
        let both = [halves(2, 30)[0], Converted { control: 30, treatment: 40, share: 0.1 }];
        let product = p_value(&both[..1], 1.0) * p_value(&both[1..], 1.0);
        assert!((p_value(&both, 1.0) / product - 1.0).abs() < 1e-9 && product < 1e-6, "{product}");
    }
}
