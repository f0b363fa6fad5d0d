//! Simulation of experiments: how often the statistics are wrong, and how soon they find an effect. Users arrive day by
//! day, and the results are examined every day. The same seed gives the same result.

mod population;
mod run;
mod scenarios;
mod traffic;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Binomial, Distribution};
use serde::Serialize;

use super::results::SAMPLE_RATIO_ALPHA;
use super::statistics::sample_ratio;

pub use population::Population;
pub use run::{Outcome, run};
pub use scenarios::{Scenario, all, large_effects};
pub use traffic::{TrafficScenario, all as all_traffic};

/// Confidence level of every simulated experiment.
pub const CONFIDENCE: f64 = 0.95;
pub const POWER: f64 = 0.8;

/// Number and duration of the simulated experiments.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Extent {
    pub runs: u32,
    /// Number of days. The results are examined at the end of each.
    pub days: u32,
    pub seed: u64,
}

/// Rates over all runs of a scenario, as shares of the runs.
#[derive(Debug, Clone, Serialize)]
pub struct Rates {
    pub name: String,
    /// Users of one experiment, in all variants.
    pub users: u64,
    pub effect: f64,
    /// Share of runs that found a difference on some day. Without an effect these are false positives.
    pub found: f64,
    /// Share of runs in which a single-look p-value was below 5 % on some day.
    pub found_by_single_looks: f64,
    /// Day by which half of the runs that found a difference had found it.
    pub median_day: Option<u32>,
    /// Share of runs whose interval contained the true value on every day.
    pub covered: f64,
    /// Share of runs whose relative interval contained the true value on every day.
    pub covered_relative: f64,
    /// Share of runs whose last look compared nothing.
    pub refused: f64,
    /// Most recent reason for it.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SampleRatioRates {
    /// Share of users in the first of two variants with equal weights.
    pub share: f64,
    pub users: u64,
    pub alarms: f64,
    /// Share of runs in which the chi-squared p-value was below the alarm's threshold on some day.
    pub alarms_of_single_looks: f64,
}

/// Simulates one scenario, with its runs distributed over the cores.
pub fn rates(scenario: &Scenario, extent: &Extent) -> Rates {
    let shares: Vec<String> = scenario.shares.iter().map(f64::to_string).collect();
    let name = format!("{} {} {}", scenario.name, scenario.effect, shares.join(":"));
    let kind =
        crc32fast::hash(if scenario.effect == 0.0 { scenario.name.as_bytes() } else { name.as_bytes() });
    let looks =
        if scenario.every_user { u32::try_from(scenario.users).unwrap_or(u32::MAX) } else { extent.days };
    let outcomes = on_all_cores(extent.runs, |number| {
        run(scenario, looks, &mut random(extent.seed, kind.into(), number))
    });
    summed(&scenario.name, scenario.users, scenario.effect, &outcomes)
}

/// Simulates one scenario row by row.
pub fn traffic_rates(scenario: &TrafficScenario, extent: &Extent) -> Rates {
    let kind = crc32fast::hash(scenario.name.as_bytes());
    let outcomes = on_all_cores(extent.runs, |number| {
        traffic::run(scenario, &mut random(extent.seed, kind.into(), number))
    });
    summed(scenario.name, scenario.users, scenario.effect, &outcomes)
}

fn summed(name: &str, users: u64, effect: f64, outcomes: &[Outcome]) -> Rates {
    let share = |of: fn(&Outcome) -> bool| share(outcomes, of);
    let mut days: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.found_on).collect();
    days.sort_unstable();
    Rates {
        name: name.to_owned(),
        users,
        effect,
        found: share(|outcome| outcome.found_on.is_some()),
        found_by_single_looks: share(|outcome| outcome.found_by_single_look),
        median_day: days.get(days.len() / 2).copied(),
        covered: share(|outcome| outcome.covered),
        covered_relative: share(|outcome| outcome.covered_relative),
        refused: share(|outcome| outcome.refused.is_some()),
        reason: outcomes.iter().find_map(|outcome| outcome.refused).map(str::to_owned),
    }
}

impl Rates {
    /// Whether the promised error rates are kept.
    pub fn are_kept(&self) -> bool {
        let is_silent = self.effect != 0.0 || self.found <= 1.0 - CONFIDENCE;
        is_silent && self.covered >= CONFIDENCE && self.covered_relative >= CONFIDENCE
    }
}

/// Simulates two variants of equal weight whose users are split in another ratio.
pub fn sample_ratio_rates(share_of_first: f64, users: u64, extent: &Extent) -> SampleRatioRates {
    let daily = users / u64::from(extent.days.max(1));
    let outcomes = on_all_cores(extent.runs, |number| {
        let mut random = random(extent.seed, (share_of_first * 1e6) as u64, number);
        let (mut counted, mut raised) = ([0, 0], (false, false));
        for _ in 0..extent.days {
            let first = Binomial::new(daily, share_of_first).map_or(0, |split| split.sample(&mut random));
            counted = [counted[0] + first, counted[1] + daily - first];
            let fit = sample_ratio::fit(&counted, &[1.0, 1.0]);
            raised.0 |= fit.is_some_and(|fit| fit.p_value < SAMPLE_RATIO_ALPHA);
            raised.1 |= fit.is_some_and(|fit| fit.single_look_p_value < SAMPLE_RATIO_ALPHA);
        }
        raised
    });
    SampleRatioRates {
        share: share_of_first,
        users: daily * u64::from(extent.days),
        alarms: share(&outcomes, |raised| raised.0),
        alarms_of_single_looks: share(&outcomes, |raised| raised.1),
    }
}

/// Random generator of one run. Runs with different seeds, kinds or numbers are independent.
fn random(seed: u64, kind: u64, number: u32) -> StdRng {
    let mut bytes = [0; 32];
    let words = [seed, kind, number.into(), 0].map(u64::to_le_bytes);
    bytes.copy_from_slice(words.as_flattened());
    StdRng::from_seed(bytes)
}

fn on_all_cores<T: Send>(runs: u32, one: impl Fn(u32) -> T + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    std::thread::scope(|scope| {
        let part = |core: u32| {
            let one = &one;
            scope.spawn(move || (core..runs).step_by(cores as usize).map(one).collect::<Vec<_>>())
        };
        let parts: Vec<_> = (0..cores).map(part).collect();
        parts.into_iter().filter_map(|part| part.join().ok()).flatten().collect()
    })
}

fn share<T>(outcomes: &[T], of: impl Fn(&T) -> bool) -> f64 {
    outcomes.iter().filter(|outcome| of(outcome)).count() as f64 / outcomes.len() as f64
}

#[cfg(test)]
mod tests;
