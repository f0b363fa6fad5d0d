//! Restarts, kills, and topics that change under the table.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use super::{Rows, group, is_on, row, set_flag, topic_of, until};
use crate::harness::{Group, Service, Stack, TEST_TIMEOUT, is_long, wait_until};

/// Records that an instance has read since it started.
fn records_read(service: &Service) -> f64 {
    service.metrics().sum("flagstream_attributes_records_total", &[("table", "user")])
}

fn rows_of(service: &Service) -> f64 {
    service.metrics().sum("flagstream_attributes_rows", &[("table", "user")])
}

#[test]
fn a_restart_continues_behind_the_stored_rows() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    set_flag(&group.topics);
    let rows = Rows::of(&group.topics);
    for number in 0..500 {
        rows.put(&format!("user-{number}"), &json!({"plan": if number % 2 == 0 { "gold" } else { "free" }}));
    }
    let mut service = group.start("one");
    assert_eq!((records_read(&service), rows_of(&service)), (500.0, 500.0), "ready means caught up");
    service.stop();
    rows.put("user-1", &json!({"plan": "gold"}));
    rows.remove("user-2");
    service.spawn();
    service.wait_until_ready();
    assert_eq!((records_read(&service), rows_of(&service)), (2.0, 499.0));
    assert!(is_on(&service, "user-0") && is_on(&service, "user-1") && !is_on(&service, "user-2"));
    service.kill();
    service.spawn();
    service.wait_until_ready();
    assert_eq!((records_read(&service), rows_of(&service)), (0.0, 499.0));
}

/// Writes random changes, and returns what the topic says in the end.
struct Model {
    rows: BTreeMap<String, Value>,
    written: u64,
}

impl Model {
    fn write(&mut self, rows: &Rows<'_>, count: u32) {
        for _ in 0..count {
            let user = format!("user-{}", rand::rng().random_range(0..200));
            self.written += 1;
            if rand::rng().random_range(0..4) == 0 {
                rows.remove(&user);
                self.rows.remove(&user);
            } else {
                let attributes = json!({"plan": "gold", "written": self.written});
                rows.put(&user, &attributes);
                self.rows.insert(user, attributes);
            }
        }
    }

    fn assert_is_in(&self, service: &Service) {
        wait_until("all rows", TEST_TIMEOUT, || rows_of(service) == self.rows.len() as f64);
        for number in 0..200 {
            let user = format!("user-{number}");
            let is = || row(service, &user).map(|row| row["attributes"].clone());
            wait_until(&user, TEST_TIMEOUT, || is().as_ref() == self.rows.get(&user));
        }
    }
}

#[test]
fn after_kills_while_rows_are_written_the_table_equals_the_topic() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    let rows = Rows::of(&group.topics);
    let mut model = Model { rows: BTreeMap::new(), written: 0 };
    let mut service = group.start("one");
    let rounds = if is_long() { 20 } else { 5 };
    for round in 0..rounds {
        let before = records_read(&service);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| model.write(&rows, 300));
            // The process dies while rows arrive.
            wait_until("some rows", TEST_TIMEOUT, || records_read(&service) > before + 20.0);
            service.kill();
            writing.join().unwrap();
        });
        service.spawn();
        service.wait_until_ready();
        assert!(records_read(&service) < 300.0 + 50.0, "round {round}: it continues where it was");
    }
    model.assert_is_in(&service);
}

#[test]
fn a_topic_that_is_created_again_or_truncated_is_read_anew() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    set_flag(&group.topics);
    let rows = Rows::of(&group.topics);
    rows.put("ann", &json!({"plan": "gold"}));
    rows.put("bob", &json!({"plan": "gold"}));
    let mut service = group.start("one");
    assert!(is_on(&service, "ann") && is_on(&service, "bob"));
    // While it runs.
    group.topics.recreate(&topic_of(&group.topics), group.topics.partitions);
    wait_until("the new topic takes rows", TEST_TIMEOUT, || {
        rows.put("bob", &json!({"plan": "gold", "n": 2}));
        !is_on(&service, "ann")
    });
    wait_until("the row of the new topic is applied", TEST_TIMEOUT, || is_on(&service, "bob"));
    let rebuilds = || service.metrics().sum("flagstream_attributes_rebuilds_total", &[]);
    assert!(rebuilds() >= 1.0);
    // While it does not run.
    service.stop();
    group.topics.recreate(&topic_of(&group.topics), group.topics.partitions);
    let rows = Rows::of(&group.topics);
    rows.put("eve", &json!({"plan": "gold"}));
    service.spawn();
    service.wait_until_ready();
    assert!(is_on(&service, "eve") && !is_on(&service, "bob") && !is_on(&service, "ann"));
    assert_eq!(rows_of(&service), 1.0);
}

#[test]
fn an_instance_that_cannot_read_its_topic_is_not_ready_and_says_so() {
    let (stack, _shared) = Stack::shared();
    let missing = "a-topic-that-nobody-made";
    let group: Group = group(stack).set("FLAGSTREAM_TOPICS__ATTRIBUTES", missing);
    let mut service = group.prepare("one");
    service.spawn();
    wait_until("health names it", TEST_TIMEOUT, || {
        service.assert_running();
        crate::harness::get(&format!("{}/health", service.url)).is_some_and(|(_, body)| {
            let body: Value = serde_json::from_str(&body).unwrap();
            let part = &body["parts"]["attributes"];
            part["detail"].as_str().is_some_and(|detail| detail.contains(missing))
                && part["state"] == "starting"
        })
    });
    let ready = crate::harness::get(&format!("{}/health/ready", service.url));
    assert!(ready.is_some_and(|(status, _)| status == 503));
}

#[test]
fn rows_are_applied_soon() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    set_flag(&group.topics);
    let service = group.start("one");
    let rows = Rows::of(&group.topics);
    let mut took = Vec::new();
    for number in 0..20 {
        let user = format!("user-{number}");
        assert!(!is_on(&service, &user));
        rows.put(&user, &json!({"plan": "gold"}));
        took.push(until(&service, &user, true));
    }
    took.sort_unstable();
    println!("in force after: median {} ms, longest {} ms", took[10], took[19]);
    assert!(Duration::from_millis(took[10] as u64) < TEST_TIMEOUT);
}
