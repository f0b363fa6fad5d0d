//! Report of a running instance on `feature-flag-instances` (compacted; key: the instance). An instance writes one
//! every few seconds and a tombstone when it stops.
//!
//! Instances of different versions read each other's reports during a rolling update, so every member may be absent.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Report of one instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceReport {
    pub instance: String,
    pub roles: Vec<String>,
    /// Version of the build.
    pub build: String,
    /// Address of the HTTP listener.
    pub address: String,
    pub started_at: DateTime<Utc>,
    pub reported_at: DateTime<Utc>,
    pub ready: bool,
    /// Overall state of the instance: `starting`, `up`, `degraded` or `down`.
    pub status: String,
    /// Whether the instance is the leader of the feeder.
    pub leader: bool,
    /// Highest flags version in force.
    pub flags_version: u64,
    pub parts: BTreeMap<String, PartReport>,
    pub numbers: Numbers,
    /// Latest changes that came into force, the oldest first.
    pub changes: Vec<AppliedChange>,
    /// Latest changes whose cached values were invalidated, the oldest first. Only the warmer has any.
    pub warmed: Vec<WarmedChange>,
}

/// State of one part of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartReport {
    pub state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub since: DateTime<Utc>,
}

/// Numbers of an instance, from its metrics. Rates are those since the previous report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    /// Evaluations per second by path: `kafka`, `rest`, `ofrep`, `edge`.
    pub evaluations_per_second: BTreeMap<String, f64>,
    /// Dead letters per minute.
    pub dead_letters_per_minute: f64,
    /// Dropped items per minute.
    pub dropped_per_minute: f64,
    /// Requests that wait in the partitions of this instance.
    pub request_lag: u64,
    /// Events that this instance has not written to the database yet.
    pub audit_lag: u64,
    /// Bytes of events on disk that Kafka does not have yet.
    pub spool_bytes: u64,
    /// Durations in milliseconds by name: `request` (from the request's timestamp to the commit of its results),
    /// `evaluation` (of one request), `audit` (from an evaluation to its row).
    pub durations_ms: BTreeMap<String, Quantiles>,
    /// Flags that are killed.
    pub killed: u64,
    /// Partitions that make no progress.
    pub stuck: u64,
}

/// Median and 99th percentile, interpolated within the buckets of a histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

/// Time at which a change came into force in the instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppliedChange {
    pub version: u64,
    pub at: DateTime<Utc>,
}

/// Times at which the cached values of a changed flag became unusable, and the last of its raw keys was correct.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarmedChange {
    pub version: u64,
    pub announced_at: DateTime<Utc>,
    /// `None`: keys are still being refreshed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refreshed_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_version_is_read() {
        let older: InstanceReport = serde_json::from_str(r#"{"instance":"a","flags_version":7}"#).unwrap();
        assert_eq!((older.instance.as_str(), older.flags_version, older.ready), ("a", 7, false));
        let newer = r#"{"instance":"a","surprise":{"b":1},"numbers":{"more":2,"killed":3}}"#;
        assert_eq!(serde_json::from_str::<InstanceReport>(newer).unwrap().numbers.killed, 3);
    }
}
