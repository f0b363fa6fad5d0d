//! Converts the weights of variants into shares of Unleash's fixed total.
//!
//! A context's variant is determined by a hash modulo the total, compared with the cumulative shares in the
//! order of the variants. The total is constant, so a change of weights only moves contexts whose hash lies
//! between the old and the new boundary of a share.

use std::collections::BTreeMap;

use serde_json::Number;

use super::model::Variant;

/// Total weight; the same as Unleash's, so that flags imported from Unleash keep their assignments.
pub const TOTAL_WEIGHT: u32 = 1_000;

/// Weight of each variant: from the distribution, or its own; 1 for each if no variant has a weight.
pub fn weights(variants: &[Variant], distribution: Option<&BTreeMap<String, Number>>) -> Vec<f64> {
    let of = |variant: &Variant| match (distribution, &variant.weight) {
        (Some(distribution), _) => distribution.get(&variant.name).and_then(Number::as_f64).unwrap_or(0.0),
        (None, Some(weight)) => weight.as_f64().unwrap_or(0.0),
        (None, None) if variants.iter().any(|variant| variant.weight.is_some()) => 0.0,
        (None, None) => 1.0,
    };
    variants.iter().map(of).collect()
}

/// Shares of [`TOTAL_WEIGHT`], rounded so that they add up to it; `None` if all weights are 0.
pub fn shares(weights: &[f64]) -> Option<Vec<u32>> {
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 || !sum.is_finite() {
        return None;
    }
    let exact: Vec<f64> = weights.iter().map(|weight| weight / sum * f64::from(TOTAL_WEIGHT)).collect();
    // The share is at most the total, so the cast drops only the fraction. The small addend corrects
    // floating-point results just below a whole number.
    let whole = |share: f64| (share + 1e-9).floor();
    let mut shares: Vec<u32> = exact.iter().map(|share| whole(*share) as u32).collect();
    let mut order: Vec<usize> = (0..exact.len()).collect();
    let rest = |index: &usize| exact.get(*index).map_or(0.0, |share| share - whole(*share));
    // The sort is stable: of two equal remainders, the first variant gets the extra unit.
    order.sort_by(|a, b| rest(b).total_cmp(&rest(a)));
    let missing = TOTAL_WEIGHT.saturating_sub(shares.iter().sum());
    for index in order.into_iter().take(missing as usize) {
        if let Some(share) = shares.get_mut(index) {
            *share += 1;
        }
    }
    Some(shares)
}

/// Sum that absolute weights are parts of.
pub const WHOLE: f64 = 100.0;
/// Name of the variant that gets the rest of absolute weights.
const CONTROL: &str = "control";

/// Shares of [`TOTAL_WEIGHT`] for absolute weights, which are parts of [`WHOLE`]. Each boundary is computed
/// from the cumulative sum. The rest belongs to the variant named `control`; without it the shares add up to
/// less than the total.
pub fn absolute_shares(variants: &[Variant], weights: &[f64]) -> Vec<u32> {
    let rest = (WHOLE - weights.iter().sum::<f64>()).max(0.0);
    let control = variants.iter().position(|variant| variant.name == CONTROL);
    let (mut upto, mut before) = (0.0, 0);
    let share = |(index, weight): (usize, &f64)| {
        upto += if control == Some(index) { weight + rest } else { *weight };
        // The small addend corrects a boundary that is computed just below a whole number.
        let cut = ((upto / WHOLE * f64::from(TOTAL_WEIGHT) + 1e-6).floor() as u32).min(TOTAL_WEIGHT);
        let share = cut.saturating_sub(before);
        before = cut;
        share
    };
    weights.iter().enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_total() {
        for (weights, expected) in [
            (vec![1.0], vec![1_000]),
            (vec![50.0, 50.0], vec![500, 500]),
            (vec![0.5, 0.25, 0.25], vec![500, 250, 250]),
            (vec![1.0, 1.0, 1.0], vec![334, 333, 333]),
            (vec![33.3, 33.3, 33.4], vec![333, 333, 334]),
            (vec![0.0, 7.0], vec![0, 1_000]),
            (vec![1e-9, 1e6], vec![0, 1_000]),
        ] {
            assert_eq!(shares(&weights), Some(expected), "{weights:?}");
        }
        assert_eq!(shares(&[0.0, 0.0]), None);
        assert_eq!(shares(&[]), None);
    }

    #[test]
    fn absolute_shares_leave_the_rest_to_control_or_to_nobody() {
        let of = |given: &[(&str, f64)]| {
            let variant = |name: &str| Variant { name: name.to_owned(), weight: None, value: None };
            let variants: Vec<_> = given.iter().map(|(name, _)| variant(name)).collect();
            let weights: Vec<_> = given.iter().map(|(_, weight)| *weight).collect();
            absolute_shares(&variants, &weights)
        };
        assert_eq!(of(&[("a", 25.0), ("b", 25.0)]), [250, 250]);
        assert_eq!(of(&[("a", 25.0), ("control", 5.0), ("b", 25.0)]), [250, 500, 250]);
        assert_eq!(of(&[("a", 33.3), ("b", 33.3), ("c", 33.4)]), [333, 333, 334]);
        assert_eq!(of(&[("control", 100.0)]), [1_000]);
    }
}
