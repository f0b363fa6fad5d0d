//! Avro and the schema registry: every message in both directions, and what happens while the registry is away.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use flagstream::message::avro::{Kind, header};

use crate::harness::avro::{self, register, register_rule};
use crate::harness::{
    Database, Flag, Flags, Group, Redis, Sender, Service, Stack, TEST_TIMEOUT, TcpProxy, TopicReader, Topics,
    Way, flagstream, post, temporary_folder, wait_until,
};

/// A schema as another service has it: fewer fields, and a context with fields of its own.
const OTHERS: &str = r#"{"type": "record", "name": "com.acme.Question", "fields": [
    {"name": "request_id", "type": "string"}, {"name": "flag_name", "type": "string"}, {"name": "user_id", "type": "long"},
    {"name": "trace", "type": ["null", "bytes"], "default": null}, {"name": "default_value", "type": ["string", "double"]},
    {"name": "context", "type": {"type": "record", "name": "com.acme.Context", "fields": [
        {"name": "subscription_tier", "type": {"type": "enum", "name": "com.acme.Tier", "symbols": ["free", "premium"]}},
        {"name": "seen", "type": {"type": "map", "values": "int"}}]}}]}"#;

/// A record that several schemas share, and a schema that refers to it.
const SHARED: &str = r#"{"type": "record", "name": "com.acme.Traits", "fields": [{"name": "subscription_tier", "type": "string"}]}"#;
const REFERRING: &str = r#"{"type": "record", "name": "com.acme.Ask", "fields": [{"name": "request_id", "type": "string"},
    {"name": "flag_name", "type": "string"}, {"name": "context", "type": "com.acme.Traits"}]}"#;

/// None of a request's.
const ODD: &str =
    r#"{"type": "record", "name": "Odd", "fields": [{"name": "flag_names", "type": "string"}]}"#;

fn group(stack: &Stack) -> Group {
    Group::new(stack).set("UNLEASH_ENVIRONMENT", "production").in_avro(&stack.registry)
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
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack).set("DATABASE_URL", &database.url);
    set_flags(&group);
    let service = group.start("one");
    let replies = group.topics.reply_topic("avro");
    let context = r#"{"subscription_tier":"premium","deep":{"a":[null,1e3,"x"]}}"#;
    let ours = Kind::Request.text();
    let ask = |subject: &str, schema: &str, key: &str, value: Value| {
        let headers = json!({"reply-to": replies, "correlation-id": value["request_id"]});
        let subject = format!("{}-{subject}", group.topics.prefix);
        json!({"topic": group.topics.requests, "subject": subject, "schema": schema, "key": key, "value": value, "headers": headers})
    };
    let shared = format!("{}-shared", group.topics.prefix);
    register(stack, &shared, SHARED);
    let traits =
        json!({"request_id": "r-4", "flag_name": "theme", "context": {"subscription_tier": "premium"}});
    let mut referring = ask("refers", REFERRING, "u-4", traits);
    referring["references"] = json!({"com.acme.Traits": shared});
    let read = python(
        stack,
        &[
            ask(
                "asks",
                ours,
                "u-1",
                json!({"request_id": "r-1", "flag_name": "theme", "user_id": "u-1", "context": context,
                "default_value": "{\"colour\":null}"}),
            ),
            ask(
                "acme",
                OTHERS,
                "7",
                json!({"request_id": "r-2", "flag_name": "theme", "user_id": 7, "trace": null,
                "default_value": "{\"none\":true}", "context": {"subscription_tier": "free", "seen": {"home": 2}}}),
            ),
            ask("asks", ours, "u-3", json!({"request_id": "r-3", "flag_name": "on"})),
            referring,
        ],
        &[(&group.topics.events, 4), (&replies, 4)],
    );

    let events = by_request(&read, &group.topics.events);
    let first = &events["r-1"];
    assert_eq!(first["event_type"], "FEATURE_FLAG_EVALUATED");
    assert_eq!(first["typed_value"], r#"{"colour":"é\"","n":[1,2.50]}"#);
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
    assert_eq!(
        (&events["r-4"]["variant"], &events["r-4"]["context"]),
        (&json!("dark"), &json!(r#"{"subscription_tier":"premium"}"#))
    );
    let answers = by_request(&read, &replies);
    assert_eq!(answers["r-1"]["results"]["theme"]["value"], first["typed_value"]);
    assert_eq!(answers["r-3"]["results"]["on"]["flag_version"], events["r-3"]["flag_version"]);
    assert_eq!(answers["r-2"]["evaluated_at"], second["evaluated_at"]);

    // In JSON too, and over HTTP; all of it becomes rows, read from Avro.
    let sender = Sender::new(&stack.kafka);
    sender.send(&group.topics.requests, None, Some(b"u-4"), br#"{"flag_name":"on","user_id":"u-4"}"#, None);
    let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &json!({"flag_name": "on"}));
    assert_eq!(answer.status, 200);
    wait_until("all rows", TEST_TIMEOUT, || database.audited() == 6);

    // The commands decode what they show.
    let said = |arguments: &[&str]| {
        let output = flagstream(group.folder.path(), arguments, group.settings());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let replied = said(&[
        "request",
        "on",
        "--user",
        "u-5",
        "--environment",
        "production",
        "--wait",
        "--reply-to",
        &replies,
    ]);
    assert_eq!(replied, "on = true  TARGETING_MATCH\n");
    let tail =
        ["tail", "--topic", "events", "--from-beginning", "--user", "u-5", "-n", "1", "--output", "json"];
    let event: Value = serde_json::from_str(&said(&tail)).unwrap();
    assert_eq!(
        (&event["value"]["flag_name"], &event["value"]["user_id"]),
        (&json!("on"), &json!("u-5")),
        "{event}"
    );
}

#[test]
fn changes_hints_and_conversions_cross_in_avro() {
    let (stack, _shared) = Stack::shared();
    let (database, redis) = (Database::create(stack), Redis::database(stack));
    let group = group(stack)
        .set("DATABASE_URL", &database.url)
        .set("REDIS_URL", &redis.url)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write");
    let topics = &group.topics;
    let service = group.start("one");
    let post = |path: &str, body: &Value| {
        let answer = post(&format!("{}/api/v1{path}", service.url), body);
        assert!((200..300).contains(&answer.status), "{answer:?}");
        answer.json()
    };
    let sum = |name: &str, labels: &[(&str, &str)]| service.metrics().sum(name, labels);
    let variants =
        json!([{"name": "dark", "weight": 50, "value": "d"}, {"name": "light", "weight": 50, "value": "l"}]);
    let flag = json!({"name": "theme", "environment": "production", "type": "experiment", "is_enabled": true,
        "value_type": "string", "default_value": "l", "variants": variants});
    post("/feature-flags", &flag);
    wait_until("our own hint is understood", TEST_TIMEOUT, || {
        sum("flagstream_feed_hints_total", &[("outcome", "understood")]) >= 1.0
    });
    wait_until("the invalidation is carried out", TEST_TIMEOUT, || {
        sum("flagstream_warm_announced_seconds_count", &[]) >= 1.0
    });
    let evaluate =
        json!({"flag_name": "theme", "user_id": "u", "default_value": "none", "environment": "production"});
    assert!(["d", "l"].contains(&post("/feature-flags/evaluate", &evaluate)["value"].as_str().unwrap()));
    wait_until("the flag is a row", TEST_TIMEOUT, || {
        database.number("SELECT count(*) FROM feature_flag_versions") == Some(1)
    });
    let metrics = json!([{"name": "purchase"}]);
    post(
        "/experiments",
        &json!({"name": "theme", "environment": "production", "metrics": metrics, "control": "light"}),
    );
    let now = chrono::Utc::now();
    let bought = |id: &str, at: Value| {
        json!({"experiment": "theme", "environment": "production", "user_id": "u",
        "metric": "purchase", "value": 2.5, "occurred_at": at, "event_id": id})
    };
    post(
        "/experiments/theme/conversions?environment=production",
        &json!([bought("http", json!(now.to_rfc3339()))]),
    );

    let write = |topic: &str, kind: Kind, value: Value| json!({"topic": topic, "subject": format!("{topic}-value"), "schema": kind.text(), "key": "u", "value": value});
    let hints = sum("flagstream_feed_hints_total", &[("outcome", "understood")]);
    let hint = json!({"event_type": "FEATURE_FLAG_UPDATED", "flag_name": "theme", "environment": "production", "source": "local"});
    let read = python(
        stack,
        &[
            write(&topics.conversions, Kind::Conversion, bought("python", json!(now.timestamp_micros()))),
            write(&topics.changes, Kind::Hint, hint),
        ],
        &[(&topics.updates, 1), (&topics.changes, 2), (&topics.conversions, 2)],
    );
    let of = |topic: &str| {
        read.iter().filter(|line| line["topic"] == topic).map(|line| &line["message"]).collect::<Vec<_>>()
    };
    let update = of(&topics.updates)[0];
    assert_eq!(
        (&update["event_type"], &update["flag_name"]),
        (&json!("FEATURE_FLAG_CREATED"), &json!("theme"))
    );
    assert!(update["version"].is_u64() && update["published_at"].is_string(), "{update}");
    assert_eq!(of(&topics.changes)[0]["source"], "local");
    let ids: BTreeSet<_> =
        of(&topics.conversions).iter().map(|one| one["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids, BTreeSet::from(["http", "python"]));
    wait_until("Python's hint is understood", TEST_TIMEOUT, || {
        sum("flagstream_feed_hints_total", &[("outcome", "understood")]) > hints
    });
    let conversions = "SELECT count(*) FROM experiment_conversions";
    wait_until("both conversions are rows", TEST_TIMEOUT, || database.number(conversions) == Some(2));
    assert_eq!(sum("flagstream_dead_letters_total", &[]), 0.0);
}

#[test]
fn while_the_registry_is_away_only_what_needs_it_waits() {
    let (stack, _shared) = Stack::shared();
    let door = TcpProxy::to(&stack.registry);
    let group = group(stack).set("SCHEMA_REGISTRY_URL", &door.url);
    set_flags(&group);
    let mut service = group.start("one");
    let subject = |name: &str| format!("{}-{name}", group.topics.prefix);
    let (known, late) =
        (register(stack, &subject("known"), Kind::Request.text()), register(stack, &subject("late"), OTHERS));
    let sender = Sender::new(&stack.kafka);
    let mut events = TopicReader::open(&stack.kafka, &group.topics.events);
    let mut answered = |what: &str, asked: (i32, i64)| {
        events.wait(what, TEST_TIMEOUT, |event| event.source() == (asked.0, asked.1, 0));
    };
    let send =
        |partition, payload: &[u8]| sender.send(&group.topics.requests, Some(partition), None, payload, None);
    let ours = avro::message(known, Kind::Request, r#"{"flag_name":"on","user_id":"u"}"#);
    let state =
        |service: &Service, part: &str| service.health()["parts"][part]["state"].as_str().unwrap().to_owned();
    let waiting = |service: &Service| service.metrics().sum("flagstream_evaluate_waiting", &[]);
    answered("a schema that becomes known", send(0, &ours));

    door.set(Way::Shut);
    let held = send(1, &others_message(late));
    let behind = send(1, br#"{"flag_name":"on"}"#);
    answered("JSON of another partition", send(0, br#"{"flag_name":"on"}"#));
    answered("a known schema", send(2, &ours));
    wait_until("it is told that a partition waits", TEST_TIMEOUT, || {
        let why = service.health()["parts"]["evaluator"]["detail"].clone();
        waiting(&service) == 1.0 && why.as_str().is_some_and(|why| why.contains("partitions are paused"))
    });
    assert_eq!(state(&service, "schema-registry"), "degraded");

    // A restart goes on with what was said before.
    service.stop();
    service.spawn();
    service.wait_until_ready();
    answered("a schema of the former life", send(2, &ours));
    wait_until("it waits again", TEST_TIMEOUT, || waiting(&service) == 1.0);
    let lookups = |outcome| service.metrics().sum("flagstream_schema_lookups_total", &[("outcome", outcome)]);
    assert!(lookups("kept") >= 1.0 && lookups("away") >= 1.0 && lookups("found") == 0.0);

    door.set(Way::Open);
    answered("what was held up", held);
    answered("what stood behind it", behind);
    wait_until("all is well", TEST_TIMEOUT, || {
        ["evaluator", "schema-registry"].iter().all(|part| state(&service, part) == "up")
            && waiting(&service) == 0.0
    });

    // An unknown id becomes a dead letter, and so does an unreadable message.
    let mut letters = TopicReader::open(&stack.kafka, &group.topics.dead_letters);
    for (payload, code) in [
        (header(u32::MAX >> 1).to_vec(), "UNKNOWN_SCHEMA"),
        (header(register(stack, &subject("odd"), ODD)).to_vec(), "SCHEMA_MISMATCH"),
        (header(known).to_vec(), "NOT_AVRO"),
    ] {
        let (_, offset) = send(3, &payload);
        let letter = letters
            .wait(code, TEST_TIMEOUT, |letter| letter.header("source-offset") == Some(&offset.to_string()));
        assert_eq!(letter.header("error-code"), Some(code));
        assert_eq!(letter.payload, Some(payload));
    }
    assert_eq!(letters.seen.len(), 3);
}

#[test]
fn schemas_are_registered_and_checked_by_command() {
    let (stack, _shared) = Stack::shared();
    let (folder, topics) = (temporary_folder(), Topics::named(stack));
    let run = |command: &str| {
        let registry = ("SCHEMA_REGISTRY_URL".to_owned(), stack.registry.clone());
        let settings = topics.settings().into_iter().chain([registry]);
        let output = flagstream(folder.path(), &["schemas", command], settings);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let hints = format!("{}-value", topics.changes);
    register_rule(stack, &hints, ODD);
    let (code, printed) = run("check");
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains(&format!("{hints}  change-hint  REFUSED: ")), "{printed}");
    assert_eq!(printed.matches("  compatible").count(), 5, "{printed}");
    let (code, printed) = run("register");
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains(&format!("{}-value  evaluated-event | change-event  id ", topics.events)),
        "{printed}"
    );
    assert!(printed.contains(&format!("{hints}  change-hint  REFUSED: ")), "{printed}");
}

/// A message of one of [`OTHERS`].
fn others_message(id: u32) -> Vec<u8> {
    let texts: [&[u8]; 2] = [b"\x04r1\x04on\x0e\x00\x00\x0e\"light\"", b"\x00\x00"];
    [&header(id)[..], texts.concat().as_slice()].concat()
}

/// Messages that a Python program reads after it has written some.
fn python(stack: &Stack, writes: &[Value], reads: &[(&String, usize)]) -> Vec<Value> {
    let told = json!({"kafka": stack.kafka, "registry": stack.registry, "writes": writes, "reads": reads});
    let mut command = Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/avro.py"))
        .env("PYTHONPATH", &stack.python_path);
    let lines = piped(&mut command, &told.to_string());
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Output of a program for this input.
fn piped(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn by_request(read: &[Value], topic: &str) -> BTreeMap<String, Value> {
    let of_topic = read.iter().filter(|line| line["topic"] == topic).map(|line| line["message"].clone());
    of_topic.map(|message| (message["request_id"].as_str().unwrap().to_owned(), message)).collect()
}

#[test]
fn javas_avro_reads_and_writes_the_same() {
    let (stack, _shared) = Stack::shared();
    if stack.avro_jars.is_empty() {
        return println!("skipped: the jars of Java's Avro are in a container");
    }
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
            Kind::EvaluatedTogether,
            json!({"event_type": "FEATURE_FLAGS_EVALUATED", "event_id": "019bc134-7845-8000-896e-300000018330",
            "request_id": "r", "environment": "e", "flags_version": 9, "context": {}, "evaluated_at": at,
            "source": {"topic": "t", "partition": 3, "offset": 99_120, "index": 0}, "results": [
                {"flag_name": "f", "typed_value": 5, "enabled": true, "reason": "TARGETING_MATCH"},
                {"flag_name": "g", "enabled": false, "reason": "DEFAULT", "session_id": "s"}]}),
        ),
        (Kind::Hint, json!({"event_type": "FEATURE_FLAG_DELETED", "environment": "e"})),
        (
            Kind::Conversion,
            json!({"experiment": "x", "user_id": "u", "metric": "m", "value": 2.5, "occurred_at": at}),
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
    java.args(["-cp", &format!("{}/*", stack.avro_jars)])
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
