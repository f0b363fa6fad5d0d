//! OpenFeature's protocol: by hand, and by the official providers for Node, browsers and Python.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Flag, Flags, Group, OpenApiValidator, Service, Stack, TEST_TIMEOUT, TopicReader, call, get,
    wait_until,
};

const ODD_NAME: &str = "a/b%2F c?d#é🚩";
const ALL: &str = "/ofrep/v1/evaluate/flags";

struct Fixture {
    group: Group,
    service: Service,
    contract: OpenApiValidator,
}

impl Fixture {
    fn start(stack: &Stack) -> Self {
        let group = Group::new(stack);
        let mut flags = Flags::new(&group.topics);
        let split = json!({"name": "split", "enabled": true, "strategies": [], "variants": [
            {"name": "a", "weight": 500, "stickiness": "default", "payload": {"type": "string", "value": "left"}},
            {"name": "b", "weight": 500, "stickiness": "default", "payload": {"type": "string", "value": "right"}}]});
        let config = r#"{"enabled": true, "threshold": 0.8, "regions": ["us", "eu"]}"#;
        let all = [
            Flag::on("on"),
            Flag::on("west").where_in("region", &["us-west"]),
            Flag::off("off"),
            Flag::on("theme").variant("dark", Some(("string", "dark"))),
            Flag::on("max-retries").variant("five", Some(("json", r#"{"value": 5}"#))),
            Flag::on("request-timeout").variant("slow", Some(("number", "5.0"))),
            Flag::on("feature-config").variant("all", Some(("json", config))),
            Flag::on("split").body(split),
            Flag::on("bare").variant("name-only", None),
            Flag::off("off-variant").variant("never", Some(("string", "never"))),
            Flag::on(ODD_NAME),
        ];
        let version = all.map(|flag| flags.set("production", flag)).into_iter().max().unwrap();
        flags.set("development", Flag::on("elsewhere"));
        let service = group.start("one");
        let metrics = || service.metrics().sum("flagstream_store_version", &[]);
        wait_until("all flags in force", TEST_TIMEOUT, || metrics() > version as f64);
        let contract = OpenApiValidator::of(&service.url);
        Self { group, service, contract }
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("content-type", "application/json"), ("flags-environment", "production")];
        all.extend(headers);
        let answer = call("POST", &format!("{}{path}", self.service.url), &all, body.to_string().as_bytes());
        let path = path.split('?').next().unwrap();
        let template = if path == ALL { ALL } else { "/ofrep/v1/evaluate/flags/{key}" };
        self.contract.check("POST", template, &answer);
        answer
    }

    fn one(&self, key: &str, context: Value) -> Answer {
        self.post(&format!("{ALL}/{key}"), &[], &json!({"context": context}))
    }
}

fn check_details(said: &Value) {
    let table = [
        ("boolean", json!(true), "STATIC", json!("enabled"), None),
        ("targeted", json!(true), "TARGETING_MATCH", json!("enabled"), None),
        ("missed", json!(false), "DEFAULT", json!("disabled"), None),
        ("off", json!(false), "DISABLED", json!("disabled"), None),
        ("string", json!("dark"), "STATIC", json!("dark"), None),
        ("integer", json!(5), "STATIC", json!("five"), None),
        ("float", json!(5.0), "STATIC", json!("slow"), None),
        ("bare", json!("name-only"), "STATIC", json!("name-only"), None),
        ("unknown", json!(true), "ERROR", Value::Null, Some("FLAG_NOT_FOUND")),
        ("mismatch", json!(7), "ERROR", Value::Null, Some("TYPE_MISMATCH")),
    ];
    for (name, value, reason, variant, code) in table {
        let details = &said[name];
        assert_eq!(details["value"].as_f64(), value.as_f64(), "{name}: {details}");
        assert!(value.is_number() || details["value"] == value, "{name}: {details}");
        assert_eq!(details["reason"], reason, "{name}: {details}");
        assert_eq!(details["errorCode"].as_str(), code, "{name}: {details}");
        if code.is_none() {
            assert_eq!(details["variant"], variant, "{name}: {details}");
            assert!(
                details["flagMetadata"]["version"].as_str().and_then(|it| it.parse::<u64>().ok())
                    > Some(1_768_473_000_000),
                "{name}: {details}"
            );
        }
    }
    let config = json!({"enabled": true, "threshold": 0.8, "regions": ["us", "eu"]});
    assert_eq!(said["object"]["value"], config);
    assert_eq!(said["split"]["reason"], "SPLIT");
    assert!(["left", "right"].contains(&said["split"]["value"].as_str().unwrap()));
    // A flag with variants that is off leaves the value to the caller's code.
    assert_eq!(said["offVariant"]["value"], "mine");
}

#[test]
fn the_official_server_providers_agree() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let script = |name: &str| format!("{}/tests/it/{name}", env!("CARGO_MANIFEST_DIR"));
    let node = Command::new("node")
        .args([&script("ofrep_server.mjs"), &fixture.service.url])
        .env("FLAGSTREAM_TEST_NODE_MODULES", &stack.node_modules)
        .output()
        .unwrap();
    assert!(node.status.success(), "{}", String::from_utf8_lossy(&node.stderr));
    let said: Value = serde_json::from_slice(&node.stdout).unwrap();
    check_details(&said);

    let python = Command::new("python3")
        .args([&script("ofrep_client.py"), &fixture.service.url])
        .env("PYTHONPATH", &stack.python_path)
        .output()
        .unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    check_details(&serde_json::from_slice(&python.stdout).unwrap());
}

#[test]
fn the_official_web_provider_hears_of_changes() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let mut browser = Command::new("node")
        .args([&format!("{}/tests/it/ofrep_web.mjs", env!("CARGO_MANIFEST_DIR")), &fixture.service.url])
        .env("FLAGSTREAM_TEST_NODE_MODULES", &stack.node_modules)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, told) = mpsc::channel();
    let lines = BufReader::new(browser.stdout.take().unwrap()).lines();
    let reading = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    let ready = told.recv_timeout(TEST_TIMEOUT).expect("the provider gets ready");
    assert_eq!((&ready["theme"]["value"], &ready["retries"]["value"]), (&json!("dark"), &json!(5)));
    assert_eq!(
        (&ready["late"]["value"], &ready["late"]["errorCode"]),
        (&json!(false), &json!("FLAG_NOT_FOUND"))
    );
    assert_eq!(ready["config"]["value"]["regions"], json!(["us", "eu"]));
    assert_eq!((&ready["unknown"]["value"], &ready["offVariant"]["value"]), (&json!(true), &json!("mine")));

    // The provider can be ready before its stream is open: it would miss a change before that.
    let listening = || fixture.service.metrics().sum("flagstream_http_listeners", &[]) == 1.0;
    wait_until("the provider listens", TEST_TIMEOUT, listening);
    let mut flags = Flags::new(&fixture.group.topics);
    // Above all versions so far.
    for _ in 0..100 {
        flags.set("production", Flag::on("filler"));
    }
    flags.set("production", Flag::on("late"));
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    let changed = std::iter::from_fn(|| told.recv_timeout(deadline - std::time::Instant::now()).ok())
        .find(|details| details["late"]["value"] == true)
        .expect("the provider tells of the change");
    assert_eq!(changed["event"], "changed");
    drop(browser.stdin.take());
    assert!(browser.wait().unwrap().success());
    reading.join().unwrap();
}

#[test]
fn one_flag_by_hand() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let answer =
        fixture.one("west", json!({"targetingKey": "user-9", "region": "us-west", "userId": "other"}));
    assert_eq!(answer.status, 200);
    let version = answer.json()["metadata"]["version"].clone();
    assert_eq!(
        answer.json(),
        json!({"key": "west", "value": true, "reason": "TARGETING_MATCH", "variant": "enabled",
            "metadata": {"version": version, "flagSetId": "production", "contextId": "user-9"}})
    );
    let mut events = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.events);
    let event = events.wait("its event", TEST_TIMEOUT, |event| event.json()["flag_name"] == "west");
    assert_eq!(event.key.as_deref(), Some(&b"user-9"[..]));
    let event = event.json();
    assert_eq!(event["source"], json!({"api": "ofrep"}));
    assert_eq!(event["flag_version"].to_string(), version.as_str().unwrap());
    assert_eq!(event.get("value_type"), Some(&Value::Null), "none is asked for");
    assert_eq!((&event["user_id"], &event["typed_value"]), (&json!("user-9"), &json!(true)));

    let off = fixture.one("off-variant", json!({}));
    assert_eq!((off.status, off.json().get("value"), &off.json()["reason"]), (200, None, &json!("DISABLED")));
    let odd = "a%2Fb%252F%20c%3Fd%23%C3%A9%F0%9F%9A%A9";
    assert_eq!(fixture.one(odd, json!({})).json()["key"], ODD_NAME);
    assert_eq!(fixture.one("a/b%252F%20c%3Fd%23é🚩", json!({})).json()["value"], true, "slashes as they are");

    let unknown = fixture.one("nobody-made-it", json!({}));
    assert_eq!(unknown.status, 404);
    assert_eq!(
        (&unknown.json()["key"], &unknown.json()["errorCode"]),
        (&json!("nobody-made-it"), &json!("FLAG_NOT_FOUND"))
    );
    let event = events.wait("the event of an unknown flag", TEST_TIMEOUT, |event| {
        event.json()["flag_name"] == "nobody-made-it"
    });
    assert_eq!(event.json()["error_code"], "FLAG_NOT_FOUND");

    let elsewhere = fixture.post(&format!("{ALL}/on?environment=elsewhere"), &[], &json!({}));
    assert_eq!((elsewhere.status, &elsewhere.json()["errorCode"]), (503, &json!("PROVIDER_NOT_READY")));
    let long = fixture.one(&"n".repeat(256), json!({}));
    assert_eq!((long.status, &long.json()["errorCode"]), (400, &json!("GENERAL")));
}

#[test]
fn errors_have_the_protocols_form() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let table: [(&str, &str, u16, &str); 6] = [
        ("application/json", "{", 400, "PARSE_ERROR"),
        ("application/json", "[]", 400, "PARSE_ERROR"),
        ("application/json", r#"{"context": 5}"#, 400, "INVALID_CONTEXT"),
        ("application/json", r#"{"context": {"a": "#, 400, "PARSE_ERROR"),
        ("text/plain", "{}", 415, "PARSE_ERROR"),
        (
            "application/json",
            &format!(r#"{{"context": {{"a": "{}"}}}}"#, "x".repeat(1 << 20)),
            413,
            "PARSE_ERROR",
        ),
    ];
    for path in [ALL, "/ofrep/v1/evaluate/flags/on"] {
        for (content_type, body, status, code) in table {
            let url = format!("{}{path}", fixture.service.url);
            let answer = call("POST", &url, &[("content-type", content_type)], body.as_bytes());
            assert_eq!((answer.status, &answer.json()["errorCode"]), (status, &json!(code)), "{answer:?}");
            assert!(answer.json()["errorDetails"].is_string());
            assert_eq!(answer.json().get("key").is_some(), path != ALL, "{answer:?}");
        }
    }
}

#[test]
fn all_flags_come_with_a_tag_that_spares_the_next_answer() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let body = json!({"context": {"targetingKey": "user-1", "region": "us-west"}});
    let first = fixture.post(ALL, &[], &body);
    assert_eq!(first.status, 200);
    let answer = first.json();
    let keys: Vec<_> =
        answer["flags"].as_array().unwrap().iter().map(|flag| flag["key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), 11);
    assert!(keys.is_sorted());
    assert_eq!(
        answer["eventStreams"][0]["endpoint"]["requestUri"],
        "/ofrep/v1/changes?environment=production"
    );
    let tag = first.header("etag").to_owned();
    let again = fixture.post(ALL, &[("if-none-match", &tag)], &body);
    assert_eq!((again.status, again.header("etag"), again.body.as_str()), (304, tag.as_str(), ""));
    let other =
        fixture.post(ALL, &[("if-none-match", &tag)], &json!({"context": {"targetingKey": "user-1"}}));
    assert_eq!(other.status, 200, "another context has other answers");

    let mut flags = Flags::new(&fixture.group.topics);
    for _ in 0..12 {
        flags.set("development", Flag::on("elsewhere"));
    }
    let version = flags.set("development", Flag::on("elsewhere"));
    let notified = format!("{ALL}?flagConfigEtag=v{version}");
    let unchanged = fixture.post(&notified, &[("if-none-match", &tag)], &body);
    assert_eq!(unchanged.status, 304, "a flag of another environment changes nothing here");
    assert_eq!(unchanged.header("flags-version"), "");
    let version = flags.set("production", Flag::off("on"));
    let changed =
        fixture.post(&format!("{ALL}?flagConfigEtag=v{version}"), &[("if-none-match", &tag)], &body);
    assert_eq!(changed.status, 200, "who was told of a version does not get an older one");
    let on =
        changed.json()["flags"].as_array().unwrap().iter().find(|flag| flag["key"] == "on").cloned().unwrap();
    assert_eq!((&on["value"], &on["reason"]), (&json!(false), &json!("DISABLED")));
    let counted = || {
        let metrics = fixture.service.metrics();
        let evaluated = metrics.sum("flagstream_evaluations_total", &[("path", "ofrep")]);
        evaluated == 55.0 && metrics.sum("flagstream_events_published_total", &[]) == evaluated
    };
    wait_until("five times eleven evaluations, those of 304 too", TEST_TIMEOUT, counted);
    assert!(get(&format!("{}/health/live", fixture.service.url)).is_some());
    let seconds = version / 1_000;
    for time in
        [seconds.to_string(), chrono::DateTime::from_timestamp_millis(version as i64).unwrap().to_rfc3339()]
    {
        let time = time.replace('+', "%2B");
        let notified = fixture.post(&format!("{ALL}?flagConfigLastModified={time}"), &[], &body);
        assert_eq!(notified.status, 200, "{time}: {notified:?}");
    }
}

#[test]
fn a_stream_without_headers_opens_with_the_ticket_of_an_answer() {
    let (stack, _shared) = Stack::shared();
    let token = "a-token-of-an-operator";
    let group = Group::new(stack)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")
        .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", token);
    let version = Flags::new(&group.topics).set("production", Flag::on("on"));
    let service = group.start("one");
    let other = group.start("two");
    wait_until("the flag is in force", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_store_version", &[]) >= version as f64
    });
    let headers =
        [("content-type", "application/json"), ("flags-environment", "production"), ("x-api-key", token)];
    let answer = call("POST", &format!("{}{ALL}", service.url), &headers, b"{}");
    assert_eq!(answer.status, 200, "{answer:?}");
    let uri = answer.json()["eventStreams"][0]["endpoint"]["requestUri"].as_str().unwrap().to_owned();
    let status = |url: String| {
        let response =
            crate::harness::block_on(async { crate::harness::client().get(url).send().await.unwrap() });
        response.status().as_u16()
    };
    for instance in [&service, &other] {
        assert_eq!(status(format!("{}{uri}", instance.url)), 200, "{uri}");
        let bare = format!("{}/ofrep/v1/changes?environment=production", instance.url);
        assert_eq!(status(bare), 401);
        assert_eq!(status(format!("{}{}", instance.url, uri.replace("production", "development"))), 401);
    }
}
