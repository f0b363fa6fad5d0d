//! Requests in; events, replies and dead letters out.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use serde_json::{Value, json};

use crate::harness::{
    Flag, Flags, Group, Received, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, Topics, wait_until,
};

/// One running instance with flags, and the ends of its topics.
struct Pipeline {
    group: Group,
    service: Service,
    sender: Sender,
    events: TopicReader,
    dead_letters: TopicReader,
    /// Versions of the flags of environment `production`.
    versions: BTreeMap<&'static str, u64>,
}

impl Pipeline {
    fn start(stack: &Stack) -> Self {
        Self::start_with(Group::new(stack))
    }

    fn start_with(group: Group) -> Self {
        let topics = &group.topics;
        let versions = set_flags(topics);
        Self {
            service: group.start("one"),
            sender: Sender::new(&topics.kafka),
            events: TopicReader::open(&topics.kafka, &topics.events),
            dead_letters: TopicReader::open(&topics.kafka, &topics.dead_letters),
            versions,
            group,
        }
    }

    /// Sends a request under its user's key.
    fn ask(&self, request: &Value) -> (i32, i64) {
        self.ask_with(request, &[])
    }

    fn ask_with(&self, request: &Value, headers: &[(&str, &str)]) -> (i32, i64) {
        let key = request["user_id"].as_str().map(str::as_bytes);
        self.send(None, key, request.to_string().as_bytes(), headers)
    }

    fn send(
        &self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> (i32, i64) {
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(*value) })
        });
        let requests = &self.group.topics.requests;
        self.sender.send(requests, partition, key, body, Some(headers))
    }

    /// The event of a request's flag number `index`.
    fn event(&mut self, asked: (i32, i64), index: u64) -> Received {
        let what = format!("event of {asked:?}, {index}");
        self.events.wait(&what, TEST_TIMEOUT, |event| event.source() == (asked.0, asked.1, index))
    }

    fn answer(&mut self, request: &Value) -> Value {
        let asked = self.ask(request);
        self.event(asked, 0).json()
    }

    fn dead_letter(&mut self, asked: (i32, i64)) -> Received {
        let (partition, offset) = (asked.0.to_string(), asked.1.to_string());
        self.dead_letters.wait(&format!("dead letter of {asked:?}"), TEST_TIMEOUT, |letter| {
            letter.header("source-partition") == Some(&partition)
                && letter.header("source-offset") == Some(&offset)
        })
    }
}

/// The flags that the tests ask for.
fn set_flags(topics: &Topics) -> BTreeMap<&'static str, u64> {
    let mut flags = Flags::new(topics);
    let mut versions = BTreeMap::new();
    let all = [
        ("on", Flag::on("on")),
        ("off", Flag::off("off")),
        ("west", Flag::on("west").where_in("region", &["us-west"])),
        ("adult", Flag::on("adult").where_in("age", &["18"])),
        ("listed", Flag::on("listed").where_in("teams", &["[\"a\",\"b\"]"])),
        ("beta", Flag::on("beta").where_in("group_id", &["beta"])),
        (
            "theme-variant",
            Flag::on("theme-variant")
                .where_in("subscription_tier", &["premium"])
                .variant("dark", Some(("string", "dark"))),
        ),
        ("limit", Flag::on("limit").variant("five", Some(("number", "5")))),
        ("limit-float", Flag::on("limit-float").variant("five", Some(("number", "5.0")))),
        ("ratio", Flag::on("ratio").variant("more", Some(("number", "5.5")))),
        (
            "settings",
            Flag::on("settings").variant("blue", Some(("json", r#"{"colour": "blue", "size": [1, 2]}"#))),
        ),
        ("wrapped", Flag::on("wrapped").variant("inner", Some(("json", r#"{"value": "inside"}"#)))),
        ("text-number", Flag::on("text-number").variant("t", Some(("string", "42")))),
        ("text-json", Flag::on("text-json").variant("t", Some(("string", r#"{"a": 1}"#)))),
        ("bare", Flag::on("bare").variant("name-only", None)),
        ("off-variant", Flag::off("off-variant").variant("never", Some(("string", "never")))),
    ];
    for (name, flag) in all {
        versions.insert(name, flags.set("production", flag));
    }
    flags.set("development", Flag::on("on"));
    versions
}

/// A request for one flag by a premium user of us-west.
fn request(flag: &str) -> Value {
    json!({
        "request_id": format!("r-{flag}"), "flag_name": flag, "user_id": "user-456", "environment": "production",
        "context": {"region": "us-west", "subscription_tier": "premium"},
    })
}

fn asking(flag: &str, member: &str, value: Value) -> Value {
    let mut request = request(flag);
    request[member] = value;
    request
}

#[test]
fn an_event_says_everything_about_its_request() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let request = json!({
        "request_id": "r-1", "flag_name": "theme-variant", "user_id": "user-456", "session_id": "s-9",
        "context": {"region": "us-west", "subscription_tier": "premium"}, "default_value": "light",
        "environment": "production", "requested_at": "2026-01-15T10:30:00Z",
    });
    let (partition, offset) = pipeline.ask(&request);
    let event = pipeline.event((partition, offset), 0);
    assert_eq!(event.position.0, partition, "the partition of the request");
    assert_eq!(event.key.as_deref(), Some(&b"user-456"[..]), "the key of the request");

    let mut body = event.json();
    let members = body.as_object_mut().unwrap();
    let id = members.remove("event_id").unwrap();
    let id = uuid::Uuid::parse_str(id.as_str().unwrap()).unwrap();
    assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
    let topic_id = members["source"].as_object_mut().unwrap().remove("topic_id").unwrap();
    assert!(
        topic_id.as_str().is_some_and(|id| id.len() == 22),
        "Kafka's id of the requests topic: {topic_id}"
    );
    let version = members.remove("flags_version").unwrap().as_u64().unwrap();
    // Other tests change flags meanwhile.
    assert!(Some(&version) >= pipeline.versions.values().max(), "of all flags: {version}");
    let at = members.remove("evaluated_at").unwrap();
    let at = at.as_str().unwrap();
    assert_eq!(at.len(), "2026-01-15T10:30:00.012345Z".len(), "microseconds, UTC: {at}");
    let age = chrono::Utc::now() - at.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert!((0..60).contains(&age.num_seconds()), "evaluated at {at}");
    let expected = json!({
        "event_type": "FEATURE_FLAG_EVALUATED", "request_id": "r-1", "flag_name": "theme-variant",
        "user_id": "user-456", "session_id": "s-9", "environment": "production", "value": "dark",
        "typed_value": "dark", "enabled": true, "variant": "dark", "reason": "TARGETING_MATCH",
        "error_code": null, "error_message": null, "flag_version": pipeline.versions["theme-variant"],
        "context": {"region": "us-west", "subscription_tier": "premium"}, "default_value": "light", "value_type": "string",
        "source": {
            "topic": pipeline.group.topics.requests, "partition": partition, "offset": offset, "index": 0,
        },
    });
    assert_eq!(body, expected);
}

#[test]
fn values_types_and_reasons_are_those_of_the_table() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let default = |flag, value| asking(flag, "default_value", value);
    let typed = |flag, kind: &str| asking(flag, "value_type", json!(kind));
    let both = |flag, kind: &str, value| {
        let mut request = asking(flag, "value_type", json!(kind));
        request["default_value"] = value;
        request
    };
    let (yes, no) = ("TARGETING_MATCH", "DEFAULT");
    let not_found = json!("FLAG_NOT_FOUND");
    let mismatch = json!("TYPE_MISMATCH");
    let none = Value::Null;
    // request, typed value, its text, enabled, variant, reason, error code
    let table = [
        (request("on"), json!(true), "true", true, none.clone(), yes, none.clone()),
        (default("on", json!(false)), json!(true), "true", true, none.clone(), yes, none.clone()),
        (request("west"), json!(true), "true", true, none.clone(), yes, none.clone()),
        (request("off"), json!(false), "false", false, none.clone(), no, none.clone()),
        (default("off", json!(true)), json!(false), "false", false, none.clone(), no, none.clone()),
        (request("adult"), json!(false), "false", false, none.clone(), no, none.clone()),
        (
            default("theme-variant", json!("light")),
            json!("dark"),
            "dark",
            true,
            json!("dark"),
            yes,
            none.clone(),
        ),
        (typed("theme-variant", "string"), json!("dark"), "dark", true, json!("dark"), yes, none.clone()),
        (request("theme-variant"), json!(true), "true", true, json!("dark"), yes, none.clone()),
        (
            default("off-variant", json!("light")),
            json!("light"),
            "light",
            false,
            none.clone(),
            no,
            none.clone(),
        ),
        (default("on", json!("light")), json!("light"), "light", true, none.clone(), no, none.clone()),
        (
            default("bare", json!("light")),
            json!("name-only"),
            "name-only",
            true,
            json!("name-only"),
            yes,
            none.clone(),
        ),
        (
            default("wrapped", json!("light")),
            json!("inside"),
            "inside",
            true,
            json!("inner"),
            yes,
            none.clone(),
        ),
        (default("limit", json!(1)), json!(5), "5", true, json!("five"), yes, none.clone()),
        (typed("limit", "integer"), json!(5), "5", true, json!("five"), yes, none.clone()),
        (typed("limit", "number"), json!(5), "5", true, json!("five"), yes, none.clone()),
        (both("ratio", "integer", json!(1)), json!(1), "1", true, json!("more"), "ERROR", mismatch.clone()),
        (default("ratio", json!(1)), json!(5.5), "5.5", true, json!("more"), yes, none.clone()),
        (typed("ratio", "float"), json!(5.5), "5.5", true, json!("more"), yes, none.clone()),
        (default("text-number", json!(1)), json!(42), "42", true, json!("t"), yes, none.clone()),
        (default("theme-variant", json!(1)), json!(1), "1", true, json!("dark"), "ERROR", mismatch.clone()),
        (
            default("settings", json!({"colour": "red"})),
            json!({"colour": "blue", "size": [1, 2]}),
            r#"{"colour":"blue","size":[1,2]}"#,
            true,
            json!("blue"),
            yes,
            none.clone(),
        ),
        (default("text-json", json!({})), json!({"a": 1}), r#"{"a":1}"#, true, json!("t"), yes, none.clone()),
        (
            default("theme-variant", json!({"a": "b"})),
            json!({"a": "b"}),
            r#"{"a":"b"}"#,
            true,
            json!("dark"),
            "ERROR",
            mismatch.clone(),
        ),
        (request("nobody-made-it"), json!(false), "false", false, none.clone(), no, not_found.clone()),
        (default("nobody-made-it", json!("x")), json!("x"), "x", false, none.clone(), no, not_found.clone()),
        (
            default("nobody-made-it", json!(true)),
            json!(true),
            "true",
            false,
            none.clone(),
            no,
            not_found.clone(),
        ),
    ];
    let asked: Vec<_> = table.iter().map(|row| pipeline.ask(&row.0)).collect();
    for ((request, value, text, enabled, variant, reason, code), asked) in table.into_iter().zip(asked) {
        let event = pipeline.event(asked, 0).json();
        let got = [
            &event["typed_value"],
            &event["value"],
            &event["enabled"],
            &event["variant"],
            &event["reason"],
            &event["error_code"],
        ];
        let expected = [&value, &json!(text), &json!(enabled), &variant, &json!(reason), &code];
        assert_eq!(got, expected, "{request}\n{event}");
        assert_eq!(event["error_message"].is_string(), code.is_string(), "{event}");
        let flag = request["flag_name"].as_str().unwrap();
        assert_eq!(event["flag_version"], json!(pipeline.versions.get(flag)), "{event}");
        assert_eq!(event["default_value"], request["default_value"], "{event}");
    }
    // Integers may be written as `5.0`.
    let event = pipeline.answer(&typed("limit-float", "integer"));
    assert_eq!(event["typed_value"].as_f64(), Some(5.0), "{event}");
    assert_eq!(event["reason"], "TARGETING_MATCH", "{event}");
}

#[test]
fn environments_that_are_not_served_answer_not_ready() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let mut request = asking("on", "default_value", json!("light"));
    request["environment"] = json!("staging");
    let event = pipeline.answer(&request);
    assert_eq!(event["environment"], "staging");
    assert_eq!(event["typed_value"], "light");
    assert_eq!(event["reason"], "ERROR");
    assert_eq!(event["error_code"], "PROVIDER_NOT_READY");
    assert_eq!(event["flag_version"], Value::Null);

    // Without an environment it is UNLEASH_ENVIRONMENT.
    request.as_object_mut().unwrap().remove("environment");
    request["default_value"] = json!(false);
    let event = pipeline.answer(&request);
    assert_eq!(event["environment"], "development");
    assert_eq!(event["typed_value"], true);
}

#[test]
fn many_flags_are_answered_in_the_order_asked() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let request = json!({
        "flag_names": ["limit", "on", "nobody-made-it", "theme-variant", "on", "off"],
        "default_values": {"limit": 1, "theme-variant": "light", "nobody-made-it": {"a": 1}},
        "value_types": {"limit": "integer"},
        "user_id": "user-1", "environment": "production", "context": {"subscription_tier": "premium"},
    });
    let asked = pipeline.ask(&request);
    let last = pipeline.event(asked, 5);
    let events: Vec<_> = pipeline.events.seen.iter().filter(|event| event.source().1 == asked.1).collect();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let body = event.json();
            (body["source"]["index"].clone(), body["flag_name"].clone(), body["typed_value"].clone())
        })
        .collect();
    let expected = [
        ("limit", json!(5)),
        ("on", json!(true)),
        ("nobody-made-it", json!({"a": 1})),
        ("theme-variant", json!("dark")),
        ("on", json!(true)),
        ("off", json!(false)),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .enumerate()
        .map(|(index, (flag, value))| (json!(index), json!(flag), value))
        .collect();
    assert_eq!(told, expected);
    assert!(events.iter().all(|event| event.json()["evaluated_at"] == last.json()["evaluated_at"]));
    let mut ids: Vec<_> = events.iter().map(|event| event.json()["event_id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6, "each event has an id of its own");
}

#[test]
fn a_reply_holds_all_results_and_headers_are_passed_on() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let topic = pipeline.group.topics.reply_topic("checkout");
    let mut replies = TopicReader::open(&stack.kafka, &topic);
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("reply-to", topic.as_str()), ("correlation-id", "c-17"), ("traceparent", traceparent)];
    let asked = pipeline.ask_with(
        &json!({
            "request_id": "r-7", "flag_names": ["theme-variant", "limit", "nobody-made-it"],
            "default_values": {"theme-variant": "light", "limit": 1}, "user_id": "user-456",
            "environment": "production", "context": {"subscription_tier": "premium"},
        }),
        &headers,
    );
    let reply = replies.wait("the reply", TEST_TIMEOUT, |_| true);
    assert_eq!(reply.header("correlation-id"), Some("c-17"));
    let mut body = reply.json();
    let evaluated_at = body["evaluated_at"].take();
    let version = |flag| pipeline.versions[flag];
    let expected = json!({
        "request_id": "r-7", "correlation_id": "c-17", "user_id": "user-456", "environment": "production",
        "results": {
            "theme-variant": {
                "value": "dark", "enabled": true, "variant": "dark", "reason": "TARGETING_MATCH",
                "error_code": null, "error_message": null, "flag_version": version("theme-variant"),
            },
            "limit": {
                "value": 5, "enabled": true, "variant": "five", "reason": "TARGETING_MATCH",
                "error_code": null, "error_message": null, "flag_version": version("limit"),
            },
            "nobody-made-it": {
                "value": false, "enabled": false, "variant": null, "reason": "DEFAULT",
                "error_code": "FLAG_NOT_FOUND", "error_message": body["results"]["nobody-made-it"]["error_message"],
                "flag_version": null,
            },
        },
        "flags_version": body["flags_version"], "evaluated_at": null,
    });
    assert_eq!(body, expected);
    assert!(body["flags_version"].as_u64() >= pipeline.versions.values().max().copied());

    for index in 0..3 {
        let event = pipeline.event(asked, index);
        assert_eq!(event.header("correlation-id"), Some("c-17"));
        assert_eq!(event.header("traceparent"), Some(traceparent));
        assert_eq!(event.json()["evaluated_at"], evaluated_at);
    }
    assert_eq!(replies.seen.len(), 1, "one reply for the whole request");
}

#[test]
fn a_reply_that_cannot_be_sent_is_dropped_and_counted() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let topics = pipeline.group.topics.clone();
    // The topic exists, but its prefix is not allowed.
    let other = format!("{}-elsewhere", topics.prefix);
    topics.create(&other, 1);
    let missing = format!("{}-missing", topics.replies);
    for topic in [&other, &topics.requests, &topics.events, &missing, &missing, &"no topic!".to_owned()] {
        let asked = pipeline.ask_with(&request("on"), &[("reply-to", topic)]);
        assert_eq!(pipeline.event(asked, 0).json()["typed_value"], true, "evaluated as usual");
    }
    wait_until("six dropped replies counted", TEST_TIMEOUT, || {
        pipeline.service.metrics().sum("flagstream_dropped_total", &[("what", "reply")]) >= 6.0
    });
    let counted = pipeline.service.metrics();
    let unknown = counted.sum("flagstream_dropped_total", &[("what", "reply"), ("reason", "topic_unknown")]);
    let refused =
        counted.sum("flagstream_dropped_total", &[("what", "reply"), ("reason", "topic_not_allowed")]);
    assert_eq!((unknown, refused), (2.0, 4.0));

    // A topic that exists gets its reply all the same: nothing of the above hangs.
    let good = topics.reply_topic("good");
    pipeline.ask_with(&request("on"), &[("reply-to", &good)]);
    TopicReader::open(&stack.kafka, &good).wait("the reply", TEST_TIMEOUT, |_| true);
    let mut elsewhere = TopicReader::open(&stack.kafka, &other);
    let last = pipeline.sender.send(&other, Some(0), None, b"{}", None);
    assert_eq!(last.1, 0, "something was written where it is not allowed");
    elsewhere.wait("our own", TEST_TIMEOUT, |_| true);
}

#[test]
fn bad_input_becomes_a_dead_letter_that_names_the_field() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let deep = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"flag_name":"on","context":{{"a":{open}{close}}}}}"#)
    };
    let flags =
        |count: usize| json!({"flag_names": vec!["on"; count], "environment": "production"}).to_string();
    let long = |bytes: usize| json!({"flag_name": "f".repeat(bytes)}).to_string();
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (b"".into(), "EMPTY", "JSON object"),
        (b"{".into(), "NOT_JSON", ""),
        (b"hello".into(), "NOT_JSON", ""),
        (b"null and void".into(), "NOT_JSON", ""),
        (b"null".into(), "INVALID_FIELD", "an object"),
        (br#"{"flag_name":"on"} x"#.into(), "NOT_JSON", ""),
        (br#"{"flag_name":"on",}"#.into(), "NOT_JSON", ""),
        (b"{\"flag_name\":\"\xff\xfe\"}".into(), "NOT_UTF8", "UTF-8"),
        (b"[]".into(), "INVALID_FIELD", "an object"),
        (br#""on""#.into(), "INVALID_FIELD", "an object"),
        (br#"{"flag_name":5}"#.into(), "INVALID_FIELD", "flag_name"),
        (br#"{"flag_names":"on"}"#.into(), "INVALID_FIELD", "flag_names"),
        (br#"{"flag_names":["on",5]}"#.into(), "INVALID_FIELD", "flag_names[1]"),
        (br#"{"flag_name":"on","context":[]}"#.into(), "INVALID_FIELD", "context"),
        (br#"{"flag_name":"on","user_id":{}}"#.into(), "INVALID_FIELD", "user_id"),
        (br#"{"flag_name":"on","session_id":[]}"#.into(), "INVALID_FIELD", "session_id"),
        (br#"{"flag_name":"on","environment":1}"#.into(), "INVALID_FIELD", "environment"),
        (br#"{"flag_name":"on","request_id":{}}"#.into(), "INVALID_FIELD", "request_id"),
        (br#"{"flag_name":"on","value_type":"text"}"#.into(), "INVALID_FIELD", "value_type"),
        (br#"{"flag_names":["on"],"value_types":{"on":"text"}}"#.into(), "INVALID_FIELD", "value_types.on"),
        (br#"{"flag_names":["on"],"default_values":[]}"#.into(), "INVALID_FIELD", "default_values"),
        (br#"{"user_id":"u"}"#.into(), "MISSING_FIELD", "flag_name"),
        (br#"{"flag_names":[]}"#.into(), "MISSING_FIELD", "flag_names"),
        (br#"{"flag_name":"on","flag_names":["on"]}"#.into(), "CONFLICTING_FIELDS", "flag_names"),
        (br#"{"flag_name":""}"#.into(), "INVALID_FIELD", "flag_name"),
        (br#"{"flag_names":["on",""]}"#.into(), "INVALID_FIELD", "flag_names[1]"),
        (long(256).into(), "INVALID_FIELD", "flag_name"),
        (flags(1_001).into(), "TOO_MANY_FLAGS", "flag_names"),
        (deep(31).into(), "TOO_DEEP", "32"),
        (br#"{"flag_name":"on","flag_name":"off"}"#.into(), "DUPLICATE_FIELD", "flag_name"),
        (br#"{"flag_name":"on","mine":1,"mine":1}"#.into(), "DUPLICATE_FIELD", "mine"),
    ];
    let headers = [("correlation-id", "c-1"), ("x-mine", "kept")];
    let asked: Vec<_> =
        cases.iter().map(|(body, ..)| pipeline.send(Some(2), Some(b"user-9"), body, &headers)).collect();
    for ((body, code, field), asked) in cases.iter().zip(&asked) {
        let letter = pipeline.dead_letter(*asked);
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
        assert_eq!(letter.header("error-code"), Some(*code), "{text}: {:?}", letter.header("error-message"));
        let message = letter.header("error-message").unwrap();
        assert!(message.contains(field) && !message.is_empty(), "{text}: {message}");
        assert_eq!(letter.payload.as_deref().unwrap_or_default(), body, "the original bytes");
        assert_eq!(letter.key.as_deref(), Some(&b"user-9"[..]), "the original key");
        assert_eq!(letter.header("correlation-id"), Some("c-1"));
        assert_eq!(letter.header("x-mine"), Some("kept"));
        assert_eq!(letter.header("source-topic"), Some(pipeline.group.topics.requests.as_str()));
        assert_eq!(letter.header("body-omitted"), None);
    }

    // What lies just inside the limits is answered, behind all that was refused.
    for inside in [long(255), deep(30), flags(1_000)] {
        let asked = pipeline.send(Some(2), None, inside.as_bytes(), &[]);
        pipeline.event(asked, 0);
    }
    // Nothing of what was refused became an event as well, and none is a dead letter twice.
    let refused: Vec<_> = asked.iter().map(|(_, offset)| *offset).collect();
    assert!(pipeline.events.seen.iter().all(|event| !refused.contains(&event.source().1)));
    assert_eq!(pipeline.dead_letters.seen.len(), refused.len());
    let counted = pipeline.service.metrics().sum("flagstream_dead_letters_total", &[]);
    assert_eq!(counted, refused.len() as f64);
}

#[test]
fn a_tombstone_and_a_request_over_the_limit_are_dead_letters() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let requests = pipeline.group.topics.requests.clone();
    let tombstone = pipeline.sender.tombstone(&requests, b"user-1", OwnedHeaders::new());
    let letter = pipeline.dead_letter(tombstone);
    assert_eq!(letter.header("error-code"), Some("EMPTY"));
    assert_eq!(letter.payload.unwrap_or_default(), b"");

    pipeline.group.topics.limit_record(&requests, 4 << 20);
    pipeline.group.topics.limit_record(&pipeline.group.topics.dead_letters, 4 << 20);
    let padded = |bytes: usize| {
        let mut body = json!({"flag_name": "on", "environment": "production", "user_id": "u"}).to_string();
        body.push_str(&" ".repeat(bytes - body.len()));
        body
    };
    let over = pipeline.send(Some(1), None, padded((1 << 20) + 1).as_bytes(), &[]);
    let exact = pipeline.send(Some(1), None, padded(1 << 20).as_bytes(), &[]);
    assert_eq!(pipeline.dead_letter(over).header("error-code"), Some("TOO_LARGE"));
    assert_eq!(pipeline.event(exact, 0).json()["typed_value"], true);
}

#[test]
fn a_result_too_large_for_its_topic_becomes_a_dead_letter_transactional() {
    a_result_too_large_for_its_topic_becomes_a_dead_letter("transactional");
}

#[test]
fn a_result_too_large_for_its_topic_becomes_a_dead_letter_at_least_once() {
    a_result_too_large_for_its_topic_becomes_a_dead_letter("at_least_once");
}

fn a_result_too_large_for_its_topic_becomes_a_dead_letter(mode: &str) {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack).set("FLAGSTREAM_DELIVERY__MODE", mode);
    group.topics.limit_record(&group.topics.events, 100_000);
    group.topics.limit_record(&group.topics.dead_letters, 300_000);
    let mut pipeline = Pipeline::start_with(group);
    let send = |pipeline: &Pipeline, noise_bytes: usize, headers: &[(&str, &str)]| {
        let mut request = request("on");
        request["context"] = json!({"noise": noise(noise_bytes)});
        let body = request.to_string();
        let asked = pipeline.send(Some(1), Some(b"user-456"), body.as_bytes(), headers);
        (asked, body)
    };
    let (before, _) = send(&pipeline, 10, &[]);
    let (too_large, large) = send(&pipeline, 120_000, &[("x-mine", "kept")]);
    let (after, _) = send(&pipeline, 10, &[]);
    let (bodiless, _) = send(&pipeline, 400_000, &[("x-mine", "kept")]);
    let (last, _) = send(&pipeline, 10, &[]);

    for asked in [before, after, last] {
        assert_eq!(pipeline.event(asked, 0).json()["typed_value"], true);
    }
    let letter = pipeline.dead_letter(too_large);
    assert_eq!(letter.header("error-code"), Some("TOO_LARGE"));
    assert_eq!(letter.header("body-omitted"), None);
    assert_eq!(letter.header("x-mine"), Some("kept"));
    assert_eq!(letter.payload.as_deref(), Some(large.as_bytes()));
    let letter = pipeline.dead_letter(bodiless);
    assert_eq!(letter.header("error-code"), Some("TOO_LARGE"));
    assert_eq!(letter.header("body-omitted"), Some("true"));
    assert_eq!(letter.payload.unwrap_or_default(), b"");
    assert_eq!(letter.key.as_deref(), Some(&b"user-456"[..]));

    // At-least-once had to send again what it had sent around the refused ones.
    let mut offsets: Vec<_> = pipeline.events.seen.iter().map(|event| event.source().1).collect();
    let mut letters: Vec<_> = pipeline
        .dead_letters
        .seen
        .iter()
        .map(|letter| letter.header("source-offset").unwrap().to_owned())
        .collect();
    if mode == "at_least_once" {
        offsets.sort_unstable();
        offsets.dedup();
        letters.sort_unstable();
        letters.dedup();
    }
    assert_eq!(offsets, [before.1, after.1, last.1], "each once and in order");
    assert_eq!(letters, [too_large.1.to_string(), bodiless.1.to_string()]);
}

/// Text that no compression makes much smaller.
fn noise(bytes: usize) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..bytes).map(|_| char::from(alphabet[rand::random_range(0..alphabet.len())])).collect()
}

#[test]
fn numbers_booleans_lists_and_null_in_a_context_are_taken_as_text() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let mut ask = |flag: &str, request: Value| {
        let mut request = request;
        request["flag_name"] = json!(flag);
        request["environment"] = json!("production");
        pipeline.answer(&request)
    };
    let event = ask("adult", json!({"user_id": 17, "session_id": true, "context": {"age": 18}}));
    assert_eq!(event["user_id"], "17");
    assert_eq!(event["session_id"], "true");
    assert_eq!(event["typed_value"], true, "{event}");
    assert_eq!(event["context"], json!({"age": 18}), "echoed as it was asked");
    let event = ask("adult", json!({"user_id": null, "context": {"age": null}}));
    assert_eq!((&event["typed_value"], &event["user_id"]), (&json!(false), &Value::Null));
    let event = ask("listed", json!({"context": {"teams": ["a", "b"]}}));
    assert_eq!(event["typed_value"], true, "{event}");
    let event = ask("on", json!({"user_id": "outer", "context": {"userId": "inner"}}));
    assert_eq!(event["user_id"], "outer");
    let event = ask("on", json!({"context": {"userId": "inner", "sessionId": "s"}}));
    assert_eq!((&event["user_id"], &event["session_id"]), (&json!("inner"), &json!("s")));
    // Seed 002's fields stand beside `user_id`.
    let event = ask("beta", json!({"user_id": "u", "group_id": "beta", "device_type": "phone"}));
    assert_eq!(event["typed_value"], true, "{event}");
    assert_eq!(event["context"], json!({"group_id": "beta", "device_type": "phone"}));
    let event = ask("west", json!({"user_id": "u", "context": null}));
    assert_eq!((&event["typed_value"], &event["context"]), (&json!(false), &json!({})));
}

#[test]
fn a_request_without_a_key_stays_in_its_partition() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    for partition in 0..pipeline.group.topics.partitions {
        let asked = pipeline.send(Some(partition), None, request("on").to_string().as_bytes(), &[]);
        let event = pipeline.event(asked, 0);
        assert_eq!((event.position.0, event.key), (partition, None));
    }
}

#[test]
fn a_changed_definition_is_in_force_and_a_broken_one_is_not() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let topics = pipeline.group.topics.clone();
    let mut flags = Flags::new(&topics);
    // The versions of `set_flags` are behind.
    for _ in 0..50 {
        flags.set("production", Flag::on("spare"));
    }
    let in_force = |pipeline: &mut Pipeline, version: u64, flag: &str| {
        let what = format!("{flag} at version {version}");
        crate::harness::wait_for(&what, TEST_TIMEOUT, || {
            let event = pipeline.answer(&request(flag));
            (event["flag_version"] == version).then_some(event)
        })
    };
    let version = flags.set("production", Flag::off("on"));
    let event = in_force(&mut pipeline, version, "on");
    assert_eq!(event["typed_value"], false);

    let broken = json!({"name": "on", "enabled": true, "strategies": [{"name": "default", "constraints": [
        {"contextName": "region", "operator": "NUM_GT", "value": "not a number"}]}]});
    flags.set("production", Flag::on("on").body(broken));
    let version = flags.set("production", Flag::off("west"));
    in_force(&mut pipeline, version, "west");
    let event = pipeline.answer(&request("on"));
    assert_eq!(event["typed_value"], false, "the last good version stays in force: {event}");
    assert_ne!(event["error_code"], "FLAG_NOT_FOUND");

    flags.remove("production", "off");
    let version = flags.set("production", Flag::on("west"));
    in_force(&mut pipeline, version, "west");
    assert_eq!(pipeline.answer(&request("off"))["error_code"], "FLAG_NOT_FOUND");
    assert!(pipeline.service.log().contains("constraints[0]"), "refused, and said where");
}

#[test]
fn evaluated_and_published_agree() {
    let (stack, _shared) = Stack::shared();
    let mut pipeline = Pipeline::start(stack);
    let many = json!({
        "flag_names": ["on", "off", "limit", "nobody-made-it"], "user_id": "u", "environment": "production",
    });
    let mut foreign = request("on");
    foreign["environment"] = json!("staging");
    let requests = [request("on"), request("off"), many, foreign, json!({"user_id": "u"})];
    let (mut last, rounds) = ((0, 0), 40);
    for round in 0..rounds * requests.len() {
        let body = requests[round % requests.len()].to_string();
        last = pipeline.send(Some(0), None, body.as_bytes(), &[]);
    }
    assert!(last.1 > 0);
    let expected = rounds * 7;
    pipeline.events.until("all events", TEST_TIMEOUT, |seen| seen.len() >= expected);
    wait_until("counted when committed", Duration::from_secs(5), || {
        let metrics = pipeline.service.metrics();
        metrics.sum("flagstream_events_published_total", &[]) >= expected as f64
    });
    let metrics = pipeline.service.metrics();
    assert_eq!(pipeline.events.seen.len(), expected);
    assert_eq!(metrics.sum("flagstream_events_published_total", &[]), expected as f64);
    assert_eq!(metrics.sum("flagstream_evaluations_total", &[]), expected as f64);
    let matches = [("reason", "TARGETING_MATCH"), ("environment", "production")];
    assert_eq!(metrics.sum("flagstream_evaluations_total", &matches), (rounds * 3) as f64);
    assert_eq!(metrics.sum("flagstream_evaluations_total", &[("reason", "ERROR")]), rounds as f64);
    assert_eq!(metrics.sum("flagstream_evaluations_total", &[("path", "stream")]), expected as f64);
    assert_eq!(metrics.sum("flagstream_dead_letters_total", &[("code", "MISSING_FIELD")]), rounds as f64);
}
