//! Phases of a schedule: which strategies are in force when.

use std::ops::Range;

use crate::flag::CompiledFlag;
use crate::flag::definition::local::PhaseDefinition;

use super::StrategyRule;

/// In force from a moment until the next one.
#[derive(Debug)]
pub(crate) struct Phase {
    /// In milliseconds since 1970.
    pub(crate) from_ms: i64,
    pub(crate) switched_on: bool,
    strategies: Range<usize>,
}

pub(super) fn phases(definitions: &[PhaseDefinition]) -> Box<[Phase]> {
    let mut start = 0;
    let phase = |definition: &PhaseDefinition| {
        let strategies = start..start + definition.strategies;
        start = strategies.end;
        Phase { from_ms: definition.from_ms, switched_on: definition.enabled, strategies }
    };
    definitions.iter().map(phase).collect()
}

impl CompiledFlag {
    /// Whether it is switched on, and its strategies, at a moment that is only asked for if it matters; the first phase
    /// where the moment is not known.
    pub(crate) fn at(&self, now_ms: impl FnOnce() -> Option<i64>) -> (bool, &[StrategyRule]) {
        if self.phases.is_empty() {
            return (self.switched_on, &self.strategies);
        }
        let now = now_ms().unwrap_or(i64::MIN);
        match self.phases.iter().rev().find(|phase| phase.from_ms <= now) {
            Some(phase) => {
                (phase.switched_on, self.strategies.get(phase.strategies.clone()).unwrap_or_default())
            }
            None => (self.switched_on, &self.strategies),
        }
    }
}
