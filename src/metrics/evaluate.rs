//! Metrics of the request pipeline. `flagstream_evaluate_…`.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{PartitionGauges, StuckLabels};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabels {
    pub partition: i32,
}

/// Outcome of a batch: `committed`, `aborted` (its requests are answered again), `fenced` (another process took over).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BatchLabels {
    pub outcome: &'static str,
}

/// A histogram of durations, in seconds.
#[derive(Debug, Clone)]
pub struct Seconds(pub(super) Histogram);

impl From<Histogram> for Seconds {
    fn from(histogram: Histogram) -> Self {
        Self(histogram)
    }
}

impl Seconds {
    pub(super) fn new(buckets: impl IntoIterator<Item = f64>) -> Self {
        Self(Histogram::new(buckets))
    }

    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

#[derive(Debug)]
pub struct EvaluateMetrics {
    pub batches: Family<BatchLabels, Counter>,
    /// Time from the first record of a batch to its commit.
    pub batch: Seconds,
    /// Duration of the commit.
    pub commit: Seconds,
    /// Duration of decoding, evaluating and encoding one request, averaged over its batch.
    pub evaluation: Seconds,
    /// Time from a request's timestamp to the commit of its results.
    pub latency: Seconds,
    /// Number of unanswered requests, by partition.
    pub lag: Family<PartitionLabels, Gauge>,
    /// 1 while a partition is stuck.
    pub stuck: Family<StuckLabels, Gauge>,
    /// Number of partitions assigned to this process.
    pub partitions: Gauge,
    /// Number of assigned partitions that are paused, because of the schema registry or the events topic.
    pub waiting: Gauge,
}

/// Buckets from 0.25 µs to 262 ms, each four times the previous one.
pub(super) const NARROW: (f64, f64, u16) = (0.000_000_25, 4.0, 11);
/// Buckets from 0.5 ms to 16 s, each twice the previous one.
pub(super) const WIDE: (f64, f64, u16) = (0.000_5, 2.0, 16);

pub(super) fn buckets((start, factor, count): (f64, f64, u16)) -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(start, factor, count)
}

impl EvaluateMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            batches: Family::default(),
            batch: Seconds::new(buckets(WIDE)),
            commit: Seconds::new(buckets(WIDE)),
            evaluation: Seconds::new(buckets(NARROW)),
            latency: Seconds::new(buckets(WIDE)),
            lag: Family::default(),
            stuck: Family::default(),
            partitions: Gauge::default(),
            waiting: Gauge::default(),
        };
        registry.register("batches", "Batches, by outcome", metrics.batches.clone());
        let help = "Time from the first record of a batch to its commit";
        registry.register("batch_seconds", help, metrics.batch.0.clone());
        registry.register("commit_seconds", "Time to commit a batch", metrics.commit.0.clone());
        let help = "Time to decode, evaluate and encode one request, averaged over its batch";
        registry.register("request_seconds", help, metrics.evaluation.0.clone());
        let help = "Time from a request's timestamp to the commit of its results";
        registry.register("latency_seconds", help, metrics.latency.0.clone());
        let help = "Number of requests between the committed offset and the end of the partition";
        registry.register("lag", help, metrics.lag.clone());
        let help = "1 while requests wait in the partition and its committed offset does not move, by reason";
        registry.register("stuck", help, metrics.stuck.clone());
        let help = "Partitions of the requests topic that are assigned to this process";
        registry.register("partitions", help, metrics.partitions.clone());
        let help = "Partitions that are paused because the schema of their next request is not available, or because the events topic lacks their partition";
        registry.register("waiting", help, metrics.waiting.clone());
        metrics
    }

    /// The gauges of the requests topic's partitions.
    pub fn partition_gauges(&self) -> PartitionGauges {
        PartitionGauges {
            lag: Some(self.lag.clone()),
            stuck: self.stuck.clone(),
            ..PartitionGauges::default()
        }
    }
}
