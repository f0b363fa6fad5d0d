//! Avro and the schema registry: requests in, events and replies out, and what happens while the registry is away.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use flagstream::message::avro::{Kind, header};

use crate::harness::{
    Database, Flag, Flags, Group, SOON, SchemaRegistry, Sender, Stack, Tap, get, post, wait_until,
};

/// A schema as another service has it: fewer fields, and a context with fields of its own.
const OTHERS: &str = r#"{"type": "record", "name": "com.acme.Question", "fields": [
    {"name": "request_id", "type": "string"}, {"name": "flag_name", "type": "string"}, {"name": "user_id", "type": "long"},
    {"name": "trace", "type": ["null", "bytes"], "default": null}, {"name": "default_value", "type": ["string", "double"]},
    {"name": "context", "type": {"type": "record", "name": "com.acme.Context", "fields": [
        {"name": "subscription_tier", "type": {"type": "enum", "name": "com.acme.Tier", "symbols": ["free", "premium"]}},
        {"name": "seen", "type": {"type": "map", "values": "int"}}]}}]}"#;

/// None of a request's.
const ODD: &str =
    r#"{"type": "record", "name": "Odd", "fields": [{"name": "flag_names", "type": "string"}]}"#;

fn group(stack: &Stack, registry: &SchemaRegistry) -> Group {
    Group::new(stack)
        .set("SCHEMA_REGISTRY_URL", &registry.url)
        .set("UNLEASH_ENVIRONMENT", "production")
        .set("FLAGSTREAM_FORMAT__REQUESTS", "auto")
        .set("FLAGSTREAM_FORMAT__EVENTS", "avro")
        .set("FLAGSTREAM_FORMAT__REPLIES", "avro")
}

fn set_flags(group: &Group) {
    let mut flags = Flags::new(&group.topics);
    let theme = Flag::on("theme").where_in("subscription_tier", &["premium"]);
    flags.set(
        "production",
        theme.variant("dark", Some(("json", r#"{"value": {"colour": "é\"", "n": [1, 2.50]}}"#))),
    );
    flags.set("production", Flag::on("on"));
}

#[test]
fn services_in_python_ask_and_read_in_avro() {
    let (stack, _together) = Stack::together();
    let database = Database::create(stack);
    let folder = crate::harness::temporary_folder();
    let registry = SchemaRegistry::start(stack, folder.path());
    let group = group(stack, &registry).set("DATABASE_URL", &database.url);
    set_flags(&group);
    let service = group.start("one");
    let replies = group.topics.reply_topic("avro");
    let context = r#"{"subscription_tier":"premium","deep":{"a":[null,1e3,"x"]}}"#;
    let asks = json!([
        {"subject": "asks-value", "schema": Kind::Request.text(), "key": "u-1", "request": {"request_id": "r-1", "flag_name": "theme",
            "user_id": "u-1", "context": context, "default_value": "{\"colour\":null}"}},
        {"subject": "acme-value", "schema": OTHERS, "key": "7", "request": {"request_id": "r-2", "flag_name": "theme", "user_id": 7,
            "trace": null, "default_value": "{\"none\":true}", "context": {"subscription_tier": "free", "seen": {"home": 2}}}},
        {"subject": "asks-value", "schema": Kind::Request.text(), "key": "u-3", "request": {"request_id": "r-3", "flag_name": "on"}},
    ]);
    let told = json!({"kafka": stack.kafka, "registry": registry.url, "requests": group.topics.requests,
        "events": group.topics.events, "replies": replies, "asks": asks});
    let read = python(stack, &told);

    let events = messages(&read, &group.topics.events);
    let first = &events["r-1"];
    assert_eq!(first["event_type"], "FEATURE_FLAG_EVALUATED");
    assert_eq!(first["typed_value"], r#"{"colour": "é\"", "n": [1, 2.50]}"#);
    assert_eq!(first["value"], first["typed_value"]);
    assert_eq!((&first["variant"], &first["reason"]), (&json!("dark"), &json!("TARGETING_MATCH")));
    assert_eq!(first["context"], context);
    assert_eq!(first["default_value"], r#"{"colour":null}"#);
    assert_eq!((&first["killed"], &first["source"]["topic"]), (&json!(false), &json!(group.topics.requests)));
    let second = &events["r-2"];
    assert_eq!((&second["user_id"], &second["reason"]), (&json!("7"), &json!("DEFAULT")));
    assert_eq!(second["typed_value"], r#"{"none":true}"#);
    assert_eq!(second["context"], r#"{"subscription_tier":"free","seen":{"home":2}}"#);
    assert_eq!((&events["r-3"]["typed_value"], &events["r-3"]["context"]), (&json!("true"), &json!("{}")));
    let replies = messages(&read, &replies);
    assert_eq!(replies["r-1"]["results"]["theme"]["value"], first["typed_value"]);
    assert_eq!(replies["r-3"]["results"]["on"]["flag_version"], events["r-3"]["flag_version"]);
    assert_eq!(replies["r-2"]["evaluated_at"], second["evaluated_at"]);

    // In JSON too, and over HTTP; all of it becomes rows, read from Avro.
    let sender = Sender::new(&stack.kafka);
    sender.send(&group.topics.requests, None, Some(b"u-4"), br#"{"flag_name":"on","user_id":"u-4"}"#, None);
    let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &json!({"flag_name": "on"}));
    assert_eq!(answer.status, 200);
    wait_until("five rows", SOON, || database.audited() == 5);
    let subjects = get(&format!("{}/subjects", registry.url)).unwrap().1;
    assert!(subjects.contains(&format!("{}-value", group.topics.events)), "{subjects}");
}

#[test]
fn while_the_registry_is_away_only_what_needs_it_waits() {
    let (stack, _together) = Stack::together();
    let folder = crate::harness::temporary_folder();
    let registry = SchemaRegistry::start(stack, folder.path());
    let group = group(stack, &registry).set("FLAGSTREAM_FORMAT__EVENTS", "json");
    set_flags(&group);
    let service = group.start("one");
    let (known, unknown) =
        (register(&registry, "known", Kind::Request.text()), register(&registry, "late", OTHERS));
    let sender = Sender::new(&stack.kafka);
    let mut events = Tap::open(&stack.kafka, &group.topics.events);
    let mut answered = |what: &str, asked: (i32, i64)| {
        events.wait(what, SOON, |event| event.source() == (asked.0, asked.1, 0));
    };
    let send =
        |partition, payload: &[u8]| sender.send(&group.topics.requests, Some(partition), None, payload, None);
    answered("a schema that becomes known", send(0, &message(known)));

    registry.freeze();
    let held = send(1, &others_message(unknown));
    let behind = send(1, br#"{"flag_name":"on"}"#);
    answered("JSON of another partition", send(0, br#"{"flag_name":"on"}"#));
    answered("a known schema", send(2, &message(known)));
    wait_until("the evaluator tells that it waits", SOON, || {
        service.health()["parts"]["evaluator"]["detail"]
            .as_str()
            .is_some_and(|why| why.contains("partitions wait"))
    });
    registry.thaw();
    answered("what was held up", held);
    answered("what stood behind it", behind);
    wait_until("the evaluator is well", SOON, || service.health()["parts"]["evaluator"]["state"] == "up");

    // What nobody knows is a dead letter, and so is what cannot be read.
    let mut letters = Tap::open(&stack.kafka, &group.topics.dead_letters);
    for (payload, code) in [
        (header(4_242).to_vec(), "UNKNOWN_SCHEMA"),
        (header(register(&registry, "odd", ODD)).to_vec(), "SCHEMA_MISMATCH"),
        (header(known).to_vec(), "NOT_AVRO"),
    ] {
        let (_, offset) = send(3, &payload);
        let letter =
            letters.wait(code, SOON, |letter| letter.header("source-offset") == Some(&offset.to_string()));
        assert_eq!(letter.header("error-code"), Some(code));
        assert_eq!(letter.payload, Some(payload));
    }
    assert_eq!(letters.seen.len(), 3);
}

/// A request of our schema.
fn message(id: u32) -> Vec<u8> {
    let mut message = header(id).to_vec();
    Kind::Request.plan().from_json(r#"{"flag_name":"on","user_id":"u"}"#, &mut message).unwrap();
    message
}

/// One of [`OTHERS`].
fn others_message(id: u32) -> Vec<u8> {
    let texts: [&[u8]; 2] = [b"\x04r1\x04on\x0e\x00\x00\x0e\"light\"", b"\x00\x00"];
    [&header(id)[..], texts.concat().as_slice()].concat()
}

fn register(registry: &SchemaRegistry, subject: &str, schema: &str) -> u32 {
    let url = format!("{}/subjects/{subject}-value/versions", registry.url);
    let answer = post(&url, &json!({"schema": schema}));
    assert_eq!(answer.status, 200, "{answer:?}");
    u32::try_from(answer.json()["id"].as_u64().unwrap()).unwrap()
}

fn python(stack: &Stack, told: &Value) -> Vec<Value> {
    let mut command = Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/avro.py"))
        .env("PYTHONPATH", &stack.python_path);
    let lines = piped(&mut command, &told.to_string());
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a program says to this.
fn piped(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// By request.
fn messages(read: &[Value], topic: &str) -> BTreeMap<String, Value> {
    let of_topic = read.iter().filter(|line| line["topic"] == topic).map(|line| line["message"].clone());
    of_topic.map(|message| (message["request_id"].as_str().unwrap().to_owned(), message)).collect()
}

#[test]
fn javas_avro_reads_and_writes_the_same() {
    let (stack, _together) = Stack::together();
    let at = "2026-01-15T10:30:00.212345Z";
    let messages = [
        (
            Kind::Request,
            json!({"request_id": "r", "flag_names": ["a", "b"], "default_values": {"a": [1, "é"]}, "context": {"x": {"y": 1e3}}}),
        ),
        (
            Kind::Evaluated,
            json!({"event_type": "FEATURE_FLAG_EVALUATED", "event_id": "019bc134-7845-8002-896e-300000018330",
            "request_id": "r", "flag_name": "f", "user_id": "u", "environment": "e", "value": "5", "typed_value": 5, "enabled": true,
            "reason": "TARGETING_MATCH", "flag_version": 1_768_473_000_123_u64, "context": {}, "evaluated_at": at,
            "source": {"topic": "t", "partition": 3, "offset": 99_120, "index": 0}}),
        ),
        (
            Kind::Changed,
            json!({"event_type": "FEATURE_FLAG_DELETED", "flag_name": "f", "environment": "e", "version": 8,
            "changed_at": at, "published_at": at, "actor": "unleash"}),
        ),
        (
            Kind::Reply,
            json!({"request_id": "r", "environment": "e", "results": {"f": {"value": {"a": null}, "enabled": false,
            "reason": "DEFAULT"}}, "flags_version": 7, "evaluated_at": at}),
        ),
    ];
    let encoded = messages.each_ref().map(|(kind, message)| {
        let mut bytes = Vec::new();
        kind.plan().from_json(&message.to_string(), &mut bytes).unwrap();
        hex::encode(bytes)
    });
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas");
    let lines = messages.iter().zip(&encoded);
    let lines: String =
        lines.map(|((kind, _), hex)| format!("{folder}/{}.avsc {hex}\n", kind.file())).collect();
    let mut java = Command::new("java");
    java.args(["-cp", &format!("{}/lib/*", stack.apicurio)])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/avro.java"));
    let answers = piped(&mut java, &lines);
    let answers: Vec<(&str, &str)> = answers.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(answers.iter().map(|(hex, _)| *hex).collect::<Vec<_>>(), encoded);
    for ((_, said), (_, message)) in answers.iter().zip(&messages) {
        let said: Value = serde_json::from_str(said).unwrap();
        for text in ["request_id", "flag_name", "environment", "event_type"] {
            assert_eq!(said[text], message[text], "{said}");
        }
    }
}
