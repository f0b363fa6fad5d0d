//! State of a flag with a kill switch.

use std::sync::Arc;

use crate::kill_switch::{KillSwitch, SwitchState};

use super::cacheability::NEAR_MS;
use super::{Cacheability, CompiledFlag, Moment};

/// End of a kill switch that does not expire.
const FOR_EVER: i64 = i64::MAX;

impl CompiledFlag {
    /// Returns the flag with a kill switch applied.
    #[must_use]
    pub fn switched(mut self, switch: Arc<KillSwitch>) -> Self {
        self.version = self.definition_version.max(switch.version);
        self.switch = Some(switch);
        self
    }

    /// The flag's kill switch, whatever its state.
    pub fn switch(&self) -> Option<&KillSwitch> {
        self.switch.as_deref()
    }

    /// Whether the kill switch turns the flag off at a moment in milliseconds since 1970.
    pub fn is_killed(&self, now_ms: i64) -> bool {
        self.killed_until().is_some_and(|until| now_ms < until)
    }

    /// Whether the flag is killed at a moment. The context's own time is ignored, so that a caller cannot
    /// re-enable a killed flag.
    pub(super) fn is_killed_at(&self, moment: &Moment<'_>) -> bool {
        match self.killed_until() {
            None => false,
            Some(FOR_EVER) => true,
            // If the time is unknown, the kill switch is assumed to be in force.
            Some(until) => moment.now_ms().is_none_or(|now| now < until),
        }
    }

    /// How long the outcome of a killed flag may be cached; `None` if the flag is not killed.
    pub(super) fn steadily_killed(&self, now_ms: i64) -> Option<Cacheability> {
        match self.killed_until()? {
            FOR_EVER => Some(Cacheability::UntilChanged),
            until if (until - now_ms).abs() <= NEAR_MS => Some(Cacheability::Never("clock")),
            until => (now_ms < until).then_some(Cacheability::UntilTime(until)),
        }
    }

    /// Cacheability of the state that is independent of any context: whether the flag is switched on or killed.
    pub fn state_cacheability(&self, now_ms: i64) -> Cacheability {
        self.steadily_killed(now_ms).unwrap_or(Cacheability::UntilChanged)
    }

    /// End of the kill switch in milliseconds since 1970, even if it is in the past; `i64::MAX` if it does not
    /// expire. `None` if the flag is not killed.
    pub fn killed_until(&self) -> Option<i64> {
        let switch = self.switch.as_ref().filter(|switch| switch.state == SwitchState::Killed)?;
        Some(switch.expires_at.map_or(FOR_EVER, |at| at.timestamp_millis()))
    }
}
