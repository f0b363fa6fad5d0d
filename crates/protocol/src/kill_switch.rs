//! A flag's kill switch on `feature-flag-overrides` (compacted; key `environment/flag`), and the events about
//! its changes.
//!
//! A lifted switch stays in the topic because its version must not be assigned again. Its tombstone, with a
//! version in the header `version`, is written once the flag's own definition has a higher version.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use flagstream_evaluation::kill_switch::{KillSwitch, Position, SwitchState};

use super::change::Change;

/// Actor of the changes that the service makes by itself.
pub const SERVICE_ACTOR: &str = "flagstream";

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

impl SwitchAction {
    /// The action that led to this switch.
    pub fn of(switch: &KillSwitch) -> Self {
        match switch.state {
            SwitchState::Killed => Self::Killed,
            SwitchState::Lifted if switch.actor == SERVICE_ACTOR => Self::Expired,
            SwitchState::Lifted => Self::Restored,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Restored => "restored",
            Self::Expired => "expired",
        }
    }
}
