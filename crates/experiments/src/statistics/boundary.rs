//! Distance from zero that an estimate must have to be significant at any number of looks. Implements the normal
//! mixture of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
//! confidence sequences" (Annals of Statistics 52(6), 2024, arXiv:2103.06476), theorem 2.2. GrowthBook's sequential
//! testing uses the same method.

/// Number of users of both variants at which the intervals are closest to the narrowest possible, unless the experiment
/// was planned for another number. With ten times as many users they are 7% wider than the best, with a tenth as many
/// 27%. The value must not depend on the counts: a boundary that is tuned to the data is not valid.
pub const TUNED_FOR_USERS: f64 = 10_000.0;

/// Boundary for one error probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Boundary {
    alpha: f64,
    rho_squared: f64,
}

impl Boundary {
    /// Creates the boundary. `alpha` is the probability that the interval ever misses the true value.
    pub fn new(alpha: f64) -> Self {
        Self::tuned(alpha, TUNED_FOR_USERS)
    }

    /// Creates a boundary that is narrowest at this number of users.
    pub fn tuned(alpha: f64, users: f64) -> Self {
        let twice = -2.0 * alpha.ln();
        // Approximate minimum of the width at a given number of users, from the paper's appendix B.2.
        Self { alpha, rho_squared: (twice + (twice + 1.0).ln()) / users }
    }

    /// Returns the same mixture for another error probability. p-values stay the same.
    pub fn at(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }

    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Half the width of the interval for this number of users, in standard errors of the estimate.
    pub fn half_width(&self, users: f64) -> f64 {
        let mixed = users * self.rho_squared;
        (2.0 * (mixed + 1.0) / mixed * ((mixed + 1.0).sqrt() / self.alpha).ln()).sqrt()
    }

    /// Smallest error probability at which the interval, with this tuning, excludes zero.
    pub fn p_value(&self, z: f64, users: f64) -> f64 {
        let mixed = users * self.rho_squared;
        (0.5 * (mixed + 1.0).ln() - 0.5 * z * z * mixed / (mixed + 1.0)).exp().min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p_value_meets_alpha_at_the_edge_of_the_interval() {
        for (alpha, users) in [(0.05, 200.0), (0.05, 1e7), (0.001, 5_000.0)] {
            let boundary = Boundary::new(alpha);
            let p_value = boundary.p_value(-boundary.half_width(users), users);
            assert!((p_value / alpha - 1.0).abs() < 1e-9, "{p_value} at {users}");
        }
        assert_eq!(Boundary::new(0.05).p_value(0.0, 100.0), 1.0);
        assert_eq!(Boundary::new(0.05).p_value(1e3, 1e6), 0.0);
    }

    #[test]
    fn the_p_value_decides_at_every_error_probability() {
        let boundary = Boundary::new(0.05);
        for alpha in [0.05, 0.01, 0.002] {
            let z = boundary.at(alpha).half_width(3_000.0);
            assert!((boundary.p_value(z, 3_000.0) / alpha - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn no_other_tuning_is_narrower_at_the_number_it_is_tuned_for() {
        let tuned = Boundary::new(0.05);
        for factor in [0.5, 0.8, 1.25, 2.0] {
            let other = Boundary { rho_squared: tuned.rho_squared * factor, ..tuned };
            assert!(tuned.half_width(TUNED_FOR_USERS) < other.half_width(TUNED_FOR_USERS));
        }
    }
}
