//! Inputs that Unleash's SDKs disagree about, or that a single evaluation cannot show: over HTTP and Kafka, with the events.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::harness::{
    Flag, Flags, Group, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, get, post, wait_until,
};

const BULK: &str = "/api/v1/feature-flags/evaluate/bulk";
const CALLS: usize = 40;

fn half(name: &str) -> Flag {
    let rollout = json!({"rollout": "50", "stickiness": "default", "groupId": name});
    let strategies = json!([{"name": "flexibleRollout", "parameters": rollout}]);
    Flag::on(name).body(json!({"name": name, "enabled": true, "strategies": strategies}))
}

fn child(name: &str, parent: &str) -> Flag {
    let strategies = json!([{"name": "default"}]);
    let body = json!({"name": name, "enabled": true, "strategies": strategies,
        "dependencies": [{"feature": parent}]});
    Flag::on(name).body(body)
}

fn health(service: &Service) -> Value {
    let (_, body) = get(&format!("{}/health", service.url)).unwrap();
    serde_json::from_str(&body).unwrap()
}

fn start(group: &Group, flags: u64) -> Service {
    let service = group.start("one");
    wait_until("all flags in force", TEST_TIMEOUT, || {
        health(&service)["parts"]["store"]["more"]["flags"].as_u64() >= Some(flags)
    });
    service
}

#[test]
fn parent_and_child_agree_for_a_caller_whom_nobody_knows() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    let mut flags = Flags::new(&group.topics);
    flags.set("production", half("parent"));
    flags.set("production", child("child", "parent"));
    flags.set("production", Flag::on("plain"));
    let service = start(&group, 3);
    let mut events = TopicReader::open(&group.topics.kafka, &group.topics.events);
    let asked = json!({"flag_names": ["parent", "child", "plain"], "environment": "production"});

    let mut on = 0;
    let mut answers = HashMap::new();
    for _ in 0..CALLS {
        let answer = post(&format!("{}{BULK}", service.url), &asked).json();
        let results = &answer["results"];
        assert_eq!(results["parent"]["value"], results["child"]["value"], "{answer}");
        on += usize::from(results["parent"]["value"] == true);
        for flag in ["parent", "child", "plain"] {
            let id = results[flag]["event_id"].as_str().unwrap().to_owned();
            answers.insert(id, (flag, results["parent"]["event_id"].clone()));
        }
    }
    assert!((1..CALLS).contains(&on), "{on} of {CALLS}: it is drawn for each call");
    let sender = Sender::new(&group.topics.kafka);
    for _ in 0..CALLS {
        sender.send(&group.topics.requests, None, None, asked.to_string().as_bytes(), None);
    }
    let (mut sessions, mut seen) = (HashMap::<String, Vec<Value>>::new(), 0);
    events.until("an event of each answer", TEST_TIMEOUT, |received| {
        for event in received.get(seen..).unwrap_or_default() {
            let event = event.json();
            let call = match event["event_id"].as_str().and_then(|id| answers.get(id)) {
                Some((_, call)) => call.to_string(),
                None => format!("{}/{}", event["source"]["partition"], event["source"]["offset"]),
            };
            sessions.entry(call).or_default().push(event);
        }
        seen = received.len();
        seen == 2 * 3 * CALLS
    });
    assert_eq!(sessions.len(), 2 * CALLS);
    let mut generated: Vec<String> = Vec::new();
    for events in sessions.values() {
        let of = |name: &str| events.iter().find(|event| event["flag_name"] == name).unwrap();
        let (parent, child, plain) = (of("parent"), of("child"), of("plain"));
        assert_eq!(parent["value"], child["value"], "{events:?}");
        let session = parent["session_id"].as_str().unwrap();
        assert!(session.starts_with("generated-"), "{parent}");
        assert_eq!(child["session_id"], session);
        assert_eq!(plain["session_id"], Value::Null, "no draw is part of this answer");
        generated.push(session.to_owned());
    }
    generated.sort();
    generated.dedup();
    assert_eq!(generated.len(), 2 * CALLS, "one for each call");
}

#[test]
fn a_definition_that_cannot_be_evaluated_is_named_and_never_unknown() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    let mut flags = Flags::new(&group.topics);
    let odd = json!([{"name": "default", "constraints": [{"contextName": "x", "operator": "SOUNDS_LIKE", "value": "y"}]},
        {"name": "userWithId", "parameters": {"userIds": "u"}}]);
    flags.set("production", Flag::on("odd").body(json!({"name": "odd", "enabled": true, "strategies": odd})));
    let broken =
        json!({"name": "broken", "enabled": true, "strategies": [{"name": "default", "constraints": 7}]});
    flags.set("production", Flag::on("broken").body(broken));
    flags.set(
        "production",
        Flag::on("expecting").body(json!({"name": "expecting", "enabled": true,
        "strategies": [{"name": "default"}], "dependencies": [{"feature": "off"}]})),
    );
    flags.set("production", Flag::off("off"));
    let service = start(&group, 4);
    let mut events = TopicReader::open(&group.topics.kafka, &group.topics.events);
    let ask = |flag: &str, user: &str| {
        let body =
            json!({"flag_name": flag, "user_id": user, "default_value": true, "environment": "production"});
        post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body).json()
    };
    let said = ask("broken", "u");
    assert_eq!(
        (&said["value"], &said["reason"], &said["error_code"]),
        (&json!(false), &json!("ERROR"), &json!("GENERAL"))
    );
    assert!(said["error_message"].as_str().unwrap().contains("constraints"), "{said}");
    assert_eq!((&ask("odd", "u")["value"], &ask("odd", "other")["value"]), (&json!(true), &json!(false)));
    let unmet = ask("expecting", "u");
    assert_eq!((&unmet["reason"], &unmet["error_code"]), (&json!("DEFAULT"), &Value::Null));
    assert!(unmet["error_message"].as_str().unwrap().contains("flag off "), "{unmet}");
    let id = unmet["event_id"].clone();
    let event = events.wait("the event", TEST_TIMEOUT, |event| event.json()["event_id"] == id).json();
    assert_eq!(event["error_message"], unmet["error_message"]);
    let store = &health(&service)["parts"]["store"];
    assert_eq!(store["state"], "degraded", "{store}");
    let detail = store["detail"].as_str().unwrap();
    assert!(detail.contains("production/broken") && detail.contains("production/odd"), "{detail}");
}
