//! Metrics of taps. `flagstream_tap_…`. Each has the label `tap`.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::evaluate::{NARROW, WIDE, buckets};
use super::{PartitionGauges, StuckLabels};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TapLabels {
    pub tap: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TapPartitionLabels {
    pub tap: Arc<str>,
    pub partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TapBatchLabels {
    pub tap: Arc<str>,
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TapOutputLabels {
    pub tap: Arc<str>,
    pub topic: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TapPassedLabels {
    pub tap: Arc<str>,
    pub reason: &'static str,
}

/// Creates the histograms of a family.
#[derive(Debug, Clone, Copy)]
pub struct Buckets((f64, f64, u16));

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(buckets(self.0))
    }
}

type Histograms = Family<TapLabels, Histogram, Buckets>;

#[derive(Debug)]
pub struct TapMetrics {
    /// Records processed: forwarded, or written as dead letters.
    pub records: Family<TapLabels, Counter>,
    /// Records written, by topic.
    pub forwarded: Family<TapOutputLabels, Counter>,
    /// Records forwarded without flags.
    pub passed: Family<TapPassedLabels, Counter>,
    /// Records that Kafka deleted before they were read.
    pub expired: Family<TapPartitionLabels, Counter>,
    /// Records that existed when a partition without a committed offset was first read.
    pub without_offset: Family<TapPartitionLabels, Counter>,
    /// Number of times the source was found deleted and created again.
    pub recreated: Family<TapLabels, Counter>,
    pub batches: Family<TapBatchLabels, Counter>,
    pub batch: Histograms,
    pub commit: Histograms,
    pub record: Histograms,
    pub latency: Histograms,
    pub lag: Family<TapPartitionLabels, Gauge>,
    pub stuck: Family<StuckLabels, Gauge>,
    pub partitions: Family<TapLabels, Gauge>,
    pub waiting: Family<TapLabels, Gauge>,
}

impl TapMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let wide = || Family::new_with_constructor(Buckets(WIDE));
        let metrics = Self {
            records: Family::default(),
            forwarded: Family::default(),
            passed: Family::default(),
            expired: Family::default(),
            without_offset: Family::default(),
            recreated: Family::default(),
            batches: Family::default(),
            batch: wide(),
            commit: wide(),
            record: Family::new_with_constructor(Buckets(NARROW)),
            latency: wide(),
            lag: Family::default(),
            stuck: Family::default(),
            partitions: Family::default(),
            waiting: Family::default(),
        };
        let help = "Records processed: forwarded, or written as dead letters";
        registry.register("records", help, metrics.records.clone());
        registry.register("forwarded", "Records written, by topic", metrics.forwarded.clone());
        registry.register("passed", "Records forwarded without flags, by reason", metrics.passed.clone());
        let help = "Records that Kafka deleted before they were read";
        registry.register("expired", help, metrics.expired.clone());
        let help = "Records present when a partition without a committed offset was started";
        registry.register("without_offset", help, metrics.without_offset.clone());
        let help = "Number of times that the source was deleted and recreated";
        registry.register("source_recreated", help, metrics.recreated.clone());
        registry.register("batches", "Batches, by outcome", metrics.batches.clone());
        let help = "Time from the first record of a batch to its commit";
        registry.register("batch_seconds", help, metrics.batch.clone());
        registry.register("commit_seconds", "Time to commit a batch", metrics.commit.clone());
        let help = "Time to decode, evaluate and encode one record, averaged over its batch";
        registry.register("record_seconds", help, metrics.record.clone());
        let help = "Time from a record's timestamp to the commit of its copy";
        registry.register("latency_seconds", help, metrics.latency.clone());
        let help = "Number of records between the committed offset and the end of the partition";
        registry.register("lag", help, metrics.lag.clone());
        let help = "1 while records wait in the partition and its committed offset does not move, by reason";
        registry.register("stuck", help, metrics.stuck.clone());
        let help = "Partitions of the source that are assigned to this process";
        registry.register("partitions", help, metrics.partitions.clone());
        let help = "Partitions that are paused because the schema of their next record is not available, or \
            because a topic that the tap writes to lacks their partition";
        registry.register("waiting", help, metrics.waiting.clone());
        metrics
    }

    /// The gauges of the source's partitions of one tap.
    pub fn partition_gauges(&self, tap: &Arc<str>) -> PartitionGauges {
        PartitionGauges {
            tap: Some((Arc::clone(tap), self.lag.clone())),
            stuck: self.stuck.clone(),
            ..PartitionGauges::default()
        }
    }
}
