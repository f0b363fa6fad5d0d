//! State of a service before it has read its source of flags, and after its topics have lost records.

use serde_json::{Value, json};

use crate::harness::{
    Admin, Database, Group, Mood, Proxy, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, get, post,
    rollout, wait_until,
};

const ENVIRONMENT: &str = "development";

/// Unleash with the flag `on`, behind a proxy that shows nothing else.
fn deployment(stack: &Stack) -> (Group, Proxy, String) {
    let group = Group::new(stack);
    let prefix = group.topics.prefix.clone();
    let admin = Admin::new(stack, &prefix);
    admin.create("on", &rollout(&json!([])));
    let proxy = Proxy::start(stack, &prefix);
    let group = group
        .set("UNLEASH_URL", &proxy.url)
        .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
        .set("UNLEASH_REFRESH_INTERVAL", "200ms")
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write,delete")
        .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s");
    (group, proxy, admin.name("on"))
}

fn evaluated(service: &Service, flag: &str) -> Value {
    let body = json!({"flag_name": flag, "user_id": "u", "environment": ENVIRONMENT});
    post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body).json()
}

fn is_ready(service: &Service) -> bool {
    get(&format!("{}/health/ready", service.url)).is_some_and(|(status, _)| status == 200)
}

fn detail(service: &Service, part: &str) -> String {
    service.health()["parts"][part]["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn requests_wait_until_unleash_was_read_for_the_first_time() {
    let (stack, _shared) = Stack::shared();
    let (group, proxy, flag) = deployment(stack);
    proxy.set(Mood::Slow);
    let sender = Sender::new(&group.topics.kafka);
    let request = json!({"flag_name": flag, "user_id": "u", "environment": ENVIRONMENT}).to_string();
    for partition in 0..group.topics.partitions {
        sender.send(&group.topics.requests, Some(partition), None, request.as_bytes(), None);
    }
    let mut services: Vec<Service> = ["one", "two"].map(|name| group.prepare(name)).into();
    services.iter_mut().for_each(Service::spawn);
    proxy.answer(Mood::Slow, 1);
    for service in &services {
        wait_until("it says what it waits for", TEST_TIMEOUT, || {
            get(&format!("{}/health", service.url))
                .is_some_and(|(_, body)| body.contains("the first successful sync of unleash"))
        });
        assert!(!is_ready(service));
        assert_eq!(evaluated(service, &flag)["error_code"], "PROVIDER_NOT_READY");
    }
    // A failure is no answer either; followers say what the leader saw.
    proxy.set(Mood::Unauthorized);
    for service in &services {
        wait_until("the failure is told by all", TEST_TIMEOUT, || detail(service, "unleash").contains("401"));
        assert!(!is_ready(service));
    }
    proxy.set(Mood::Good);
    services.iter_mut().for_each(Service::wait_until_ready);
    for service in &services {
        assert_eq!(evaluated(service, &flag)["enabled"], true);
    }
    let mut events = TopicReader::open(&group.topics.kafka, &group.topics.events);
    let count = usize::try_from(group.topics.partitions).unwrap();
    let of_requests = |seen: &[crate::harness::Received]| -> Vec<Value> {
        let bodies = seen.iter().map(crate::harness::Received::json);
        bodies.filter(|body| body["source"]["topic"] == group.topics.requests.as_str()).collect()
    };
    events.until("all requests are answered", TEST_TIMEOUT, |seen| of_requests(seen).len() >= count);
    for event in of_requests(&events.seen) {
        assert_eq!((&event["error_code"], &event["typed_value"]), (&Value::Null, &json!(true)), "{event}");
    }
}

#[test]
fn an_environment_without_flags_is_ready_and_a_deployment_with_flags_needs_no_unleash_to_start() {
    let (stack, _shared) = Stack::shared();
    let (group, proxy, flag) = deployment(stack);
    proxy.set(Mood::EmptyList);
    let mut first = group.start("one");
    assert_eq!(evaluated(&first, &flag)["error_code"], "FLAG_NOT_FOUND");
    assert!(first.stop().0.success());
    // Without a snapshot of its own.
    proxy.set(Mood::Down);
    let mut second = group.start("two");
    assert_eq!(evaluated(&second, &flag)["error_code"], "FLAG_NOT_FOUND", "empty, and known to be");
    proxy.set(Mood::Good);
    wait_until("in force", TEST_TIMEOUT, || evaluated(&second, &flag)["enabled"] == true);
    assert!(second.stop().0.success());
    proxy.set(Mood::Down);
    let third = group.start("three");
    assert_eq!(evaluated(&third, &flag)["enabled"], true);
}

#[test]
fn an_operator_may_start_without_the_source() {
    let (stack, _shared) = Stack::shared();
    let (group, proxy, flag) = deployment(stack);
    proxy.set(Mood::Down);
    let service = group.set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true").start("one");
    assert_eq!(evaluated(&service, &flag)["error_code"], "FLAG_NOT_FOUND");
}

/// The version of the flag in the topic, by a reader that begins now.
fn version_in_topic(group: &Group, flag: &str) -> Option<Value> {
    let key = format!("{ENVIRONMENT}/{flag}").into_bytes();
    let mut tap = TopicReader::open(&group.topics.kafka, &group.topics.definitions);
    let record =
        tap.wait("the flag is in the topic", TEST_TIMEOUT, |record| record.key.as_deref() == Some(&key));
    record.payload.is_some().then(|| record.json()["version"].clone())
}

fn kill(service: &Service, flag: &str) {
    let url = format!("{}/api/v1/feature-flags/{flag}/kill?environment={ENVIRONMENT}", service.url);
    assert_eq!(post(&url, &json!({"reason": "r"})).status, 200);
}

#[test]
fn what_the_topics_lose_while_they_are_followed_is_written_again() {
    let (stack, _shared) = Stack::shared();
    let (group, proxy, flag) = deployment(stack);
    let database = Database::create(stack);
    let group = group.set("DATABASE_URL", &database.url);
    let services: Vec<Service> = ["one", "two"].map(|name| group.start(name)).into();
    kill(&services[0], &flag);
    for service in &services {
        wait_until("killed", TEST_TIMEOUT, || evaluated(service, &flag)["enabled"] == false);
    }
    let before = version_in_topic(&group, &flag);
    // Whatever is written again does not come from Unleash.
    proxy.set(Mood::Down);
    let losses: [(&str, &dyn Fn()); 3] = [
        ("records deleted", &|| {
            group.topics.delete_all_records(&group.topics.definitions);
            group.topics.delete_all_records(&group.topics.overrides);
        }),
        ("definitions made anew", &|| group.topics.make_anew(&group.topics.definitions)),
        ("overrides made anew", &|| group.topics.make_anew(&group.topics.overrides)),
    ];
    for (number, (what, lose)) in losses.into_iter().enumerate() {
        lose();
        assert_eq!(version_in_topic(&group, &flag), before, "{what}");
        let key = format!("{ENVIRONMENT}/{flag}").into_bytes();
        let mut overrides = TopicReader::open(&group.topics.kafka, &group.topics.overrides);
        overrides.wait(what, TEST_TIMEOUT, |record| {
            record.key.as_deref() == Some(&key) && record.json()["state"] == "killed"
        });
        for service in &services {
            wait_until(what, TEST_TIMEOUT, || service.health()["parts"]["store"]["more"]["missing"] == 0);
            assert_eq!(evaluated(service, &flag)["killed"], true, "{what}");
        }
        // One that knows only what the topics have now.
        let mut late = group.start(&format!("late-{number}"));
        let answer = evaluated(&late, &flag);
        assert_eq!(
            (&answer["killed"], &answer["error_code"]),
            (&json!(true), &Value::Null),
            "{what}: {answer}"
        );
        assert!(late.stop().0.success());
    }
}

#[test]
fn topics_that_let_flags_expire_are_told_and_set_right() {
    let (stack, _shared) = Stack::shared();
    let (group, _proxy, _) = deployment(stack);
    group.topics.set_policy(&group.topics.definitions, "delete");
    let service = group.start("one");
    wait_until("health names the topic", TEST_TIMEOUT, || {
        let detail = detail(&service, "kafka");
        detail.contains(&group.topics.definitions) && detail.contains("flagstream topics apply")
    });
    assert_eq!(service.health()["parts"]["kafka"]["state"], "degraded");
    assert!(service.log().contains("cleanup.policy=delete"));
    let doctor =
        || crate::harness::flagstream(group.folder.path(), &["doctor"], group.settings()).status.code();
    assert_eq!(doctor(), Some(1));
    assert!(
        crate::harness::flagstream(group.folder.path(), &["topics", "apply"], group.settings())
            .status
            .success()
    );
    assert_eq!(doctor(), Some(0));
    wait_until("well again", TEST_TIMEOUT, || service.health()["parts"]["kafka"]["state"] == "up");
}

#[test]
fn topics_are_there_for_every_broker_when_apply_returns() {
    let (stack, _shared) = Stack::shared();
    for _ in 0..3 {
        // It creates the topics by `flagstream topics apply`.
        let group = Group::new(stack);
        let run = |words: &[&str]| crate::harness::flagstream(group.folder.path(), words, group.settings());
        let checked = run(&["topics", "check"]);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        // Asking for a topic that is not there makes none, though this broker makes topics on demand.
        let absent = format!("{}-absent", group.topics.prefix);
        let absent = group.clone().set("FLAGSTREAM_TOPICS__UPDATES", &absent);
        for _ in 0..2 {
            let checked =
                crate::harness::flagstream(absent.folder.path(), &["topics", "check"], absent.settings());
            assert!(String::from_utf8_lossy(&checked.stdout).contains("does not exist"));
        }
    }
}

#[test]
fn a_change_made_in_unleash_has_the_name_of_the_person() {
    let (stack, _shared) = Stack::shared();
    let (group, _proxy, flag) = deployment(stack);
    let group = group.set("UNLEASH_ADMIN_TOKEN", &stack.unleash.admin_token);
    let _service = group.start("one");
    let admin = Admin::new(stack, &group.topics.prefix);
    admin.turn_off("on");
    let mut updates = TopicReader::open(&group.topics.kafka, &group.topics.updates);
    let update = updates.wait("the change", TEST_TIMEOUT, |record| {
        let body = record.json();
        body["flag_name"] == flag.as_str() && body["event_type"] == "FEATURE_FLAG_UPDATED"
    });
    let log = admin.read(&format!("/events/{flag}")).unwrap();
    let person = log["events"][0]["createdBy"].clone();
    assert!(person.is_string() && person != "unleash", "{log}");
    assert_eq!(update.json()["actor"], person);
}
