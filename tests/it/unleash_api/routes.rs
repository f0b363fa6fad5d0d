//! Routes: paths, entity tags, compression, CORS, contexts, addresses behind proxies, and events.

use serde_json::{Value, json};

use super::{Fixture, ask, ask_with, names};
use crate::harness::{Stack, TEST_TIMEOUT, TopicReader, call, rollout, wait_until};

#[test]
fn definitions_are_those_of_unleash_and_have_a_strong_tag() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let segment = fixture.admin.create_segment(
        "eu",
        &json!([{"contextName": "region", "operator": "IN", "values": ["eu"], "inverted": false,
            "caseInsensitive": false}]),
    );
    let mut strategy = rollout(&json!([]));
    strategy["segments"] = json!([segment]);
    fixture.admin.create("segmented", &strategy);
    fixture.flags(&["steady", "other"]);
    let service = fixture.group.start("one");
    let token = Some(fixture.backend.as_str());
    let first = ask(&service, "/api/client/features", token);
    let (body, tag) = (first.json(), first.header("etag").to_owned());
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let sorted = |features: &Value| {
        let mut features: Vec<Value> = features.as_array().unwrap().clone();
        features.sort_by_key(|flag| flag["name"].as_str().unwrap().to_owned());
        for flag in &mut features {
            flag.as_object_mut()
                .unwrap()
                .retain(|name, _| !name.starts_with("lastSeen") && name != "createdAt");
            for strategy in flag["strategies"].as_array_mut().unwrap() {
                strategy.as_object_mut().unwrap().remove("segments");
            }
        }
        features
    };
    // Without a version of the client specification, Unleash inlines segments too.
    let theirs = call(
        "GET",
        &format!("{}/api/client/features", fixture.proxy.url),
        &[("authorization", &fixture.backend)],
        b"",
    );
    assert_eq!(sorted(&body["features"]), sorted(&theirs.json()["features"]));
    assert_eq!(body["query"]["environment"], "development");
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}")] {
        let unchanged = ask_with(&service, "/api/client/features", token, &[("if-none-match", &known)]);
        assert_eq!(
            (unchanged.status, unchanged.header("etag"), unchanged.body.as_str()),
            (304, tag.as_str(), "")
        );
    }
    // Another instance has the same tag.
    let two = fixture.group.start("two");
    assert_eq!(ask(&two, "/api/client/features", token).header("etag"), tag);
    let prefixed = format!("/api/client/features?namePrefix={}", fixture.admin.name("s"));
    assert_eq!(names(&ask(&service, &prefixed, token)).len(), 2);
    assert_eq!(names(&ask(&service, "/api/client/features?project=default", token)).len(), 3);
    assert!(names(&ask(&service, "/api/client/features?project=none", token)).is_empty());
    let posted = call(
        "POST",
        &format!("{}/api/client/features", service.url),
        &[("authorization", fixture.backend.as_str())],
        b"x",
    );
    assert_eq!(posted.header("etag"), tag);

    let one = ask(&service, &format!("/api/client/features/{}", fixture.admin.name("steady")), token);
    assert_eq!(one.json()["name"], fixture.admin.name("steady"));
    assert_eq!(ask(&service, "/api/client/features/none", token).status, 404);
    assert_eq!(ask(&service, "/api/client/delta", token).status, 404);
    for path in ["//api/client//features", "/api/client/features/"] {
        assert_eq!(ask(&service, path, token).header("etag"), tag, "{path}");
    }
    assert!(ask(&service, "/api", token).body.contains("/api/frontend"));
    fixture.kill(&service, "steady");
    wait_until("the killed flag is served disabled", TEST_TIMEOUT, || {
        let features = ask(&service, "/api/client/features", token).json()["features"].clone();
        features.as_array().unwrap().iter().any(|flag| flag["enabled"] == false)
    });
}

#[test]
fn contexts_come_in_every_form_and_addresses_only_from_trusted_proxies() {
    let (stack, _shared) = Stack::shared();
    let fixture =
        Fixture::new(stack).set("FLAGSTREAM_UNLEASH_API__TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8");
    let fixture = fixture.set("FLAGSTREAM_UNLEASH_API__BASE_PATH", "/unleash");
    let only = |field: &str, value: &str| {
        rollout(&json!([{"contextName": field, "operator": "IN", "values": [value], "inverted": false,
            "caseInsensitive": false}]))
    };
    fixture.admin.create_all(&[
        ("user".to_owned(), only("userId", "7")),
        ("company".to_owned(), only("companyId", "a b")),
        ("address".to_owned(), only("remoteAddress", "198.51.100.7")),
    ]);
    let trusting = fixture.group.start("trusting");
    let doubting =
        fixture.group.clone().set("FLAGSTREAM_UNLEASH_API__TRUSTED_PROXIES", "10.0.0.0/8").start("doubting");
    let token = Some(fixture.frontend.as_str());
    let of = |names: &[&str]| {
        let mut names: Vec<_> = names.iter().map(|name| fixture.admin.name(name)).collect();
        names.sort();
        names
    };
    let table = [
        ("userId=7", &["user"][..]),
        ("userId=8&properties%5BcompanyId%5D=a+b", &["company"]),
        ("properties[companyId]=a%20b&properties[userId]=7", &["company", "user"]),
        ("companyId=a%20b&remoteAddress=198.51.100.7", &["address", "company"]),
        ("", &[]),
    ];
    for (query, expected) in table {
        let answer = ask(&trusting, &format!("/unleash/api/frontend?{query}"), token);
        assert_eq!(names(&answer), of(expected), "{query}");
    }
    let context = json!({"userId": 7, "companyId": "a b"});
    for body in [json!({"context": context}), context] {
        let headers = [("authorization", fixture.frontend.as_str()), ("content-type", "application/json")];
        let url = format!("{}/unleash/api/frontend", trusting.url);
        let answer = call("POST", &url, &headers, body.to_string().as_bytes());
        assert_eq!(names(&answer), of(&["company", "user"]), "{body}");
    }
    let forwarded = [("x-forwarded-for", "6.6.6.6, 198.51.100.7, 10.0.0.2")];
    let path = "/unleash/api/frontend";
    assert_eq!(names(&ask_with(&trusting, path, token, &forwarded)), of(&["address"]));
    assert!(names(&ask_with(&doubting, path, token, &forwarded)).is_empty(), "the peer is not trusted");
    let spoofed = [("x-forwarded-for", "198.51.100.7, 6.6.6.6")];
    assert!(names(&ask_with(&trusting, path, token, &spoofed)).is_empty(), "written by the client itself");
    assert_eq!(ask(&trusting, "/api/frontend", token).status, 404, "only under the base path");
}

#[test]
fn browsers_may_call_and_get_unchanged_answers_as_such() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack).set("FLAGSTREAM_UNLEASH_API__ALL_ENDPOINTS", "false");
    let variants = json!([{"name": "blue", "weight": 1000, "weightType": "variable", "stickiness": "default",
        "payload": {"type": "string", "value": "b"}}]);
    let mut with_variant = rollout(&json!([]));
    with_variant["variants"] = variants;
    fixture
        .admin
        .create_all(&[("steady".to_owned(), rollout(&json!([]))), ("colour".to_owned(), with_variant)]);
    fixture.flags(&["off"]);
    fixture.admin.turn_off("off");
    let service = fixture.group.start("one");
    let preflight = call(
        "OPTIONS",
        &format!("{}/api/frontend", service.url),
        &[
            ("origin", "https://app.example.com"),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "authorization,unleash-appname,unleash-sdk,if-none-match"),
        ],
        b"",
    );
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-origin")),
        (200, "*"),
        "{preflight:?}"
    );
    assert!(preflight.header("access-control-allow-headers").contains("unleash-sdk"), "{preflight:?}");
    let token = Some(fixture.frontend.as_str());
    let context = "/api/frontend?userId=u";
    wait_until("the flag that is off is not listed", TEST_TIMEOUT, || {
        names(&ask(&service, context, token)).len() == 2
    });
    let first = ask_with(&service, context, token, &[("origin", "https://app.example.com")]);
    assert_eq!(first.header("access-control-allow-origin"), "*");
    let toggle = first.json()["toggles"][0].clone();
    let expected = json!({"name": fixture.admin.name("colour"), "enabled": true, "impressionData": false,
        "impression_data": false, "variant": {"name": "blue", "enabled": true, "feature_enabled": true,
            "payload": {"type": "string", "value": "b"}}});
    assert_eq!(toggle, expected);
    let tag = first.header("etag").to_owned();
    let unchanged = ask_with(&service, context, token, &[("if-none-match", &tag)]);
    assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
    let off = ask(&service, &format!("/api/frontend/features/{}?userId=u", fixture.admin.name("off")), token);
    assert_eq!((&off.json()["enabled"], &off.json()["variant"]["name"]), (&json!(false), &json!("disabled")));
    assert_eq!(ask(&service, "/api/frontend/features/none", token).status, 404);
    assert_eq!(ask(&service, "/api/frontend/all", token).status, 404);
    let disabled = fixture.group.clone().set("FLAGSTREAM_UNLEASH_API__ENABLED", "false").start("disabled");
    assert_eq!(ask(&disabled, context, token).status, 404);
}

#[test]
fn impressions_become_events_once_and_all_evaluations_if_wanted() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    fixture.flags(&["steady", "seen"]);
    fixture.admin.record_impressions("seen");
    let service = fixture.group.start("one");
    let everything = fixture.group.clone().set("FLAGSTREAM_UNLEASH_API__EVENTS", "all").start("everything");
    let token = Some(fixture.frontend.as_str());
    let sdk = [("unleash-appname", "shop"), ("unleash-connection-id", "c-1")];
    let seen = fixture.admin.name("seen");
    wait_until("the flag has impressions", TEST_TIMEOUT, || {
        let answer = ask_with(&everything, "/api/frontend?sessionId=waiting", token, &sdk).json();
        answer["toggles"].as_array().unwrap().iter().any(|toggle| toggle["impressionData"] == true)
    });
    let mut events = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.events);
    for _ in 0..3 {
        assert_eq!(names(&ask_with(&service, "/api/frontend?userId=u", token, &sdk)).len(), 2);
    }
    ask_with(&service, "/api/frontend?userId=last", token, &sdk);
    let of = |user: &'static str| move |event: &crate::harness::Received| event.json()["user_id"] == user;
    events.wait("the last impression", TEST_TIMEOUT, of("last"));
    let recorded: Vec<_> = events.seen.iter().filter(|event| of("u")(event)).collect();
    assert!(recorded.len() <= 1, "{recorded:?}");
    let event = events.wait("the impression", TEST_TIMEOUT, of("u")).json();
    assert_eq!((&event["flag_name"], &event["enabled"]), (&json!(seen), &json!(true)));
    assert_eq!(event["source"], json!({"api": "unleash", "app": "shop", "connection": "c-1"}));
    assert_eq!(event["context"], json!({"userId": "u", "remoteAddress": "127.0.0.1"}));
    let metrics = service.metrics();
    let unrecorded =
        |outcome: &str| metrics.sum("flagstream_unleash_api_unrecorded_total", &[("outcome", outcome)]);
    assert_eq!((unrecorded("repeated"), unrecorded("no_impression_data")), (2.0, 4.0));
    assert_eq!(metrics.sum("flagstream_evaluations_total", &[("path", "unleash")]), 8.0);

    // An anonymous caller has one generated session in all events of an answer.
    ask_with(&everything, "/api/frontend", token, &[]);
    let is_generated = |event: &crate::harness::Received| {
        event.json()["context"]["sessionId"].as_str().is_some_and(|session| session.starts_with("generated-"))
    };
    events.until("both events", TEST_TIMEOUT, |seen| {
        seen.iter().filter(|event| is_generated(event)).count() == 2
    });
    let sessions: std::collections::BTreeSet<_> = events
        .seen
        .iter()
        .filter(|event| is_generated(event))
        .map(|event| {
            (event.json()["session_id"].to_string(), event.json()["context"]["sessionId"].to_string())
        })
        .collect();
    assert_eq!(sessions.len(), 1);
}
