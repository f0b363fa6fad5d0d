//! Attributes of a topic complete the context of every evaluation.

mod faults;
mod paths;
mod recorded;
mod taps;

use std::time::Instant;

use rdkafka::message::OwnedHeaders;
use serde_json::{Value, json};

use flagstream::message::avro::header;

use crate::harness::avro::register;
use crate::harness::{
    Answer, Flag, Flags, Group, HEALTH_TOKEN, OpenApiValidator, Sender, Service, Stack, TEST_TIMEOUT,
    TopicReader, Topics, call, flagstream, post, wait_until,
};

const ENVIRONMENT: &str = "production";
/// A flag that is on for the plan `gold`.
const FLAG: &str = "by-plan";

/// The topic of attributes of a test.
fn topic_of(topics: &Topics) -> String {
    format!("{}-attributes", topics.prefix)
}

/// Settings with a table of users, and its topic.
fn group(stack: &Stack) -> Group {
    let group = Group::new(stack);
    let topic = topic_of(&group.topics);
    group.topics.create(&topic, group.topics.partitions);
    let group = group
        .set("FLAGSTREAM_ATTRIBUTES__ENABLED", "true")
        .set("FLAGSTREAM_TOPICS__ATTRIBUTES", topic)
        .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read");
    // It exists, but has not the settings of a compacted topic yet.
    let output = flagstream(group.folder.path(), &["topics", "apply"], group.settings());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    group
}

/// Puts the flag in force.
fn set_flag(topics: &Topics) {
    Flags::new(topics).set(ENVIRONMENT, Flag::on(FLAG).where_in("plan", &["gold"]));
}

/// Writes rows as a service of the user would.
struct Rows<'t> {
    sender: Sender,
    topics: &'t Topics,
}

impl<'t> Rows<'t> {
    fn of(topics: &'t Topics) -> Self {
        Self { sender: Sender::new(&topics.kafka), topics }
    }

    fn put(&self, user: &str, attributes: &Value) -> (i32, i64) {
        self.raw(user, attributes.to_string().as_bytes())
    }

    fn raw(&self, user: &str, row: &[u8]) -> (i32, i64) {
        self.sender.send(&topic_of(self.topics), None, Some(user.as_bytes()), row, None)
    }

    fn remove(&self, user: &str) -> (i32, i64) {
        self.sender.tombstone(&topic_of(self.topics), user.as_bytes(), OwnedHeaders::new())
    }
}

/// Evaluates the flag over REST.
fn evaluated(service: &Service, user: &str, context: &Value) -> Value {
    let body = json!({"flag_name": FLAG, "user_id": user, "environment": ENVIRONMENT, "context": context});
    let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn is_on(service: &Service, user: &str) -> bool {
    evaluated(service, user, &json!({}))["value"] == true
}

/// Waits until the flag is on or off for a user, and returns how long that took.
fn until(service: &Service, user: &str, on: bool) -> u128 {
    let begun = Instant::now();
    wait_until(&format!("{user} {on}"), TEST_TIMEOUT, || is_on(service, user) == on);
    begun.elapsed().as_millis()
}

/// Calls the API of attributes as an administrator.
fn api(service: &Service, method: &str, key: &str, body: &str) -> Answer {
    let token = format!("Bearer {HEALTH_TOKEN}");
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    call(method, &format!("{}/api/v1/attributes/{key}", service.url), &headers, body.as_bytes())
}

/// The row of a user as the instance has it.
fn row(service: &Service, user: &str) -> Option<Value> {
    let answer = api(service, "GET", user, "");
    match answer.status {
        200 => Some(answer.json()),
        404 => None,
        _ => panic!("{answer:?}"),
    }
}

#[test]
fn topics_apply_makes_the_topic_only_if_there_are_tables() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    let topic = topic_of(&group.topics);
    let check = |group: &Group| {
        let output =
            flagstream(group.folder.path(), &["topics", "check", "--output", "json"], group.settings());
        String::from_utf8(output.stdout).unwrap()
    };
    let group = group.set("FLAGSTREAM_TOPICS__ATTRIBUTES", &topic);
    assert!(!check(&group).contains(&topic));
    let enabled = group.clone().set("FLAGSTREAM_ATTRIBUTES__ENABLED", "true");
    assert!(check(&enabled).contains(&topic), "{}", check(&enabled));
    let output = flagstream(group.folder.path(), &["topics", "apply"], enabled.settings());
    assert!(output.status.success(), "{output:?}");
    let output = flagstream(group.folder.path(), &["topics", "check"], enabled.settings());
    assert!(output.status.success(), "{output:?}");
    group.topics.delete(&[topic]);
}

#[test]
fn rows_are_written_read_and_removed_over_http() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    set_flag(&group.topics);
    let service = group.start("one");
    let contract = OpenApiValidator::of(&service.url);
    let checked = |method: &str, key: &str, body: &str| {
        let answer = api(&service, method, key, body);
        contract.check(method, "/api/v1/attributes/{key}", &answer);
        answer
    };
    let put = checked("PUT", "ann%2F1", r#"{"plan":"gold","age":7}"#);
    assert_eq!((put.status, &put.json()["in_force"]), (200, &json!(true)), "{put:?}");
    let got = checked("GET", "ann%2F1", "").json();
    assert_eq!((&got["key"], &got["attributes"]), (&json!("ann/1"), &json!({"plan": "gold", "age": 7})));
    assert_eq!((&got["offset"], &got["partition"]), (&put.json()["offset"], &put.json()["partition"]));
    assert!(is_on(&service, "ann/1"));
    let gone = checked("DELETE", "ann%2F1", "");
    assert_eq!((gone.status, &gone.json()["in_force"]), (200, &json!(true)), "{gone:?}");
    assert_eq!(checked("GET", "ann%2F1", "").status, 404);
    assert!(!is_on(&service, "ann/1"));

    for (body, status) in [("[1]", 400), ("{", 400), ("", 400)] {
        assert_eq!(checked("PUT", "bob", body).status, status, "{body}");
    }
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(20_000));
    let large = checked("PUT", "bob", &large);
    assert_eq!((large.status, large.body.contains("16384 bytes")), (413, true), "{large:?}");
    assert_eq!(checked("PUT", &"k".repeat(4_097), "{}").status, 422);
    let other = api(&service, "GET", "bob?table=company", "");
    assert_eq!(
        (other.status, other.body.contains("expected one of the tables user")),
        (404, true),
        "{other:?}"
    );
    let anonymous = |method: &str| {
        let url = format!("{}/api/v1/attributes/bob", service.url);
        call(method, &url, &[("content-type", "application/json")], b"{}").status
    };
    assert_eq!((anonymous("GET"), anonymous("PUT"), anonymous("DELETE")), (401, 401, 401));
}

#[test]
fn without_tables_there_is_nothing_to_write() {
    let (stack, _shared) = Stack::shared();
    let service = Group::new(stack).start("one");
    let answer = api(&service, "PUT", "ann", "{}");
    assert_eq!(
        (answer.status, answer.body.contains("FLAGSTREAM_ATTRIBUTES__ENABLED")),
        (404, true),
        "{answer:?}"
    );
    assert!(service.health()["parts"]["attributes"].is_null());
}

#[test]
fn a_malformed_row_is_a_dead_letter_and_the_row_before_it_stays() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    set_flag(&group.topics);
    let service = group.start("one");
    let second = group.start("two");
    let rows = Rows::of(&group.topics);
    rows.put("ann", &json!({"plan": "gold"}));
    until(&service, "ann", true);
    let (partition, offset) = rows.raw("ann", b"{\"plan\":");
    rows.raw("ann", b"[\"gold\"]");
    rows.put("last", &json!({"plan": "gold"}));
    until(&service, "last", true);
    until(&second, "last", true);
    assert!(is_on(&service, "ann") && is_on(&second, "ann"));
    let mut dead = TopicReader::open(&group.topics.kafka, &group.topics.dead_letters);
    let letter = dead.wait("the dead letter", TEST_TIMEOUT, |letter| {
        letter.header("source-offset") == Some(&offset.to_string())
    });
    let header = |name: &str| letter.header(name).unwrap_or_default().to_owned();
    assert_eq!(
        (header("error-code"), header("source-topic")),
        ("NOT_JSON".to_owned(), topic_of(&group.topics))
    );
    assert_eq!(
        (header("source-partition"), letter.key.as_deref()),
        (partition.to_string(), Some(&b"ann"[..]))
    );
    assert_eq!(letter.payload.as_deref(), Some(&b"{\"plan\":"[..]));
    dead.wait("the other one", TEST_TIMEOUT, |letter| letter.header("error-code") == Some("INVALID_FIELD"));
    let tables = service.health()["parts"]["attributes"]["more"].clone();
    assert_eq!(tables["user"]["malformed"], 2, "{tables}");
    assert_eq!(tables["user"]["rows"], 2, "{tables}");
    // Both instances have read both rows, and each is one dead letter.
    let malformed =
        |service: &Service| service.health()["parts"]["attributes"]["more"]["user"]["malformed"].clone();
    wait_until("the second instance", TEST_TIMEOUT, || malformed(&second) == 2);
    let (_, last) = rows.raw("ann", b"5");
    let mut offsets: Vec<String> = Vec::new();
    dead.until("the last one", TEST_TIMEOUT, |letters| {
        offsets =
            letters.iter().filter_map(|letter| letter.header("source-offset").map(str::to_owned)).collect();
        offsets.contains(&last.to_string())
    });
    assert_eq!(offsets, [offset, offset + 1, last].map(|offset| offset.to_string()));
}

#[test]
fn rows_may_be_avro_records_of_any_schema() {
    let (stack, _shared) = Stack::shared();
    let group =
        group(stack).set("SCHEMA_REGISTRY_URL", &stack.registry).set("FLAGSTREAM_FORMAT__ATTRIBUTES", "avro");
    set_flag(&group.topics);
    let schema = r#"{"type": "record", "name": "com.acme.Customer", "fields": [
        {"name": "plan", "type": ["null", "string"]}, {"name": "age", "type": "int"}]}"#;
    let id = register(stack, &format!("{}-value", topic_of(&group.topics)), schema);
    let service = group.start("one");
    let rows = Rows::of(&group.topics);
    // The second branch of the union, a text of four bytes, and 7 in zigzag form.
    let datum = [&[2, 8][..], b"gold", &[14]].concat();
    rows.raw("ann", &[&header(id)[..], &datum].concat());
    until(&service, "ann", true);
    assert_eq!(row(&service, "ann").unwrap()["attributes"], json!({"plan": "gold", "age": 7}));
    rows.raw("ann", b"{\"plan\":\"free\"}");
    let mut dead = TopicReader::open(&group.topics.kafka, &group.topics.dead_letters);
    dead.wait("the dead letter", TEST_TIMEOUT, |letter| letter.header("error-code") == Some("NOT_AVRO"));
    assert!(is_on(&service, "ann"));
    let put = api(&service, "PUT", "bob", "{}");
    assert_eq!((put.status, put.body.contains("FLAGSTREAM_FORMAT__ATTRIBUTES")), (409, true), "{put:?}");
}
