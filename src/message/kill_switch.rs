//! A flag's kill switch on `feature-flag-overrides` (compacted; key `environment/flag`), and the events about
//! its changes.
//!
//! A lifted switch stays in the topic because its version must not be assigned again. Its tombstone, with a
//! version in the header `version`, is written once the flag's own definition has a higher version.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::change::Change;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchState {
    /// The flag is off for every context, until `expires_at`.
    Killed,
    /// The flag follows its definition.
    Lifted,
}

/// Body of a kill switch record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillSwitch {
    pub environment: String,
    pub flag_name: String,
    pub state: SwitchState,
    /// Version, from the same sequence as the versions of definitions.
    pub version: u64,
    /// Version of the definition in force when the switch was written.
    #[serde(default)]
    pub definition_version: Option<u64>,
    pub actor: String,
    pub reason: String,
    pub changed_at: DateTime<Utc>,
    /// Time from which the flag follows its definition again, even while the state is still `killed`; `None`:
    /// no expiry.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
    /// Id that identifies the change after a commit whose outcome is unknown.
    pub change_id: Uuid,
}

/// Action on a kill switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchAction {
    Killed,
    Restored,
    Expired,
}

/// A flag's change event with the kill switch change, which becomes an entry of the change log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwitchEvent {
    #[serde(flatten)]
    pub change: Change,
    #[serde(rename = "override")]
    pub switched: Switched,
}

/// Change of a kill switch: who made it, why, and the states before and after.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Switched {
    pub change_id: Uuid,
    pub action: SwitchAction,
    pub actor: String,
    pub reason: String,
    pub changed_at: DateTime<Utc>,
    /// State before the change; `None` if the switch was off.
    pub before: Option<Position>,
    pub after: Option<Position>,
}

/// Public description of a kill switch that is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub actor: String,
    pub reason: String,
    pub killed_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub version: u64,
}

impl KillSwitch {
    /// Whether the flag is off because of the switch at `now`.
    pub fn is_on(&self, now: DateTime<Utc>) -> bool {
        self.state == SwitchState::Killed && self.expires_at.is_none_or(|at| now < at)
    }

    /// Public description of the switch; `None` if it is off at `now`.
    pub fn position(&self, now: DateTime<Utc>) -> Option<Position> {
        self.is_on(now).then(|| self.as_on())
    }

    /// Public description of the switch, whether or not it has expired.
    pub fn as_on(&self) -> Position {
        Position {
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            killed_at: self.changed_at,
            expires_at: self.expires_at,
            version: self.version,
        }
    }
}

impl SwitchAction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Restored => "restored",
            Self::Expired => "expired",
        }
    }
}
