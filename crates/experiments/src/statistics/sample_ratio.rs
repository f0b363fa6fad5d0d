//! Sample ratio test: whether users were split according to the weights. If not, something loses or adds users of one
//! variant, and the variants cannot be compared.

use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::function::gamma::ln_gamma;

/// Weight of the prior, in users split as expected. With this value the test finds small deviations among tens of
/// thousands of users and large ones among a thousand.
const PRIOR_USERS: f64 = 1_000.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    pub chi_squared: f64,
    /// p-value of the chi-squared test, valid for a single look.
    pub single_look_p_value: f64,
    /// p-value that is valid at any number of looks: the sequential multinomial test of Lindon and Malek,
    /// "Anytime-valid inference for multinomial count data" (NeurIPS 2022, arXiv:2011.03567).
    pub p_value: f64,
}

/// Tests `users` against `weights`, in the same order. `None` if there is nothing to compare: no users, fewer than two
/// variants with a positive weight, or an invalid weight.
pub fn fit(users: &[u64], weights: &[f64]) -> Option<Fit> {
    let total_weight: f64 = weights.iter().sum();
    let total: u64 = users.iter().sum();
    let valid = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
    let choices = weights.iter().filter(|weight| **weight > 0.0).count();
    if !valid || choices < 2 || total == 0 {
        return None;
    }
    let pairs = || users.iter().zip(weights).map(|(users, weight)| (*users as f64, weight / total_weight));
    if pairs().any(|(users, share)| share == 0.0 && users > 0.0) {
        return Some(Fit { chi_squared: f64::INFINITY, single_look_p_value: 0.0, p_value: 0.0 });
    }
    let pairs = || pairs().filter(|(_, share)| *share > 0.0);
    let all = total as f64;
    let chi_squared: f64 = pairs().map(|(users, share)| (users - all * share).powi(2) / (all * share)).sum();
    let single_look_p_value = ChiSquared::new((choices - 1) as f64).ok()?.sf(chi_squared);
    let evidence = ln_gamma(PRIOR_USERS) - ln_gamma(PRIOR_USERS + all)
        + pairs()
            .map(|(users, share)| {
                let prior = PRIOR_USERS * share;
                ln_gamma(prior + users) - ln_gamma(prior) - users * share.ln()
            })
            .sum::<f64>();
    Some(Fit { chi_squared, single_look_p_value, p_value: (-evidence).exp().min(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_as_it_should_be_is_no_evidence() {
        let fit = fit(&[5_000, 5_000, 0], &[0.5, 0.5, 0.0]).unwrap();
        assert_eq!((fit.chi_squared, fit.single_look_p_value, fit.p_value), (0.0, 1.0, 1.0));
    }

    #[test]
    fn users_of_a_variant_that_nobody_should_get_are_proof() {
        assert_eq!(fit(&[5_000, 5_000, 1], &[1.0, 1.0, 0.0]).unwrap().p_value, 0.0);
    }

    #[test]
    fn without_users_or_weights_there_is_no_answer() {
        assert_eq!(fit(&[0, 0], &[1.0, 1.0]), None);
        assert_eq!(fit(&[], &[]), None);
        assert_eq!(fit(&[10], &[1.0]), None);
        for weight in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(fit(&[10, 10], &[1.0, weight]), None);
        }
        assert_eq!(fit(&[10, 10], &[0.0, 0.0]), None);
    }
}
