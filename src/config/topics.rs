//! The topics section, and the allowed prefixes of reply topics.

use std::collections::BTreeMap;
use std::time::Duration;

use super::values::Values;
use super::{ReplyConfig, TopicsConfig, attributes, parse, settings};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn config(values: &mut Values) -> Option<TopicsConfig> {
    let requests = values.required("topics.requests", parse::topic);
    let events = values.required("topics.events", parse::topic);
    let changes = values.required("topics.changes", parse::topic);
    let definitions = values.required("topics.definitions", parse::topic);
    let updates = values.required("topics.updates", parse::topic);
    let dead_letters = values.required("topics.dead_letters", parse::topic);
    let conversions = values.required("topics.conversions", parse::topic);
    let exposures = values.required("topics.exposures", parse::topic);
    let overrides = values.required("topics.overrides", parse::topic);
    let audit_checkpoints = values.required("topics.audit_checkpoints", parse::topic);
    let instances = values.required("topics.instances", parse::topic);
    let client_metrics = values.required("topics.client_metrics", parse::topic);
    let tables = attributes::tables(values);
    let partitions = values.required("topics.partitions", |text| parse::number(text, 1..=10_000));
    let replication = values.optional("topics.replication", |text| parse::number(text, 1..=1_000));
    let retention = |text: &str| parse::duration(text, 60 * SECOND..=36_500 * 86_400 * SECOND);
    let keep = values.required("topics.retention", retention);
    let keep_dead_letters = values.required("topics.dead_letters_retention", retention);
    let topics = TopicsConfig {
        requests: requests?,
        events: events?,
        changes: changes?,
        definitions: definitions?,
        updates: updates?,
        dead_letters: dead_letters?,
        conversions: conversions?,
        exposures: exposures?,
        overrides: overrides?,
        audit_checkpoints: audit_checkpoints?,
        instances: instances?,
        client_metrics: client_metrics?,
        needs_client_metrics: values.required("unleash_api.enabled", parse::flag)?,
        attributes_topic: values.required("topics.attributes", parse::topic)?,
        attributes: tables?,
        partitions: partitions?,
        replication: replication?,
        retention: keep?,
        dead_letters_retention: keep_dead_letters?,
    };
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let mut distinct = Some(());
    for (path, name) in topics.names() {
        if let Some(other) = seen.insert(name, path) {
            let other = settings::at(other).map_or(other, |setting| setting.name());
            distinct = values.refuse(
                path,
                format!("`{name}` is also the topic of {other}; every topic needs its own name"),
            );
        }
    }
    distinct.map(|()| topics)
}

pub(super) fn reply(values: &mut Values, topics: Option<&TopicsConfig>) -> Option<ReplyConfig> {
    let path = "reply.allowed_prefixes";
    let allowed_prefixes = values.list(path, parse::topic)?;
    // Replies to Kafka's internal topics are rejected too.
    let internal = ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];
    let mut allowed = Some(());
    for prefix in &allowed_prefixes {
        let ours = topics.map(TopicsConfig::names).into_iter().flatten().map(|(_, name)| name);
        for name in ours.chain(internal).filter(|name| name.starts_with(prefix.as_str())) {
            allowed = values.refuse(path, format!("`{prefix}` would allow replies to the topic `{name}`"));
        }
    }
    allowed.map(|()| ReplyConfig { allowed_prefixes, create_missing: false })
}
