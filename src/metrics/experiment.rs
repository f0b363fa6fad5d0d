//! Metrics of experiments. `flagstream_experiments_…`.

use prometheus_client::registry::Registry;

use super::Seconds;

#[derive(Debug)]
pub struct ExperimentMetrics {
    /// Duration of computing one experiment's results.
    pub counted: Seconds,
}

impl ExperimentMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { counted: Seconds::new(super::evaluate::buckets(super::evaluate::WIDE)) };
        let help = "Time to compute the results of one experiment";
        registry.register("counted_seconds", help, metrics.counted.0.clone());
        metrics
    }
}
