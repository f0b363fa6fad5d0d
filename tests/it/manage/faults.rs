//! Management calls during faults: their answers, and the later state.

use serde_json::{Value, json};

use super::{Fixture, is_on, leads, new_flag, path};
use crate::harness::{Service, Stack, TEST_TIMEOUT, TopicReader, wait_until};

fn is_leader(service: &Service) -> bool {
    service.metrics().sum("flagstream_feed_leader", &[]) == 1.0
}

/// The value of the records of a flag in the definitions topic, in their order.
fn revisions(tap: &TopicReader, name: &str) -> Vec<i64> {
    let bodies = tap.seen.iter().filter(|record| record.payload.is_some()).map(|record| record.json());
    let of_flag = bodies.filter(|body| body["flag_name"] == name);
    of_flag.map(|body| body["definition"]["local"]["revision"].as_i64().unwrap()).collect()
}

#[test]
fn the_leader_is_killed_and_what_was_accepted_comes_into_force() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let mut leader = fixture.start("one");
    leads(&leader);
    let other = fixture.start("two");
    assert_eq!(fixture.create(&other, &new_flag("f")).status, 201);
    assert!(is_on(&other, "f", "u"));
    leader.kill();
    // The call reports the true state, whichever instance leads next and whenever it does.
    let changed = fixture.update(&other, "f", &json!({"is_enabled": false}));
    let shown = changed.json();
    match changed.status {
        200 => assert!(shown["in_force"] == true && !is_on(&other, "f", "u"), "{shown}"),
        202 => assert_eq!(shown["in_force"], false, "{shown}"),
        _ => panic!("{changed:?}"),
    }
    wait_until("the other leads", TEST_TIMEOUT, || is_leader(&other));
    wait_until("in force", TEST_TIMEOUT, || !is_on(&other, "f", "u"));
    wait_until("and shown so", TEST_TIMEOUT, || fixture.show(&other, "f").json()["in_force"] == true);
    let again = fixture.update(&other, "f", &json!({"is_enabled": true}));
    assert_eq!(again.status, 200);
    assert!(is_on(&other, "f", "u"));
    let topics = &fixture.group.topics;
    let mut definitions = TopicReader::open(&topics.kafka, &topics.definitions);
    let last = again.json()["revision"].as_i64().unwrap();
    definitions.until("the last definition", TEST_TIMEOUT, |seen| {
        seen.iter().any(|record| {
            record.payload.is_some() && record.json()["definition"]["local"]["revision"] == last
        })
    });
    assert_eq!(revisions(&definitions, "f").len(), 3, "each change once: {:?}", revisions(&definitions, "f"));
}

#[test]
fn without_a_leader_a_change_is_accepted_and_kept() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    // No leader has ever read the local flags: without this the instance would wait for one.
    fixture.group = fixture.group.clone().set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true");
    let mut api = fixture.group.prepare("api").roles("api");
    api.spawn();
    api.wait_until_ready();
    fixture.contract = Some(crate::harness::OpenApiValidator::of(&api.url));
    let made = fixture.create(&api, &new_flag("f"));
    assert_eq!((made.status, &made.json()["in_force"]), (202, &json!(false)), "{made:?}");
    let gone = fixture.create(&api, &new_flag("g"));
    assert_eq!(gone.status, 202);
    let deleted = fixture.delete(&api, "g");
    assert_eq!(
        (deleted.status, deleted.body.as_str()),
        (202, ""),
        "whether it ever comes into force is not known"
    );
    let feeder = fixture.group.prepare("feeder").roles("feeder");
    let mut feeder = feeder;
    feeder.spawn();
    wait_until("in force", TEST_TIMEOUT, || is_on(&api, "f", "u"));
    assert!(!is_on(&api, "g", "u"));
    assert_eq!(fixture.update(&api, "f", &json!({"is_enabled": false})).status, 200);
    assert!(!is_on(&api, "f", "u"));
}

#[test]
fn a_database_that_goes_and_comes_back_takes_no_flag_with_it() {
    let (stack, exclusive) = Stack::exclusive();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let tag = fixture.create(&service, &new_flag("f")).header("etag").to_owned();
    let stopped = stack.stop("postgres", &exclusive);
    for (method, body) in
        [("PUT", json!({"is_enabled": false})), ("GET", Value::Null), ("DELETE", Value::Null)]
    {
        let answer = fixture.ask(&service, method, &path("f"), &[], &body);
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{method}: {answer:?}");
        assert!(!answer.body.contains("127.0.0.1"), "{answer:?}");
    }
    assert_eq!(fixture.create(&service, &new_flag("g")).status, 503);
    // The leader looks, in vain, and takes nothing from that.
    wait_until("the leader knows", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_feed_polls_total", &[("environment", "*"), ("outcome", "database")])
            >= 2.0
    });
    assert!(is_on(&service, "f", "u"));
    assert_eq!(service.health()["ready"], true);
    drop(stopped);
    wait_until("it answers again", TEST_TIMEOUT, || fixture.show(&service, "f").status == 200);
    assert_eq!(fixture.show(&service, "f").header("etag"), tag);
    assert!(is_on(&service, "f", "u"));
    // The leader may be backing off from a database that failed for a while.
    let changed = fixture.update(&service, "f", &json!({"is_enabled": false}));
    assert!([200, 202].contains(&changed.status), "{changed:?}");
    wait_until("in force", TEST_TIMEOUT, || !is_on(&service, "f", "u"));
}

#[test]
fn flags_that_go_missing_from_the_database_are_not_deleted_at_once() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let names: Vec<String> = (0..12).map(|number| format!("f-{number}")).collect();
    for name in &names {
        assert_eq!(fixture.create(&service, &new_flag(name)).status, 201);
    }
    fixture.database.run("BEGIN; CREATE TABLE kept AS TABLE local_flags; DELETE FROM local_flags; COMMIT");
    wait_until("the answer is held", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_feed_polls_total", &[("environment", "*"), ("outcome", "held")])
            >= 1.0
    });
    fixture.database.run("INSERT INTO local_flags SELECT * FROM kept");
    assert!(names.iter().all(|name| is_on(&service, name, "u")));
    // A deletion that was asked for is not held, however many there are.
    for name in &names {
        assert_eq!(fixture.delete(&service, name).status, 204, "{name}");
    }
}
