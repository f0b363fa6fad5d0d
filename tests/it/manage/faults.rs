//! Management calls during faults: their answers, and the later state.

use serde_json::{Value, json};

use super::{Scene, is_on, leads, new_flag, path};
use crate::harness::{SOON, Service, Stack, Tap, wait_until};

fn is_leader(service: &Service) -> bool {
    service.metrics().sum("flagstream_feed_leader", &[]) == 1.0
}

/// The value of the records of a flag in the definitions topic, in their order.
fn revisions(tap: &Tap, name: &str) -> Vec<i64> {
    let bodies = tap.seen.iter().filter(|record| record.payload.is_some()).map(|record| record.json());
    let of_flag = bodies.filter(|body| body["flag_name"] == name);
    of_flag.map(|body| body["definition"]["local"]["revision"].as_i64().unwrap()).collect()
}

#[test]
fn the_leader_is_killed_and_what_was_accepted_comes_into_force() {
    let (stack, _together) = Stack::together();
    let mut scene = Scene::new(stack);
    let mut leader = scene.start("one");
    leads(&leader);
    let other = scene.start("two");
    assert_eq!(scene.create(&other, &new_flag("f")).status, 201);
    assert!(is_on(&other, "f", "u"));
    leader.kill();
    // The call reports the true state, whichever instance leads next and whenever it does.
    let changed = scene.update(&other, "f", &json!({"is_enabled": false}));
    let shown = changed.json();
    match changed.status {
        200 => assert!(shown["in_force"] == true && !is_on(&other, "f", "u"), "{shown}"),
        202 => assert_eq!(shown["in_force"], false, "{shown}"),
        _ => panic!("{changed:?}"),
    }
    wait_until("the other leads", SOON, || is_leader(&other));
    wait_until("in force", SOON, || !is_on(&other, "f", "u"));
    wait_until("and shown so", SOON, || scene.show(&other, "f").json()["in_force"] == true);
    let again = scene.update(&other, "f", &json!({"is_enabled": true}));
    assert_eq!(again.status, 200);
    assert!(is_on(&other, "f", "u"));
    let topics = &scene.group.topics;
    let mut definitions = Tap::open(&topics.kafka, &topics.definitions);
    let last = again.json()["revision"].as_i64().unwrap();
    definitions.until("the last definition", SOON, |seen| {
        seen.iter().any(|record| {
            record.payload.is_some() && record.json()["definition"]["local"]["revision"] == last
        })
    });
    assert_eq!(revisions(&definitions, "f").len(), 3, "each change once: {:?}", revisions(&definitions, "f"));
}

#[test]
fn without_a_leader_a_change_is_accepted_and_kept() {
    let (stack, _together) = Stack::together();
    let mut scene = Scene::new(stack);
    // No leader has ever read the local flags: without this the instance would wait for one.
    scene.group = scene.group.clone().set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true");
    let mut api = scene.group.prepare("api").roles("api");
    api.spawn();
    api.wait_until_ready();
    scene.contract = Some(crate::harness::Contract::of(&api.url));
    let made = scene.create(&api, &new_flag("f"));
    assert_eq!((made.status, &made.json()["in_force"]), (202, &json!(false)), "{made:?}");
    let gone = scene.create(&api, &new_flag("g"));
    assert_eq!(gone.status, 202);
    let deleted = scene.delete(&api, "g");
    assert_eq!(
        (deleted.status, deleted.body.as_str()),
        (202, ""),
        "whether it ever comes into force is not known"
    );
    let feeder = scene.group.prepare("feeder").roles("feeder");
    let mut feeder = feeder;
    feeder.spawn();
    wait_until("in force", SOON, || is_on(&api, "f", "u"));
    assert!(!is_on(&api, "g", "u"));
    assert_eq!(scene.update(&api, "f", &json!({"is_enabled": false})).status, 200);
    assert!(!is_on(&api, "f", "u"));
}

#[test]
fn a_database_that_goes_and_comes_back_takes_no_flag_with_it() {
    let (stack, alone) = Stack::alone();
    let mut scene = Scene::new(stack);
    let service = scene.start("one");
    leads(&service);
    let tag = scene.create(&service, &new_flag("f")).header("etag").to_owned();
    let stopped = stack.stop("postgres", &alone);
    for (method, body) in
        [("PUT", json!({"is_enabled": false})), ("GET", Value::Null), ("DELETE", Value::Null)]
    {
        let answer = scene.ask(&service, method, &path("f"), &[], &body);
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{method}: {answer:?}");
        assert!(!answer.body.contains("127.0.0.1"), "{answer:?}");
    }
    assert_eq!(scene.create(&service, &new_flag("g")).status, 503);
    // The leader looks, in vain, and takes nothing from that.
    wait_until("the leader knows", SOON, || {
        service.metrics().sum("flagstream_feed_polls_total", &[("environment", "*"), ("outcome", "database")])
            >= 2.0
    });
    assert!(is_on(&service, "f", "u"));
    assert_eq!(service.health()["ready"], true);
    drop(stopped);
    wait_until("it answers again", SOON, || scene.show(&service, "f").status == 200);
    assert_eq!(scene.show(&service, "f").header("etag"), tag);
    assert!(is_on(&service, "f", "u"));
    // The leader may be backing off from a database that failed for a while.
    let changed = scene.update(&service, "f", &json!({"is_enabled": false}));
    assert!([200, 202].contains(&changed.status), "{changed:?}");
    wait_until("in force", SOON, || !is_on(&service, "f", "u"));
}

#[test]
fn flags_that_go_missing_from_the_database_are_not_deleted_at_once() {
    let (stack, _together) = Stack::together();
    let mut scene = Scene::new(stack);
    let service = scene.start("one");
    leads(&service);
    let names: Vec<String> = (0..12).map(|number| format!("f-{number}")).collect();
    for name in &names {
        assert_eq!(scene.create(&service, &new_flag(name)).status, 201);
    }
    scene.database.run("BEGIN; CREATE TABLE kept AS TABLE local_flags; DELETE FROM local_flags; COMMIT");
    wait_until("the answer is held", SOON, || {
        service.metrics().sum("flagstream_feed_polls_total", &[("environment", "*"), ("outcome", "held")])
            >= 1.0
    });
    scene.database.run("INSERT INTO local_flags SELECT * FROM kept");
    assert!(names.iter().all(|name| is_on(&service, name, "u")));
    // A deletion that was asked for is not held, however many there are.
    for name in &names {
        assert_eq!(scene.delete(&service, name).status, 204, "{name}");
    }
}
