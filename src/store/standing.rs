//! How the store is doing, for health and readiness.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

/// So many refused flags are named in health.
pub const MAX_REFUSED_SHOWN: usize = 100;

/// Where the flags in force came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    #[default]
    Nothing,
    /// The snapshot on disk; Kafka was not read to its end since the start.
    Disk,
    Kafka,
}

/// The state of the store of this instance.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Standing {
    pub ready: bool,
    pub origin: Origin,
    /// When the flags in force were last known to be what the topic has.
    pub as_of: Option<DateTime<Utc>>,
    /// What keeps the reader from following the topic; `None` while it does.
    pub trouble: Option<String>,
    /// The sources of flags that were never read to their end, which keeps the store from being ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    /// Flags and kill switches that are in force here, and no longer in their topics.
    pub missing: usize,
    /// Offset behind the last record taken.
    pub offset: i64,
    pub flags: usize,
    pub refused_total: usize,
    /// Refused records by key, and why; the last good version of each is in force.
    pub refused: BTreeMap<String, String>,
}

impl Standing {
    /// How old the flags in force may be; `None` when nothing was ever loaded.
    pub fn age(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.as_of.map(|as_of| (now - as_of).to_std().unwrap_or_default())
    }
}
