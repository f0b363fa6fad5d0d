//! Topics, databases and clocks that are not what they were.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use flagstream::audit::chain::Hasher;
use flagstream::audit::postgres::PostgresStore;
use flagstream::audit::store::AuditStore;
use flagstream::config::Secret;
use serde_json::{Value, json};

use super::{Fixture, event};
use crate::harness::{Sender, Service, Stack, TEST_TIMEOUT, block_on, flagstream, post, wait_until};

fn part(service: &Service, name: &str) -> Value {
    service.health()["parts"][name].clone()
}

/// The event of a request at this offset of the requests topic.
fn answered(number: u32) -> Vec<u8> {
    let at = Utc::now().to_rfc3339();
    let source = json!({"topic": "requests", "partition": 0, "offset": number, "index": 0});
    event(number, &[("source", source), ("evaluated_at", json!(at))]).to_string().into_bytes()
}

#[test]
fn an_events_topic_made_anew_is_read_from_its_start() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let service = fixture.start("a", "sink");
    let (topics, sender) = (&fixture.group.topics, Sender::new(&fixture.group.topics.kafka));
    for number in 0..100 {
        sender.send(&topics.events, Some(0), None, &answered(number), None);
    }
    wait_until("rows of the old topic", TEST_TIMEOUT, || fixture.database.audited() == 100);
    topics.make_events_anew();
    // More than the old one had: the sink's position is within the new log.
    let sender = Sender::new(&topics.kafka);
    for number in 1_000..1_500 {
        sender.send(&topics.events, Some(0), None, &answered(number), None);
    }
    wait_until("every record of the new topic is a row", TEST_TIMEOUT * 2, || {
        fixture.database.audited() == 600
    });
    assert_eq!(service.metrics().sum("flagstream_audit_recreated_total", &[]), 1.0);
    let sink = part(&service, "sink");
    assert_eq!(sink["state"], "degraded");
    assert!(sink["detail"].to_string().contains("was deleted and recreated"), "{sink}");
    // It goes on as ever.
    sender.send(&topics.events, Some(1), None, &answered(2_000), None);
    wait_until("a row of another partition", TEST_TIMEOUT, || fixture.database.audited() == 601);
    assert_eq!(service.metrics().sum("flagstream_audit_repeated_total", &[]), 0.0);
}

#[test]
fn lag_is_0_once_everything_is_a_row() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.group.start("a");
    fixture.load(200);
    fixture.wait_for_rows("rows are written");
    fixture.run_for(Duration::from_secs(2));
    let lag = || service.metrics().sum("flagstream_audit_lag", &[]);
    fixture.balance();
    // The last records of each partition are markers of transactions.
    wait_until("no lag", TEST_TIMEOUT, || lag() == 0.0);
}

#[test]
fn a_wrong_clock_removes_nothing_and_a_slow_ones_rows_stay_for_a_week() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let database = block_on(async {
        let database =
            flagstream::database::Database::open(&Secret::new(&fixture.database.url), "test").unwrap();
        database.migrate().await.unwrap();
        database
    });
    let flagstream::database::Database::Postgres(postgres) = database else { panic!("not Postgres") };
    let mut rows = PostgresStore::new(postgres, Hasher::default());
    let mut keep = |retention, ahead_days| {
        block_on(rows.maintain(retention, Utc::now() + TimeDelta::days(ahead_days))).unwrap()
    };
    assert_eq!(keep(90, 0).objection, None);
    let old = |days: i64| {
        let day = (Utc::now() - TimeDelta::days(days)).date_naive();
        let (table, next) = (day.format("feature_flag_evaluations_%Y%m%d"), day.succ_opt().unwrap());
        fixture.database.run(&format!(
            "CREATE TABLE {table} PARTITION OF feature_flag_evaluations FOR VALUES FROM ('{day}') TO ('{next}')"
        ));
    };
    [91, 92, 93].into_iter().for_each(old);
    let before = super::partitions(&fixture.database);
    for ahead_days in [100, -100, 1] {
        let kept = keep(90, ahead_days);
        assert!(kept.objection.unwrap().contains("differ by"), "{ahead_days}");
        assert!(kept.ahead.num_days().abs() >= ahead_days.abs() - 1, "{:?}", kept.ahead);
    }
    let objection = keep(90, 0).objection.unwrap();
    assert!(
        objection.contains("3 days of evaluations") && objection.contains("change the setting"),
        "{objection}"
    );
    assert_eq!(super::partitions(&fixture.database), before, "nothing was dropped");
    assert_eq!(keep(89, 0).objection, None, "the setting was changed");
    assert_eq!(super::partitions(&fixture.database), before - 3);

    let insert = "INSERT INTO feature_flag_evaluations (flag_name, context, environment, evaluated_at, evaluation_reason,
        event_id, enabled) VALUES ('a', '{}', 'e', now() - interval '200 days', 'DEFAULT', gen_random_uuid(), true)";
    fixture.database.run(insert);
    assert_eq!((keep(89, 0).late_count, fixture.database.audited()), (1, 1));
    let week = "UPDATE sink_retention SET late_seen_at = late_seen_at - interval '8 days'";
    fixture.database.run(week);
    assert_eq!((keep(89, 0).late_count, fixture.database.audited()), (1, 1), "seen now for the first time");
    fixture.database.run(week);
    assert_eq!((keep(89, 0).late_count, fixture.database.audited()), (0, 0), "seen for a week");
}

#[test]
fn a_read_only_database_is_reported_and_its_sessions_are_closed() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture.group.set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "admin");
    let (database, name) = (&fixture.database, fixture.database.name.clone());
    let service = fixture.start("a", "api,feeder,sink");
    wait_until("the database is migrated", TEST_TIMEOUT, || part(&service, "database")["state"] == "up");
    database.administer(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    // From now on the sessions of the service are those of a server that takes no writes.
    database.administer(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND application_name <> ''"
    ));
    wait_until("health says so", TEST_TIMEOUT, || part(&service, "database")["state"] == "down");
    assert!(part(&service, "database").to_string().contains("read-only"), "{}", part(&service, "database"));
    let output = flagstream(fixture.group.folder.path(), &["doctor"], fixture.group.settings());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.contains("the database is read-only"), "{text}");
    // New sessions may write; those that the service has are as they were.
    database.administer(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"));
    wait_until("the database is well", TEST_TIMEOUT, || part(&service, "database")["state"] == "up");
    let create = |number: u32| {
        let flag = json!({"name": format!("f-{number}"), "environment": "production", "is_enabled": true});
        post(&format!("{}/api/v1/feature-flags", service.url), &flag).status
    };
    // Each of the pool's sessions has its turn.
    for number in 0..20 {
        assert!([201, 202].contains(&create(number)), "{number}");
    }
}
