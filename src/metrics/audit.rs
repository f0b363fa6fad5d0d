//! Metrics of the audit sink. `flagstream_audit_…`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::clock::ClockLabels;

use super::evaluate::{WIDE, buckets};
use super::{EnvironmentLabels, PartitionGauges, PartitionLabels, Seconds, StuckLabels};

/// Outcome of an attempt to write: `committed`, `found_committed` (an unconfirmed commit had succeeded), `conflict`
/// (another sink wrote first), `failed` (it is retried), `house_failed` (maintenance of the partitions failed).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuditBatchLabels {
    pub outcome: &'static str,
}

/// Labels of a pause: what is paused (`evaluations` or `definitions`), and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PausedLabels {
    pub what: &'static str,
    pub reason: &'static str,
}

#[derive(Debug)]
pub struct AuditMetrics {
    /// Evaluations committed to the database.
    pub rows: Family<EnvironmentLabels, Counter>,
    pub batches: Family<AuditBatchLabels, Counter>,
    /// Events that were skipped because they had been written before.
    pub repeated: Counter,
    /// Events that Kafka deleted before they were read.
    pub expired: Counter,
    /// Partitions whose log ended before the position, so that a new generation was started.
    pub truncated: Counter,
    /// Topics that were deleted and created again while they were read.
    pub recreated: Counter,
    /// Seconds by which another clock is ahead of this machine's.
    pub clock_skew: Family<ClockLabels, Gauge<f64, AtomicU64>>,
    /// Evaluations that were older than the retention period when they were written. They are retained for a week.
    pub late: Gauge,
    /// Duration of writing one batch, from its first statement to its commit.
    pub write: Seconds,
    /// Time from a batch's first evaluation to its commit.
    pub latency: Seconds,
    pub paused: Family<PausedLabels, Gauge>,
    /// Number of records that are not written yet, by partition.
    pub lag: Family<PartitionLabels, Gauge>,
    /// 1 while a partition is stuck.
    pub stuck: Family<StuckLabels, Gauge>,
    /// Number of partitions that this process writes.
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
        registry.register("batches", "Attempts to write a batch, by outcome", metrics.batches.clone());
        registry.register(
            "repeated",
            "Events skipped because they were already written",
            metrics.repeated.clone(),
        );
        let help = "Events that Kafka deleted before they were read";
        registry.register("expired", help, metrics.expired.clone());
        let help = "Partitions whose log was truncated below the sink's position and is read again";
        registry.register("truncated", help, metrics.truncated.clone());
        let help = "Number of times that a topic was deleted and recreated while it was read";
        registry.register("recreated", help, metrics.recreated.clone());
        let help = "Seconds by which another clock is ahead of this machine's";
        registry.register("clock_skew_seconds", help, metrics.clock_skew.clone());
        let help = "Evaluations in the database that were older than the retention when they were written";
        registry.register("late_rows", help, metrics.late.clone());
        registry.register("write_seconds", "Time to write one batch", metrics.write.0.clone());
        let help = "Time from the first evaluation of a batch to its commit";
        registry.register("latency_seconds", help, metrics.latency.0.clone());
        registry.register("paused", "1 while the sink is paused, by reason", metrics.paused.clone());
        registry.register(
            "lag",
            "Number of events between the sink's position and the end of the partition",
            metrics.lag.clone(),
        );
        let help = "1 while records wait in the partition and the sink's position does not move, by reason";
        registry.register("stuck", help, metrics.stuck.clone());
        let help = "Partitions of the events topic that are assigned to this process";
        registry.register("partitions", help, metrics.partitions.clone());
        metrics
    }

    /// The gauges for the partitions of one of the sink's topics. Only the events topic has a lag.
    pub fn partition_gauges(&self, with_lag: bool) -> PartitionGauges {
        let lag = with_lag.then(|| self.lag.clone());
        PartitionGauges { lag, stuck: self.stuck.clone(), with_topic: true, ..PartitionGauges::default() }
    }
}
