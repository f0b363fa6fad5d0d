//! Simulation of one experiment.

use rand::Rng;

use crate::results::{Family, Verdict, compare};
use crate::statistics::{Cuped, Interval};
use crate::{Goal, Metric, Role, Sample};

use super::population::{Arm, binomial};
use super::{CONFIDENCE, POWER, Scenario};

#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// First day on which a difference was found.
    pub found_on: Option<u32>,
    pub found_by_single_look: bool,
    pub covered: bool,
    pub covered_relative: bool,
}

/// Simulates one experiment and examines it at the end of each day. The first variant is the control; all others have
/// the effect.
pub fn run(scenario: &Scenario, days: u32, random: &mut impl Rng) -> Outcome {
    let metric = metric(scenario);
    let family = Family::of(Role::Primary, CONFIDENCE, POWER, scenario.shares.len() - 1, 1);
    let mut arms = vec![Arm::default(); scenario.shares.len()];
    let mut outcome =
        Outcome { found_on: None, found_by_single_look: false, covered: true, covered_relative: true };
    for day in 1..=days {
        come(scenario, u64::from(days), &mut arms, random);
        let samples: Vec<Sample> = arms.iter().map(|arm| arm.sample).collect();
        let cuped = Cuped::of(&samples, metric.kind);
        let Some((control, treatments)) = samples.split_first() else { break };
        for treatment in treatments {
            let found = compare(&metric, &family, cuped.as_ref(), control, treatment);
            let Ok((verdict, effect)) = found else { continue };
            if outcome.found_on.is_none() && matches!(verdict, Verdict::Better | Verdict::Worse) {
                outcome.found_on = Some(day);
            }
            outcome.found_by_single_look |=
                effect.single_look.is_some_and(|look| look.p_value < 1.0 - CONFIDENCE);
            let truth = scenario.population.mean() * scenario.effect;
            outcome.covered &= contains(effect.interval, truth);
            outcome.covered_relative &=
                effect.relative.is_none_or(|relative| contains(relative.interval, scenario.effect));
        }
    }
    outcome
}

/// Adds a day's users, split randomly.
fn come(scenario: &Scenario, days: u64, arms: &mut [Arm], random: &mut impl Rng) {
    let (mut users, mut share_left) = (scenario.users / days, 1.0);
    for (at, (arm, share)) in arms.iter_mut().zip(scenario.shares).enumerate() {
        let last = at + 1 == scenario.shares.len();
        let of_arm = if last { users } else { binomial(users, share / share_left, random) };
        let effect = if at == 0 { 0.0 } else { scenario.effect };
        scenario.population.day(arm, of_arm, effect, random);
        users -= of_arm;
        share_left -= share;
    }
}

fn metric(scenario: &Scenario) -> Metric {
    Metric {
        name: scenario.name.to_owned(),
        kind: scenario.population.kind(),
        goal: Goal::Increase,
        role: Role::Primary,
        minimum_effect: scenario.effect,
    }
}

fn contains(interval: Interval, truth: f64) -> bool {
    (interval.low..=interval.high).contains(&truth)
}
