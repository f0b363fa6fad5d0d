//! Taps: flags added to the records of another topic.

mod check;
mod faults;

use rdkafka::message::{Header, OwnedHeaders};
use serde_json::{Value, json};

use crate::harness::{
    Database, Flag, Flags, Group, Received, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, avro,
    flagstream, wait_until,
};

/// Partitions of the topics of taps: another number than that of flagstream's own.
const PARTITIONS: i32 = 3;

/// Topics of a tap, with the flags that it adds.
struct Fixture {
    group: Group,
    sender: Sender,
    source: String,
    target: String,
    /// The topics that the first tap writes to.
    outputs: Vec<String>,
}

impl Fixture {
    /// A tap named `orders` with these settings beside its name, topics and flags. `@` stands for the prefix of topics.
    fn new(stack: &Stack, settings: &str) -> Self {
        Self::with_taps(
            stack,
            &format!(
                "[[taps]]\nname = \"orders\"\nsource = \"@-orders\"\ntarget = \"@-flagged\"\n\
                 flags = [\"new-pricing\", \"checkout\"]\n{settings}\n"
            ),
        )
    }

    fn with_taps(stack: &Stack, taps: &str) -> Self {
        let group = Group::new(stack).set("UNLEASH_ENVIRONMENT", "production");
        let topics = &group.topics;
        let name = |role: &str| format!("{}-{role}", topics.prefix);
        for role in ["orders", "flagged", "canary", "stable"] {
            topics.create(&name(role), PARTITIONS);
        }
        let mut flags = Flags::new(topics);
        flags.set("production", Flag::on("new-pricing").where_in("plan", &["gold"]));
        let checkout = Flag::on("checkout").where_in("country", &["DE"]);
        flags.set("production", checkout.variant("red", Some(("string", "crimson"))));
        let text = taps.replace('@', &topics.prefix);
        std::fs::write(group.folder.path().join("flagstream.toml"), text).unwrap();
        let (source, target, sender) = (name("orders"), name("flagged"), Sender::new(&topics.kafka));
        let outputs =
            ["flagged", "canary", "stable"].iter().filter(|role| taps.contains(&format!("@-{role}")));
        let outputs = outputs.map(|role| name(role)).collect();
        Self { group, sender, source, target, outputs }
    }

    fn topic(&self, role: &str) -> String {
        format!("{}-{role}", self.group.topics.prefix)
    }

    fn reader(&self, topic: &str) -> TopicReader {
        TopicReader::open(&self.group.topics.kafka, topic)
    }

    /// Sends a record to the source; its place.
    fn send(&self, partition: i32, key: &str, value: &str, headers: OwnedHeaders) -> (i32, i64) {
        self.sender.send(&self.source, Some(partition), Some(key.as_bytes()), value.as_bytes(), Some(headers))
    }

    /// Sends a record without a value to a partition of the source.
    fn tombstone(&self, partition: i32) {
        self.sender.tombstone_in(&self.source, partition, b"end");
    }

    fn dead_letters(&self, count: usize) -> Vec<Received> {
        let mut reader = self.reader(&self.group.topics.dead_letters);
        reader.until("the dead letters", TEST_TIMEOUT, |seen| seen.len() >= count);
        let mut letters = reader.seen;
        letters.sort_by_key(|letter| (letter.header("source-partition").map(str::to_owned), letter.position));
        letters
    }

    fn part(service: &Service, name: &str) -> Value {
        service.health()["parts"][name].clone()
    }
}

fn headers(list: &[(&str, &[u8])]) -> OwnedHeaders {
    list.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(*value) })
    })
}

fn text(bytes: Option<&Vec<u8>>) -> String {
    String::from_utf8_lossy(bytes.map_or(&[], Vec::as_slice)).into_owned()
}

const SELECTORS: &str =
    "user = \"/customer/id\"\ncontext = { plan = \"/customer/plan\", country = \"header:country\" }";

#[test]
fn records_get_headers_and_keep_everything_else() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack, SELECTORS);
    let service = fixture.group.start("one");
    let value = "{\"customer\" : {\"id\":\"c-7\", \"plan\": \"gold\"},\n \"total\": 1.50}";
    let given: [(&str, &[u8]); 4] =
        [("country", b"DE"), ("flag-checkout", b"forged"), ("binary", b"\xff\x00"), ("trace", b"t")];
    let place = fixture.send(1, "order-1", value, headers(&given));
    fixture.send(2, "order-2", r#"{"customer":{"id":8,"plan":"free"}}"#, headers(&[("country", b"FR")]));
    let mut target = fixture.reader(&fixture.target);
    let first = target.wait("the first order", TEST_TIMEOUT, |order| order.position.0 == 1);
    assert_eq!((text(first.key.as_ref()), text(first.payload.as_ref())), ("order-1".into(), value.into()));
    let expected: Vec<(String, Option<Vec<u8>>)> = [
        ("country", b"DE".as_slice()),
        ("binary", b"\xff\x00"),
        ("trace", b"t"),
        ("flag-new-pricing", b"true"),
        ("flag-checkout", b"crimson"),
    ]
    .map(|(name, value)| (name.to_owned(), Some(value.to_vec())))
    .into();
    assert_eq!(first.headers, expected);
    let sent =
        fixture.reader(&fixture.source).wait("the order", TEST_TIMEOUT, |order| order.position == place);
    assert_eq!(first.timestamp_ms, sent.timestamp_ms);
    let second = target.wait("the second order", TEST_TIMEOUT, |order| order.position.0 == 2);
    assert_eq!(
        (second.header("flag-new-pricing"), second.header("flag-checkout")),
        (Some("false"), Some("false"))
    );

    // Each evaluation is an event, keyed by the user.
    let mut events = fixture.reader(&fixture.group.topics.events);
    events.until("four events", TEST_TIMEOUT, |seen| seen.len() == 4);
    let event = events.wait("of the first order", TEST_TIMEOUT, |event| event.source() == (1, place.1, 1));
    let body = event.json();
    assert_eq!((body["source"]["tap"].as_str(), body["user_id"].as_str()), (Some("orders"), Some("c-7")));
    assert_eq!(
        (&body["typed_value"], &body["context"]),
        (&json!("crimson"), &json!({"country": "DE", "plan": "gold"}))
    );
    assert_eq!(body["source"]["topic"], fixture.source);
    assert_eq!((text(event.key.as_ref()), event.position.0), ("c-7".into(), 1), "the source's partition");

    let metrics = service.metrics();
    let of = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
    assert_eq!(of("flagstream_tap_records_total", &[("tap", "orders")]), 2.0);
    assert_eq!(of("flagstream_tap_forwarded_total", &[("tap", "orders"), ("topic", &fixture.target)]), 2.0);
    assert_eq!(of("flagstream_evaluations_total", &[("path", "tap")]), 4.0);
    wait_until("no lag", TEST_TIMEOUT, || {
        let metrics = service.metrics();
        metrics.sum("flagstream_tap_partitions", &[("tap", "orders")]) == f64::from(PARTITIONS)
            && metrics.sum("flagstream_tap_lag", &[("tap", "orders")]) == 0.0
    });
    wait_until("up", TEST_TIMEOUT, || Fixture::part(&service, "tap-orders")["state"] == "up");
}

#[test]
fn a_member_is_added_and_bad_input_becomes_a_dead_letter() {
    let (stack, _shared) = Stack::shared();
    let fixture =
        Fixture::new(stack, &format!("{SELECTORS}\nwrite = {{ member = \"flags\" }}\naudit = \"none\""));
    let service = fixture.group.start("one");
    let none = OwnedHeaders::new;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let refused = [
        ("no JSON", "NOT_JSON"),
        ("[1]", "INVALID_FIELD"),
        (deep.as_str(), "TOO_DEEP"),
        ("", "EMPTY"),
        (r#"{"customer":{"id":{"a":1}}}"#, "INVALID_FIELD"),
    ];
    for (value, _) in refused {
        fixture.send(0, "bad", value, none());
    }
    let good = [
        (
            r#"{ "customer":{"id":"c-1","plan":"gold"} , "n":1.50 }"#,
            r#"{ "customer":{"id":"c-1","plan":"gold"} , "n":1.50 ,"flags":{"new-pricing":true,"checkout":false}}"#,
        ),
        ("{ }", r#"{ "flags":{"new-pricing":false,"checkout":false}}"#),
        (r#"{"flags" : [1], "z":2}"#, r#"{"flags" : {"new-pricing":false,"checkout":false}, "z":2}"#),
    ];
    for (value, _) in good {
        fixture.send(0, "good", value, headers(&[("x", b"y")]));
    }
    let place = fixture.sender.tombstone(&fixture.source, b"gone", headers(&[("x", b"y")]));
    let mut target = fixture.reader(&fixture.target);
    target.until("the records", TEST_TIMEOUT, |seen| seen.len() == good.len() + 1);
    let written = target.seen.iter().filter(|record| text(record.key.as_ref()) == "good");
    let written: Vec<_> = written.map(|record| text(record.payload.as_ref())).collect();
    assert_eq!(written, good.map(|(_, expected)| expected));
    let tombstone = target.seen.iter().find(|record| text(record.key.as_ref()) == "gone").unwrap();
    assert_eq!((tombstone.payload.as_ref(), tombstone.position.0), (None, place.0));
    assert!(target.seen.iter().all(|record| record.header("x") == Some("y")), "{:?}", target.seen);

    let letters = fixture.dead_letters(refused.len());
    let codes: Vec<_> = letters.iter().map(|letter| letter.header("error-code").unwrap()).collect();
    assert_eq!(codes, refused.map(|(_, code)| code));
    for (letter, (value, _)) in letters.iter().zip(refused) {
        assert_eq!(
            (letter.header("source-topic"), text(letter.payload.as_ref())),
            (Some(&*fixture.source), value.to_owned())
        );
    }
    let metrics = service.metrics();
    assert_eq!(metrics.sum("flagstream_tap_passed_total", &[("reason", "tombstone")]), 1.0);
    assert_eq!(metrics.sum("flagstream_events_published_total", &[]), 0.0, "nothing is audited");
    assert_eq!(metrics.sum("flagstream_evaluations_total", &[("path", "tap")]), 6.0);
}

#[test]
fn records_are_routed_by_flag_and_a_deletion_goes_everywhere() {
    let (stack, _shared) = Stack::shared();
    let settings = format!(
        "{SELECTORS}\non_missing_user = \"pass\"\n\
         route = {{ new-pricing = {{ on = \"@-canary\" }}, checkout = {{ red = \"@-stable\" }} }}"
    );
    let fixture = Fixture::new(stack, &settings);
    let service = fixture.group.start("one");
    let order = |plan: &str| format!(r#"{{"customer":{{"id":"c-1","plan":"{plan}"}}}}"#);
    fixture.send(0, "gold", &order("gold"), headers(&[("country", b"DE")]));
    fixture.send(0, "red", &order("free"), headers(&[("country", b"DE")]));
    fixture.send(0, "rest", &order("free"), OwnedHeaders::new());
    fixture.send(0, "nobody", r#"{"customer":{"plan":"gold"}}"#, headers(&[("flag-checkout", b"own")]));
    fixture.sender.tombstone(&fixture.source, b"deleted", OwnedHeaders::new());
    let expected = [("canary", vec!["gold"]), ("stable", vec!["red"]), ("flagged", vec!["rest", "nobody"])];
    for (role, keys) in expected {
        let mut reader = fixture.reader(&fixture.topic(role));
        reader.wait("the tombstone", TEST_TIMEOUT, |record| record.payload.is_none());
        reader.until("all", TEST_TIMEOUT, |seen| seen.len() > keys.len());
        let found = reader.seen.iter().filter(|record| record.payload.is_some());
        assert_eq!(found.map(|record| text(record.key.as_ref())).collect::<Vec<_>>(), keys, "{role}");
        if let Some(nobody) = reader.seen.iter().find(|record| text(record.key.as_ref()) == "nobody") {
            assert_eq!((nobody.headers.len(), nobody.header("flag-checkout")), (1, Some("own")), "unchanged");
        }
    }
    let metrics = service.metrics();
    assert_eq!(metrics.sum("flagstream_tap_passed_total", &[("reason", "no_user")]), 1.0);
    assert_eq!(metrics.sum("flagstream_tap_forwarded_total", &[]), 7.0);
    assert_eq!(metrics.sum("flagstream_events_published_total", &[]), 6.0);
}

#[test]
fn a_record_that_the_target_does_not_take_is_a_dead_letter() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack, "user = \"key\"\naudit = \"none\"\non_missing_user = \"dead_letter\"");
    fixture.group.topics.limit_record(&fixture.target, 4_000);
    let _service = fixture.group.start("one");
    // Not JSON, which is not needed, and incompressible.
    let large: String = (0..8_000).map(|_| char::from(rand::random_range(b'!'..b'~'))).collect();
    for value in ["small", large.as_str(), "last"] {
        fixture.send(0, "c-1", value, OwnedHeaders::new());
    }
    fixture.sender.send(&fixture.source, Some(1), None, b"nobody", None);
    let mut target = fixture.reader(&fixture.target);
    target.until("the others", TEST_TIMEOUT, |seen| seen.len() == 2);
    let values: Vec<_> = target.seen.iter().map(|record| text(record.payload.as_ref())).collect();
    assert_eq!(values, ["small", "last"]);
    let letters = fixture.dead_letters(2);
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| (letter.header("error-code").unwrap(), letter.header("error-message").unwrap()))
        .collect();
    assert_eq!((reasons[0].0, reasons[1].0), ("TOO_LARGE", "MISSING_FIELD"));
    assert!(reasons[0].1.contains(&fixture.target) && reasons[1].1.starts_with("user: "), "{reasons:?}");
    assert_eq!(text(letters[0].payload.as_ref()), large);
}

#[test]
fn a_tap_whose_topics_do_not_fit_waits_and_the_others_run() {
    let (stack, _shared) = Stack::shared();
    let tap = |name: &str, target: &str| {
        format!(
            "[[taps]]\nname = \"{name}\"\nsource = \"@-orders\"\ntarget = \"{target}\"\nflags = [\"new-pricing\"]\n\
             context = {{ plan = \"header:plan\" }}\n"
        )
    };
    let fixture = Fixture::with_taps(stack, &(tap("orders", "@-flagged") + &tap("wider", "@-wider")));
    let topics = &fixture.group.topics;
    topics.create(&fixture.topic("wider"), PARTITIONS + 1);
    let service = fixture.group.start("one");
    // Neither a key nor a value is needed, and an empty value is no tombstone.
    fixture.sender.send(&fixture.source, Some(0), None, b"", Some(headers(&[("plan", b"gold")])));
    let mut target = fixture.reader(&fixture.target);
    let record = target.wait("the other tap's record", TEST_TIMEOUT, |_| true);
    assert_eq!(record.header("flag-new-pricing"), Some("true"));
    assert_eq!((record.key, record.payload), (None, Some(Vec::new())));
    wait_until("the reason", TEST_TIMEOUT, || {
        let part = Fixture::part(&service, "tap-wider");
        part["state"] == "degraded" && part["detail"].to_string().contains("has 4 partitions and topic")
    });
    topics.grow_topic(&fixture.source, PARTITIONS + 1);
    let mut wider = fixture.reader(&fixture.topic("wider"));
    wider.wait("its record, once the topics fit", TEST_TIMEOUT, |_| true);
    wait_until("up", TEST_TIMEOUT, || Fixture::part(&service, "tap-wider")["state"] == "up");
    // Now the source has a partition that the first tap's target lacks: it waits, and is named.
    // A producer that has not seen the old number of partitions.
    Sender::new(&topics.kafka).send(&fixture.source, Some(PARTITIONS), Some(b"k"), b"v", None);
    wider.wait("the new partition", TEST_TIMEOUT, |record| record.position.0 == PARTITIONS);
    wait_until("the other tap's partition is named", TEST_TIMEOUT, || {
        let part = Fixture::part(&service, "tap-orders");
        part["state"] == "degraded" && part["detail"].to_string().contains("has 3 partitions, fewer than")
    });
    // The events of two taps of one topic are distinct.
    let mut events = fixture.reader(&topics.events);
    events.until("events of both", TEST_TIMEOUT, |seen| seen.len() == 3);
    let mut ids: Vec<_> = events.seen.iter().map(|event| event.json()["event_id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn values_in_avro_are_read_through_the_registry() {
    const SCHEMA: &str = r#"{"type": "record", "name": "com.acme.Order", "fields": [
        {"name": "customer", "type": {"type": "record", "name": "com.acme.Customer", "fields": [
            {"name": "id", "type": "string"}, {"name": "plan", "type": ["null", "string"]}]}},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}]}"#;
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack, SELECTORS);
    fixture.group = fixture.group.set("SCHEMA_REGISTRY_URL", &stack.registry);
    let _service = fixture.group.start("one");
    let id = avro::register(stack, &format!("{}-value", fixture.source), SCHEMA);
    let mut value = flagstream::message::avro::header(id).to_vec();
    // The user, the second branch of the union with the plan, and the amount.
    value.extend_from_slice(b"\x06c-7\x02\x08gold\x04\x00\x63");
    fixture.sender.send(&fixture.source, Some(0), Some(b"k"), &value, None);
    let unknown = flagstream::message::avro::header(999_999_999);
    fixture.sender.send(&fixture.source, Some(1), Some(b"k"), &unknown, None);
    let mut target = fixture.reader(&fixture.target);
    let record = target.wait("the order", TEST_TIMEOUT, |_| true);
    assert_eq!(record.header("flag-new-pricing"), Some("true"));
    assert_eq!(record.payload, Some(value));
    let mut events = fixture.reader(&fixture.group.topics.events);
    let event = events.wait("the event", TEST_TIMEOUT, |_| true).json();
    assert_eq!((event["user_id"].as_str(), &event["context"]), (Some("c-7"), &json!({"plan": "gold"})));
    assert_eq!(fixture.dead_letters(1)[0].header("error-code"), Some("UNKNOWN_SCHEMA"));
}

#[test]
fn evaluations_of_taps_are_rows_that_can_be_replayed() {
    const ORDERS: i64 = 30;
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let mut fixture = Fixture::new(stack, SELECTORS);
    fixture.group = fixture.group.set("DATABASE_URL", &database.url);
    let _service = fixture.group.start("one");
    for number in 0..ORDERS {
        let plan = if number % 3 == 0 { "gold" } else { "free" };
        let order = json!({"customer": {"id": format!("c-{number}"), "plan": plan}});
        let partition = i32::try_from(number).unwrap() % PARTITIONS;
        fixture.send(partition, "order", &order.to_string(), headers(&[("country", b"DE")]));
    }
    wait_until("the rows", TEST_TIMEOUT, || database.audited() == 2 * ORDERS);
    let rows =
        format!("SELECT count(*) FROM feature_flag_evaluations WHERE source_topic = '{}'", fixture.source);
    assert_eq!(database.number(&rows), Some(2 * ORDERS));
    let replay = |more: &[&str]| {
        let arguments = [&["replay", "--from", "1h", "--output", "json"], more].concat();
        let output = flagstream(fixture.group.folder.path(), &arguments, fixture.group.settings());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Result<Value, _> = serde_json::from_slice(&output.stdout);
        report.unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    for source in [&[][..], &["--source", "topics"]] {
        let report = replay(source);
        let counts = (&report["evaluations"], &report["same"], &report["different"]);
        assert_eq!(counts, (&json!(2 * ORDERS), &json!(2 * ORDERS), &json!(0)), "{report:#}");
    }
    // Who would get something else: those with the plan.
    let proposed = json!({"name": "new-pricing", "environment": "production", "is_enabled": false});
    std::fs::write(fixture.group.folder.path().join("off.json"), proposed.to_string()).unwrap();
    let report = replay(&["--with", "off.json"]);
    assert_eq!((&report["different"], &report["users"]), (&json!(10), &json!(10)), "{report:#}");
}
