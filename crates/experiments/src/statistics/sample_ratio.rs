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

/// Evidence against the weights in one stratum.
struct Evidence {
    /// Logarithm of the likelihood ratio.
    log_ratio: f64,
    chi_squared: f64,
    freedom: f64,
}

/// Tests `users` against `weights`, in the same order. `None` if there is nothing to compare: no users, fewer than two
/// variants with a positive weight, or an invalid weight.
pub fn fit(users: &[u64], weights: &[f64]) -> Option<Fit> {
    fit_strata([(users, weights)])
}

/// Tests the users of each stratum against its weights. The strata are independent, so their likelihood ratios are
/// multiplied.
pub fn fit_strata<'s>(strata: impl IntoIterator<Item = (&'s [u64], &'s [f64])>) -> Option<Fit> {
    let mut sum = Evidence { log_ratio: 0.0, chi_squared: 0.0, freedom: 0.0 };
    for evidence in strata.into_iter().filter_map(|(users, weights)| evidence(users, weights)) {
        sum.log_ratio += evidence.log_ratio;
        sum.chi_squared += evidence.chi_squared;
        sum.freedom += evidence.freedom;
    }
    let chi_squared = sum.chi_squared;
    if chi_squared == f64::INFINITY {
        return Some(Fit { chi_squared, single_look_p_value: 0.0, p_value: 0.0 });
    }
    let single_look_p_value = ChiSquared::new(sum.freedom).ok()?.sf(chi_squared);
    Some(Fit { chi_squared, single_look_p_value, p_value: (-sum.log_ratio).exp().min(1.0) })
}

fn evidence(users: &[u64], weights: &[f64]) -> Option<Evidence> {
    let total_weight: f64 = weights.iter().sum();
    let total: u64 = users.iter().sum();
    let valid = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
    let choices = weights.iter().filter(|weight| **weight > 0.0).count();
    if !valid || choices < 2 || total == 0 {
        return None;
    }
    let freedom = (choices - 1) as f64;
    let pairs = || users.iter().zip(weights).map(|(users, weight)| (*users as f64, weight / total_weight));
    if pairs().any(|(users, share)| share == 0.0 && users > 0.0) {
        return Some(Evidence { log_ratio: f64::INFINITY, chi_squared: f64::INFINITY, freedom });
    }
    let pairs = || pairs().filter(|(_, share)| *share > 0.0);
    let all = total as f64;
    let chi_squared: f64 = pairs().map(|(users, share)| (users - all * share).powi(2) / (all * share)).sum();
    let counts: Vec<(f64, f64)> = pairs().collect();
    Some(Evidence { log_ratio: log_ratio(&counts, PRIOR_USERS), chi_squared, freedom })
}

/// Logarithm of the likelihood ratio of a Dirichlet prior of this weight around the shares to the shares themselves.
/// `counts` has the number and the share of each variant.
pub(super) fn log_ratio(counts: &[(f64, f64)], prior: f64) -> f64 {
    let all: f64 = counts.iter().map(|(users, _)| users).sum();
    let of_one = |(users, share): &(f64, f64)| {
        ln_gamma(prior * share + users) - ln_gamma(prior * share) - users * share.ln()
    };
    ln_gamma(prior) - ln_gamma(prior + all) + counts.iter().map(of_one).sum::<f64>()
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
    fn evidence_of_strata_adds_up() {
        let (users, weights) = ([5_200, 4_800], [0.5, 0.5]);
        let one = fit(&users, &weights).unwrap();
        let two = fit_strata([(&users[..], &weights[..]), (&users[..], &weights[..])]).unwrap();
        assert!((two.p_value / one.p_value.powi(2) - 1.0).abs() < 1e-9);
        assert!((two.chi_squared - 2.0 * one.chi_squared).abs() < 1e-9);
        let mixed = fit_strata([(&[900, 100][..], &[0.9, 0.1][..]), (&[500, 500], &weights)]).unwrap();
        assert_eq!((mixed.p_value, mixed.chi_squared), (1.0, 0.0), "pooled, these would be 70:30");
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
