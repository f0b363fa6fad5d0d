//! Scenarios of the simulation.

use super::{CONFIDENCE, POWER, Population};
use crate::Role;
use crate::results::Family;
use crate::statistics::{Difference, Moments, planning};

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Unique name, which also seeds the runs.
    pub name: &'static str,
    pub population: Population,
    /// Shares of the variants, the control first.
    pub shares: &'static [f64],
    /// True effect, relative to the control.
    pub effect: f64,
    /// Users of one experiment, in all variants.
    pub users: u64,
}

const HALVES: &[f64] = &[0.5, 0.5];
const FEW_TREATED: &[f64] = &[0.9, 0.1];
const MOST_TREATED: &[f64] = &[0.1, 0.9];
const USERS: u64 = 60_000;
const SKEWED: Population = Population::Skewed { buying: 0.1, sigma: 1.5 };

/// Returns all scenarios, those without an effect first.
pub fn all() -> Vec<Scenario> {
    let with = |name, population, shares, effect, users| Scenario { name, population, shares, effect, users };
    let rate = Population::Rate(0.1);
    vec![
        with("rate 10%", rate, HALVES, 0.0, USERS),
        with("rate 1%, one of ten treated", Population::Rate(0.01), FEW_TREATED, 0.0, USERS),
        with("rate 10%, converting late", Population::Late { rate: 0.1, daily: 0.2 }, HALVES, 0.0, USERS),
        with("rate 10%, three treatments", rate, &[0.25; 4], 0.0, USERS),
        with("mean, mildly skewed", Population::Mild, HALVES, 0.0, USERS),
        with("mean, very skewed", SKEWED, HALVES, 0.0, USERS),
        with("mean, very skewed, one of ten treated", SKEWED, FEW_TREATED, 0.0, USERS),
        with("mean, very skewed, nine of ten treated", SKEWED, MOST_TREATED, 0.0, USERS),
        with("mean, adjusted (CUPED)", Population::Habit, HALVES, 0.0, USERS),
        with("rate 10%, users as planned", rate, HALVES, 0.1, planned(0.1, [0.09, 0.097_9], 0.1)),
        with("mean, users as planned", Population::Mild, HALVES, 0.05, planned(2.0, [2.0, 2.205], 0.05)),
        with("mean, very skewed, with an effect", SKEWED, HALVES, 0.1, USERS),
    ]
}

/// Number of users with which a relative effect on a metric of this mean is found with [`POWER`].
fn planned(mean: f64, variances: [f64; 2], effect: f64) -> u64 {
    let [control, treatment] = variances.map(|variance| Moments { users: 1_000.0, mean, variance });
    let now = Difference::between(&control, &treatment);
    let boundary = Family::of(Role::Primary, CONFIDENCE, POWER, 1, 1).boundary();
    planning::users_needed(&now.absolute, now.users, effect * mean, &boundary, POWER).unwrap_or(0)
}
