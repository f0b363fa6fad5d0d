//! The roles that read and write each topic.

use crate::config::TopicsConfig;

/// The roles that read a topic and those that write to it; empty if there are none.
#[derive(Debug, Clone, Copy)]
pub struct TopicUse<'t> {
    pub topic: &'t str,
    pub readers: &'static str,
    pub writers: &'static str,
}

/// The use of each topic, in the order of [`needs`](super::needs).
pub fn uses(topics: &TopicsConfig) -> Vec<TopicUse<'_>> {
    let of = |topic, readers, writers| TopicUse { topic, readers, writers };
    let tables = topics.attributes.iter().map(|table| of(table.topic.as_str(), "evaluator, api", "api"));
    let own = [
        of(topics.requests.as_str(), "evaluator", ""),
        of(&topics.changes, "feeder", "api"),
        of(&topics.definitions, "every role", "feeder"),
        of(&topics.overrides, "every role", "feeder, api"),
        of(&topics.events, "sink, warmer", "evaluator, feeder, api"),
        of(&topics.updates, "warmer, api", "feeder, api"),
        of(&topics.dead_letters, "", "evaluator, sink, api"),
        of(&topics.conversions, "sink", "api"),
        of(&topics.exposures, "", "sink"),
        of(&topics.audit_checkpoints, "", "sink"),
        of(&topics.instances, "api", "every role"),
        of(&topics.client_metrics, "feeder, sink", "api"),
    ];
    own.into_iter().chain(tables).collect()
}
