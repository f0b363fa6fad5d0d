//! A dead-letter topic that accepts nothing: partitions with a record that needs a dead letter wait, all others continue.

use serde_json::json;

use super::{Fixture, event};
use crate::harness::{
    AUTHORIZER, Cluster, PROMPT, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, wait_until,
};

/// Partition with the record that cannot be read.
const BLOCKED: i32 = 0;
/// Smaller than any dead letter, and larger than the end of a transaction.
const TINY_BYTES: usize = 100;

fn row(number: u32) -> Vec<u8> {
    event(number, &[]).to_string().into_bytes()
}

fn detail(service: &Service) -> String {
    let sink = service.health()["parts"]["sink"].clone();
    format!("{} {}", sink["state"].as_str().unwrap(), sink["detail"].as_str().unwrap_or_default())
}

fn stuck(service: &Service) -> f64 {
    let labels = [("partition", "0"), ("reason", "dead_letter")];
    service.metrics().sum("flagstream_audit_stuck", &labels)
}

/// The topic accepts nothing, for the reason `why`, until `release` is called.
fn stops_its_partition_only(fixture: &Fixture, why: &str, release: impl FnOnce()) {
    let topics = &fixture.group.topics;
    let service = fixture.start("a", "sink");
    let sender = Sender::new(&topics.kafka);
    let send =
        |partition: i32, body: &[u8]| sender.send(&topics.events, Some(partition), Some(b"k"), body, None);
    for number in 0..2 {
        send(BLOCKED, &row(number));
    }
    let (_, offset) = send(BLOCKED, b"no event");
    for number in 2..4 {
        send(BLOCKED, &row(number));
    }
    let mut rows = 2;
    wait_until("what is before the record is written", TEST_TIMEOUT, || fixture.database.audited() == rows);
    let place = format!("degraded topic {} partition {BLOCKED} waits at offset {offset}", topics.events);
    wait_until("health names the partition", TEST_TIMEOUT, || {
        let detail = detail(&service);
        detail.starts_with(&place) && detail.contains(&topics.dead_letters) && detail.contains(why)
    });
    // Several attempts later, with records of the blocked partition between those of the others.
    for number in 10..20 {
        for partition in 0..3 {
            send(partition, &row(100 * number + u32::try_from(partition).unwrap()));
        }
        rows += 2;
        wait_until("the others continue", TEST_TIMEOUT, || fixture.database.audited() == rows);
    }
    wait_until("the partition is stuck", TEST_TIMEOUT, || stuck(&service) == 1.0);
    assert!(detail(&service).starts_with(&place), "{}", detail(&service));
    assert_eq!(fixture.database.audited(), rows, "nothing behind the record is written");

    release();
    wait_until("everything behind the record is written", TEST_TIMEOUT * 2, || {
        fixture.database.audited() == rows + 2 + 10
    });
    let mut letters = TopicReader::open(&topics.kafka, &topics.dead_letters);
    let letter = letters.wait("the dead letter", TEST_TIMEOUT, |_| true);
    assert_eq!(letter.header("source-partition"), Some(BLOCKED.to_string().as_str()));
    assert_eq!(letter.header("source-offset"), Some(offset.to_string().as_str()));
    wait_until("the sink is up", TEST_TIMEOUT, || detail(&service) == "up ");
    wait_until("the partition moves", TEST_TIMEOUT, || stuck(&service) == 0.0);
    assert_eq!(service.metrics().sum("flagstream_dead_letters_total", &[]), 1.0);
    fixture.database.assert_counts();
    fixture.database.assert_usage();
}

fn fixture(stack: &Stack) -> Fixture {
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture.group.set("FLAGSTREAM_HEALTH__STUCK_AFTER", "1s");
    fixture
}

#[test]
fn a_dead_letter_that_the_topic_rejects_stops_its_partition_only() {
    let (stack, _shared) = Stack::shared();
    let fixture = fixture(stack);
    let topics = fixture.group.topics.clone();
    topics.limit_record(&topics.dead_letters, TINY_BYTES);
    stops_its_partition_only(&fixture, "Message size too large", || {
        topics.limit_record(&topics.dead_letters, 1 << 20);
    });
}

#[test]
fn a_dead_letter_topic_that_may_not_be_written_stops_the_partition_only() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let cluster = Cluster::single(stack, &[PROMPT, AUTHORIZER].concat());
    let stack = stack.with_kafka(cluster.kafka());
    let fixture = fixture(&stack);
    let topic = fixture.group.topics.dead_letters.clone();
    cluster.deny_writes(&topic);
    stops_its_partition_only(&fixture, "authorization failed", || {
        cluster.clear_acls(&topic);
    });
}

#[test]
fn partitions_that_wait_are_tried_again_one_by_one() {
    let (stack, _shared) = Stack::shared();
    let fixture = fixture(stack);
    let topics = fixture.group.topics.clone();
    topics.limit_record(&topics.dead_letters, TINY_BYTES);
    let service = fixture.start("a", "sink");
    let sender = Sender::new(&topics.kafka);
    // Every partition but the last waits, and each has several records that need a dead letter.
    let last = topics.partitions - 1;
    for round in 0..3 {
        for partition in 0..last {
            sender.send(&topics.events, Some(partition), Some(b"k"), b"no event", None);
            let number = 10 * round + u32::try_from(partition).unwrap();
            sender.send(&topics.events, Some(partition), Some(b"k"), &row(number), None);
        }
        sender.send(&topics.events, Some(last), Some(b"k"), &row(500 + round), None);
        let written = i64::from(round) + 1;
        wait_until("the last partition continues", TEST_TIMEOUT, || fixture.database.audited() == written);
    }
    wait_until("health counts them", TEST_TIMEOUT, || {
        detail(&service).contains(&format!("and {} more partitions", last - 3))
    });
    topics.limit_record(&topics.dead_letters, 1 << 20);
    let rows = i64::from(3 + 3 * last);
    wait_until("all rows", TEST_TIMEOUT * 2, || fixture.database.audited() == rows);
    let letters = || service.metrics().sum("flagstream_dead_letters_total", &[]);
    wait_until("every dead letter once", TEST_TIMEOUT, || letters() == f64::from(3 * last));
    wait_until("the sink is up", TEST_TIMEOUT, || detail(&service) == "up ");
    let source = json!({"api": "rest"});
    sender.send(
        &topics.events,
        Some(0),
        Some(b"k"),
        &event(900, &[("source", source)]).to_string().into_bytes(),
        None,
    );
    wait_until("one more row", TEST_TIMEOUT, || fixture.database.audited() == rows + 1);
}
