//! A flag's kill switch on `feature-flag-overrides` (compacted; key `environment/flag`), and what the events topic says
//! of its changes.
//!
//! A switch that was lifted stays in the topic: it carries a version that must not be given out again. Its tombstone,
//! with a version in the header `version`, comes when the flag's own definition has a higher one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::change::Change;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchState {
    /// The flag is off for everybody, until `expires_at`.
    Killed,
    /// The flag is what its definition says.
    Lifted,
}

/// The message body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillSwitch {
    pub environment: String,
    pub flag_name: String,
    pub state: SwitchState,
    /// From the same numbers as the versions of definitions.
    pub version: u64,
    /// Of the definition that was in force where this was written.
    #[serde(default)]
    pub definition_version: Option<u64>,
    pub actor: String,
    pub reason: String,
    pub changed_at: DateTime<Utc>,
    /// From this moment on the flag is what its definition says, though the state is still `killed`.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
    /// By which a change is known again whose commit nobody confirmed.
    pub change_id: Uuid,
}

/// What was done to a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchAction {
    Killed,
    Restored,
    Expired,
}

/// A flag's change event, with the record of a kill switch that becomes an entry of the change log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwitchEvent {
    #[serde(flatten)]
    pub change: Change,
    #[serde(rename = "override")]
    pub switched: Switched,
}

/// Who switched what, why, and from what to what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Switched {
    pub change_id: Uuid,
    pub action: SwitchAction,
    pub actor: String,
    pub reason: String,
    pub changed_at: DateTime<Utc>,
    /// The switch as it was, where it was on.
    pub before: Option<Position>,
    pub after: Option<Position>,
}

/// A switch that is on, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub actor: String,
    pub reason: String,
    pub killed_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub version: u64,
}

impl KillSwitch {
    /// Whether the flag is off because of it.
    pub fn is_on(&self, now: DateTime<Utc>) -> bool {
        self.state == SwitchState::Killed && self.expires_at.is_none_or(|at| now < at)
    }

    /// The switch as people are told of it, while it is on.
    pub fn position(&self, now: DateTime<Utc>) -> Option<Position> {
        self.is_on(now).then(|| self.as_on())
    }

    /// The same, whether or not its time is up.
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
