//! How small an effect can be found, and how many users that takes.

use super::{Boundary, Estimate, normal_quantile};

/// More than can ever come.
const USERS_MAX: f64 = 1e12;

/// The smallest true difference that one look with these users finds with the given power. Looks before may find it
/// earlier: the power of all together is higher.
pub fn detectable(difference: &Estimate, users: f64, boundary: &Boundary, power: f64) -> f64 {
    (boundary.half_width(users) + normal_quantile(power)) * difference.error
}

/// Users of both variants, in the proportion they have now, with which `effect` can be found. `None` if it is too many.
pub fn users_needed(
    difference: &Estimate,
    users: f64,
    effect: f64,
    boundary: &Boundary,
    power: f64,
) -> Option<f64> {
    let found = |with: f64| {
        let later = Estimate { error: difference.error * (users / with).sqrt(), ..*difference };
        detectable(&later, with, boundary, power) <= effect
    };
    if !found(USERS_MAX) {
        return None;
    }
    // The width falls with the number, so the answer lies between what is too few and what is enough.
    let (mut too_few, mut enough) = (0.0, USERS_MAX);
    while enough - too_few > 0.5 {
        let middle = f64::midpoint(too_few, enough);
        if found(middle) { enough = middle } else { too_few = middle }
    }
    Some(enough.ceil())
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
        assert!(at(needed) <= 0.01 && at(needed - 1.0) > 0.01, "{needed}");
    }

    #[test]
    fn no_number_of_users_finds_nothing() {
        let boundary = Boundary::new(0.05);
        for effect in [0.0, -1.0, f64::NAN, 1e-9] {
            assert_eq!(users_needed(&NOW, 1_000.0, effect, &boundary, 0.8), None);
        }
    }
}
