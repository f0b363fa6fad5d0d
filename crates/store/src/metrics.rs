//! Metrics of the store. `flagstream_store_…`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::flag::Snapshot;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EnvironmentLabels {
    pub environment: Arc<str>,
}

/// Seconds from a change until it takes effect: its commit in the feeder, or the new snapshot in the store.
#[derive(Debug, Clone)]
pub struct Propagation(pub Histogram);

impl Default for Propagation {
    fn default() -> Self {
        Self(Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]))
    }
}

/// Metrics of the flags in force in this instance. `flagstream_store_…`.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    pub version: Gauge,
    pub flags: Family<EnvironmentLabels, Gauge>,
    pub killed: Gauge,
    pub refused: Gauge,
    pub records: Family<OutcomeLabels, Counter>,
    pub saves: Family<OutcomeLabels, Counter>,
    pub propagation: Propagation,
    pub records_ahead: RecordsAhead,
    pub as_of: AsOf,
}

/// How far the timestamps of records that were just written are ahead of this machine's clock. The service exports it
/// together with its other comparisons of clocks.
#[derive(Debug)]
pub struct RecordsAhead(AtomicI64);

/// The value of [`RecordsAhead`] while there is no new record.
const NO_RECORD: i64 = i64::MIN;

impl Default for RecordsAhead {
    fn default() -> Self {
        Self(AtomicI64::new(NO_RECORD))
    }
}

impl RecordsAhead {
    /// Notes a record whose timestamp is this many milliseconds ahead; a negative number counts as zero.
    pub(crate) fn note(&self, ahead_ms: i64) {
        self.0.fetch_max(ahead_ms.max(0), Ordering::Relaxed);
    }

    /// Returns the largest number of milliseconds since the last call; `None` if there was no record.
    pub fn take_ms(&self) -> Option<i64> {
        Some(self.0.swap(NO_RECORD, Ordering::Relaxed)).filter(|ahead_ms| *ahead_ms != NO_RECORD)
    }
}

impl StoreMetrics {
    /// Registers the metrics in a registry with the prefix `flagstream_store`.
    pub fn register(registry: &mut Registry) -> Self {
        let store = Self::default();
        registry.register("version", "Highest flags version in force", store.version.clone());
        registry.register("flags", "Flags in force", store.flags.clone());
        registry.register("killed", "Flags with an active kill switch", store.killed.clone());
        registry.register(
            "refused",
            "Definitions that are refused or cannot be fully evaluated",
            store.refused.clone(),
        );
        let help = "Records of the definitions and kill switch topics, by outcome";
        registry.register("records", help, store.records.clone());
        registry.register("saves", "Snapshots written to disk, by outcome", store.saves.clone());
        let help = "Time from a definition's timestamp until it is in force";
        registry.register("propagation_seconds", help, store.propagation.0.clone());
        registry.register_collector(Box::new(store.as_of.clone()));
        store
    }

    /// Updates the gauges for the snapshot in force.
    pub fn note(&self, snapshot: &Snapshot, refused: usize) {
        self.version.set(i64::try_from(snapshot.version()).unwrap_or(i64::MAX));
        self.refused.set(i64::try_from(refused).unwrap_or(i64::MAX));
        for (environment, flags) in snapshot.environments() {
            let environment = Arc::clone(environment);
            let flags = i64::try_from(flags.len()).unwrap_or(i64::MAX);
            self.flags.get_or_create(&EnvironmentLabels { environment }).set(flags);
        }
    }
}

/// Time at which the flags in force were last known to equal the topic's content. Its age is computed at every scrape.
#[derive(Debug, Clone, Default)]
pub struct AsOf(Arc<AtomicI64>);

impl AsOf {
    pub fn set(&self, at: DateTime<Utc>) {
        self.0.store(at.timestamp_millis(), Ordering::Relaxed);
    }
}

impl Collector for AsOf {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let as_of = self.0.load(Ordering::Relaxed);
        if as_of == 0 {
            return Ok(());
        }
        #[allow(clippy::cast_precision_loss)] // Milliseconds of an age are far below 2^52.
        let age = (Utc::now().timestamp_millis() - as_of).max(0) as f64 / 1000.0;
        let gauge = ConstGauge::new(age);
        let help = "Time since the flags in force were last known to be current";
        let metric = encoder.encode_descriptor("age_seconds", help, None, gauge.metric_type())?;
        gauge.encode(metric)
    }
}
