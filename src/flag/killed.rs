//! A flag under its kill switch.

use std::sync::Arc;

use crate::message::kill_switch::{KillSwitch, SwitchState};

use super::steady::NEAR_MS;
use super::{CompiledFlag, Moment, Steady};

/// Until then where it does not expire.
const FOR_EVER: i64 = i64::MAX;

impl CompiledFlag {
    /// The same flag under a kill switch.
    #[must_use]
    pub fn switched(mut self, switch: Arc<KillSwitch>) -> Self {
        self.version = self.definition_version.max(switch.version);
        self.switch = Some(switch);
        self
    }

    /// Its kill switch, whatever its state.
    pub fn switch(&self) -> Option<&KillSwitch> {
        self.switch.as_deref()
    }

    /// Whether its kill switch makes it off at a moment in milliseconds since 1970.
    pub fn is_killed(&self, now_ms: i64) -> bool {
        self.killed_until().is_some_and(|until| now_ms < until)
    }

    /// A context's own time plays no part: whoever asks must not bring a killed flag back.
    pub(super) fn is_killed_at(&self, moment: &Moment<'_>) -> bool {
        match self.killed_until() {
            None => false,
            Some(FOR_EVER) => true,
            // Without a time it is not known to be over.
            Some(until) => moment.now_ms().is_none_or(|now| now < until),
        }
    }

    /// How long it stays killed; `None` if it is not killed.
    pub(super) fn steadily_killed(&self, now_ms: i64) -> Option<Steady> {
        match self.killed_until()? {
            FOR_EVER => Some(Steady::Always),
            until if (until - now_ms).abs() <= NEAR_MS => Some(Steady::No("clock")),
            until => (now_ms < until).then_some(Steady::Until(until)),
        }
    }

    /// The moment until which it is killed, in milliseconds since 1970, even if that is past.
    fn killed_until(&self) -> Option<i64> {
        let switch = self.switch.as_ref().filter(|switch| switch.state == SwitchState::Killed)?;
        Some(switch.expires_at.map_or(FOR_EVER, |at| at.timestamp_millis()))
    }
}
