//! Change log entries of kill switches, decoded from change events.

use chrono::{DateTime, Utc};

use crate::message::kill_switch::{SwitchEvent, Switched};

use super::evaluation::{MAX_NAME_BYTES, Unreadable};

/// Entry of the change log for a kill switch.
#[derive(Debug, Clone, PartialEq)]
pub struct SwitchChange {
    pub environment: String,
    pub flag: String,
    pub version: i64,
    pub change_id: String,
    pub action: &'static str,
    pub actor: String,
    pub reason: String,
    pub changed_at: DateTime<Utc>,
    /// State before the change as JSON text. `None`: there was none.
    pub before: Option<String>,
    pub after: Option<String>,
}

impl SwitchChange {
    pub(super) fn read(text: &str) -> Result<Self, Unreadable> {
        let event: SwitchEvent =
            serde_json::from_str(text).map_err(|error| Unreadable(format!("override: {error}")))?;
        let SwitchEvent { change, switched } = event;
        let Switched { change_id, action, actor, reason, changed_at, before, after } = switched;
        let version = i64::try_from(change.version)
            .map_err(|_| Unreadable(format!("version: {} is too large", change.version)))?;
        for (field, name) in [("environment", &change.environment), ("flag_name", &change.flag_name)] {
            if name.len() > MAX_NAME_BYTES {
                return Err(Unreadable(format!("{field}: longer than {MAX_NAME_BYTES} bytes")));
            }
        }
        let json = |position| match position {
            None => Ok(None),
            // Postgres cannot hold NUL characters in JSON, so they are removed.
            Some(position) => match serde_json::to_string(&position) {
                Ok(text) => Ok(Some(text.replace("\\u0000", ""))),
                Err(error) => Err(Unreadable(format!("override: {error}"))),
            },
        };
        Ok(Self {
            environment: change.environment.replace('\0', ""),
            flag: change.flag_name.replace('\0', ""),
            version,
            change_id: change_id.to_string(),
            action: action.as_str(),
            actor: actor.replace('\0', ""),
            reason: reason.replace('\0', ""),
            changed_at,
            before: json(before)?,
            after: json(after)?,
        })
    }
}
