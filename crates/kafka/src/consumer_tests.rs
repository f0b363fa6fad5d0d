//! Tests of the consumer's queues on a mock broker.

use std::time::Instant;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::CommitMode;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use super::super::reading::FaultKind;

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

/// A member of a group with all partitions assigned.
fn member(cluster: &MockCluster<'_, DefaultProducerContext>, partitions: usize) -> BatchConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "evaluators")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest");
    let mut consumer = BatchConsumer::subscribe(&config, TOPIC, 10).unwrap();
    wait_until("partitions assigned", || {
        consumer.serve().unwrap();
        assert!(consumer.fetch(Duration::from_millis(10)).is_empty());
        consumer.assigned() == partitions
    });
    consumer
}

fn send(cluster: &MockCluster<'_, DefaultProducerContext>, codec: &str, payload: &[u8]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("compression.type", codec)
        .create()
        .unwrap();
    producer.send(BaseRecord::<(), [u8]>::to(TOPIC).partition(0).payload(payload)).unwrap();
    producer.flush(DEADLINE).unwrap();
}

#[test]
fn records_are_read_in_every_codec() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let mut consumer = member(&cluster, 1);
    // Long and uniform enough for every codec to compress it, so that no codec is skipped.
    let payload = vec![b' '; 10_000];
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        send(&cluster, codec, &payload);
        wait_until(codec, || {
            let fetched = consumer.fetch(Duration::from_millis(10));
            fetched.records().next().is_some_and(|record| record.payload() == payload)
        });
    }
    assert_eq!(consumer.reading().faults().count(), 0);
}

#[test]
fn a_fetch_error_is_known_until_a_record_comes() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let mut consumer = member(&cluster, 1);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Fetch, &[refused; 3]);
    wait_until("the error", || {
        assert!(consumer.fetch(Duration::from_millis(10)).is_empty(), "an error is no record");
        let kinds: Vec<_> = consumer.reading().faults().map(|(at, fault)| (at, fault.kind())).collect();
        kinds == [(0, FaultKind::Unauthorized)]
    });
    send(&cluster, "none", b"{}");
    wait_until("a record", || !consumer.fetch(Duration::from_millis(10)).is_empty());
    assert_eq!(consumer.reading().faults().count(), 0);
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
        // The topic does not have this partition: librdkafka logs the rejection, and its log lines arrive as events.
        offsets.add_partition_offset(TOPIC, 7, Offset::Offset(1)).unwrap();
        consumer.inner().commit(&offsets, CommitMode::Async).unwrap();
    }
    wait_until("a log line for every commit", || consumer.waiting_events() >= COMMITS);
    consumer.serve().unwrap();
    assert_eq!(consumer.waiting_events(), 0);
}
