//! Simulation of experiments row by row: exposures and conversions are counted as the service counts them, with the
//! draws, phases and windows of a flag. It shows whether the right rows enter the statistics.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;

use crate::phases::{Version, phases};
use crate::results::{Conversions, Experiment, Results, Status, Verdict};
use crate::rows::{ConversionRow, ExposureRow, count};
use crate::statistics::Interval;
use crate::{Assignment, Design, Draws, Goal, Kind, Metric, Role};

use super::population::gamma;
use super::run::{Outcome, reason};
use super::{CONFIDENCE, POWER};

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// Tolerated difference between clocks.
const SKEW: i64 = 300_000_000;
/// Looks at each experiment.
const LOOKS: i64 = 10;

const EVEN: &str = r#"[{"name": "a", "weight": 50}, {"name": "b", "weight": 50}]"#;
const UNEVEN: &str = r#"[{"name": "a", "weight": 55}, {"name": "b", "weight": 45}]"#;
const NINE_TO_ONE: &str = r#"[{"name": "a", "weight": 90}, {"name": "b", "weight": 10}]"#;

/// Peculiarity of a simulated experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// The weights change after half of the time; users come back. Values before the first exposure are known.
    Phases,
    /// Premium users, who buy more, are drawn with other weights than the others.
    Rules,
    /// A rule gives testers, who all convert, the treatment.
    Forced,
    /// Half of the conversions are reported with a clock that is behind.
    Clocks,
    /// The treatment delays conversions.
    Delay,
    /// Variants are drawn by company.
    Companies,
    /// A rare event is a guardrail, and one user in a hundred is treated.
    Rare,
    /// Nineteen guardrails.
    Guardrails,
}

#[derive(Debug, Clone, Copy)]
pub struct TrafficScenario {
    pub name: &'static str,
    pub kind: Kinds,
    pub users: u64,
    /// True effect in the phase that is examined, relative to the control.
    pub effect: f64,
    /// True effect in the phase before.
    pub effect_before: f64,
}

/// Returns all scenarios.
pub fn all() -> Vec<TrafficScenario> {
    let with = |name, kind, users, effect, effect_before| TrafficScenario {
        name,
        kind,
        users,
        effect,
        effect_before,
    };
    vec![
        with("weights change (CUPED), no effect later", Kinds::Phases, 2_000, 0.0, 0.3),
        with("weights change (CUPED), the same effect", Kinds::Phases, 2_000, 0.3, 0.3),
        with("rules with different weights", Kinds::Rules, 4_000, 0.0, 0.0),
        with("rules with different weights, an effect", Kinds::Rules, 8_000, 0.5, 0.0),
        with("forced users", Kinds::Forced, 3_000, 0.0, 0.0),
        with("clocks that are behind", Kinds::Clocks, 2_000, 0.0, 0.0),
        with("treatment delays, finished windows", Kinds::Delay, 4_000, 0.0, 0.0),
        with("rare guardrail, one of a hundred treated", Kinds::Rare, 4_000, 0.0, 0.0),
        with("nineteen guardrails", Kinds::Guardrails, 2_000, 0.0, 0.0),
        with("drawn by company (50 users each)", Kinds::Companies, 4_000, 0.0, 0.0),
    ]
}

/// Rows of one simulated experiment.
struct World {
    design: Design,
    versions: Vec<Version>,
    assignments: BTreeMap<i64, Assignment>,
    exposures: Vec<ExposureRow<'static>>,
    conversions: Vec<ConversionRow<'static>>,
    /// Mean of the control.
    mean: f64,
    days: i64,
    /// Index of the first metric that is examined.
    examined: usize,
}

/// Simulates one experiment and examines it at each look.
pub fn run(scenario: &TrafficScenario, random: &mut impl Rng) -> Outcome {
    let mut world = world(scenario, random);
    world.exposures.sort_by_key(|row| row.at);
    world.conversions.sort_by_key(|row| row.at);
    let mut outcome = Outcome::new();
    // The phase before the one in question is over after half of the time.
    let first = if scenario.kind == Kinds::Phases { LOOKS / 2 + 1 } else { 1 };
    for look in first..=LOOKS {
        let results = world.results(world.days * DAY * look / LOOKS);
        let is_blocked = results.conclusions.iter().any(|of| of.alarm && of.finding.blocks());
        let metrics = results.phase.iter().flat_map(|phase| phase.metrics.iter().skip(world.examined));
        for comparison in metrics.flat_map(|metric| &metric.comparisons) {
            let found = matches!(comparison.verdict, Verdict::Better | Verdict::Worse | Verdict::Harmed)
                && !is_blocked;
            if found && outcome.found_on.is_none() {
                outcome.found_on = u32::try_from(look).ok();
            }
            if is_blocked {
                outcome.refused = Some("drawn by something else than the user");
                continue;
            }
            outcome.refused = comparison.missing.filter(|_| comparison.rare.is_none()).map(reason);
            if let Some(rare) = &comparison.rare {
                let low = rare.low.unwrap_or(f64::NEG_INFINITY);
                let interval = Interval { low, high: rare.high.unwrap_or(f64::INFINITY) };
                outcome.covered_relative &= contains(interval, scenario.effect);
            }
            let Some(effect) = &comparison.effect else { continue };
            outcome.found_by_single_look |=
                effect.single_look.is_some_and(|one| one.p_value < 1.0 - CONFIDENCE);
            // While a stratum is too small, the difference is that of the others.
            outcome.covered &= effect.left_out > 0 || contains(effect.interval, world.mean * scenario.effect);
            outcome.covered_relative &=
                effect.relative.is_none_or(|relative| contains(relative.interval, scenario.effect));
        }
    }
    outcome
}

impl World {
    fn results(&self, now: i64) -> Results {
        let phases = phases(&self.versions, &self.design.control, time(0), None);
        let exposed = self.exposures.partition_point(|row| row.at <= now);
        let converted = self.conversions.partition_point(|row| row.at <= now);
        let started: Vec<_> = phases.into_iter().filter(|phase| phase.started_at <= time(now)).collect();
        let counts = count(
            &self.design,
            &started,
            self.exposures.get(..exposed).unwrap_or_default(),
            self.conversions.get(..converted).unwrap_or_default(),
            SKEW,
            now,
        );
        let tallies = counts.tallies(&self.design, started, &self.assignments, time(now));
        let experiment = Experiment {
            design: self.design.clone(),
            status: Status::Running,
            started_at: time(0),
            stopped_at: None,
            reason: None,
            winner: None,
        };
        Results::of(experiment, &tallies, Conversions::default())
    }

    /// Exposes a user to a variant drawn with these percentages of the treatment. Returns whether it is the treatment.
    fn expose(
        &mut self,
        user: u64,
        version: u64,
        key: i64,
        treated: f64,
        at: i64,
        random: &mut impl Rng,
    ) -> bool {
        let is_treated = random.random::<f64>() < treated;
        let variant = if is_treated { "b" } else { "a" };
        self.exposures.push(ExposureRow {
            user,
            version,
            variant,
            assignment: Some(key),
            at,
            crossed: false,
        });
        is_treated
    }

    fn convert(&mut self, user: u64, event: &'static str, value: Option<f64>, at: i64) {
        self.conversions.push(ConversionRow { user, event, value, at });
    }
}

fn world(scenario: &TrafficScenario, random: &mut impl Rng) -> World {
    let mut world = empty(scenario.kind);
    let span = world.days * DAY;
    for user in 0..scenario.users {
        let at = random.random_range(0..span / 2);
        match scenario.kind {
            Kinds::Phases => returning(&mut world, scenario, user, random),
            Kinds::Rules => {
                let premium = user % 10 < 3;
                let (key, treated, rate) = if premium { (2, 0.5, 0.4) } else { (7, 0.1, 0.05) };
                let is_treated = world.expose(user, 1, key, treated, 2 * at, random);
                let rate = if is_treated { rate * (1.0 + scenario.effect) } else { rate };
                if random.random::<f64>() < rate {
                    world.convert(user, "m", None, 2 * at + HOUR);
                }
            }
            Kinds::Forced if user % 50 == 0 => {
                world.expose(user, 1, 3, 1.0, at, random);
                world.convert(user, "m", None, at + HOUR);
            }
            Kinds::Forced => simple(&mut world, user, 0.05, 2 * at, 0, random),
            Kinds::Clocks => simple(&mut world, user, 0.2, 2 * at, -5_000_000, random),
            Kinds::Delay => {
                let is_treated = world.expose(user, 1, 1, 0.5, 2 * at, random);
                let daily: f64 = if is_treated { 0.3 } else { 0.5 };
                let days = (random.random::<f64>().ln() / (1.0 - daily).ln()).min(60.0);
                if random.random::<f64>() < 0.1 {
                    world.convert(user, "m", None, 2 * at + (days * DAY as f64) as i64);
                }
            }
            Kinds::Companies => {
                // One draw for each company, whose users behave alike.
                let company = user / 50;
                let mut of_company = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(company);
                let rate = 0.1 + 0.1 * of_company.random::<f64>();
                world.expose(user, 1, 4, f64::from(u8::from(of_company.random::<bool>())), 2 * at, random);
                if random.random::<f64>() < rate {
                    world.convert(user, "m", None, 2 * at + HOUR);
                }
            }
            Kinds::Rare => {
                world.expose(user, 1, 5, 0.01, 2 * at, random);
                if random.random::<f64>() < 0.01 {
                    world.convert(user, "crash", None, 2 * at + HOUR);
                }
            }
            Kinds::Guardrails => {
                world.expose(user, 1, 1, 0.5, 2 * at, random);
                for event in GUARDRAILS {
                    if random.random::<f64>() < 0.1 {
                        world.convert(user, event, None, 2 * at + HOUR);
                    }
                }
            }
        }
    }
    world
}

/// A user who has a habit, is exposed in both phases, and has a value in each.
fn returning(world: &mut World, scenario: &TrafficScenario, user: u64, random: &mut impl Rng) {
    let (habit, half) = (gamma(4.0, random), world.days * DAY / 2);
    world.convert(user, "m", Some(habit * gamma(4.0, random) / 4.0), -DAY);
    let bucket: f64 = random.random();
    for (version, key, treated, effect, start) in
        [(1, 1, 0.5, scenario.effect_before, 0), (2, 6, 0.45, scenario.effect, half)]
    {
        let at = start + random.random_range(0..half / 2);
        let is_treated = bucket < treated;
        let variant = if is_treated { "b" } else { "a" };
        let row = ExposureRow { user, version, variant, assignment: Some(key), at, crossed: false };
        world.exposures.push(row);
        let factor = if is_treated { 1.0 + effect } else { 1.0 };
        world.convert(user, "m", Some(habit * gamma(4.0, random) / 4.0 * factor), at + HOUR);
    }
}

/// A user of an even split who converts at once, every second one with a clock that is wrong by `skew`.
fn simple(world: &mut World, user: u64, rate: f64, at: i64, skew: i64, random: &mut impl Rng) {
    world.expose(user, 1, 1, 0.5, at, random);
    if random.random::<f64>() < rate {
        let skew = if random.random::<bool>() { skew } else { 1_000_000 };
        world.convert(user, "m", None, at + skew);
    }
}

const GUARDRAILS: [&str; 19] = [
    "g1", "g2", "g3", "g4", "g5", "g6", "g7", "g8", "g9", "g10", "g11", "g12", "g13", "g14", "g15", "g16",
    "g17", "g18", "g19",
];

fn empty(kind: Kinds) -> World {
    let metric = |name: &str, kind, role| Metric {
        name: name.to_owned(),
        kind,
        role,
        goal: Goal::Decrease,
        ..Metric::default()
    };
    let (metrics, examined, mean) = match kind {
        Kinds::Phases => (vec![metric("m", Kind::Mean, Role::Primary)], 0, 4.0),
        Kinds::Rules => (vec![metric("m", Kind::Conversion, Role::Primary)], 0, 0.7 * 0.05 + 0.3 * 0.4),
        Kinds::Rare => (
            vec![
                metric("m", Kind::Conversion, Role::Primary),
                metric("crash", Kind::Conversion, Role::Guardrail),
            ],
            1,
            0.01,
        ),
        Kinds::Guardrails => {
            (GUARDRAILS.map(|name| metric(name, Kind::Conversion, Role::Guardrail)).to_vec(), 0, 0.1)
        }
        _ => (vec![metric("m", Kind::Conversion, Role::Primary)], 0, 0.1),
    };
    let definitions = match kind {
        Kinds::Phases => vec![own(EVEN), own(UNEVEN)],
        Kinds::Rules => {
            vec![format!(r#"{{"strategies": [{{"variants": {EVEN}}}, {{}}], "variants": {NINE_TO_ONE}}}"#)]
        }
        _ => vec![own(EVEN)],
    };
    let days = 20;
    let version = |(index, definition): (usize, String)| Version {
        version: index as u64 + 1,
        draws: Draws::read(&definition),
        in_force_at: time(index as i64 * days * DAY / 2),
    };
    World {
        design: Design {
            name: "simulated".to_owned(),
            environment: String::new(),
            flag_name: "flag".to_owned(),
            hypothesis: None,
            owner: None,
            control: "a".to_owned(),
            holdout: None,
            metrics,
            window_hours: if kind == Kinds::Delay { 5 * 24 } else { 7 * 24 },
            confidence: CONFIDENCE,
            power: POWER,
            finished_windows: kind == Kinds::Delay,
            exclude_crossed: false,
            planned_users: None,
            on_harm: None,
            dimensions: Vec::new(),
            layer: None,
            global_holdout: None,
        },
        versions: definitions.into_iter().enumerate().map(version).collect(),
        assignments: assignments(),
        exposures: Vec::new(),
        conversions: Vec::new(),
        mean,
        days,
        examined,
    }
}

fn own(variants: &str) -> String {
    format!(r#"{{"strategies": [{{}}], "variants": {variants}}}"#)
}

fn assignments() -> BTreeMap<i64, Assignment> {
    let drawn = |a: u32, stickiness: &str, rule: Option<u32>| {
        let rule = rule.map_or("null".to_owned(), |rule| rule.to_string());
        format!(
            r#"{{"how": "drawn", "rule": {rule}, "stickiness": "{stickiness}", "weights": {{"a": {a}, "b": {}}}}}"#,
            100 - a
        )
    };
    let texts = [
        (1, drawn(50, "default", None)),
        (2, drawn(50, "default", Some(0))),
        (3, r#"{"how": "forced", "rule": 0, "weights": {"b": 100}}"#.to_owned()),
        (4, drawn(50, "company", None)),
        (5, drawn(99, "default", None)),
        (6, drawn(55, "default", None)),
        (7, drawn(90, "default", None)),
    ];
    texts.into_iter().filter_map(|(key, text)| Some((key, Assignment::read(&text)?))).collect()
}

fn time(micros: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::microseconds(micros)
}

fn contains(interval: Interval, truth: f64) -> bool {
    (interval.low..=interval.high).contains(&truth)
}
