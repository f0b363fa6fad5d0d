//! Kills and restores any flag in force, wherever it is managed, with or without a database.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::kill::Turn;
use crate::message::kill_switch::{KillSwitch, Position};

use super::effective_state::EffectiveState;
use super::{ManageError, Manager};

/// A kill switch that was set or cleared. The change comes into force even if this process stops.
#[derive(Debug, Clone, Serialize)]
pub struct Turned {
    pub name: String,
    pub environment: String,
    pub killed: bool,
    /// Author, reason and expiry of the kill switch; `None` if the flag is not killed.
    pub kill_switch: Option<Position>,
    /// Version of the change. Anything derived from a lower version is out of date.
    pub version: u64,
    /// Whether the change is in force on this instance and was announced.
    pub in_force: bool,
}

impl Manager {
    /// Kills a flag. If it is already killed, its reason and expiry are replaced.
    pub async fn kill(
        &self,
        turn: Turn<'_>,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<Turned, ManageError> {
        if matches!(self.known_effective_state(turn.environment, turn.flag)?, EffectiveState::Nobody) {
            return Err(ManageError::Unknown);
        }
        let switch = self.switches.kill(turn, expires_at).await?;
        Ok(self.turned(&switch).await)
    }

    /// Restores a killed flag: its definition is in force again. Also works for a deleted flag, in case it is created
    /// again.
    pub async fn restore(&self, turn: Turn<'_>) -> Result<Turned, ManageError> {
        let Turn { environment, flag, .. } = turn;
        let nobody = matches!(self.known_effective_state(environment, flag)?, EffectiveState::Nobody);
        if nobody && !self.store.switches().contains_key(format!("{environment}/{flag}").as_str()) {
            return Err(ManageError::Unknown);
        }
        let switch = self.switches.restore(turn).await?;
        Ok(self.turned(&switch).await)
    }

    /// Kill switch of the flag, if it is set.
    pub(super) fn kill_switch(&self, environment: &str, name: &str) -> Option<Position> {
        let switches = self.store.switches();
        switches.get(format!("{environment}/{name}").as_str())?.position(Utc::now())
    }

    async fn turned(&self, switch: &KillSwitch) -> Turned {
        let KillSwitch { environment, flag_name, version, .. } = switch;
        let in_force = self.wait_until(environment, flag_name, |effective_state| match effective_state {
            EffectiveState::Local(_, flag) | EffectiveState::Elsewhere(_, flag) => flag.version >= *version,
            EffectiveState::Nobody => true,
        });
        let in_force = in_force.await;
        let now = Utc::now();
        Turned {
            name: flag_name.clone(),
            environment: environment.clone(),
            killed: switch.is_on(now),
            kill_switch: switch.position(now),
            version: *version,
            in_force,
        }
    }
}
