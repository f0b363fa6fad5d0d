//! Kill switch of a flag: while it is on, the flag is off for every context, whatever its definition.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// State of a kill switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchState {
    /// The flag is off for every context, until `expires_at`.
    Killed,
    /// The flag follows its definition.
    Lifted,
}

/// Kill switch of one flag of one environment, as its record in Kafka contains it.
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
