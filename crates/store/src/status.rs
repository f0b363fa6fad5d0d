//! State of the store for health and readiness.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Maximum number of refused flags that health lists.
pub const MAX_REFUSED_SHOWN: usize = 100;

/// Origin of the flags in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadedFrom {
    #[default]
    Nothing,
    /// Snapshot on disk; Kafka has not been read completely since the start.
    Disk,
    Kafka,
}

/// State of the store of this instance.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreStatus {
    pub ready: bool,
    #[serde(rename = "origin")]
    pub loaded_from: LoadedFrom,
    /// Time at which the flags in force were last known to match the topic; `None` if no flags were ever
    /// loaded.
    pub as_of: Option<DateTime<Utc>>,
    /// Problem that prevents the reader from following the topic; `None` if there is none.
    #[serde(rename = "trouble")]
    pub follow_error: Option<String>,
    /// Sources of flags that were never read completely, so that the store is not ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    /// Number of flags and kill switches that are in force but no longer in their topics.
    pub missing: usize,
    /// Offset after the last processed record.
    pub offset: i64,
    pub flags: usize,
    pub refused_total: usize,
    /// Reasons for refused records by key. The last valid version of each flag is in force.
    pub refused: BTreeMap<String, String>,
}

impl StoreStatus {
    /// Age of the flags in force; `None` if no flags were ever loaded.
    pub fn age(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.as_of.map(|as_of| (now - as_of).to_std().unwrap_or_default())
    }
}
