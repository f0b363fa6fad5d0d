//! Simulation of one experiment from the sums of its variants.

use rand::Rng;

use crate::results::{Arms, Family, Missing, prepare};
use crate::statistics::{Cuped, difference};
use crate::{Goal, Metric, Role, Sample};

use super::population::{Arm, binomial};
use super::{CONFIDENCE, POWER, Scenario};

#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// First look that found a difference.
    pub found_on: Option<u32>,
    pub found_by_single_look: bool,
    pub covered: bool,
    pub covered_relative: bool,
    /// Reason why the last look compared nothing; `None` if it did.
    pub refused: Option<&'static str>,
}

impl Outcome {
    pub(super) fn new() -> Self {
        Self {
            found_on: None,
            found_by_single_look: false,
            covered: true,
            covered_relative: true,
            refused: None,
        }
    }
}

/// Simulates one experiment and examines it at each look. The first variant is the control; all others have the effect.
pub fn run(scenario: &Scenario, looks: u32, random: &mut impl Rng) -> Outcome {
    let metric = metric(scenario);
    let treatments = scenario.shares.len() - 1;
    let family = Family {
        confidence: CONFIDENCE,
        power: POWER,
        comparisons: treatments,
        tuned_for: scenario.tuned_for,
    };
    let level = family.level();
    let truth = scenario.population.mean() * scenario.effect;
    let mut arms = vec![Arm::default(); scenario.shares.len()];
    let mut outcome = Outcome::new();
    for look in 1..=looks {
        come(scenario, u64::from(looks), &mut arms, random);
        let samples: Vec<Sample> = arms.iter().map(Arm::sample).collect();
        let cuped = Cuped::of(std::slice::from_ref(&samples), metric.kind);
        let Some((control, treatments)) = samples.split_first() else { break };
        for (treatment, share) in treatments.iter().zip(scenario.shares.iter().skip(1)) {
            let share = share / (share + scenario.shares.first().copied().unwrap_or_default());
            let arms = Arms { stratum: 0, control: *control, treatment: *treatment, share };
            let prepared = match prepare(&metric, cuped.as_ref(), &[arms]) {
                Ok(prepared) => prepared,
                Err(missing) => {
                    outcome.refused = Some(reason(missing));
                    continue;
                }
            };
            outcome.refused = None;
            let (between, boundary) = (&prepared.difference, &level.boundary);
            let errors = boundary.half_width(between.users);
            if outcome.found_on.is_none() && !between.contains(0.0, errors) {
                outcome.found_on = Some(look);
            }
            let alpha = 1.0 - CONFIDENCE;
            let is_rate = metric.kind.is_rate();
            let single_look =
                || difference::single_look(&prepared.pairs, is_rate, alpha / treatments_of(scenario));
            outcome.found_by_single_look = outcome.found_by_single_look
                || single_look().is_some_and(|one| one.p_value * treatments_of(scenario) < alpha);
            outcome.covered &= between.contains(truth, errors);
            // The same condition as for an interval: without it, no relative difference is reported.
            outcome.covered_relative &=
                between.relative_delta().is_none() || between.contains_relative(scenario.effect, errors);
        }
    }
    outcome
}

fn treatments_of(scenario: &Scenario) -> f64 {
    (scenario.shares.len() - 1) as f64
}

/// Adds the users of a look, split randomly.
fn come(scenario: &Scenario, looks: u64, arms: &mut [Arm], random: &mut impl Rng) {
    let (mut users, mut share_left) = (scenario.users / looks, 1.0);
    for (at, (arm, share)) in arms.iter_mut().zip(scenario.shares).enumerate() {
        let last = at + 1 == scenario.shares.len();
        let of_arm = if last { users } else { binomial(users, share / share_left, random) };
        let effect = if at == 0 { 0.0 } else { scenario.effect };
        scenario.population.add(arm, of_arm, effect, random);
        users -= of_arm;
        share_left -= share;
    }
}

fn metric(scenario: &Scenario) -> Metric {
    Metric {
        name: scenario.name.clone(),
        kind: scenario.population.kind(),
        goal: Goal::Increase,
        role: Role::Primary,
        minimum_effect: scenario.effect,
        ..Metric::default()
    }
}

pub(super) fn reason(missing: Missing) -> &'static str {
    match missing {
        Missing::NoControl => "no control",
        Missing::TooFewUsers => "too few users",
        Missing::TooFewConversions | Missing::NoConversions => "too few conversions",
        Missing::NoVariance | Missing::NotFinite => "no variance",
        Missing::TooSkewed => "values too skewed: set a cap",
        Missing::TooUncertain => "mean too uncertain",
    }
}
