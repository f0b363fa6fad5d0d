//! Tests of the required topic properties, without a broker.

use crate::config::{Profile, load_from};

use super::*;

fn topics() -> TopicsConfig {
    match load_from(None, [], Profile::Service) {
        Ok(loaded) => loaded.config.topics,
        Err(error) => unreachable!("{error}"),
    }
}

fn as_needed(need: &Need) -> Found {
    let config = need.config.iter().map(|(name, value)| FoundConfig {
        name: (*name).to_owned(),
        value: Some(value.clone()),
        own: true,
    });
    Found { partitions: need.partitions, config: config.collect() }
}

#[test]
fn every_topic_has_its_needs() {
    let topics = topics();
    let needs = needs(&topics);
    let need = |name: &str| needs.iter().find(|need| need.name == name).cloned();
    assert_eq!(needs.len(), topics.names().len());
    for (_, name) in topics.names() {
        assert!(need(name).is_some(), "{name}");
    }
    let value = |topic: &str, name: &str| {
        let need = need(topic)?;
        need.config.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    };
    assert_eq!(value(&topics.definitions, "cleanup.policy").as_deref(), Some("compact"));
    assert_eq!(value(&topics.events, "max.message.bytes").as_deref(), Some("2097152"));
    assert_eq!(value(&topics.dead_letters, "retention.ms").as_deref(), Some("2592000000"));
    let partitions = |name: &str| need(name).map(|need| need.partitions);
    assert_eq!(partitions(&topics.requests), partitions(&topics.events));
    for single in [&topics.changes, &topics.definitions, &topics.updates] {
        assert_eq!(partitions(single), Some(1), "{single}");
    }
}

#[test]
fn differences_are_told() {
    for need in needs(&topics()) {
        assert_eq!(differences(&need, None), [Difference::Missing]);
        let mut found = as_needed(&need);
        assert_eq!(differences(&need, Some(&found)), []);
        found.partitions += 1;
        if let Some(entry) = found.config.first_mut() {
            entry.value = Some("other".to_owned());
        }
        let told: Vec<_> = differences(&need, Some(&found)).iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("partitions instead of"), "{told:?}");
        assert!(told[1].contains("is other instead of"), "{told:?}");
    }
}

#[test]
fn topics_that_cannot_serve_are_told_with_what_to_do() {
    let topics = topics();
    assert!(unfit(&topics, |_| None).is_some_and(|text| text.contains("flagstream topics apply")));
    let count = |name: &str, events: i32, definitions: i32| match name {
        name if name == topics.events => Some(events),
        name if name == topics.definitions => Some(definitions),
        name if [&topics.changes, &topics.overrides, &topics.updates].contains(&&name.to_owned()) => Some(1),
        _ => Some(12),
    };
    assert_eq!(unfit(&topics, |name| count(name, 12, 1)), None);
    let spread = unfit(&topics, |name| count(name, 12, 2)).unwrap_or_default();
    assert!(spread.contains(&topics.definitions), "{spread}");
}

#[test]
fn a_larger_requests_topic_stops_only_its_additional_partitions() {
    let topics = topics();
    let count = |events: i32| {
        let topics = topics.clone();
        move |name: &str| match name {
            name if name == topics.events => Some(events),
            name if name == topics.requests => Some(12),
            _ => Some(1),
        }
    };
    for events in [6, 12, 14] {
        assert_eq!(unfit(&topics, count(events)), None, "{events}");
    }
    let text = uneven(&topics, count(6)).unwrap_or_default();
    assert!(
        text.contains("12 partitions") && text.contains("has 6") && text.contains("from 6 on are paused"),
        "{text}"
    );
    assert_eq!(uneven(&topics, count(12)), None);
    assert_eq!(uneven(&topics, count(14)), None, "the events topic is grown first");
}

/// A cluster with one of our topics and one of Kafka's own.
fn cluster(events: Described, transactions: Described) -> Overview {
    Overview {
        brokers: 3,
        is_embedded: false,
        topics: [("events".to_owned(), events)].into(),
        internal: [("__transaction_state".to_owned(), transactions)].into(),
    }
}

fn described(least_in_sync: usize, leaderless: usize) -> Described {
    Described { partitions: 4, leaderless, least_in_sync: Some((least_in_sync, 3)), id: String::new() }
}

#[test]
fn topics_that_accept_no_records_are_named_with_the_reason() {
    let needs = |count: &str| {
        let name = "min.insync.replicas".to_owned();
        vec![FoundConfig { name, value: Some(count.to_owned()), own: false }]
    };
    let settings: Settings =
        [("events".to_owned(), needs("2")), ("__transaction_state".to_owned(), needs("2"))].into();
    assert!(unwritable(&cluster(described(2, 0), described(3, 0)), &settings).is_empty());
    let both = unwritable(&cluster(described(1, 0), described(1, 0)), &settings);
    assert_eq!(both.len(), 1, "{both:?}");
    assert!(both[0].contains("__transaction_state") && both[0].contains("events"), "{both:?}");
    assert!(both[0].contains("1 in-sync replicas, and min.insync.replicas is 2"), "{both:?}");
    let one = unwritable(&cluster(described(2, 0), described(1, 0)), &settings);
    assert!(one.len() == 1 && !one[0].contains("events"), "{one:?}");
    let none = unwritable(&cluster(described(0, 2), described(2, 0)), &settings);
    assert!(none.len() == 1 && none[0].contains("partitions of events have no leader"), "{none:?}");
    assert!(unwritable(&cluster(described(1, 0), described(1, 0)), &Settings::new()).is_empty());
    let single = Described { least_in_sync: Some((1, 1)), ..described(1, 0) };
    let single = cluster(single.clone(), single);
    assert!(unwritable(&single, &settings).is_empty(), "brokers do not need more than there are");
    let doubtful = without_enough_replicas(&single, &settings);
    assert!(
        doubtful.len() == 2 && doubtful[1].contains("__transaction_state has 1 replicas"),
        "{doubtful:?}"
    );
}
