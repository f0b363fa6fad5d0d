//! Sample experiments and counts for tests, here and in programs that render results (feature `sample-data`).

#![allow(clippy::unwrap_used)]

use chrono::{DateTime, TimeDelta, TimeZone, Utc};

use crate::results::{Experiment, Status};
use crate::{Design, Goal, Kind, Metric, Phase, Role, Sample, Tally, VariantTally, Weighted};

/// An experiment with a primary metric (purchase), a secondary metric (amount) and a guardrail (errors).
pub fn experiment(holdout: Option<&str>) -> Experiment {
    let metric = |name: &str, kind, goal, role| Metric {
        name: name.to_owned(),
        kind,
        goal,
        role,
        minimum_effect: 0.05,
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
    let converted = |per_thousand: u64| {
        let converted = users * per_thousand / 1_000;
        Sample {
            users,
            converted,
            sum: converted as f64,
            sum_of_squares: converted as f64,
            ..Sample::default()
        }
    };
    let amount = converted(purchases);
    let amount = Sample { sum: amount.sum * 10.0, sum_of_squares: amount.sum * 100.0, ..amount };
    VariantTally {
        variant: name.to_owned(),
        users,
        crossed: 0,
        samples: vec![converted(purchases), amount, converted(errors)],
    }
}

/// Counts of a phase after ten days.
pub fn tally(variants: Vec<VariantTally>) -> Tally {
    let weighted = |name: &str| Weighted { name: name.to_owned(), weight: Some(500.0) };
    Tally {
        phase: Phase {
            number: 1,
            first_version: 7,
            started_at: start(),
            ended_at: None,
            variants: variants.iter().map(|variant| weighted(&variant.variant)).collect(),
        },
        counted_at: start() + TimeDelta::days(10),
        variants,
    }
}
