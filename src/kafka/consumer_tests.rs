//! What the crate's queue may hold up, on a mock broker.

use std::time::Instant;

use rdkafka::Offset;
use rdkafka::mocking::MockCluster;

use super::*;

const TOPIC: &str = "requests";
const DEADLINE: Duration = Duration::from_secs(20);
const COMMITS: usize = 50;

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn no_rebalance_waits_behind_log_lines() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "evaluators")
        .set("enable.auto.commit", "false")
        .set_log_level(RDKafkaLogLevel::Warning);
    let mut consumer = BatchConsumer::subscribe(&config, TOPIC, 10).unwrap();
    wait_until("partitions assigned", || {
        consumer.serve().unwrap();
        assert!(consumer.fetch(Duration::from_millis(10)).is_empty());
        consumer.assigned() == 1
    });
    for _ in 0..COMMITS {
        let mut offsets = TopicPartitionList::new();
        // A partition that the topic does not have: librdkafka logs the refusal, and its log lines come as events.
        offsets.add_partition_offset(TOPIC, 7, Offset::Offset(1)).unwrap();
        consumer.inner().commit(&offsets, CommitMode::Async).unwrap();
    }
    wait_until("a log line for every commit", || consumer.handles.events.len() >= COMMITS);
    consumer.serve().unwrap();
    assert_eq!(consumer.handles.events.len(), 0);
}
