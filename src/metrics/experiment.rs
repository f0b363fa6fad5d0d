//! Metrics of experiments. `flagstream_experiments_…`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Seconds;

#[derive(Debug)]
pub struct ExperimentMetrics {
    /// Duration of computing one experiment's results.
    pub counted: Seconds,
    /// Number of exposures that were published as events.
    pub exposures_published: Counter,
    /// Number of exposures that wait to be published.
    pub exposures_waiting: Gauge,
}

impl ExperimentMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            counted: Seconds::new(super::evaluate::buckets(super::evaluate::WIDE)),
            exposures_published: Counter::default(),
            exposures_waiting: Gauge::default(),
        };
        let help = "Time to compute the results of one experiment";
        registry.register("counted_seconds", help, metrics.counted.0.clone());
        let help = "Exposures of experiments that were published as events";
        registry.register("exposures_published", help, metrics.exposures_published.clone());
        let help = "Exposures of experiments that wait to be published as events";
        registry.register("exposures_waiting", help, metrics.exposures_waiting.clone());
        metrics
    }
}
