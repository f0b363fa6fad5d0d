//! The required properties of each topic, and the comparison with the existing topics.

mod admin;
pub mod manifests;
mod uses;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::attributes::RESUME_MAX_AGE;
use crate::config::TopicsConfig;
use crate::kafka::describe::{Described, Overview};

pub use admin::{TopicReport, Topics, TopicsError};
pub use uses::{TopicUse, uses};
pub use watch::{Fit, look_after, wait_until_fit};

/// Maximum record size of events, in bytes: an event contains its request (at most 1 MiB) and adds to it.
const ECHO_BYTES: usize = 2 << 20;

/// Time for which the topics of attributes keep tombstones: twice the time for which a stopped instance may continue.
const TOMBSTONES: Duration = RESUME_MAX_AGE.saturating_mul(2);

/// Segment size of the topic of instances, in bytes.
const INSTANCES_SEGMENT_BYTES: usize = 4 << 20;

/// Kafka's own topics that commits write to.
const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// The settings of topics, by the topics' names.
pub type Settings = BTreeMap<String, Vec<FoundConfig>>;

/// The required properties of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub name: String,
    pub partitions: i32,
    /// Replication factor; `None` means the broker's default.
    pub replication: Option<i32>,
    /// Required settings that differ from a broker's defaults, sorted by name.
    pub config: Vec<(&'static str, String)>,
}

/// A difference between a topic and its required properties.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub enum Difference {
    Missing,
    /// Never changed automatically: keys would move to other partitions.
    Partitions {
        needed: i32,
        found: i32,
    },
    Config {
        name: &'static str,
        needed: String,
        found: Option<String>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::Partitions { needed, found } => write!(f, "has {found} partitions instead of {needed}"),
            Self::Config { name, needed, found } => {
                let found = found.as_deref().unwrap_or("unknown");
                write!(f, "{name} is {found} instead of {needed}")
            }
        }
    }
}

/// A topic as Kafka describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub partitions: i32,
    /// All settings of the topic; `own` is true for those set on the topic itself.
    pub config: Vec<FoundConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundConfig {
    pub name: String,
    pub value: Option<String>,
    pub own: bool,
}

/// The required properties of all topics, in the order in which data flows through them.
pub fn needs(topics: &TopicsConfig) -> Vec<Need> {
    let keep = |retention: Duration| {
        vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", retention.as_millis().to_string())]
    };
    let roomy = |mut config: Vec<(&'static str, String)>| {
        config.insert(1, ("max.message.bytes", ECHO_BYTES.to_string()));
        config
    };
    // Tombstones must outlive the longest time an instance takes to read the topic from its beginning.
    let definitions =
        roomy(vec![("cleanup.policy", "compact".to_owned()), ("min.compaction.lag.ms", "0".to_owned())]);
    let need = |name: &str, partitions, config| Need {
        name: name.to_owned(),
        partitions,
        replication: topics.replication,
        config,
    };
    let (n, retention) = (topics.partitions, topics.retention);
    let tables = topics.attributes.iter().map(|table| {
        let keep = TOMBSTONES.as_millis().to_string();
        need(&table.topic, n, vec![("cleanup.policy", "compact".to_owned()), ("delete.retention.ms", keep)])
    });
    let own = vec![
        need(&topics.requests, n, roomy(keep(retention))),
        need(&topics.changes, 1, keep(retention)),
        need(&topics.definitions, 1, definitions.clone()),
        need(&topics.overrides, 1, definitions),
        need(&topics.events, n, roomy(keep(retention))),
        need(&topics.updates, 1, keep(retention)),
        need(&topics.dead_letters, n, roomy(keep(topics.dead_letters_retention))),
        need(&topics.conversions, n, keep(retention)),
        need(&topics.exposures, n, keep(retention)),
        need(&topics.client_metrics, n, keep(retention)),
        // Checkpoints are compared with the database for as long as it exists, so they never expire.
        need(
            &topics.audit_checkpoints,
            1,
            vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", "-1".to_owned())],
        ),
        // Small segments, because a segment is compacted only after it is closed, and each instance writes every few
        // seconds.
        need(
            &topics.instances,
            1,
            vec![
                ("cleanup.policy", "compact".to_owned()),
                ("min.compaction.lag.ms", "0".to_owned()),
                ("segment.bytes", INSTANCES_SEGMENT_BYTES.to_string()),
            ],
        ),
    ];
    own.into_iter().chain(tables).collect()
}

/// The differences between the required and the found topic; `found` is `None` if the topic does not exist.
pub fn differences(need: &Need, found: Option<&Found>) -> Vec<Difference> {
    let Some(found) = found else {
        return vec![Difference::Missing];
    };
    let partitions = (found.partitions != need.partitions)
        .then_some(Difference::Partitions { needed: need.partitions, found: found.partitions });
    let config = need.config.iter().filter_map(|(name, needed)| {
        let entry = found.config.iter().find(|entry| entry.name == *name);
        let value = entry.and_then(|entry| entry.value.clone());
        // A setting that the broker does not report cannot be changed either.
        (entry.is_some() && value.as_deref() != Some(needed)).then(|| Difference::Config {
            name,
            needed: needed.clone(),
            found: value,
        })
    });
    partitions.into_iter().chain(config).collect()
}

/// The reason why requests cannot be answered on these topics, from their partition counts; `partitions` returns `None`
/// for a missing topic. `None` if the topics are fit.
pub fn unfit(topics: &TopicsConfig, partitions: impl Fn(&str) -> Option<i32>) -> Option<String> {
    // Requests are answered without some topics too; the parts that use them report that they are missing. Only the API
    // for Unleash's SDKs needs the topic of their metrics.
    let is_needed = |name: &&str| match *name {
        name if [&topics.audit_checkpoints, &topics.instances, &topics.exposures]
            .iter()
            .any(|of| *of == name) =>
        {
            false
        }
        name if name == topics.client_metrics => topics.needs_client_metrics,
        _ => true,
    };
    let names = topics.names().into_iter().map(|(_, name)| name).filter(is_needed);
    let missing: Vec<_> = names.filter(|name| partitions(name).is_none()).collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Some(format!("missing topics: {missing}; create them with `flagstream topics apply`"));
    }
    let single = [&topics.changes, &topics.definitions, &topics.overrides, &topics.updates];
    let spread = single.into_iter().find(|name| partitions(name) != Some(1))?;
    Some(format!(
        "topic {spread} must have exactly one partition, because its records are ordered; see `flagstream topics \
         check`"
    ))
}

/// The `cleanup.policy` that retains the last record of each key permanently.
const KEEPING_POLICY: (&str, &str) = ("cleanup.policy", "compact");

/// One sentence for each topic that must retain the last record of each key and has another `cleanup.policy`.
fn wrong_policies(topics: &TopicsConfig, settings: &Settings) -> Vec<String> {
    let (name, needed) = KEEPING_POLICY;
    let flags = [&topics.definitions, &topics.overrides].map(|topic| (topic, "flags or kill switches"));
    let tables = topics.attributes.iter().map(|table| (&table.topic, "attributes"));
    let wrong = flags.into_iter().chain(tables).filter_map(|(topic, what)| {
        let value = value(settings, topic, name)?;
        (value != needed).then(|| {
            format!(
                "topic {topic} has {name}={value} instead of {needed}: its records expire, and instances that start \
                 later lack {what}; set it with `flagstream topics apply`"
            )
        })
    });
    wrong.collect()
}

fn value<'s>(settings: &'s Settings, topic: &str, name: &str) -> Option<&'s str> {
    settings.get(topic)?.iter().find(|entry| entry.name == name)?.value.as_deref()
}

/// The reasons why Kafka accepts no records for some topics: too few in-sync replicas, or no leader.
fn unwritable(found: &Overview, settings: &Settings) -> Vec<String> {
    let mut short: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    let mut leaderless = Vec::new();
    for (name, topic) in found.topics.iter().chain(&found.internal) {
        if topic.leaderless > 0 {
            leaderless.push(name.as_str());
        } else if let Some(counts) = short_of_replicas(topic, value(settings, name, "min.insync.replicas")) {
            short.entry(counts).or_default().push(name);
        }
    }
    let no_leader = (!leaderless.is_empty()).then(|| {
        format!(
            "partitions of {} have no leader: the brokers with their records are not running",
            leaderless.join(", ")
        )
    });
    let short = short.into_iter().map(|((in_sync, needed), names)| {
        format!(
            "Kafka accepts no records for {}: partitions with {in_sync} in-sync replicas, and min.insync.replicas is \
             {needed}; start the missing brokers, or lower min.insync.replicas",
            names.join(", ")
        )
    });
    short.chain(no_leader).collect()
}

/// The number of in-sync replicas of a topic, and how many it needs, if it has fewer. Brokers do not need more replicas
/// than are assigned.
fn short_of_replicas(topic: &Described, needed: Option<&str>) -> Option<(usize, usize)> {
    let ((in_sync, assigned), needed) = (topic.least_in_sync?, needed?.parse::<usize>().ok()?);
    (in_sync < needed.min(assigned)).then_some((in_sync, needed))
}

/// Topics with fewer replicas than `min.insync.replicas`. Older brokers accept no records for them.
fn without_enough_replicas(found: &Overview, settings: &Settings) -> Vec<String> {
    let topics = found.topics.iter().chain(&found.internal);
    let wrong = topics.filter_map(|(name, topic)| {
        let (_, assigned) = topic.least_in_sync?;
        let needed: usize = value(settings, name, "min.insync.replicas")?.parse().ok()?;
        (assigned < needed).then(|| {
            format!(
                "topic {name} has {assigned} replicas, fewer than its min.insync.replicas, which is {needed}"
            )
        })
    });
    wrong.collect()
}

/// The reason why some requests cannot be answered while others are: a result is sent to the partition number of its
/// request, and the requests topic has more partitions than the events topic. `None` if it has not.
pub fn uneven(topics: &TopicsConfig, partitions: impl Fn(&str) -> Option<i32>) -> Option<String> {
    let (requests, events) = (partitions(&topics.requests)?, partitions(&topics.events)?);
    (requests > events).then(|| {
        format!(
            "topic {} has {requests} partitions, but {} has {events}: partitions from {events} on are paused until \
             both topics have the same number, because results go to the partition of their request; see `flagstream topics check`",
            topics.requests, topics.events,
        )
    })
}

/// Whether this difference loses flags, kill switches or attributes, rather than only performance or disk space.
pub fn is_dangerous(difference: &Difference, topic: &str, topics: &TopicsConfig) -> bool {
    let tables = topics.attributes.iter().map(|table| &table.topic);
    let keeps = [&topics.definitions, &topics.overrides].into_iter().chain(tables).any(|kept| kept == topic);
    keeps && matches!(difference, Difference::Config { name, .. } if *name == KEEPING_POLICY.0)
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
