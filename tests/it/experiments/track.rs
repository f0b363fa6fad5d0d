//! Tracking events of OpenFeature, and the scope that reports what users did without allowing any change.

use serde_json::{Value, json};

use super::{ENVIRONMENT, Fixture, evaluate};
use crate::harness::{Answer, HEALTH_TOKEN, Service, call};

const TRACK: &str = "/ofrep/v1/track";

/// Sends a call with a token; the answer.
fn send(method: &str, url: &str, token: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    call(method, url, &headers, body.to_string().as_bytes())
}

/// A new token with these scopes.
fn token(service: &Service, scopes: &[&str]) -> String {
    let order = json!({"name": "made", "scopes": scopes, "environments": [ENVIRONMENT]});
    let made = send("POST", &format!("{}/api/v1/tokens", service.url), HEALTH_TOKEN, &order);
    assert_eq!(made.status, 201, "{made:?}");
    made.json()["token"].as_str().unwrap().to_owned()
}

fn track(fixture: &Fixture, service: &Service, token: &str, event: &Value) -> Answer {
    let url = format!("{}{TRACK}?environment={ENVIRONMENT}", service.url);
    let answer = send("POST", &url, token, event);
    fixture.contract.as_ref().unwrap().check("POST", TRACK, &answer);
    answer
}

fn purchase(details: Value) -> Value {
    json!({"trackingEventName": "purchase", "context": {"targetingKey": "ann"}, "trackingEventDetails": details})
}

#[test]
fn a_tracking_event_counts_in_each_experiment_that_has_its_metric() {
    let (stack, _shared) = crate::harness::Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    fixture.begin(&service, &json!([{"name": "purchase"}, {"name": "revenue", "kind": "mean"}]));
    let other = json!({"name": "other", "flag_name": "theme", "environment": ENVIRONMENT, "metrics": [{"name": "purchase"}]});
    fixture.create(&service, &other);
    evaluate(&service, "ann");
    let token = token(&service, &["track"]);

    let both = || track(&fixture, &service, &token, &purchase(json!({"eventId": "order-77"})));
    crate::harness::wait_until("both experiments are known", crate::harness::TEST_TIMEOUT, || {
        both().json()["experiments"] == json!(["other", "theme"])
    });
    let answer = both();
    assert_eq!((answer.status, &answer.json()["eventId"]), (202, &json!("order-77")), "{answer:?}");
    let one = track(&fixture, &service, &token, &purchase(json!({"experiment": "theme", "colour": "red"})));
    assert_eq!((one.status, &one.json()["experiments"]), (202, &json!(["theme"])), "{one:?}");
    let none = json!({"trackingEventName": "scrolled", "context": {"targetingKey": "ann"}});
    assert_eq!(track(&fixture, &service, &token, &none).json()["accepted"], 0);
    // However often an event is sent, it counts once.
    fixture.wait(&service, "both events", |results| {
        let counts = &results["conversions"];
        (&counts["attributed"], &counts["waiting"], &counts["expired"]) == (&json!(2), &json!(0), &json!(0))
    });

    for (event, status) in [
        (json!({"context": {"targetingKey": "ann"}}), 400),
        (json!({"trackingEventName": "purchase"}), 400),
        (json!({"trackingEventName": "purchase", "context": {"targetingKey": ["ann"]}}), 400),
        (purchase(json!({"value": "much"})), 422),
        (purchase(json!({"occurredAt": "soon"})), 422),
        (purchase(json!({"experiment": "unknown"})), 404),
        (json!({"trackingEventName": "revenue", "context": {"targetingKey": "ann"}}), 422),
        (purchase(json!({"eventId": "x".repeat(20_000)})), 422),
    ] {
        let answer = track(&fixture, &service, &token, &event);
        assert!(answer.status == status && answer.json()["errorCode"].is_string(), "{event}: {answer:?}");
    }
}

#[test]
fn the_scope_track_reports_conversions_and_changes_nothing() {
    let (stack, _shared) = crate::harness::Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    fixture.begin(&service, &json!([{"name": "purchase"}]));
    let conversion =
        json!({"user_id": "ann", "metric": "purchase", "occurred_at": super::rfc3339(chrono::Utc::now())});
    let at = |path: &str| format!("{}{path}?environment={ENVIRONMENT}", service.url);
    let convert = at("/api/v1/experiments/theme/conversions");
    for (scopes, status) in
        [(&["track"][..], 202), (&["write"], 202), (&["admin"], 202), (&["evaluate", "read"], 403)]
    {
        let token = token(&service, scopes);
        assert_eq!(send("POST", &convert, &token, &conversion).status, status, "{scopes:?}");
        assert_eq!(track(&fixture, &service, &token, &purchase(json!({}))).status, status, "{scopes:?}");
    }
    let token = token(&service, &["track"]);
    let flag = json!({"name": "new", "environment": ENVIRONMENT});
    for (method, path, body) in [
        ("POST", "/api/v1/feature-flags", &flag),
        ("PUT", "/api/v1/feature-flags/theme", &json!({"is_enabled": false})),
        ("DELETE", "/api/v1/feature-flags/theme", &Value::Null),
        ("POST", "/api/v1/feature-flags/theme/kill", &json!({"reason": "no"})),
        (
            "POST",
            "/api/v1/experiments",
            &json!({"name": "e", "environment": ENVIRONMENT, "metrics": [{"name": "m"}]}),
        ),
        ("POST", "/api/v1/experiments/theme/stop", &json!({})),
        (
            "POST",
            "/api/v1/feature-flags/evaluate",
            &json!({"flag_name": "theme", "environment": ENVIRONMENT}),
        ),
        ("GET", "/api/v1/feature-flags/theme", &Value::Null),
    ] {
        let answer = send(method, &at(path), &token, body);
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
    }
}
