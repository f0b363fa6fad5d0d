//! Scenarios of the simulation.

use super::{CONFIDENCE, POWER, Population};
use crate::results::Family;
use crate::statistics::boundary::TUNED_FOR_USERS;
use crate::statistics::{Difference, Moments, planning};

#[derive(Debug, Clone)]
pub struct Scenario {
    /// Unique name, which also seeds the runs.
    pub name: String,
    pub population: Population,
    /// Shares of the variants, the control first.
    pub shares: &'static [f64],
    /// True effect, relative to the control.
    pub effect: f64,
    /// Users of one experiment, in all variants.
    pub users: u64,
    /// Whether the results are examined after every user, and not only after each day.
    pub every_user: bool,
    /// Number of users for which the intervals are narrowest.
    pub tuned_for: f64,
}

pub const HALVES: &[f64] = &[0.5, 0.5];
pub const FEW_TREATED: &[f64] = &[0.9, 0.1];
pub const MOST_TREATED: &[f64] = &[0.1, 0.9];
const USERS: u64 = 60_000;
/// Users of an experiment that is examined after every user.
const WATCHED_USERS: u64 = 10_000;
const SKEWED: Population = Population::Skewed { buying: 0.1, sigma: 1.5 };
const EXTREME: Population = Population::Skewed { buying: 0.1, sigma: 2.5 };

/// Returns all scenarios, those without an effect first.
pub fn all() -> Vec<Scenario> {
    let with = |name: &str, population, shares, effect, users| Scenario {
        name: name.to_owned(),
        population,
        shares,
        effect,
        users,
        every_user: false,
        tuned_for: TUNED_FOR_USERS,
    };
    let watched = |name: &str, population, shares| Scenario {
        every_user: true,
        ..with(name, population, shares, 0.0, WATCHED_USERS)
    };
    let rate = Population::Rate(0.1);
    let planned_rate = planned(0.1, [0.09, 0.097_9], 0.1);
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
        watched("rate 10%, a look after every user", rate, HALVES),
        watched("rate 10%, one of ten treated, every user", rate, FEW_TREATED),
        watched("mean, very skewed, every user", SKEWED, HALVES),
        watched("mean, adjusted (CUPED), every user", Population::Habit, HALVES),
        with("rate 10%, users as planned", rate, HALVES, 0.1, planned_rate),
        Scenario {
            tuned_for: planned_rate as f64,
            ..with("rate 10%, tuned for the plan", rate, HALVES, 0.1, planned_rate)
        },
        with("mean, users as planned", Population::Mild, HALVES, 0.05, planned(2.0, [2.0, 2.205], 0.05)),
        with("mean, very skewed, with an effect", SKEWED, HALVES, 0.1, USERS),
    ]
}

/// Returns scenarios with large effects: for each metric and effect, one at each split.
pub fn large_effects() -> Vec<[Scenario; 3]> {
    let metrics = [
        ("rate 10%", Population::Rate(0.1)),
        ("rate 1%", Population::Rate(0.01)),
        ("mean, mildly skewed", Population::Mild),
        ("mean, very skewed", SKEWED),
        ("mean, extremely skewed", EXTREME),
    ];
    let splits = [FEW_TREATED, HALVES, MOST_TREATED];
    let of_metric = |(name, population): (&str, Population)| {
        let named = name.to_owned();
        [-0.5, 0.5, 1.0].map(|effect| {
            splits.map(|shares| Scenario {
                name: named.clone(),
                population,
                shares,
                effect,
                users: USERS,
                every_user: false,
                tuned_for: TUNED_FOR_USERS,
            })
        })
    };
    metrics.into_iter().flat_map(of_metric).collect()
}

/// Number of users with which a relative effect on a metric of this mean is found with [`POWER`].
fn planned(mean: f64, variances: [f64; 2], effect: f64) -> u64 {
    let [control, treatment] = variances.map(|variance| Moments { users: 1_000.0, mean, variance });
    let now = Difference::between(&control, &treatment, false);
    let family = Family { confidence: CONFIDENCE, power: POWER, comparisons: 1, tuned_for: TUNED_FOR_USERS };
    planning::users_needed(&now.absolute(), now.users, effect * mean, &family.level().boundary, POWER)
        .unwrap_or(0)
}
