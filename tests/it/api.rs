//! Evaluation over HTTP: the answers of calls, and the events that record them.

use std::collections::{BTreeSet, HashSet};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Callers, Database, Flag, Flags, Group, OpenApiValidator, Redis, Service, Stack, TEST_TIMEOUT,
    TopicReader, Topics, call, is_long, post, wait_until,
};

const EVALUATE: &str = "/api/v1/feature-flags/evaluate";
const BOOLEAN: &str = "/api/v1/feature-flags/evaluate/boolean";
const BULK: &str = "/api/v1/feature-flags/evaluate/bulk";
const BATCH: &str = "/api/v1/feature-flags/evaluate/batch";

/// One instance with flags.
struct Fixture {
    group: Group,
    service: Service,
    events: TopicReader,
    contract: OpenApiValidator,
    /// Version of the flag that was created last.
    version: u64,
}

impl Fixture {
    fn start(stack: &Stack) -> Self {
        Self::start_with(Group::new(stack))
    }

    fn start_with(group: Group) -> Self {
        let version = set_flags(&group.topics);
        // An Unleash that is asked knows none of the flags of its environment, so they go.
        let is_fed = group.settings().iter().any(|(name, _)| name == "UNLEASH_URL");
        let flags = if is_fed { UNFED_FLAGS } else { FLAGS };
        let service = group.start("one");
        wait_until("all flags in force", TEST_TIMEOUT, || {
            service.health()["parts"]["store"]["more"]["flags"].as_u64() >= Some(flags)
        });
        let events = TopicReader::open(&group.topics.kafka, &group.topics.events);
        let contract = OpenApiValidator::of(&service.url);
        Self { service, events, contract, version, group }
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = post(&format!("{}{path}", self.service.url), body);
        self.contract.check("POST", path.split('?').next().unwrap(), &answer);
        answer
    }

    /// A call that is answered.
    fn ask(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        assert_eq!(answer.header("flags-version"), self.version.to_string(), "{answer:?}");
        answer.json()
    }

    /// The event of an answer, with its key.
    fn event(&mut self, answer: &Value) -> (Option<String>, Value) {
        let id = answer["event_id"].as_str().unwrap();
        let received =
            self.events.wait(&format!("event {id}"), TEST_TIMEOUT, |event| event.json()["event_id"] == id);
        (received.key.as_ref().map(|key| String::from_utf8(key.clone()).unwrap()), received.json())
    }
}

const FLAGS: u64 = 9;
/// Number of flags of the environment that no Unleash of the tests serves.
const UNFED_FLAGS: u64 = 7;
const ODD_NAME: &str = "a/b%2F c?d#é🚩";

fn set_flags(topics: &Topics) -> u64 {
    let mut flags = Flags::new(topics);
    let premium = |flag: Flag| flag.where_in("subscription_tier", &["premium"]);
    let all = [
        ("production", premium(Flag::on("theme-variant")).variant("dark", Some(("string", "dark")))),
        ("production", Flag::on("theme").variant("dark", Some(("string", "dark")))),
        ("production", Flag::on("max-retries").variant("five", Some(("json", r#"{"value": 5}"#)))),
        ("production", Flag::on("on")),
        ("production", Flag::off("off")),
        ("production", Flag::on(ODD_NAME)),
        ("production", Flag::on(&"n".repeat(255))),
        ("development", Flag::on("new-ui-enabled").where_in("region", &["us-west"])),
        ("development", Flag::off("dark-mode")),
    ];
    assert_eq!(all.len() as u64, FLAGS);
    all.into_iter().map(|(environment, flag)| flags.set(environment, flag)).max().unwrap()
}

/// Takes out what is different in every answer, after a look at it.
fn settled(mut answer: Value) -> Value {
    let members = answer.as_object_mut().unwrap();
    if let Some(id) = members.remove("event_id") {
        let id = uuid::Uuid::parse_str(id.as_str().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 7);
    }
    if let Some(at) = members.remove("evaluated_at") {
        let at: chrono::DateTime<chrono::Utc> = at.as_str().unwrap().parse().unwrap();
        assert!((chrono::Utc::now() - at).num_seconds() < 60);
    }
    if let Some(results) = members.get_mut("results").and_then(Value::as_object_mut) {
        for result in results.values_mut() {
            *result = settled(result.take());
        }
    }
    answer
}

#[test]
fn the_examples_of_the_contract_are_answered_and_recorded() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack);
    let version = fixture.version;
    let request = json!({"flag_name": "new-ui-enabled", "user_id": "user-123",
        "context": {"region": "us-west", "subscription_tier": "premium"}, "default_value": false,
        "environment": "development"});
    let expected = json!({"flag_name": "new-ui-enabled", "value": true, "enabled": true, "variant": null,
        "reason": "TARGETING_MATCH", "error_code": null, "error_message": null, "flag_version": version - 1,
        "environment": "development", "flags_version": version});
    for path in [EVALUATE, BOOLEAN] {
        let answer = fixture.ask(path, &request);
        let (key, mut event) = fixture.event(&answer);
        assert_eq!(event["event_id"], answer["event_id"]);
        assert_eq!(event["evaluated_at"], answer["evaluated_at"]);
        assert_eq!(settled(answer), expected, "{path}");
        assert_eq!(key.as_deref(), Some("user-123"));
        event.as_object_mut().unwrap().retain(|name, _| name != "event_id" && name != "evaluated_at");
        assert_eq!(
            event,
            json!({"event_type": "FEATURE_FLAG_EVALUATED", "request_id": null, "flag_name": "new-ui-enabled",
                "user_id": "user-123", "session_id": null, "environment": "development", "value": "true",
                "typed_value": true, "enabled": true, "variant": null, "reason": "TARGETING_MATCH",
                "error_code": null, "error_message": null, "flag_version": version - 1,
                "context": {"region": "us-west", "subscription_tier": "premium"}, "default_value": false,
                "flags_version": version, "value_type": "boolean",
                "source": {"api": "rest"}})
        );
    }

    let theme = json!({"flag_name": "theme-variant", "user_id": "user-456", "default_value": "light",
        "environment": "production"});
    let answer = fixture.ask(EVALUATE, &theme);
    assert_eq!((&answer["value"], &answer["reason"]), (&json!("light"), &json!("DEFAULT")));
    let mut premium = theme;
    premium["context"] = json!({"subscription_tier": "premium"});
    let answer = fixture.ask(EVALUATE, &premium);
    assert_eq!((&answer["value"], &answer["variant"]), (&json!("dark"), &json!("dark")));

    let bulk = json!({"flag_names": ["new-ui-enabled", "dark-mode", "premium-features", "dark-mode"],
        "user_id": "user-789", "environment": "development"});
    let answer = fixture.ask(BULK, &bulk);
    let results = answer["results"].as_object().unwrap();
    assert_eq!(results.len(), 3, "a name that is repeated counts once: {results:?}");
    for (flag, code) in
        [("new-ui-enabled", None), ("dark-mode", None), ("premium-features", Some("FLAG_NOT_FOUND"))]
    {
        let result = &results[flag];
        assert_eq!((&result["value"], &result["reason"]), (&json!(false), &json!("DEFAULT")), "{flag}");
        assert_eq!((&result["enabled"], &result["error_code"]), (&json!(false), &json!(code)), "{flag}");
        assert_eq!(fixture.event(result).1["flag_name"], flag);
    }

    // The query of a client in Python, and the body of a client in Node.
    let answer = fixture
        .post(&format!("{BATCH}?user_id=user123&environment=development"), &json!(["new_ui", "dark-mode"]));
    let answer = answer.json();
    let flags: Vec<_> = answer.as_object().unwrap().keys().cloned().collect();
    assert_eq!(flags, ["dark-mode", "new_ui"], "nothing but flags: {answer}");
    for (flag, result) in answer.as_object().unwrap() {
        assert_eq!(result["enabled"], json!(false), "{flag}");
        let (key, event) = fixture.event(result);
        assert_eq!((key.as_deref(), &event["environment"]), (Some("user123"), &json!("development")));
    }
}

/// Services cannot distinguish an unknown flag from one that is off by `enabled` alone; the Node client's `||` takes
/// its default for both.
#[test]
fn clients_of_services_in_python_and_node_work() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack);
    let script = |name: &str| format!("{}/tests/it/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new("python3");
    python.arg(script("clients.py")).env("PYTHONPATH", &stack.python_path);
    let mut node = Command::new("node");
    node.arg(script("clients.mjs"));
    let batch = json!({"on": true, "off": false, "theme": true, "unknown": false});
    for (mut command, unknown, user) in [(python, false, "user 1&2"), (node, true, "user123")] {
        let output = command.arg(&fixture.service.url).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said, json!({"on": true, "off": false, "unknown": unknown, "batch": batch}));
        let of_theme = |event: &crate::harness::Received| {
            let body = event.json();
            body["flag_name"] == "theme" && body["user_id"] == user
        };
        fixture.events.wait("its events", TEST_TIMEOUT, of_theme);
    }
}

#[test]
fn types_and_values_are_those_of_the_table() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let table = [
        (json!({"flag_name": "max-retries", "default_value": 3}), json!(5), "TARGETING_MATCH", None),
        (json!({"flag_name": "max-retries", "value_type": "integer"}), json!(5), "TARGETING_MATCH", None),
        (json!({"flag_name": "max-retries"}), json!(true), "TARGETING_MATCH", None),
        (json!({"flag_name": "theme", "default_value": 3}), json!(3), "ERROR", Some("TYPE_MISMATCH")),
        (json!({"flag_name": "off", "default_value": "x"}), json!("x"), "DEFAULT", None),
        (json!({"flag_name": "off", "default_value": true}), json!(false), "DEFAULT", None),
        (
            json!({"flag_name": "nobody-made-it", "default_value": {"a": [1]}}),
            json!({"a": [1]}),
            "DEFAULT",
            Some("FLAG_NOT_FOUND"),
        ),
        (
            json!({"flag_name": "on", "environment": "elsewhere"}),
            json!(false),
            "ERROR",
            Some("PROVIDER_NOT_READY"),
        ),
        (json!({"flag_name": ODD_NAME}), json!(true), "TARGETING_MATCH", None),
        (json!({"flag_name": "n".repeat(255)}), json!(true), "TARGETING_MATCH", None),
        // Unknown fields are ignored; null is absent; a user may be a number.
        (
            json!({"flag_name": "on", "colour": [1], "default_value": null, "user_id": 7}),
            json!(true),
            "TARGETING_MATCH",
            None,
        ),
    ];
    for (mut request, value, reason, code) in table {
        if request.get("environment").is_none() {
            request["environment"] = json!("production");
        }
        let answer = fixture.ask(EVALUATE, &request);
        let got = (&answer["value"], &answer["reason"], &answer["error_code"]);
        assert_eq!(got, (&value, &json!(reason), &json!(code)), "{request}: {answer}");
    }
    let answer = fixture.ask(EVALUATE, &json!({"flag_name": "on", "environment": "elsewhere"}));
    assert!(answer["error_message"].as_str().unwrap().contains("elsewhere"), "{answer}");
}

#[test]
fn many_contexts_and_all_flags_come_from_one_snapshot() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack);
    let request = json!({"environment": "production", "default_values": {"theme-variant": "light"}, "contexts": [
        {"user_id": "user-1", "context": {"subscription_tier": "premium"}},
        {"user_id": "user-2", "session_id": "s", "group_id": "beta"}]});
    let answer = fixture.ask(BULK, &request);
    let contexts = answer["contexts"].as_array().unwrap();
    let users: Vec<_> = contexts.iter().map(|context| context["user_id"].as_str().unwrap()).collect();
    assert_eq!(users, ["user-1", "user-2"]);
    let theme: Vec<_> =
        contexts.iter().map(|context| &context["results"]["theme-variant"]["value"]).collect();
    assert_eq!(theme, [&json!("dark"), &json!("light")]);
    for context in contexts {
        assert_eq!(context["results"].as_object().unwrap().len(), 7, "all flags of the environment");
    }
    let (_, event) = fixture.event(&contexts[1]["results"]["on"]);
    assert_eq!((&event["session_id"], &event["context"]), (&json!("s"), &json!({"group_id": "beta"})));
    assert_eq!(answer["flags_version"], fixture.version);
}

#[test]
fn bad_input_is_refused_with_every_field_that_is_wrong() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start_with(Group::new(stack).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate"));
    let json_type = "application/json";
    let long = format!(r#"{{"flag_name":"{}"}}"#, "n".repeat(256));
    let large = format!(r#"{{"flag_name":"on","context":{{"a":"{}"}}}}"#, "x".repeat(1 << 20));
    let deep = format!(
        r#"{{"flag_name":"on","context":{}{}}}"#,
        r#"{"a":"#.repeat(40),
        "1".to_owned() + &"}".repeat(40)
    );
    let many = json!({"flag_names": (0..1_001).map(|n| format!("f{n}")).collect::<Vec<_>>()}).to_string();
    let product = json!({"flag_names": (0..1_000).map(|n| format!("f{n}")).collect::<Vec<_>>(),
        "contexts": vec![json!({}); 21]})
    .to_string();
    let table: Vec<(&str, &str, &str, u16, &[&str])> = vec![
        (EVALUATE, json_type, "", 400, &["body"]),
        (EVALUATE, json_type, "{", 400, &["body"]),
        (EVALUATE, json_type, "[]", 400, &["request"]),
        (EVALUATE, json_type, &deep, 400, &["body"]),
        (
            EVALUATE,
            json_type,
            r#"{"flag_name":5,"user_id":[],"context":"x","environment":7}"#,
            400,
            &["flag_name", "user_id", "context", "environment"],
        ),
        (EVALUATE, json_type, r#"{"flag_name":"on","min_version":-1}"#, 400, &["min_version"]),
        (EVALUATE, json_type, "{}", 422, &["flag_name"]),
        (EVALUATE, json_type, r#"{"flag_names":["on"]}"#, 422, &["flag_name"]),
        (EVALUATE, json_type, r#"{"flag_name":""}"#, 422, &["flag_name"]),
        (EVALUATE, json_type, &long, 422, &["flag_name"]),
        (EVALUATE, json_type, r#"{"flag_name":"on","value_type":"text"}"#, 422, &["value_type"]),
        (EVALUATE, json_type, r#"{"flag_name":"on","flag_name":"on"}"#, 422, &["flag_name"]),
        (EVALUATE, json_type, r#"{"flag_name":"on","contexts":[{}]}"#, 422, &["contexts"]),
        (BOOLEAN, json_type, r#"{"flag_name":"on","default_value":"x"}"#, 400, &["default_value"]),
        (BOOLEAN, json_type, r#"{"flag_name":"on","value_type":"string"}"#, 422, &["value_type"]),
        (BULK, json_type, r#"{"flag_names":[]}"#, 422, &["flag_names"]),
        (BULK, json_type, r#"{"flag_names":["on",5]}"#, 400, &["flag_names[1]"]),
        (BULK, json_type, r#"{"flag_names":["on",""]}"#, 422, &["flag_names[1]"]),
        (BULK, json_type, &many, 422, &["flag_names"]),
        (BULK, json_type, &product, 422, &["flag_names"]),
        (
            BULK,
            json_type,
            r#"{"contexts":[{"user_id":{}},5,{"context":[]}]}"#,
            400,
            &["contexts[0].user_id", "contexts[1]", "contexts[2].context"],
        ),
        (BULK, json_type, r#"{"contexts":[],"flag_names":["on"]}"#, 422, &["contexts"]),
        (BULK, json_type, r#"{"contexts":[{}],"user_id":"u"}"#, 422, &["contexts"]),
        (BATCH, json_type, r#"{"a":1}"#, 400, &["flag_names"]),
        (BATCH, json_type, "[]", 422, &["flag_names"]),
        (BATCH, json_type, r#"["on",""]"#, 422, &["flag_names[1]"]),
        (EVALUATE, json_type, &large, 413, &[]),
        (EVALUATE, "text/plain", r#"{"flag_name":"on"}"#, 415, &[]),
        (EVALUATE, "application/x-www-form-urlencoded", r#"{"flag_name":"on"}"#, 415, &[]),
    ];
    for (path, content_type, body, status, fields) in table {
        let url = format!("{}{path}", fixture.service.url);
        let answer = call("POST", &url, &[("content-type", content_type)], body.as_bytes());
        fixture.contract.check("POST", path, &answer);
        let what = body.chars().take(200).collect::<String>();
        assert_eq!(answer.status, status, "{path} {what}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        let named: Vec<_> = problem["errors"].as_array().into_iter().flatten().collect();
        let names: BTreeSet<_> = named.iter().map(|error| error["field"].as_str().unwrap()).collect();
        assert_eq!(names, fields.iter().copied().collect(), "{path} {what}: {problem}");
        assert!(
            named.iter().all(|error| error["message"].as_str().is_some_and(|text| text.contains("expected"))
                || error["message"].as_str().unwrap().contains("levels")),
            "{problem}"
        );
    }
    for (url, status) in [(BULK, 405), ("/api/v1/nowhere", 404)] {
        let answer = call("GET", &format!("{}{url}", fixture.service.url), &[], b"");
        assert_eq!((answer.status, answer.header("content-type")), (status, "application/problem+json"));
    }
}

#[test]
fn a_version_is_waited_for_within_bounds() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack);
    let request = json!({"flag_name": "on", "environment": "production", "min_version": fixture.version});
    fixture.ask(EVALUATE, &request);
    let url = format!("{}{EVALUATE}", fixture.service.url);
    let ahead = (fixture.version + 1_000_000).to_string();
    let json_type = ("content-type", "application/json");
    let in_query = format!("{url}?min_version={ahead}");
    let body = br#"{"flag_name":"on","environment":"production"}"#;
    for (url, headers) in
        [(&url, vec![json_type, ("if-flags-version", &ahead)]), (&in_query, vec![json_type])]
    {
        let answer = call("POST", url, &headers, body);
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{answer:?}");
    }
    let wrong = call("POST", &url, &[json_type, ("if-flags-version", "soon")], body);
    assert_eq!((wrong.status, &wrong.json()["errors"][0]["field"]), (400, &json!("if-flags-version")));

    // A flag that is put in force while a call waits for it.
    let waiting = std::thread::spawn({
        let url = url.clone();
        let request =
            json!({"flag_name": "late", "environment": "production", "min_version": fixture.version + 1});
        move || post(&url, &request)
    });
    let mut flags = Flags::new(&fixture.group.topics);
    while flags.set("production", Flag::on("late")) <= fixture.version {}
    fixture.version += 1;
    let answer = waiting.join().unwrap();
    assert_eq!((answer.status, &answer.json()["value"]), (200, &json!(true)), "{answer:?}");
}

#[test]
fn without_the_scope_nothing_is_evaluated() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")
        .set("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", "a-token-for-the-test");
    let fixture = Fixture::start_with(group);
    let url = format!("{}{EVALUATE}", fixture.service.url);
    let with = |token: Option<&str>| {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(token.map(|token| ("authorization", token)));
        call("POST", &url, &headers, br#"{"flag_name":"on","environment":"production"}"#)
    };
    let anonymous = with(None);
    assert_eq!(anonymous.status, 401);
    assert!(anonymous.header("www-authenticate").starts_with("Bearer"), "{anonymous:?}");
    assert!(with(Some("Bearer guess")).header("www-authenticate").contains("invalid_token"));
    assert_eq!(with(Some("Bearer a-token-for-the-test")).json()["value"], json!(true));
}

#[test]
fn what_privacy_hides_is_evaluated_and_not_written() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack)
        .set("FLAGSTREAM_PRIVACY__USER_IDS", "hash")
        .set("FLAGSTREAM_PRIVACY__DROP_ATTRIBUTES", "subscription_tier")
        .set("FLAGSTREAM_PRIVACY__HASH_KEY", "a-key-of-this-test");
    let mut fixture = Fixture::start_with(group);
    let request = json!({"flag_name": "theme-variant", "user_id": "ann", "environment": "production",
        "default_value": "light", "context": {"subscription_tier": "premium", "region": "us-west"}});
    let answer = fixture.ask(EVALUATE, &request);
    assert_eq!(answer["value"], "dark");
    let (key, event) = fixture.event(&answer);
    assert_eq!(event["context"], json!({"region": "us-west"}));
    assert_eq!(event["user_id"].as_str(), key.as_deref());
    assert!(key.is_some_and(|key| key.len() == 32 && key != "ann"), "{event}");
    let body = json!({"context": {"targetingKey": "ann", "subscription_tier": "premium"}});
    let url = format!("{}/ofrep/v1/evaluate/flags/theme-variant?environment=production", fixture.service.url);
    assert_eq!(post(&url, &body).json()["value"], "dark");
    let event = fixture
        .events
        .wait("its event", TEST_TIMEOUT, |event| event.json()["source"]["api"] == "ofrep")
        .json();
    assert_eq!(event["context"]["targetingKey"], event["user_id"]);
    assert!(!event.to_string().contains("ann"), "{event}");
}

#[test]
fn an_event_that_is_too_large_becomes_a_dead_letter_and_its_neighbours_do_not() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack);
    fixture.group.topics.limit_record(&fixture.group.topics.events, 20_000);
    let ask = |context: &str| json!({"flag_name": "on", "environment": "production", "user_id": "u", "context": {"a": context}});
    let small: Vec<_> = (0..20).map(|n| fixture.ask(EVALUATE, &ask(&n.to_string()))).collect();
    // It does not compress.
    let noise: String = (0..40_000).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
    let large = fixture.ask(EVALUATE, &ask(&noise));
    let after = fixture.ask(EVALUATE, &ask("after"));
    for answer in small.iter().chain([&after]) {
        fixture.event(answer);
    }
    let mut dead_letters = TopicReader::open(&fixture.group.topics.kafka, &fixture.group.topics.dead_letters);
    let letter = dead_letters.wait("the dead letter", TEST_TIMEOUT, |letter| {
        letter.header("event-id") == large["event_id"].as_str()
    });
    assert_eq!(
        (letter.header("error-code"), letter.header("body-omitted")),
        (Some("TOO_LARGE"), Some("true"))
    );
    assert_eq!((letter.key.as_deref(), &letter.payload), (Some(&b"u"[..]), &None));
    wait_until("counted", TEST_TIMEOUT, || {
        let metrics = fixture.service.metrics();
        metrics.sum("flagstream_dead_letters_total", &[("code", "TOO_LARGE")]) == 1.0
            && metrics.sum("flagstream_events_published_total", &[]) == 21.0
            && metrics.sum("flagstream_evaluations_total", &[("path", "rest")]) == 22.0
    });
}

/// Reads until all of these ids are events; how many records there are of them.
fn wait_for_events(events: &mut TopicReader, ids: &[String]) -> usize {
    let wanted: HashSet<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(wanted.len(), ids.len(), "every answer has an event id of its own");
    let (mut missing, mut looked_at, mut found) = (wanted.clone(), 0, 0);
    events.until("an event of every answer", TEST_TIMEOUT * 4, |seen| {
        for event in &seen[looked_at..] {
            let body = event.json();
            // Changes of flags have none.
            let Some(id) = body["event_id"].as_str() else { continue };
            missing.remove(id);
            found += usize::from(wanted.contains(id));
        }
        looked_at = seen.len();
        missing.is_empty()
    });
    found
}

/// Detail that a health part reports while its service is unreachable.
const OUTAGES: [(&str, &str); 4] =
    [("redis", "redis"), ("postgres", "sink"), ("unleash", "unleash"), ("kafka", "publisher")];

#[test]
fn answers_equal_events_and_rows_though_each_service_goes_away_and_comes_back() {
    let (stack, exclusive) = Stack::exclusive();
    let database = Database::create(stack);
    let redis = Redis::database(stack);
    let group = Group::new(stack)
        .set("DATABASE_URL", &database.url)
        .set("REDIS_URL", &redis.url)
        .set("UNLEASH_URL", &stack.unleash.url)
        .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
        .set("UNLEASH_REFRESH_INTERVAL", "500ms");
    let mut fixture = Fixture::start_with(group);
    let callers = Callers::start(&fixture.service.url, 4);
    wait_until("calls are answered", TEST_TIMEOUT, || callers.answered() > 200);
    for (service, part) in OUTAGES {
        let stopped = stack.stop(service, &exclusive);
        let before = callers.answered();
        if service == "kafka" {
            wait_until("events on disk", TEST_TIMEOUT, || {
                fixture.service.metrics().sum("flagstream_publish_spooled_events_total", &[]) > 2_000.0
            });
            if is_long() {
                std::thread::sleep(Duration::from_secs(60));
            }
        }
        wait_until(&format!("health tells of {service}"), TEST_TIMEOUT, || {
            fixture.service.health()["parts"][part]["state"] != "up"
        });
        wait_until(&format!("answered without {service}"), TEST_TIMEOUT, || {
            callers.answered() > before + 500
        });
        drop(stopped);
        let back = callers.answered();
        wait_until(&format!("answered with {service} back"), TEST_TIMEOUT, || {
            callers.answered() > back + 200
        });
        wait_until(&format!("{service} is in use again"), TEST_TIMEOUT * 2, || {
            fixture.service.health()["parts"][part]["state"] == "up"
        });
    }
    let said = callers.stop();
    assert_eq!(said.failures, Vec::<String>::new());
    assert!(said.slowest < TEST_TIMEOUT, "{:?}", said.slowest);
    let found = wait_for_events(&mut fixture.events, &said.event_ids);
    assert_eq!(found, said.event_ids.len(), "each once");
    let count = said.event_ids.len() as f64;
    wait_until("counters agree, the disk is empty", TEST_TIMEOUT, || {
        let metrics = fixture.service.metrics();
        metrics.sum("flagstream_evaluations_total", &[]) == count
            && metrics.sum("flagstream_events_published_total", &[]) == count
            && metrics.sum("flagstream_publish_spool_bytes", &[]) == 0.0
    });
    let metrics = fixture.service.metrics();
    for path in ["rest", "edge"] {
        assert!(metrics.sum("flagstream_evaluations_total", &[("path", path)]) > 0.0, "{path}");
    }
    assert_eq!(metrics.sum("flagstream_dropped_total", &[("what", "event")]), 0.0);
    let answered = i64::try_from(said.event_ids.len()).unwrap();
    wait_until("all audited", TEST_TIMEOUT * 2, || database.audited() >= answered);
    let rows: Vec<(String,)> = database.rows("SELECT event_id::text FROM feature_flag_evaluations");
    let rows: Vec<String> = rows.into_iter().map(|(id,)| id).collect();
    assert_eq!(rows.len(), said.event_ids.len(), "each once");
    assert_eq!(HashSet::<&String>::from_iter(&rows), HashSet::from_iter(&said.event_ids));
    assert!(fixture.service.stop().0.success());
}

/// Half an hour without Kafka at 2,000 evaluations a second.
const OUTAGE_EVENTS: f64 = 30.0 * 60.0 * 2_000.0;
/// Default of `FLAGSTREAM_API__SPOOL_MAX_BYTES`.
const DEFAULT_SPOOL_BYTES: f64 = (4_u64 << 30) as f64;

/// The default spool holds an outage of half an hour: measured per event, and in the long form with as many events
/// (in calls for many, so that it takes no half an hour).
#[test]
fn the_default_spool_holds_half_an_hour_without_kafka() {
    let (stack, exclusive) = Stack::exclusive();
    let fixture = Fixture::start_with(Group::new(stack));
    // A context of some size, as services send it.
    let context = |number: usize| {
        json!({"region": "us-west", "subscription_tier": "premium", "app_version": "4.2.1", "device_type": "phone",
            "locale": "en-US", "number": number})
    };
    let stopped = stack.stop("kafka", &exclusive);
    let wanted = if is_long() { OUTAGE_EVENTS } else { 20_000.0 };
    let spooled = || fixture.service.metrics().sum("flagstream_publish_spooled_events_total", &[]);
    let contexts: Vec<_> = (0..500)
        .map(|user| json!({"user_id": format!("user-{user}"), "session_id": format!("session-{user}"), "context": context(user)}))
        .collect();
    let body = json!({"flag_names": ["on", "off", "theme-variant", "max-retries"], "environment": "production",
        "contexts": contexts});
    let mut asked = 0.0;
    while asked < wanted {
        // Not faster than the disk.
        wait_until("on disk", TEST_TIMEOUT, || asked - spooled() < 50_000.0);
        assert_eq!(fixture.post(BULK, &body).status, 200);
        asked += 2_000.0;
    }
    wait_until("all on disk", TEST_TIMEOUT * 2, || spooled() >= asked);
    wait_until("its size is told", TEST_TIMEOUT, || {
        fixture.service.metrics().sum("flagstream_publish_spool_bytes", &[]) > 0.0
    });
    let metrics = fixture.service.metrics();
    let bytes = metrics.sum("flagstream_publish_spool_bytes", &[]) / asked;
    println!(
        "{asked} events on disk, {bytes:.0} bytes each: {:.2} of 4 GiB in half an hour at 2,000/s",
        bytes * OUTAGE_EVENTS / DEFAULT_SPOOL_BYTES
    );
    assert!(bytes * OUTAGE_EVENTS < DEFAULT_SPOOL_BYTES, "{bytes} bytes an event");
    assert_eq!(metrics.sum("flagstream_dropped_total", &[("what", "event")]), 0.0);
    drop(stopped);
    wait_until("all of them published", TEST_TIMEOUT * 20, || {
        let metrics = fixture.service.metrics();
        metrics.sum("flagstream_events_published_total", &[]) == asked
            && metrics.sum("flagstream_publish_spool_bytes", &[]) == 0.0
    });
}

#[test]
fn what_is_on_disk_survives_a_kill() {
    let (stack, exclusive) = Stack::exclusive();
    let mut fixture = Fixture::start(stack);
    let stopped = stack.stop("kafka", &exclusive);
    let callers = Callers::start(&fixture.service.url, 4);
    wait_until("calls are answered", TEST_TIMEOUT, || callers.answered() > 2_000);
    let said = callers.stop();
    assert_eq!(said.failures, Vec::<String>::new());
    let answered = said.event_ids.len() as f64;
    wait_until("all events on disk", TEST_TIMEOUT, || {
        let metrics = fixture.service.metrics();
        metrics.sum("flagstream_publish_spooled_events_total", &[]) >= answered
    });
    fixture.service.kill();
    drop(stopped);
    fixture.service.spawn();
    fixture.service.wait_until_ready();
    wait_for_events(&mut fixture.events, &said.event_ids);

    // The end of a tidy stop is not waited for either, if Kafka is away.
    let stopped = stack.stop("kafka", &exclusive);
    let answers: Vec<_> = (0..50)
        .map(|_| fixture.ask(EVALUATE, &json!({"flag_name": "on", "environment": "production"})))
        .collect();
    let (status, took) = fixture.service.stop();
    assert!(status.success(), "{status}");
    println!("ended after {took:?} without Kafka");
    drop(stopped);
    fixture.service.spawn();
    fixture.service.wait_until_ready();
    let ids: Vec<_> = answers.iter().map(|answer| answer["event_id"].as_str().unwrap().to_owned()).collect();
    wait_for_events(&mut fixture.events, &ids);
}

#[test]
fn with_sync_durability_an_answer_is_in_kafka() {
    let (stack, exclusive) = Stack::exclusive();
    let mut fixture = Fixture::start_with(Group::new(stack).set("FLAGSTREAM_API__DURABILITY", "sync"));
    let request = json!({"flag_name": "on", "environment": "production"});
    let answer = fixture.ask(EVALUATE, &request);
    let published = fixture.service.metrics().sum("flagstream_events_published_total", &[]);
    assert_eq!(published, 1.0, "before the answer");
    fixture.event(&answer);
    let stopped = stack.stop("kafka", &exclusive);
    let refused = fixture.post(EVALUATE, &request);
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{refused:?}");
    drop(stopped);
    wait_until("answered again", TEST_TIMEOUT, || fixture.post(EVALUATE, &request).status == 200);
}

#[test]
fn with_memory_durability_what_is_lost_is_counted() {
    let (stack, exclusive) = Stack::exclusive();
    let mut fixture = Fixture::start_with(Group::new(stack).set("FLAGSTREAM_API__DURABILITY", "memory"));
    let request = json!({"flag_name": "on", "environment": "production"});
    fixture.ask(EVALUATE, &request);
    let stopped = stack.stop("kafka", &exclusive);
    fixture.ask(EVALUATE, &request);
    let (status, _) = fixture.service.stop();
    assert!(status.success(), "{status}");
    assert!(fixture.service.log().contains("events were dropped at shutdown"), "{}", fixture.service.log());
    drop(stopped);
}
