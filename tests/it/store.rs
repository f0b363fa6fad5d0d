//! Flags of an instance that starts without Kafka.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{
    Flag, Flags, Group, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, free_port, get, wait_until,
};

/// An instance that has written its snapshot, and was stopped.
fn stopped_with_snapshot(stack: &Stack) -> (Group, PathBuf) {
    let group = Group::new(stack);
    let mut flags = Flags::new(&group.topics);
    flags.set("production", Flag::on("known"));
    let mut service = group.start("one");
    assert!(service.stop().0.success());
    let snapshot = find(&group.folder.path().join("state"), "snapshot").expect("no snapshot was written");
    (group, snapshot)
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}

fn ready(service: &Service) -> Option<u16> {
    get(&format!("{}/health/ready", service.url)).map(|(status, _)| status)
}

fn nowhere() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[test]
fn an_instance_without_kafka_starts_from_its_snapshot() {
    let (stack, _shared) = Stack::shared();
    let (group, _) = stopped_with_snapshot(stack);
    let group = group.set("KAFKA_BOOTSTRAP_SERVERS", nowhere());
    let mut service = group.start("one");
    let metrics = service.metrics();
    assert_eq!(metrics.sum("flagstream_store_flags", &[]), 1.0);
    let (_, health) = get(&format!("{}/health", service.url)).unwrap();
    assert!(health.contains("disk"), "it says where its flags are from: {health}");
    let (status, _) = service.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn an_instance_without_kafka_and_without_snapshot_lives_and_is_not_ready() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack).set("KAFKA_BOOTSTRAP_SERVERS", nowhere());
    let mut service = group.prepare("one");
    service.spawn();
    let live = format!("{}/health/live", service.url);
    wait_until("alive", TEST_TIMEOUT, || get(&live).is_some_and(|(status, _)| status == 200));
    assert_eq!(ready(&service), Some(503));
    let (status, _) = service.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn a_damaged_snapshot_is_ignored() {
    let (stack, _shared) = Stack::shared();
    let (group, snapshot) = stopped_with_snapshot(stack);
    let whole = fs::read(&snapshot).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let kafka = group.topics.kafka.clone();
    for damaged in [whole[..whole.len() / 2].to_vec(), flipped, Vec::new(), b"{}".to_vec()] {
        fs::write(&snapshot, &damaged).unwrap();
        let lonely = group.clone().set("KAFKA_BOOTSTRAP_SERVERS", nowhere());
        let mut service = lonely.prepare("one");
        service.spawn();
        wait_until("alive", TEST_TIMEOUT, || ready(&service).is_some());
        wait_until("the damage is logged", TEST_TIMEOUT, || service.log().contains("snapshot"));
        assert_eq!(ready(&service), Some(503), "ready with a damaged snapshot of {} bytes", damaged.len());
        service.kill();
    }
    // With Kafka it starts as if there were none, and writes a good one.
    let mut service = group.start("one");
    let sender = Sender::new(&kafka);
    let body = json!({"flag_name": "known", "environment": "production"}).to_string();
    sender.send(&group.topics.requests, Some(0), None, body.as_bytes(), None);
    let event = TopicReader::open(&kafka, &group.topics.events).wait("an event", TEST_TIMEOUT, |_| true);
    assert_eq!(event.json()["typed_value"], true);
    assert!(service.stop().0.success());
    assert_ne!(fs::read(&snapshot).unwrap(), b"{}");
}
