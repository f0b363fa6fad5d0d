//! Metrics of SDKs: through Kafka to Unleash and into the usage of flags, whatever Unleash does meanwhile.

use serde_json::{Value, json};

use super::sdks::Sdks;
use super::{ENVIRONMENT, Fixture, ask};
use crate::harness::{
    Database, HEALTH_TOKEN, Mood, Service, Stack, TEST_TIMEOUT, TopicReader, call, is_long, wait_until,
};

const METRICS: &str = "/api/client/metrics";
/// Flags that one report names.
const REPORTED_FLAGS: usize = 50;
/// Application that reports to Unleash directly.
const PROBE: &str = "probe";

fn report(service: &Service, path: &str, token: &str, body: &Value) -> u16 {
    let headers = [("authorization", token), ("content-type", "application/json")];
    call("POST", &format!("{}{path}", service.url), &headers, body.to_string().as_bytes()).status
}

/// Sums that Unleash has for a flag: enabled, disabled.
pub(super) fn totals(fixture: &Fixture, flag: &str) -> (u64, u64) {
    sums(fixture, flag, |app| app != PROBE)
}

fn sums(fixture: &Fixture, flag: &str, of: impl Fn(&Value) -> bool) -> (u64, u64) {
    let path = format!("/client-metrics/features/{}/raw", fixture.admin.name(flag));
    let raw = fixture.admin.read(&path).unwrap_or_default();
    let rows: Vec<_> =
        raw["data"].as_array().into_iter().flatten().filter(|row| of(&row["appName"])).collect();
    let sum = |member: &str| rows.iter().map(|row| row[member].as_u64().unwrap_or_default()).sum();
    (sum("yes"), sum("no"))
}

/// Makes the flag `counted`; returns when Unleash counts it. Unleash drops counts of flags that it does not know, and it
/// learns of new ones after up to ten seconds.
fn make_counted(fixture: &Fixture) {
    fixture.flags(&["counted"]);
    let now = chrono::Utc::now();
    let toggles = json!({fixture.admin.name("counted"): {"yes": 1, "no": 0, "variants": {}}});
    let body = json!({"appName": PROBE, "instanceId": "i", "bucket": {"start": now, "stop": now, "toggles": toggles}});
    let headers = [("authorization", fixture.backend.as_str()), ("content-type", "application/json")];
    let url = format!("{}{METRICS}", fixture.proxy.url);
    wait_until("Unleash counts the new flag", TEST_TIMEOUT, || {
        assert_eq!(call("POST", &url, &headers, body.to_string().as_bytes()).status, 202);
        sums(fixture, "counted", |app| app == PROBE).0 > 0
    });
}

/// Evaluations of a flag in the usage tables: all, and enabled ones.
fn usage(service: &Service, fixture: &Fixture, flag: &str) -> (u64, u64) {
    let name = fixture.admin.name(flag);
    let url = format!("{}/api/v1/feature-flags/{name}/usage?environment={ENVIRONMENT}", service.url);
    let answer = call("GET", &url, &[("authorization", &format!("Bearer {HEALTH_TOKEN}"))], b"");
    let body = answer.json();
    let total = &body["total"];
    (total["evaluations"].as_u64().unwrap_or_default(), total["enabled"].as_u64().unwrap_or_default())
}

#[test]
fn an_outage_of_unleash_loses_no_count() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let fixture = Fixture::new(stack).set("DATABASE_URL", &database.url);
    make_counted(&fixture);
    let service = fixture.group.start("one");
    assert_eq!(ask(&service, "/api/client/features", Some(&fixture.backend)).status, 200);
    assert_eq!(ask(&service, "/api/frontend", Some(&fixture.frontend)).status, 200);
    let failed = || service.metrics().sum("flagstream_unleash_api_forwarded_total", &[("outcome", "failed")]);
    fixture.proxy.set(Mood::Down);
    let reports = if is_long() { 10_000 } else { 200 };
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let body = |app: &str| {
        let mut toggles: serde_json::Map<String, Value> = (1..REPORTED_FLAGS)
            .map(|number| {
                (fixture.admin.name(&format!("other-{number}")), json!({"yes": 1, "no": 1, "variants": {}}))
            })
            .collect();
        toggles.insert(fixture.admin.name("counted"), json!({"yes": 2, "no": 1, "variants": {"blue": 1}}));
        json!({"appName": app, "instanceId": "i", "sdkVersion": "test:1", "bucket": {"start": now, "stop": now, "toggles": toggles}})
    };
    // The first reports of an application, and of a connection to Kafka, need memory once.
    let first = reports / 2;
    for number in 0..first {
        assert_eq!(report(&service, METRICS, &fixture.backend, &body(&format!("app-{}", number % 20))), 202);
    }
    let before_kib = service.resident_kib();
    for number in first..reports {
        assert_eq!(report(&service, METRICS, &fixture.backend, &body(&format!("app-{}", number % 20))), 202);
    }
    let grown_kib = service.resident_kib().saturating_sub(before_kib);
    println!("{} entries: {grown_kib} KiB more", (reports - first) * REPORTED_FLAGS);
    assert!(grown_kib < 32 << 10, "{grown_kib} KiB");
    assert_eq!(report(&service, "/api/frontend/client/metrics", &fixture.frontend, &body("browser")), 202);
    let null = json!({"appName": "browser", "bucket": null, "impactMetrics": []});
    assert_eq!(report(&service, METRICS, &fixture.backend, &null), 202);
    assert_eq!(report(&service, METRICS, &fixture.backend, &json!({"appName": 5})), 400);
    assert_eq!(report(&service, METRICS, &fixture.frontend, &null), 403);
    wait_until("calls have failed", TEST_TIMEOUT, || failed() >= 2.0);
    let parts = service.health()["parts"].clone();
    assert_eq!(parts["client-metrics"]["state"], "degraded", "{parts}");

    fixture.proxy.set(Mood::Good);
    let sent = u64::try_from(reports).unwrap() + 1;
    let expected = (2 * sent, sent);
    let mut last = (0, 0);
    wait_until(&format!("Unleash has {expected:?}"), 3 * TEST_TIMEOUT, || {
        last = totals(&fixture, "counted");
        last == expected
    });
    wait_until("the usage too", TEST_TIMEOUT, || {
        usage(&service, &fixture, "counted") == (3 * sent, 2 * sent)
    });
    let refused = service.metrics().sum("flagstream_unleash_api_forwarded_total", &[("outcome", "refused")]);
    assert_eq!(refused, 0.0);
}

#[test]
fn reports_in_the_form_of_the_sdk_for_go_arrive() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    make_counted(&fixture);
    let service = fixture.group.start("one");
    // Its times have nanoseconds and the zone of its machine.
    let zone = chrono::FixedOffset::east_opt(2 * 3_600).unwrap();
    let now = chrono::Utc::now().with_timezone(&zone);
    let now = now.to_rfc3339_opts(chrono::SecondsFormat::Nanos, false);
    let app = fixture.admin.name("go");
    let application = json!({"appName": app, "instanceId": "i", "sdkVersion": "unleash-client-go:4.1.0",
        "strategies": ["default", "flexibleRollout"], "started": now, "interval": 60});
    assert_eq!(report(&service, "/api/client/register", &fixture.backend, &application), 202);
    // Counts of variants are null if none was asked for.
    let toggles = json!({fixture.admin.name("counted"): {"yes": 3, "no": 2, "variants": null}});
    let body =
        json!({"appName": app, "instanceId": "i", "bucket": {"start": now, "stop": now, "toggles": toggles}});
    assert_eq!(report(&service, METRICS, &fixture.backend, &body), 202);
    wait_until("Unleash has the counts", 3 * TEST_TIMEOUT, || totals(&fixture, "counted") == (3, 2));
    wait_until("Unleash knows the application", 3 * TEST_TIMEOUT, || {
        let applications = fixture.admin.read("/metrics/applications").unwrap_or_default();
        applications.to_string().contains(&format!("\"appName\":\"{app}\""))
    });
}

#[test]
fn what_unleash_refuses_becomes_a_dead_letter_and_the_rest_arrives() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    make_counted(&fixture);
    let service = fixture.group.start("one");
    let entry = |app: &str, more: Value| {
        let mut entry = json!({"featureName": fixture.admin.name("counted"), "appName": app, "environment": "x",
            "timestamp": chrono::Utc::now(), "yes": 1, "no": 0, "variants": {}});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    };
    let bulk = |application: Value, app: &str| json!({"applications": [application], "metrics": [entry(app, json!({}))]});
    // Unleash requires strategies of an application to be a list.
    let bad = bulk(json!({"appName": "bad", "instanceId": "i", "strategies": {"not": "a list"}}), "bad");
    let good = bulk(
        json!({"appName": "good", "instanceId": "i", "strategies": [], "interval": 1, "started": chrono::Utc::now()}),
        "good",
    );
    for body in [&good, &bad, &good] {
        assert_eq!(report(&service, "/api/client/metrics/bulk", &fixture.backend, body), 202);
    }
    let topics = &fixture.group.topics;
    let mut dead_letters = TopicReader::open(&topics.kafka, &topics.dead_letters);
    let letter = dead_letters.wait("a dead letter", TEST_TIMEOUT, |_| true);
    assert_eq!(letter.header("error-code"), Some("UPSTREAM_REFUSED"));
    assert_eq!(letter.header("source-topic"), Some(topics.client_metrics.as_str()));
    assert_eq!(letter.json()["app_name"], "bad");
    wait_until("the others arrive", 3 * TEST_TIMEOUT, || totals(&fixture, "counted").0 == 2);
}

#[test]
fn what_sdks_count_reaches_unleash_once() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    make_counted(&fixture);
    let service = fixture.group.start("one");
    let flag = fixture.admin.name("counted");
    let mut sdks = Sdks::new();
    sdks.node(
        stack,
        &[
            json!({"name": "server", "kind": "backend", "url": format!("{}/api", service.url), "token": fixture.backend,
                "flags": [flag], "metrics": 500, "evaluate": 100}),
            json!({"name": "browser", "kind": "frontend", "url": format!("{}/api/frontend", service.url),
                "token": fixture.frontend, "flags": [flag], "metrics": 500}),
        ],
    );
    sdks.agree("both have the flag", &["server", "browser"], &json!({&flag: true}));
    let reported = || service.metrics().sum("flagstream_unleash_api_reported_evaluations_total", &[]);
    let reports = |route: &str| {
        service
            .metrics()
            .sum("flagstream_http_request_seconds_count", &[("method", "POST"), ("route", route)])
    };
    wait_until("both have reported", TEST_TIMEOUT, || {
        [METRICS, "/api/frontend/client/metrics"].iter().all(|route| reports(route) >= 1.0)
    });
    drop(sdks);
    // The evaluations for the browser are not reported by this service itself.
    let mut last = 0.0;
    wait_until("Unleash has what the SDKs have reported", 3 * TEST_TIMEOUT, || {
        last = reported();
        let (on, off) = totals(&fixture, "counted");
        (on + off) as f64 == last
    });
    // Unleash stores applications a while after it has accepted them.
    wait_until("Unleash knows the application", 3 * TEST_TIMEOUT, || {
        let applications = fixture.admin.read("/metrics/applications").unwrap_or_default();
        applications.to_string().contains("\"appName\":\"server\"")
    });
}
