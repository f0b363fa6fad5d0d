//! What the leader last saw of a source of flags: a record on `feature-flag-definitions` beside the definitions.
//!
//! Its key is `/source/environment` (`/local/*` for local flags, which are one source for all environments). No flag
//! has such a key, since no environment has an empty name. The record says whether the source was ever read to its
//! end: until then, a flag that is not in the topic may exist all the same.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::definition::Source;

/// The first byte of the key; the key of a flag never begins with it.
const KEY_START: u8 = b'/';

/// A source and its environment; `*` stands for all environments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceName {
    pub source: Source,
    pub environment: String,
}

/// The message body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    pub source: Source,
    pub environment: String,
    /// When all flags of the source were in the topic for the first time; `None`: not yet.
    pub synced_at: Option<DateTime<Utc>>,
    /// When the source last gave an answer that was believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
    /// What is wrong with the source; `None` when the last look was fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<SourceFailure>,
    /// The instance that leads and wrote this.
    pub leader: String,
    pub reported_at: DateTime<Utc>,
}

/// Why the source gives no answer that is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFailure {
    pub reason: String,
    pub message: String,
    pub since: DateTime<Utc>,
}

/// Whether a record of the definitions topic is the status of a source, and not a flag.
pub fn is_status(key: Option<&[u8]>) -> bool {
    key.is_some_and(|key| key.first() == Some(&KEY_START))
}

impl SourceName {
    /// The key of the status record.
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
