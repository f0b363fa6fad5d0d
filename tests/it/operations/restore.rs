//! Backups of yesterday, restored: what was written since then is read again, and nothing twice.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::{
    Cluster, Database, Flag, Flags, Group, Sender, Service, Stack, TEST_TIMEOUT, wait_until,
};

/// Sends requests, each with an id of its own.
fn send(group: &Group, name: &str, count: usize) {
    let sender = Sender::new(&group.topics.kafka);
    for number in 0..count {
        let id = format!("{name}-{number}");
        let request = json!({"request_id": id, "flag_name": "f", "user_id": id, "environment": "production"});
        sender.send(&group.topics.requests, None, Some(id.as_bytes()), request.to_string().as_bytes(), None);
    }
}

fn rows(database: &Database) -> Vec<String> {
    let rows: Vec<(String,)> =
        database.rows("SELECT request_id FROM feature_flag_evaluations ORDER BY request_id");
    rows.into_iter().map(|(id,)| id).collect()
}

fn ids(names: &[(&str, usize)]) -> Vec<String> {
    let ids =
        names.iter().flat_map(|(name, count)| (0..*count).map(move |number| format!("{name}-{number}")));
    let mut ids: Vec<_> = ids.collect();
    ids.sort();
    ids
}

fn stop(service: &mut Service) {
    assert!(service.stop().0.success());
}

fn restart(service: &mut Service) {
    service.spawn();
    service.wait_until_ready();
}

#[test]
fn a_database_of_yesterday_gets_the_rows_of_today_once() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = Group::new(stack).set("DATABASE_URL", &database.url);
    Flags::new(&group.topics).set("production", Flag::on("f"));
    let mut service = group.start("a");
    send(&group, "yesterday", 200);
    wait_until("the rows of yesterday", TEST_TIMEOUT, || database.audited() >= 200);
    stop(&mut service);
    let backup = format!("{}_backup", database.name);
    database.administer(&disconnect(&database.name));
    database.administer(&format!("CREATE DATABASE {backup} TEMPLATE {}", database.name));

    restart(&mut service);
    send(&group, "today", 200);
    wait_until("the rows of today", TEST_TIMEOUT, || database.audited() >= 400);
    stop(&mut service);

    database.administer(&format!("DROP DATABASE {} WITH (FORCE)", database.name));
    database.administer(&format!("ALTER DATABASE {backup} RENAME TO {}", database.name));
    restart(&mut service);
    send(&group, "later", 50);
    wait_until("all rows again", TEST_TIMEOUT, || database.audited() >= 450);
    assert_eq!(rows(&database), ids(&[("yesterday", 200), ("today", 200), ("later", 50)]));
    database.assert_counts();
    stop(&mut service);
}

fn disconnect(name: &str) -> String {
    format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
}

#[test]
fn a_kafka_of_yesterday_keeps_the_rows_of_today_and_audits_what_follows() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let mut cluster = Cluster::single(stack, &[]);
    let database = Database::create(stack);
    let group = Group::new(&stack.with_kafka(cluster.kafka())).set("DATABASE_URL", &database.url);
    Flags::new(&group.topics).set("production", Flag::on("f"));
    let mut service = group.start("a");
    send(&group, "yesterday", 200);
    wait_until("the rows of yesterday", TEST_TIMEOUT, || database.audited() >= 200);
    stop(&mut service);
    cluster.stop(1);
    let (data, backup) = (cluster.data(1), group.folder.path().join("backup"));
    copy(&data, &backup);
    cluster.spawn(1);
    cluster.wait_until_complete();

    restart(&mut service);
    send(&group, "today", 100);
    wait_until("the rows of today", TEST_TIMEOUT, || database.audited() >= 300);
    stop(&mut service);
    cluster.stop(1);
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    cluster.spawn(1);
    cluster.wait_until_complete();

    // The sink alone, until it has compared its positions with the ends of the partitions: docs/guides/recover.md.
    let shortened = database
        .number("SELECT count(DISTINCT source_partition) FROM feature_flag_evaluations WHERE request_id LIKE 'today-%'")
        .unwrap();
    let mut sink = group.prepare("sink").roles("sink");
    restart(&mut sink);
    let found = || sink.metrics().sum("flagstream_audit_truncated_total", &[]);
    wait_until("the shorter logs are found", TEST_TIMEOUT * 2, || found() >= shortened as f64);
    restart(&mut service);
    send(&group, "later", 300);
    wait_until("the rows of later", TEST_TIMEOUT * 2, || database.audited() >= 600);
    // The events of today are gone in Kafka; their rows stay. Nothing is a row twice.
    assert_eq!(rows(&database), ids(&[("yesterday", 200), ("today", 100), ("later", 300)]));
    stop(&mut sink);
    stop(&mut service);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
