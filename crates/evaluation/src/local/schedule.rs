//! Steps of a schedule: what is in force at a moment, and what follows.

use chrono::{DateTime, Utc};

use super::Invalid;
use super::labels::Status;
use super::model::{LocalFlag, Rule, Step};

/// State that steps change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase<'f> {
    pub enabled: bool,
    /// Percentage that replaces the flag's own; `None` if no step has set one.
    pub percentage: Option<u8>,
    pub rules: &'f [Rule],
}

/// The state in force at `now`, and the later states with their start times.
pub fn phases(flag: &LocalFlag, now: DateTime<Utc>) -> (Phase<'_>, Vec<(DateTime<Utc>, Phase<'_>)>) {
    let live = flag.is_enabled && flag.status.is_live();
    let mut phase =
        Phase { enabled: live && flag.status != Status::Scheduled, percentage: None, rules: &flag.rules };
    let (mut base, mut later) = (phase, Vec::new());
    for (index, step) in flag.rollout_schedule.iter().enumerate() {
        // The first step of a scheduled flag switches it on unless the step sets `enabled`.
        let begins = index == 0 && flag.status == Status::Scheduled;
        phase = Phase {
            enabled: live && step.enabled.unwrap_or(phase.enabled || begins),
            percentage: step.percentage.or(phase.percentage),
            rules: step.rules.as_deref().unwrap_or(phase.rules),
        };
        if step.date <= now {
            base = phase;
        } else {
            later.push((step.date, phase));
        }
    }
    // No step can switch on a flag that is disabled or not live.
    (base, if live { later } else { Vec::new() })
}

/// Date of the next step; `None` if there is none, or if the flag is off whatever its steps say.
pub fn next_step(flag: &LocalFlag, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let live = flag.is_enabled && flag.status.is_live();
    flag.rollout_schedule.iter().map(|step| step.date).find(|date| live && *date > now)
}

/// Date of the step in force; `None` if there is none, or if the flag is off whatever its steps say.
pub fn last_step(flag: &LocalFlag, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let live = flag.is_enabled && flag.status.is_live();
    flag.rollout_schedule.iter().rev().map(|step| step.date).find(|date| live && *date <= now)
}

/// Sorts the steps and removes duplicates. Different steps with the same date are problems.
pub fn tidy(steps: &mut Vec<Step>) -> Vec<Invalid> {
    let mut problems = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let first = steps.iter().take(index).position(|other| other.date == step.date && other != step);
        if let Some(first) = first {
            let message =
                format!("is also the date of rollout_schedule[{first}], which has different content");
            problems.push(Invalid::new(&format!("rollout_schedule[{index}].date"), message));
        }
    }
    if problems.is_empty() {
        steps.sort_by_key(|step| step.date);
        steps.dedup();
    }
    problems
}

/// Number of strategies that the translation generates, over all phases.
pub fn all_rules(flag: &LocalFlag) -> usize {
    let (base, later) = phases(flag, DateTime::<Utc>::MIN_UTC);
    later.iter().map(|(_, phase)| phase.rules.len() + 2).sum::<usize>() + base.rules.len() + 2
}
