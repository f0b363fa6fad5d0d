//! Events in files of Kafka Connect: JSON, counted by DuckDB, and Avro, as the records of a converter.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Flags, Group, Ledger, Load, Stack, TEST_TIMEOUT, free_port, wait_until};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/connect");

/// Creates the table of `events.duckdb.sql` from the lines of a file, and prints its counts as JSON.
const COUNT: &str = r#"
import json, sys
import duckdb
base = duckdb.connect()
base.execute("SET VARIABLE lines = ?", [sys.argv[2]])
base.execute(open(sys.argv[1]).read())
one = lambda query: base.execute(query).fetchone()[0]
print(json.dumps({
    "events": one("SELECT count(*) FROM events WHERE event_type = 'FEATURE_FLAG_EVALUATED'"),
    "evaluations": one("SELECT count(*) FROM evaluations"),
    "origins": one("SELECT count(DISTINCT (source.partition, source.offset, source.index)) FROM evaluations"),
    "users": one("SELECT count(DISTINCT user_id) FROM evaluations"),
    "premium": one("SELECT count(*) FROM evaluations WHERE context->>'$.subscription_tier' = 'premium'"),
    "days": one("SELECT count(DISTINCT date_trunc('day', evaluated_at)) FROM evaluations"),
}))
"#;

/// A worker of Kafka Connect, which ends with the test.
struct Connect(Child);

impl Connect {
    /// Starts a worker with `files.json` and the settings of `worker.properties`, but for the converter of Avro, and these
    /// settings of the connector.
    fn start(stack: &Stack, group: &Group, lines: &Path, settings: &[(&str, String)]) -> Self {
        let folder = group.folder.path();
        let given = fs::read_to_string(format!("{FOLDER}/worker.properties")).unwrap();
        let kept = given.lines().filter(|line| !line.starts_with("value.converter"));
        let mut worker: String = kept.map(|line| format!("{line}\n")).collect();
        assert!(worker.contains("consumer.isolation.level=read_committed"));
        worker += &format!(
            "bootstrap.servers={}\nvalue.converter=org.apache.kafka.connect.storage.StringConverter\n\
             offset.storage.file.filename={}\noffset.flush.interval.ms=1000\nplugin.discovery=service_load\n\
             listeners=HTTP://127.0.0.1:{}\n",
            stack.kafka,
            folder.join("connect.offsets").display(),
            free_port()
        );
        fs::write(folder.join("worker.properties"), worker).unwrap();
        let mut connector: Value =
            serde_json::from_str(&fs::read_to_string(format!("{FOLDER}/files.json")).unwrap()).unwrap();
        connector["config"]["topics"] = json!(group.topics.events);
        connector["config"]["file"] = json!(lines);
        for (name, value) in settings {
            connector["config"][*name] = json!(value);
        }
        fs::write(folder.join("files.json"), connector.to_string()).unwrap();
        let log = fs::File::create(folder.join("connect.log")).unwrap();
        let child = Command::new("java")
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .args([
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-cp",
                &format!("{}/*", stack.connect_jars),
            ])
            .args(["org.apache.kafka.connect.cli.ConnectStandalone", "worker.properties", "files.json"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

/// A converter of Avro. It is that of the registry of the tests, and reads ids as Confluent's converter does.
fn avro_converter(stack: &Stack) -> [(&'static str, String); 4] {
    let (registry, _) = stack.registry.split_once("/apis/").expect("the registry's address has a path");
    [
        ("value.converter", "io.apicurio.registry.utils.converter.AvroConverter".to_owned()),
        ("value.converter.apicurio.registry.url", format!("{registry}/apis/registry/v2")),
        ("value.converter.apicurio.registry.as-confluent", "true".to_owned()),
        ("value.converter.apicurio.registry.use-id", "contentId".to_owned()),
    ]
}

impl Drop for Connect {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Load for a group in which an instance is killed. The events that were committed by its end.
fn load_with_a_kill(group: &Group, mut ledger: Ledger, reply_to: &str) -> usize {
    let mut service = group.start("a");
    let load = Load::start(&group.topics, reply_to, 500);
    ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    // A killed instance leaves an open transaction, whose records a committed reader does not see.
    service.kill();
    service.spawn();
    service.wait_until_ready();
    ledger.sign_of_life("all partitions served again", TEST_TIMEOUT);
    load.stop();
    ledger.assert_exactly_once().len()
}

/// Waits until Connect has written so many lines.
fn wait_for_lines(group: &Group, lines: &Path, count: usize) {
    let log = || fs::read_to_string(group.folder.path().join("connect.log")).unwrap_or_default();
    let written = || fs::read_to_string(lines).unwrap_or_default().lines().count();
    wait_until(&format!("{count} lines; {}", log()), TEST_TIMEOUT * 2, || written() >= count);
}

#[test]
fn a_converter_of_avro_reads_every_event() {
    let (stack, _shared) = Stack::shared();
    if stack.connect_jars.is_empty() {
        return println!("left out: Kafka Connect is only here with native services");
    }
    let group = Group::new(stack).in_avro(&stack.registry).set("FLAGSTREAM_FORMAT__SUBJECTS", "record");
    Flags::new(&group.topics).set_load();
    let reply_to = group.topics.reply_topic("load");
    let ledger = Ledger::open(&group.topics, &reply_to);
    let lines = group.folder.path().join("events.txt");
    let connect = Connect::start(stack, &group, &lines, &avro_converter(stack));
    let events = load_with_a_kill(&group, ledger, &reply_to);
    wait_for_lines(&group, &lines, events);
    drop(connect);

    // The file connector writes a record with a schema as the text of its fields.
    let text = fs::read_to_string(&lines).unwrap();
    let member = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}="))?;
        Some(rest.split([',', '}']).next().unwrap_or_default().to_owned())
    };
    let places: BTreeSet<_> = text
        .lines()
        .map(|line| {
            assert!(line.starts_with("Struct{"), "{line}");
            ["partition", "offset", "index"].map(|name| member(line, name).unwrap_or_default())
        })
        .collect();
    assert_eq!((text.lines().count(), places.len()), (events, events), "each event once");
    let first = text.lines().next().unwrap();
    println!("{first}");
    assert_eq!(member(first, "environment").as_deref(), Some("production"), "{first}");
    assert!(member(first, "flag_name").is_some_and(|name| !name.is_empty()), "{first}");
}

#[test]
fn a_warehouse_engine_counts_the_events_that_connect_wrote() {
    let (stack, _shared) = Stack::shared();
    if stack.connect_jars.is_empty() {
        return println!("left out: Kafka Connect is only here with native services");
    }
    let group = Group::new(stack);
    Flags::new(&group.topics).set_load();
    let reply_to = group.topics.reply_topic("load");
    let ledger = Ledger::open(&group.topics, &reply_to);
    let lines = group.folder.path().join("events.jsonl");
    let connect = Connect::start(stack, &group, &lines, &[]);
    let events = load_with_a_kill(&group, ledger, &reply_to);
    wait_for_lines(&group, &lines, events);
    drop(connect);
    let output = Command::new("python3")
        .args(["-c", COUNT, &format!("{FOLDER}/events.duckdb.sql"), &lines.display().to_string()])
        .env("PYTHONPATH", &stack.duckdb)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counted: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{counted}");
    for name in ["events", "evaluations", "origins"] {
        assert_eq!(counted[name], events, "{name}: {counted}");
    }
    assert!(counted["users"].as_u64() > Some(1) && counted["premium"].as_u64() > Some(0), "{counted}");
    assert!(counted["days"].as_u64() >= Some(1), "{counted}");
}
