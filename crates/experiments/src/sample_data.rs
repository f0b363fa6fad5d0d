//! Sample experiments and counts for tests, here and in programs that render results (feature `sample-data`).

#![allow(clippy::unwrap_used)]

use chrono::{DateTime, TimeDelta, TimeZone, Utc};

use crate::phases::variants;
use crate::results::{Experiment, Status};
use crate::{
    Design, DrawList, Excluded, Goal, Kind, Metric, Phase, Role, Sample, Stratum, Tally, VariantTally,
};

/// An experiment with a primary metric (purchase), a secondary metric (amount) and a guardrail (errors).
pub fn experiment(holdout: Option<&str>) -> Experiment {
    let metric = |name: &str, kind, goal, role| Metric {
        name: name.to_owned(),
        kind,
        goal,
        role,
        ..Metric::default()
    };
    let design = Design {
        name: "checkout".to_owned(),
        environment: "production".to_owned(),
        flag_name: "new-checkout".to_owned(),
        hypothesis: Some("Fewer steps, more purchases".to_owned()),
        owner: None,
        control: "old".to_owned(),
        holdout: holdout.map(str::to_owned),
        metrics: vec![
            metric("purchase", Kind::Conversion, Goal::Increase, Role::Primary),
            metric("amount", Kind::Mean, Goal::Increase, Role::Secondary),
            metric("errors", Kind::Conversion, Goal::Decrease, Role::Guardrail),
        ],
        window_hours: 24,
        confidence: 0.95,
        power: 0.8,
        finished_windows: false,
        exclude_crossed: false,
        planned_users: None,
        on_harm: None,
        dimensions: Vec::new(),
        layer: None,
        global_holdout: None,
    };
    Experiment {
        design,
        status: Status::Running,
        started_at: start(),
        stopped_at: None,
        reason: None,
        winner: None,
    }
}

/// Start of the sample experiment.
pub fn start() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap()
}

/// Counts of a variant, with purchases and errors per thousand users. Each purchase has the amount 10.
pub fn variant(name: &str, users: u64, purchases: u64, errors: u64) -> VariantTally {
    let converted = |per_thousand: u64| Sample::rate(users, users * per_thousand / 1_000);
    let rate = converted(purchases);
    let amount = Sample {
        mean: rate.mean * 10.0,
        scatter: rate.scatter * 100.0,
        largest: rate.largest * 10.0,
        ..rate
    };
    VariantTally {
        variant: name.to_owned(),
        users,
        crossed: 0,
        changed: 0,
        samples: vec![rate, amount, converted(errors)],
    }
}

/// Counts of a phase after ten days, with equal weights.
pub fn tally(variants: Vec<VariantTally>) -> Tally {
    let weights = variants.iter().map(|variant| (variant.variant.clone(), 500.0)).collect();
    let list = DrawList { rules: Vec::new(), weights, unit: None };
    strata(vec![Stratum { list, variants }])
}

/// Counts of a phase after ten days, with the variants of the first stratum.
pub fn strata(strata: Vec<Stratum>) -> Tally {
    let lists: Vec<DrawList> = strata.iter().map(|stratum| stratum.list.clone()).collect();
    Tally {
        phase: Phase {
            number: 1,
            first_version: 7,
            started_at: start(),
            ended_at: None,
            variants: variants(&lists),
            lists,
            forced: Vec::new(),
        },
        counted_at: start() + TimeDelta::days(10),
        strata,
        excluded: Excluded::default(),
    }
}
