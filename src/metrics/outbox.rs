//! Metrics of the event outbox of HTTP evaluations. `flagstream_publish_…`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Seconds;
use super::evaluate::{WIDE, buckets};

#[derive(Debug)]
pub struct OutboxMetrics {
    /// Bytes of events in memory, queued or in flight.
    pub queue_bytes: Gauge,
    pub spool_bytes: Gauge,
    /// Maximum bytes of the spool; 0 without one.
    pub spool_limit_bytes: Gauge,
    /// Events that were spooled to disk before Kafka acknowledged them.
    pub spooled: Counter,
    /// Time from queueing events to Kafka's acknowledgement.
    pub latency: Seconds,
}

impl OutboxMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            queue_bytes: Gauge::default(),
            spool_bytes: Gauge::default(),
            spool_limit_bytes: Gauge::default(),
            spooled: Counter::default(),
            latency: Seconds::new(buckets(WIDE)),
        };
        let help = "Bytes of events in memory that Kafka has not acknowledged";
        registry.register("queue_bytes", help, metrics.queue_bytes.clone());
        registry.register("spool_bytes", "Bytes of events in the spool on disk", metrics.spool_bytes.clone());
        let help = "Most bytes of events in the spool on disk; 0 without a spool";
        registry.register("spool_limit_bytes", help, metrics.spool_limit_bytes.clone());
        let help = "Events that were written to the spool";
        registry.register("spooled_events", help, metrics.spooled.clone());
        let help = "Time from passing a request's events to the producer to Kafka's acknowledgement";
        registry.register("latency_seconds", help, metrics.latency.0.clone());
        metrics
    }
}
