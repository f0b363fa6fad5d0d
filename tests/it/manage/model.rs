//! The whole flag: targeting, values, dependencies, status and schedules, from a call to what is answered.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{Fixture, is_on, leads, new_flag, refused};
use crate::harness::{Answer, Flag, Flags, Service, Stack, TEST_TIMEOUT, TopicReader, call, get, wait_until};

fn ask(service: &Service, name: &str, context: Value, default: &Value) -> Value {
    let body = json!({"flag_name": name, "user_id": context["user"], "context": context, "default_value": default,
        "environment": "development"});
    let url = format!("{}/api/v1/feature-flags/evaluate", service.url);
    call("POST", &url, &[("content-type", "application/json")], body.to_string().as_bytes()).json()
}

fn with(name: &str, more: Value) -> Value {
    let mut flag = new_flag(name);
    flag.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    flag
}

#[test]
fn a_whole_flag_is_kept_shown_and_answered() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let whole = with(
        "theme",
        json!({"description": "Which theme", "type": "experiment", "status": "active", "value_type": "string",
        "default_value": "light", "owner": "team-ui", "tags": ["ui"], "links": [{"title": "why", "url": "https://example.org/1"}],
        "expires_at": "2030-06-30T02:00:00+02:00",
        "rules": [
            {"name": "blocked", "groups": ["blocked"], "enabled": false},
            {"name": "staff", "attributes": [{"attribute": "email", "operator": "ends_with", "value": "@example.org"},
                {"attribute": "age", "operator": "greater_than", "value": 17},
                {"attribute": "tags", "operator": "contains", "value": "beta"}], "value": "dark"},
            {"users": ["ann"], "percentage": "100", "stickiness": "user_id",
                "variants": [{"name": "a", "weight": 0, "value": "never"}, {"name": "b", "weight": 1, "value": "blue"}]}],
        "variants": [{"name": "x", "value": "extra"}]}),
    );
    let made = fixture.create(&service, &whole);
    assert_eq!(made.status, 201, "{made:?}");
    let shown = fixture.show(&service, "theme").json();
    for (field, value) in whole.as_object().unwrap() {
        let expected = match field.as_str() {
            "expires_at" => json!("2030-06-30T00:00:00Z"),
            "rules" => {
                let mut rules = value.clone();
                rules[2]["percentage"] = json!(100);
                rules
            }
            _ => value.clone(),
        };
        assert_eq!(shown[field], expected, "{field}");
    }
    let answer = |context: Value| {
        let answer = ask(&service, "theme", context, &json!("mine"));
        (answer["value"].clone(), answer["variant"].clone(), answer["reason"].clone())
    };
    let told = |value: &str, variant: &str, reason: &str| (json!(value), json!(variant), json!(reason));
    let staff = json!({"user": "eve", "email": "eve@example.org", "age": 18, "tags": ["alpha", "beta"]});
    assert_eq!(answer(staff.clone()), told("dark", "staff", "TARGETING_MATCH"));
    let mut young = staff.clone();
    young["age"] = json!("17");
    assert_eq!(answer(young), told("light", "default", "DEFAULT"));
    assert_eq!(answer(json!({"user": "ann"})), told("blue", "b", "TARGETING_MATCH"));
    let mut blocked = staff;
    blocked["groups"] = json!(["x", "blocked"]);
    assert_eq!(answer(blocked), (json!("mine"), Value::Null, json!("DEFAULT")));

    // Only what is given changes; what does not fit the rest is refused, and changes nothing.
    let refusal = fixture.update(
        &service,
        "theme",
        &json!({"default_value": 5, "target_users": ["ann"], "owner": "other"}),
    );
    assert_eq!(
        (refusal.status, refused(&refusal)),
        (422, vec!["default_value".to_owned(), "target_users".to_owned()])
    );
    assert_eq!(fixture.show(&service, "theme").json()["owner"], "team-ui");
    let change = json!({"rules": null, "default_variant": "x", "rollout_percentage": 0});
    assert_eq!(fixture.update(&service, "theme", &change).status, 200);
    assert_eq!(answer(json!({"user": "ann"})), told("extra", "x", "DEFAULT"));
}

#[test]
fn the_schema_is_served() {
    let (stack, _shared) = Stack::shared();
    let service = Fixture::new(stack).start("one");
    let (status, body) = get(&format!("{}/schemas/local-flag.json", service.url)).unwrap();
    let schema: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &schema["title"]), (200, &json!("A local flag of flagstream")));
    assert!(jsonschema::validator_for(&schema).unwrap().is_valid(&new_flag("f")));
}

#[test]
fn a_status_goes_where_it_may() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    fixture.create(&service, &with("f", json!({"status": "draft"})));
    let to = |status: &str| {
        let answer = fixture.update(&service, "f", &json!({"status": status}));
        (answer.status, is_on(&service, "f", "u"), answer.json()["archived_at"].is_string())
    };
    let steps = [
        ("paused", (422, false, false)),
        ("active", (200, true, false)),
        ("draft", (422, true, false)),
        ("scheduled", (422, true, false)),
        ("paused", (200, false, false)),
        ("active", (200, true, false)),
        ("emergency_off", (200, false, false)),
        ("active", (200, true, false)),
        ("archived", (200, false, true)),
        ("active", (422, false, false)),
        ("draft", (200, false, false)),
        ("active", (200, true, false)),
    ];
    for (status, expected) in steps {
        assert_eq!(to(status), expected, "{status}");
    }
    let refusal = fixture.update(&service, "f", &json!({"status": "draft"}));
    assert_eq!(refused(&refusal), ["status"]);
    let message = refusal.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("from active to draft") && message.contains("scheduled, paused"), "{message}");
}

#[test]
fn dependencies_are_checked_when_written_and_hold_when_asked() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    // One of Unleash's, as the feeder would write it.
    let topics = fixture.group.topics.clone();
    let mut unleash = Flags::new(&topics).later(10_000_000_000);
    unleash.set("development", Flag::on("u").where_in("userId", &["ann", "bob"]));
    wait_until("Unleash's flag", TEST_TIMEOUT, || fixture.show(&service, "u").status == 200);
    let depends = |on: Value| json!({"depends_on": on});
    let errors = |answer: &Answer| {
        let errors = answer.json()["errors"].as_array().cloned().unwrap_or_default();
        let text = |error: &Value| {
            format!("{}: {}", error["field"].as_str().unwrap(), error["message"].as_str().unwrap())
        };
        errors.iter().map(text).collect::<Vec<_>>()
    };

    let missing = fixture.create(&service, &with("a", depends(json!(["nobody"]))));
    assert_eq!(
        (missing.status, errors(&missing)),
        (422, vec!["depends_on[0]: there is no flag \"nobody\" in this environment".to_owned()])
    );
    assert_eq!(fixture.show(&service, "a").status, 404, "nothing is left behind");
    fixture.create(&service, &with("old", json!({"status": "archived"})));
    let archived = fixture.create(&service, &with("a", depends(json!([{"flag": "old", "state": "off"}]))));
    assert_eq!(
        (archived.status, errors(&archived)),
        (422, vec!["depends_on[0]: the flag \"old\" is archived".to_owned()])
    );

    assert_eq!(fixture.create(&service, &with("a", depends(json!(["u"])))).status, 201);
    assert_eq!(fixture.create(&service, &with("b", depends(json!(["a"])))).status, 201);
    let cycle = fixture.update(&service, "a", &depends(json!(["u", "b"])));
    assert_eq!(
        (cycle.status, errors(&cycle)),
        (422, vec!["depends_on[1]: is a cyclic dependency: a -> b -> a".to_owned()])
    );
    let selfish = fixture.update(&service, "a", &depends(json!(["a"])));
    assert_eq!(errors(&selfish), ["depends_on[0]: is a cyclic dependency: a -> a"]);

    assert_eq!(["ann", "cid"].map(|user| is_on(&service, "b", user)), [true, false]);
    fixture.update(&service, "a", &json!({"target_users": ["bob"]}));
    assert_eq!(["ann", "bob"].map(|user| is_on(&service, "b", user)), [false, true]);

    // Two simultaneous changes that only together form a cycle: one of them is rejected.
    for name in ["p", "q"] {
        fixture.create(&service, &new_flag(name));
    }
    let statuses = std::thread::scope(|threads| {
        let update = |name: &'static str, parent: &'static str| {
            let (fixture, service) = (&fixture, &service);
            threads.spawn(move || fixture.update(service, name, &json!({"depends_on": [parent]})).status)
        };
        let both = [update("p", "q"), update("q", "p")];
        let mut statuses = both.map(|call| call.join().unwrap());
        statuses.sort_unstable();
        statuses
    });
    assert_eq!(statuses, [200, 422]);

    // Unleash's flag turns against ours: nothing is on, and the answer says why.
    let body = json!({"name": "u", "enabled": true, "strategies": [], "dependencies": [{"feature": "a"}]});
    unleash.set("development", Flag::on("u").body(body));
    wait_until("a cycle", TEST_TIMEOUT, || {
        ask(&service, "a", json!({"user": "bob"}), &json!(true))["reason"] == "ERROR"
    });
    for name in ["a", "b", "u"] {
        let answer = ask(&service, name, json!({"user": "bob"}), &json!(true));
        assert_eq!(
            (&answer["value"], &answer["error_code"]),
            (&json!(false), &json!("GENERAL")),
            "{name}: {answer}"
        );
    }
}

/// The time this many milliseconds from now.
fn soon(milliseconds: i64) -> String {
    (Utc::now() + TimeDelta::milliseconds(milliseconds)).to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[test]
fn steps_come_at_their_time_are_announced_and_survive_their_leader() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let mut leader = fixture.start("one");
    leads(&leader);
    let other = fixture.start("two");
    let topics = fixture.group.topics.clone();
    let mut updates = TopicReader::open(&topics.kafka, &topics.updates);
    let back = json!({"date": soon(6_000), "percentage": 100, "enabled": true});
    let steps =
        json!([{"date": soon(60_000), "percentage": 7}, back, {"date": soon(2_500), "enabled": false}, back]);
    let made =
        fixture.create(&leader, &with("f", json!({"rollout_percentage": 100, "rollout_schedule": steps})));
    assert_eq!(made.status, 201, "{made:?}");
    let dates: Vec<_> =
        made.json()["rollout_schedule"].as_array().unwrap().iter().map(|it| it["date"].clone()).collect();
    assert_eq!(dates.len(), 3, "in order, each once: {dates:?}");
    let first = made.json()["version"].as_u64().unwrap();
    assert!(is_on(&leader, "f", "u"));
    let announced = |updates: &mut TopicReader, after: u64| {
        let later = |body: &Value| body["flag_name"] == "f" && body["version"].as_u64() > Some(after);
        let found = updates.wait("the step's invalidation", TEST_TIMEOUT, |it| later(&it.json())).json();
        assert_eq!(found["actor"], "schedule");
        let at = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
        (found["version"].as_u64().unwrap(), at(&found["published_at"]))
    };
    let date = |index: usize| dates[index].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let (second, published_at) = announced(&mut updates, first);
    assert!(published_at >= date(0), "not before its time");
    wait_until("off everywhere", TEST_TIMEOUT, || {
        [&leader, &other].iter().all(|service| !is_on(service, "f", "u"))
    });
    // Only the successor can lead when the next step is due.
    leader.kill();
    let (third, published_at) = announced(&mut updates, second);
    assert!(third > second && published_at >= date(1));
    wait_until("on again", TEST_TIMEOUT, || is_on(&other, "f", "u"));
}
