//! The stream of changes, the webhook, and what browsers and readers of the API's document see.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{
    Admin, Flag, Flags, Group, Stack, TEST_TIMEOUT, TopicReader, call, get, rollout, wait_until,
};

/// A listener, by hand: what browsers and libraries do themselves is looked at here.
struct Listener {
    lines: std::io::Lines<BufReader<TcpStream>>,
}

/// One event.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    id: String,
    data: Value,
}

impl Listener {
    fn open(url: &str, path: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{last}\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines();
        let head: Vec<String> =
            lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        assert!(head[0].contains("200"), "{head:?}");
        assert!(
            head.iter().any(|line| line.eq_ignore_ascii_case("content-type: text/event-stream")),
            "{head:?}"
        );
        Self { lines }
    }

    /// The next event, or the next id without one.
    fn next(&mut self) -> Heard {
        let (mut heard, asked) = (Heard::default(), Instant::now());
        loop {
            // Heartbeats are no events.
            assert!(asked.elapsed() < TEST_TIMEOUT, "nothing was heard within {TEST_TIMEOUT:?}");
            let line = self.lines.next().expect("the stream goes on").unwrap();
            if let Some(id) = line.strip_prefix("id: ") {
                heard.id = id.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                heard.data = serde_json::from_str(data).unwrap();
            } else if line.is_empty() && !heard.id.is_empty() {
                return heard;
            }
        }
    }

    fn is_at_end(&mut self) -> bool {
        // The last chunk.
        self.lines.by_ref().map_while(Result::ok).any(|line| line == "0") || self.lines.next().is_none()
    }
}

fn group(stack: &Stack) -> Group {
    Group::new(stack).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read")
}

#[test]
fn changes_are_heard_in_order_and_a_listener_goes_on_where_it_was() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    let mut flags = Flags::new(&group.topics);
    let first = flags.set("production", Flag::on("a"));
    let mut service = group.start("one");
    wait_until("the flag in force", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_store_version", &[]) == first as f64
    });
    let mut listener = Listener::open(&service.url, "/api/v1/changes?environment=production", None);
    assert_eq!(listener.next(), Heard { id: first.to_string(), data: Value::Null }, "where it stands");

    // Changes are made one after the other, because simultaneous ones may be merged.
    let mut next = |version: u64| {
        let event = listener.next();
        assert_eq!(event.id, version.to_string());
        event.data
    };
    let created = flags.set("production", Flag::on("b"));
    let event = json!({"event_type": "FEATURE_FLAG_CREATED", "flag_name": "b", "environment": "production", "version": created});
    assert_eq!(next(created), event);
    let elsewhere = flags.set("development", Flag::on("b"));
    let updated = flags.set("production", Flag::off("b"));
    let event = json!({"event_type": "FEATURE_FLAG_UPDATED", "flag_name": "b", "environment": "production",
        "version": updated, "previous_version": created});
    assert_eq!(next(updated), event);
    let deleted = flags.remove("production", "b");
    let event = json!({"event_type": "FEATURE_FLAG_DELETED", "flag_name": "b", "environment": "production",
        "version": deleted, "previous_version": updated});
    assert_eq!(next(deleted), event);

    let mut again = Listener::open(&service.url, "/api/v1/changes", Some(&first.to_string()));
    let mut after = Vec::new();
    while after.last() != Some(&deleted) {
        let event = again.next();
        after.push(event.data["version"].as_u64().unwrap());
    }
    assert!(after.iter().all(|version| *version > first), "{after:?}");
    assert!(elsewhere > first);
    let mut lost = Listener::open(&service.url, "/api/v1/changes", Some("5"));
    assert_eq!(lost.next().data["event_type"], "RESET");
    let mut provider = Listener::open(&service.url, "/ofrep/v1/changes?environment=production", Some("5"));
    let told = provider.next().data;
    assert_eq!(told["type"], "refetchEvaluation");
    assert_eq!(told["etag"], format!("v{deleted}"));

    assert_eq!(service.metrics().sum("flagstream_http_listeners", &[]), 4.0);
    drop(again);
    flags.set("production", Flag::on("c"));
    wait_until("a listener that went is noticed", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_http_listeners", &[]) == 3.0
    });
    let (status, took) = service.stop();
    assert!(status.success(), "{status}");
    println!("ended after {took:?} with three listeners");
    assert!(lost.is_at_end());
}

#[test]
fn the_stream_needs_the_scope_read() {
    let (stack, _shared) = Stack::shared();
    let service = Group::new(stack).start("one");
    let (status, body) = get(&format!("{}/api/v1/changes", service.url)).unwrap();
    assert_eq!(status, 401, "{body}");
}

#[test]
fn a_change_in_unleash_is_in_force_soon_after_its_webhook() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    let admin = Admin::new(stack, &group.topics.prefix);
    let group = group
        .set("UNLEASH_URL", &stack.unleash.url)
        .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
        // Nothing is found by polling in the time of this test.
        .set("UNLEASH_REFRESH_INTERVAL", "3600s")
        .set("FLAGSTREAM_UNLEASH__WEBHOOK_SECRET", "a-secret-of-the-webhook");
    let service = group.start("one");
    let url = format!("{}/api/v1/unleash/webhook", service.url);
    let leads = || service.metrics().sum("flagstream_feed_polls_total", &[]) >= 1.0;
    wait_until("the first look", TEST_TIMEOUT, leads);
    let name = admin.name("told");
    let ask = json!({"flag_name": name}).to_string();
    let evaluate = || {
        let url = format!("{}/api/v1/feature-flags/evaluate", service.url);
        call("POST", &url, &[("content-type", "application/json")], ask.as_bytes()).json()
    };
    assert_eq!(evaluate()["error_code"], "FLAG_NOT_FOUND");
    admin.create("told", &rollout(&json!([])));
    let body = json!({"id": 1, "type": "feature-created", "createdBy": "it", "featureName": name,
        "project": "default", "environment": "development"})
    .to_string();
    let json_type = ("content-type", "application/json");
    for wrong in [None, Some("a-secret-of-the-webhooc"), Some("")] {
        let mut headers = vec![json_type];
        headers.extend(wrong.map(|secret| ("authorization", secret)));
        assert_eq!(call("POST", &url, &headers, body.as_bytes()).status, 401);
    }
    let secret = ("authorization", "a-secret-of-the-webhook");
    assert_eq!(call("POST", &url, &[json_type, secret], b"{").status, 400);
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(300_000));
    assert_eq!(call("POST", &url, &[json_type, secret], large.as_bytes()).status, 413);
    let taken = call("POST", &url, &[json_type, secret], body.as_bytes());
    assert_eq!(taken.status, 202, "{taken:?}");
    let mut changes = TopicReader::open(&group.topics.kafka, &group.topics.changes);
    let hint = changes.wait("the hint", TEST_TIMEOUT, |_| true);
    assert_eq!(hint.key.as_deref(), Some(format!("development/{name}").as_bytes()));
    wait_until("in force", TEST_TIMEOUT, || evaluate()["value"] == true);
}

#[test]
fn pages_of_listed_origins_may_call_and_the_document_is_served() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack).set("FLAGSTREAM_API__CORS_ORIGINS", "https://app.example.com");
    let service = group.start("one");
    let url = format!("{}/ofrep/v1/evaluate/flags", service.url);
    let asked = |origin| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ];
        call("OPTIONS", &url, &headers, b"")
    };
    let allowed = asked("https://app.example.com");
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.com");
    assert!(allowed.header("access-control-allow-headers").contains("content-type"), "{allowed:?}");
    assert_eq!(asked("https://evil.example.com").header("access-control-allow-origin"), "");

    let document = call("GET", &format!("{}/openapi.json", service.url), &[], b"").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let page = call("GET", &format!("{}/docs/", service.url), &[], b"");
    assert_eq!((page.status, page.header("content-type").split(';').next()), (200, Some("text/html")));
    for source in page.body.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"))
    {
        let file = source.trim_start_matches("./");
        assert!(!file.contains("//"), "nothing from elsewhere: {source}");
        assert_eq!(call("GET", &format!("{}/docs/{file}", service.url), &[], b"").status, 200, "{source}");
    }
}
