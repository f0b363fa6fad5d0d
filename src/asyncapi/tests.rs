//! Tests of the document: it is current, and real messages satisfy its schemas.

use std::collections::BTreeSet;

use super::*;
use crate::config::{Profile, load_from};
use crate::message::avro::Kind;

fn config(variables: &[(&str, &str)]) -> Config {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    load_from(None, variables, Profile::Service).unwrap().config
}

#[test]
fn the_committed_document_is_that_of_the_default_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/asyncapi.json");
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let current = document(&config(&[]));
    assert!(committed == current, "docs/asyncapi.json: run `cargo run -- asyncapi > docs/asyncapi.json`");
}

#[test]
fn every_topic_has_a_channel_with_its_settings() {
    let config =
        config(&[("FLAGSTREAM_TOPICS__REQUESTS", "own-requests"), ("FLAGSTREAM_TOPICS__PARTITIONS", "7")]);
    let document = document(&config);
    let channels = document["channels"].as_object().unwrap();
    let addresses: BTreeSet<_> =
        channels.values().map(|channel| channel["address"].as_str().unwrap()).collect();
    for need in needs(&config.topics) {
        assert!(addresses.contains(need.name.as_str()), "{}", need.name);
        let channel = channels.values().find(|channel| channel["address"] == need.name.as_str()).unwrap();
        assert_eq!(channel["bindings"]["kafka"]["partitions"], need.partitions);
    }
    assert!(addresses.contains("own-requests") && addresses.contains("feature-flag-replies"));
}

#[test]
fn every_avro_schema_is_part_of_a_message() {
    let named = messages::ALL.iter().filter_map(|message| message.avro);
    let named: BTreeSet<_> = named.map(|kind| format!("{kind:?}")).collect();
    // Definitions are always written in JSON.
    let expected = Kind::ALL.iter().filter(|kind| **kind != Kind::Definition);
    assert_eq!(named, expected.map(|kind| format!("{kind:?}")).collect());
}

#[test]
fn without_reply_topics_there_is_no_reply() {
    let document = document(&config(&[("FLAGSTREAM_REPLY__ALLOWED_PREFIXES", "none")]));
    assert!(document["channels"].get("replies").is_none());
    assert!(document["operations"]["receiveEvaluationRequests"].get("reply").is_none());
}
