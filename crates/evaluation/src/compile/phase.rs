//! Phases of a schedule: the strategies in force during each period.

use std::ops::Range;

use crate::CompiledFlag;
use crate::definition::local::PhaseDefinition;

use super::StrategyRule;

/// Part of a schedule that is in force from `from_ms` until the next phase begins.
#[derive(Debug)]
pub(crate) struct Phase {
    /// Start of the phase, in milliseconds since 1970.
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
    /// Whether the flag is switched on at a moment, and the strategies then in force. `now_ms` is only called
    /// if the flag has a schedule. If it returns `None`, the first phase applies.
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
