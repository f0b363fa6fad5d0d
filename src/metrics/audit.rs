//! Metrics of the audit sink. `flagstream_audit_…`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::evaluate::{WIDE, buckets};
use super::{EnvironmentLabels, PartitionGauges, PartitionLabels, Seconds, StuckLabels};

/// How an attempt to write ended: `committed`, `found_committed` (an unconfirmed commit had gone through), `conflict`
/// (another sink was there first), `failed` (it is tried again), `house_failed` (partitions are not looked after).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuditBatchLabels {
    pub outcome: &'static str,
}

/// What waits, `evaluations` or `definitions`, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PausedLabels {
    pub what: &'static str,
    pub reason: &'static str,
}

/// Which clock is compared with this machine's: `database` or `kafka`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClockLabels {
    pub against: &'static str,
}

#[derive(Debug)]
pub struct AuditMetrics {
    /// Evaluations committed to the database.
    pub rows: Family<EnvironmentLabels, Counter>,
    pub batches: Family<AuditBatchLabels, Counter>,
    /// Events that were taken before, and left out.
    pub repeated: Counter,
    /// Events that Kafka had deleted before they were read.
    pub expired: Counter,
    /// Partitions whose log was found to end before the position, so that a new generation began.
    pub truncated: Counter,
    /// Topics that were deleted and made anew while they were read.
    pub recreated: Counter,
    /// How far another clock is ahead of this machine's, in seconds.
    pub clock_skew: Family<ClockLabels, Gauge<f64, AtomicU64>>,
    /// Evaluations that were older than retention when they were written, and are kept for a week.
    pub late: Gauge,
    /// One batch, from its first statement to its commit.
    pub write: Seconds,
    /// From a batch's first evaluation to its commit.
    pub latency: Seconds,
    pub paused: Family<PausedLabels, Gauge>,
    /// Records behind the end of the partition.
    pub lag: Family<PartitionLabels, Gauge>,
    /// 1 while a partition is stuck.
    pub stuck: Family<StuckLabels, Gauge>,
    /// Partitions that this process writes.
    pub partitions: Gauge,
}

impl AuditMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            rows: Family::default(),
            batches: Family::default(),
            repeated: Counter::default(),
            expired: Counter::default(),
            truncated: Counter::default(),
            recreated: Counter::default(),
            clock_skew: Family::default(),
            late: Gauge::default(),
            write: Seconds::new(buckets(WIDE)),
            latency: Seconds::new(buckets(WIDE)),
            paused: Family::default(),
            lag: Family::default(),
            stuck: Family::default(),
            partitions: Gauge::default(),
        };
        registry.register("rows", "Evaluations committed to the database", metrics.rows.clone());
        registry.register("batches", "Attempts to write, by how they ended", metrics.batches.clone());
        registry.register("repeated", "Events left out, as they were taken before", metrics.repeated.clone());
        let help = "Events that Kafka had deleted before they were read";
        registry.register("expired", help, metrics.expired.clone());
        let help = "Partitions whose log ended before the audited position, so that it is read anew";
        registry.register("truncated", help, metrics.truncated.clone());
        let help = "Topics found deleted and made anew while they were read";
        registry.register("recreated", help, metrics.recreated.clone());
        let help = "Seconds by which another clock is ahead of this machine's";
        registry.register("clock_skew_seconds", help, metrics.clock_skew.clone());
        let help = "Evaluations that were older than retention when they were written";
        registry.register("late_rows", help, metrics.late.clone());
        registry.register("write_seconds", "Writing one batch", metrics.write.0.clone());
        let help = "From a batch's first evaluation to its commit";
        registry.register("latency_seconds", help, metrics.latency.0.clone());
        registry.register("paused", "1 while the sink waits, and what for", metrics.paused.clone());
        registry.register("lag", "Events behind the end of the partition", metrics.lag.clone());
        let help = "1 while records wait in the partition and the sink's position does not move, by reason";
        registry.register("stuck", help, metrics.stuck.clone());
        let help = "Partitions of the events topic that this process writes";
        registry.register("partitions", help, metrics.partitions.clone());
        metrics
    }

    /// The gauges of the partitions of one of the sink's topics; only that of the events has a lag.
    pub fn partition_gauges(&self, with_lag: bool) -> PartitionGauges {
        let lag = with_lag.then(|| self.lag.clone());
        PartitionGauges { lag, stuck: self.stuck.clone(), with_topic: true }
    }
}
