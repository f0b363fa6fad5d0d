//! Status of a source of flags as the leader last saw it: a record on `feature-flag-definitions` next to the
//! definitions.
//!
//! Its key is `/source/environment` (`/local/*` for local flags, which are one source for all environments).
//! A flag cannot have such a key, because no environment has an empty name. The record states whether the
//! source was ever read completely: until then, a flag that is missing in the topic may still exist.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::definition::Source;

/// First byte of the key. The key of a flag never begins with it.
const KEY_START: u8 = b'/';

/// Source and its environment; `*` stands for all environments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceName {
    pub source: Source,
    pub environment: String,
}

/// Body of a status record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    pub source: Source,
    pub environment: String,
    /// Time at which all flags of the source were in the topic for the first time; `None`: not yet.
    pub synced_at: Option<DateTime<Utc>>,
    /// Time of the last response of the source that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
    /// Problem with the source; `None` if the last poll succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<SourceFailure>,
    /// Leader instance that wrote the record.
    pub leader: String,
    pub reported_at: DateTime<Utc>,
}

/// Reason why the source provides no acceptable response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFailure {
    pub reason: String,
    pub message: String,
    pub since: DateTime<Utc>,
}

/// Whether a record of the definitions topic is the status of a source instead of a flag.
pub fn is_status(key: Option<&[u8]>) -> bool {
    key.is_some_and(|key| key.first() == Some(&KEY_START))
}

impl SourceName {
    /// Key of the status record.
    pub fn key(&self) -> String {
        format!("{}{}/{}", char::from(KEY_START), self.source.as_str(), self.environment)
    }
}

impl std::fmt::Display for SourceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.source {
            Source::Local => f.write_str("local flags (database)"),
            source => write!(f, "{} ({})", source.as_str(), self.environment),
        }
    }
}

impl SourceStatus {
    pub fn name(&self) -> SourceName {
        SourceName { source: self.source, environment: self.environment.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_statuses_and_of_flags_are_told_apart() {
        let name = SourceName { source: Source::Unleash, environment: "dev".to_owned() };
        assert_eq!(name.key(), "/unleash/dev");
        assert!(is_status(Some(name.key().as_bytes())));
        for flag in [Some(&b"dev/a"[..]), Some(b"dev//a"), Some(b""), None] {
            assert!(!is_status(flag), "{flag:?}");
        }
    }
}
