//! Detectable effects, and numbers of users needed.

use super::{Boundary, Estimate, normal_quantile};

/// Upper bound of the search, more users than any experiment has.
const USERS_MAX: u64 = 1_000_000_000_000;

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
}
