//! Metrics of the Redis cache. `flagstream_warm_…`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{OutcomeLabels, Seconds};

#[derive(Debug)]
pub struct RedisCacheMetrics {
    /// Reads by outcome: `hit`, or a miss: `absent`, `stale`, `unreadable`, `unavailable`.
    pub reads: Family<OutcomeLabels, Counter>,
    /// Writes by outcome: `written`, or `refused` if a newer value existed.
    pub writes: Family<OutcomeLabels, Counter>,
    /// Evaluations that need no write, by reason.
    pub passed_over: Family<OutcomeLabels, Counter>,
    /// Keys updated after a change: `refreshed` or `removed`.
    pub invalidated: Family<OutcomeLabels, Counter>,
    /// Number of times that Redis lost its data and the latest evaluations were written again.
    pub rebuilds: Counter,
    /// Time from an invalidation's publication until readers ignore older values.
    pub announced: Seconds,
    /// Time from an invalidation's publication until all affected keys are updated.
    pub finished: Seconds,
}

impl RedisCacheMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reads: Family::default(),
            writes: Family::default(),
            passed_over: Family::default(),
            invalidated: Family::default(),
            rebuilds: Counter::default(),
            announced: Seconds::new(super::evaluate::buckets(super::evaluate::WIDE)),
            finished: Seconds::new(super::evaluate::buckets(super::evaluate::WIDE)),
        };
        registry.register("reads", "Reads of cached outcomes, by outcome", metrics.reads.clone());
        registry.register("writes", "Values written to Redis, by outcome", metrics.writes.clone());
        let help = "Evaluations that were not written to Redis, by reason";
        registry.register("passed_over", help, metrics.passed_over.clone());
        let help = "Keys updated or removed after a change, by action";
        registry.register("swept", help, metrics.invalidated.clone());
        let help = "Number of times that the cache was rebuilt because Redis had lost it";
        registry.register("rebuilds", help, metrics.rebuilds.clone());
        let help = "Time from publishing an invalidation until readers apply it";
        registry.register("announced_seconds", help, metrics.announced.0.clone());
        let help = "Time from publishing an invalidation until the last raw key is correct";
        registry.register("finished_seconds", help, metrics.finished.0.clone());
        metrics
    }

    /// Adds to the counter of one outcome.
    pub fn add(family: &Family<OutcomeLabels, Counter>, outcome: &'static str, count: u64) {
        if count > 0 {
            family.get_or_create(&OutcomeLabels { outcome }).inc_by(count);
        }
    }
}
