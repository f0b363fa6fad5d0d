//! The roles that read and write each topic.

use crate::config::{Config, TapConfig};

/// The roles that read a topic and those that write to it; empty if there are none.
#[derive(Debug, Clone, Copy)]
pub struct TopicUse<'t> {
    pub topic: &'t str,
    pub readers: &'static str,
    pub writers: &'static str,
    /// Whether `topics apply` creates the topic, and commands read it. The topics of taps belong to others.
    pub is_own: bool,
}

/// The use of each topic: those of [`needs`](super::needs) in their order, then the topics of taps.
pub fn uses(config: &Config) -> Vec<TopicUse<'_>> {
    let topics = &config.topics;
    let of = |topic, readers, writers| TopicUse { topic, readers, writers, is_own: true };
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
    own.into_iter().chain(tables).chain(of_taps(&config.taps)).collect()
}

/// The use of the topics of taps. A topic that several taps use, or that one reads and another writes, is named once.
fn of_taps(taps: &[TapConfig]) -> Vec<TopicUse<'_>> {
    let mut uses: Vec<TopicUse<'_>> = Vec::new();
    let mut add =
        |topic, readers: &'static str, writers| match uses.iter_mut().find(|used| used.topic == topic) {
            Some(used) if !readers.is_empty() => used.readers = readers,
            Some(used) => used.writers = writers,
            None => uses.push(TopicUse { topic, readers, writers, is_own: false }),
        };
    for tap in taps {
        add(&tap.source, "evaluator", "");
        tap.outputs().into_iter().for_each(|output| add(output, "", "evaluator"));
    }
    uses
}
