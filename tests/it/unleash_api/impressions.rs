//! Impressions that the SDK for browsers reports become exposure events, once, together with those of evaluations.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Fixture, ask_with};
use crate::harness::{
    Answer, OpenApiValidator, Received, Service, Stack, TEST_TIMEOUT, TopicReader, call, wait_until,
};

const EVENTS: &str = "/api/frontend/client/events";

fn report(service: &Service, token: &str, body: &Value) -> Answer {
    let headers = [("authorization", token), ("unleash-appname", "shop"), ("unleash-connection-id", "c-1")];
    let answer = call("POST", &format!("{}{EVENTS}", service.url), &headers, body.to_string().as_bytes());
    OpenApiValidator::of(&service.url).check("POST", EVENTS, &answer);
    answer
}

fn shown(flag: &str, user: &str, id: &str, variant: Option<&str>) -> Value {
    let kind = if variant.is_some() { "getVariant" } else { "isEnabled" };
    json!({"eventType": kind, "eventId": id, "featureName": flag, "enabled": true, "variant": variant,
        "impressionData": true, "context": {"userId": user, "appName": "ignored", "properties": {"plan": "gold"}}})
}

fn of(user: &'static str) -> impl Fn(&Received) -> bool {
    move |event| event.json()["user_id"] == user
}

#[test]
fn what_a_browser_has_shown_becomes_one_event_with_the_version_of_the_flags_in_force() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.flags(&["seen"]);
    let service = fixture.group.start("one");
    let (token, seen) = (fixture.frontend.as_str(), fixture.admin.name("seen"));
    wait_until("the flag is in force", TEST_TIMEOUT, || {
        ask_with(&service, "/api/frontend?userId=waiting", Some(token), &[]).json()["toggles"][0]["name"]
            == seen
    });
    let mut events = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.events);
    let both = json!([shown(&seen, "u", "e-1", None), shown(&seen, "u", "e-2", Some("green"))]);
    assert_eq!(report(&service, token, &both).status, 202);
    assert_eq!(report(&service, token, &shown(&seen, "u", "e-3", None)).status, 202, "a repetition");
    assert_eq!(report(&service, token, &shown(&seen, "last", "e-4", None)).status, 202);
    events.wait("the last event", TEST_TIMEOUT, of("last"));
    events.until("both events", TEST_TIMEOUT, |seen| seen.iter().filter(|event| of("u")(event)).count() == 2);
    let mut recorded: Vec<Value> =
        events.seen.iter().filter(|event| of("u")(event)).map(Received::json).collect();
    recorded.sort_by_key(|event| event["request_id"].to_string());
    let [in_force, other] = recorded.try_into().unwrap();
    let context = json!({"userId": "u", "appName": "ignored", "remoteAddress": "127.0.0.1",
        "properties": {"plan": "gold"}});
    for (event, id, variant) in [(&in_force, "e-1", Value::Null), (&other, "e-2", json!("green"))] {
        assert_eq!(
            (&event["event_type"], &event["flag_name"]),
            (&json!("FEATURE_FLAG_EVALUATED"), &json!(seen))
        );
        assert_eq!((&event["request_id"], &event["enabled"]), (&json!(id), &json!(true)), "{event}");
        assert_eq!((&event["variant"], &event["context"]), (&variant, &context), "{event}");
        assert_eq!(event["source"], json!({"api": "unleash", "app": "shop", "connection": "c-1"}));
    }
    assert!(in_force["flag_version"].is_u64() && other["flag_version"].is_null(), "{in_force} {other}");
    let unrecorded =
        service.metrics().sum("flagstream_unleash_api_unrecorded_total", &[("outcome", "repeated")]);
    assert_eq!(unrecorded, 1.0);

    let wrong = report(&service, token, &json!([{"eventType": "isEnabled", "featureName": 5}]));
    assert_eq!((wrong.status, &wrong.json()["errors"][0]["field"]), (400, &json!("[0].featureName")));
    assert_eq!(report(&service, &fixture.backend, &json!([])).status, 403);
}

#[test]
fn the_sdk_for_browsers_reports_its_impressions_and_none_is_recorded_twice() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.flags(&["seen"]);
    fixture.admin.record_impressions("seen");
    let service = fixture.group.start("one");
    let (token, seen) = (fixture.frontend.as_str(), fixture.admin.name("seen"));
    wait_until("the flag has impressions", TEST_TIMEOUT, || {
        let toggles = ask_with(&service, "/api/frontend?userId=waiting", Some(token), &[]).json();
        toggles["toggles"][0]["impressionData"] == true
    });
    let mut events = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.events);
    let sdk = json!({"url": format!("{}/api/frontend", service.url), "token": token, "flag": seen, "user": "browser"});
    let mut node = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/unleash_api/impressions.mjs"))
        .arg(sdk.to_string())
        .env("FLAGSTREAM_TEST_NODE_MODULES", &stack.node_modules)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let reported: Vec<Value> = BufReader::new(node.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert!(node.wait().unwrap().success());
    // `isEnabled`, `getVariant`, and `isEnabled` again.
    assert_eq!(reported, [json!(202), json!(202), json!(202)]);
    report(&service, token, &shown(&seen, "last", "e-1", None));
    events.wait("the last event", TEST_TIMEOUT, of("last"));
    let event = events.wait("the impression", TEST_TIMEOUT, of("browser")).json();
    assert_eq!((&event["flag_name"], &event["enabled"]), (&json!(seen), &json!(true)));
    assert!(event["flag_version"].is_u64(), "{event}");
    assert_eq!(events.seen.iter().filter(|event| of("browser")(event)).count(), 1);
    let metrics = service.metrics();
    let repeated = metrics.sum("flagstream_unleash_api_unrecorded_total", &[("outcome", "repeated")]);
    // The evaluation, or one report, is the event. Polls while the flag was awaited are repetitions, too.
    assert!(repeated >= 3.0, "{repeated}");
}
