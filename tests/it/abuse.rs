//! Requests that are legal, or nearly so, and are made to stop a partition: each costs itself, and nothing behind it.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::harness::{
    Flag, Flags, Group, Received, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, call, wait_until,
};

/// Deadline for work that takes long on a busy machine.
const LATER: Duration = Duration::from_secs(120);

/// One instance, not started yet, and the ends of its topics.
struct Abuse {
    group: Group,
    events: TopicReader,
    dead_letters: TopicReader,
    producer: BaseProducer,
}

impl Abuse {
    fn new(stack: &Stack) -> Self {
        let group = Group::new(stack);
        let topics = &group.topics;
        Flags::new(topics).set("production", Flag::on("on"));
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &topics.kafka)
            .set("message.max.bytes", "20000000")
            .set("compression.type", "lz4")
            .create()
            .unwrap();
        let events = TopicReader::open(&topics.kafka, &topics.events);
        let dead_letters = TopicReader::open(&topics.kafka, &topics.dead_letters);
        Self { group, events, dead_letters, producer }
    }

    fn start(&self) -> Service {
        self.group.start("one")
    }

    /// Hands a request to partition 0 over; [`Abuse::flush`] sends it.
    fn ask(&self, key: Option<&[u8]>, headers: &[(&str, &str)], body: &[u8]) {
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(*value) })
        });
        let requests = &self.group.topics.requests;
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(requests).partition(0).payload(body).headers(headers);
        record.key = key;
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
    }

    fn flush(&self) {
        self.producer.flush(TEST_TIMEOUT).unwrap();
    }

    /// An ordinary request behind all others.
    fn ask_last(&self) {
        self.ask(Some(b"last"), &[], &request(&["on"], &json!({})));
        self.flush();
    }

    fn wait_for_last(&mut self) {
        self.events.wait("the ordinary request behind all others", LATER, |event| {
            event.key.as_deref() == Some(b"last")
        });
    }
}

fn request(names: &[&str], context: &Value) -> Vec<u8> {
    json!({"flag_names": names, "environment": "production", "context": context}).to_string().into_bytes()
}

#[test]
fn a_reply_over_the_limit_of_a_record_is_dropped_and_stops_nothing() {
    let (stack, _shared) = Stack::shared();
    let mut abuse = Abuse::new(stack);
    let topics = abuse.group.topics.clone();
    let reply_topic = topics.reply_topic("large");
    let names: Vec<_> = (0..13).map(|number| format!("large-{number}")).collect();
    let mut flags = Flags::new(&topics);
    for name in &names {
        flags.set("production", Flag::on(name).variant("v", Some(("string", &"v".repeat(700_000)))));
    }
    let types: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), json!("string"))).collect();
    let large = json!({"flag_names": names, "value_types": types, "environment": "production"}).to_string();
    let service = abuse.start();
    // Whether the topic exists is found out within bounds only: it is known once a small reply is not dropped.
    let dropped = || service.metrics().sum("flagstream_dropped_total", &[("what", "reply")]);
    let mut asked = 0;
    wait_until("a small reply", LATER, || {
        let before = dropped();
        abuse.ask(Some(b"small"), &[("reply-to", &reply_topic)], &request(&["on"], &json!({})));
        abuse.flush();
        asked += 1;
        abuse.events.until("the small request", LATER, |seen| {
            seen.iter().filter(|event| event.key.as_deref() == Some(b"small")).count() == asked
        });
        dropped() <= before
    });
    abuse.ask(Some(b"large"), &[("reply-to", &reply_topic)], large.as_bytes());
    abuse.ask_last();
    abuse.wait_for_last();
    let large = abuse.events.seen.iter().filter(|event| event.key.as_deref() == Some(b"large")).count();
    assert_eq!(large, names.len(), "evaluated as usual");
    let metrics = service.metrics();
    let labels = [("what", "reply"), ("reason", "too_large")];
    assert_eq!(metrics.sum("flagstream_dropped_total", &labels), 1.0);
    assert_eq!(metrics.sum("flagstream_dead_letters_total", &[]), 0.0);
}

#[test]
fn ordinary_requests_do_not_wait_for_the_expensive_ones_of_another_partition() {
    let (stack, _shared) = Stack::shared();
    // All partitions belong to the same worker.
    let mut abuse = Abuse::new(stack);
    abuse.group = abuse.group.set("FLAGSTREAM_DELIVERY__WORKERS", "1");
    let topics = abuse.group.topics.clone();
    let names: Vec<_> = (0..1_000).map(|number| format!("f{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let expensive = request(&names, &json!({"x": "c".repeat(1_000)}));
    let (backlog, ordinary) = (200, 12);
    for _ in 0..backlog {
        abuse.ask(Some(b"expensive"), &[], &expensive);
    }
    abuse.flush();
    let service = abuse.start();
    let sender = Sender::new(&topics.kafka);
    // One after the other: each is sent when the last one is answered.
    for number in 0..ordinary {
        let key = format!("ordinary-{number}");
        let body = request(&["on"], &json!({}));
        sender.send(&topics.requests, Some(1), Some(key.as_bytes()), &body, None);
        abuse.events.wait("an ordinary request", LATER, |event| event.key.as_deref() == Some(key.as_bytes()));
    }
    let expensive =
        |seen: &[Received]| seen.iter().filter(|event| event.position.0 == 0).map(Received::source).collect();
    let answered: Vec<_> = expensive(&abuse.events.seen);
    assert!(answered.len() < backlog * 1_000, "the backlog was answered first");
    abuse.events.until("the backlog", LATER * 2, |seen| seen.len() >= backlog * 1_000 + ordinary);
    let answered: Vec<_> = expensive(&abuse.events.seen);
    let expected = (0..backlog as i64).flat_map(|offset| (0..1_000).map(move |index| (0, offset, index)));
    assert!(answered.into_iter().eq(expected), "each result once and in order");
    let metrics = service.metrics();
    assert_eq!(metrics.sum("flagstream_dead_letters_total", &[]), 0.0);
}

#[test]
fn a_request_that_is_small_compressed_and_large_unpacked_is_a_dead_letter() {
    let (stack, _shared) = Stack::shared();
    let mut abuse = Abuse::new(stack);
    let _service = abuse.start();
    abuse.ask(Some(b"u"), &[("x-mine", "kept")], " ".repeat(9 << 20).as_bytes());
    abuse.flush();
    abuse.ask_last();
    abuse.wait_for_last();
    let letter = abuse.dead_letters.wait("the dead letter", TEST_TIMEOUT, |_| true);
    assert_eq!(letter.header("error-code"), Some("TOO_LARGE"));
    assert_eq!(letter.header("body-omitted"), Some("true"));
    assert_eq!((letter.header("x-mine"), letter.key.as_deref()), (Some("kept"), Some(&b"u"[..])));
}

#[test]
fn a_backlog_of_large_requests_is_committed_in_pieces() {
    let (stack, _shared) = Stack::shared();
    let abuse = Abuse::new(stack);
    let names: Vec<_> = (0..1_000).map(|number| format!("f{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let body = request(&names, &json!({"x": "c".repeat(1_000)}));
    let requests = 256;
    for _ in 0..requests {
        abuse.ask(None, &[], &body);
    }
    abuse.ask_last();
    let service = abuse.start();
    wait_until("the first of them committed", LATER, || {
        service.metrics().sum("flagstream_requests_total", &[]) > 0.0
    });
    wait_until("all of them committed", LATER * 3, || {
        service.metrics().sum("flagstream_requests_total", &[]) >= f64::from(requests) + 1.0
    });
    let batches = service.metrics().sum("flagstream_evaluate_batches_total", &[("outcome", "committed")]);
    assert!(batches > 5.0, "{batches} batches");
}

#[test]
fn sigterm_is_obeyed_in_a_backlog_of_large_requests() {
    let (stack, _shared) = Stack::shared();
    let abuse = Abuse::new(stack);
    let names: Vec<_> = (0..1_000).map(|number| format!("f{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let body = request(&names, &json!({"x": "c".repeat(1_000)}));
    for _ in 0..512 {
        abuse.ask(None, &[], &body);
    }
    abuse.flush();
    let mut service = abuse.start();
    wait_until("at work", LATER, || service.metrics().sum("flagstream_requests_total", &[]) > 0.0);
    let (status, _) = service.stop();
    assert!(status.success(), "{status}: {}", service.log());
}

#[test]
fn two_thousand_reply_topics_that_do_not_exist_stop_nothing() {
    let (stack, _shared) = Stack::shared();
    let mut abuse = Abuse::new(stack);
    let missing = format!("{}-missing", abuse.group.topics.replies);
    let body = request(&["on"], &json!({}));
    let requests = 2_048;
    for number in 0..requests {
        abuse.ask(None, &[("reply-to", &format!("{missing}-{number}"))], &body);
    }
    abuse.ask_last();
    let service = abuse.start();
    abuse.wait_for_last();
    wait_until("all replies dropped and counted", TEST_TIMEOUT, || {
        let labels = [("what", "reply"), ("reason", "topic_unknown")];
        service.metrics().sum("flagstream_dropped_total", &labels) >= f64::from(requests)
    });
    let lines = service.log().lines().filter(|line| line.contains("reply dropped")).count();
    assert!(lines <= 3, "{lines} lines");
}

#[test]
fn repeated_keys_and_headers_are_refused_beyond_their_limits() {
    let (stack, _shared) = Stack::shared();
    let mut abuse = Abuse::new(stack);
    let service = abuse.start();
    let names: Vec<_> = (0..1_000).map(|number| format!("f{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let body = request(&names, &json!({}));
    let (key, id) = (vec![b'k'; 1_000_000], "c".repeat(860_000));
    abuse.ask(Some(&key), &[("correlation-id", &id)], &body);
    abuse.flush();
    abuse.ask(None, &[("correlation-id", &id)], &body);
    abuse.flush();
    // As long as they may be: 60 MB of results in one request.
    abuse.ask(Some(&vec![b'k'; 58 << 10]), &[("correlation-id", &id[..1_024])], &body);
    abuse.ask_last();
    abuse.wait_for_last();
    abuse.dead_letters.until("both refused", TEST_TIMEOUT, |seen| seen.len() >= 2);
    let messages: Vec<_> =
        abuse.dead_letters.seen.iter().map(|letter| letter.header("error-message").unwrap()).collect();
    // In different partitions, by their keys.
    for expected in ["key: expected at most 65536 bytes", "correlation-id: expected at most 1024 bytes"] {
        assert!(messages.iter().any(|message| message.starts_with(expected)), "{messages:?}");
    }
    let events = service.metrics().sum("flagstream_events_published_total", &[]);
    assert_eq!(events, 1_001.0);
}

#[test]
fn calls_that_repeat_too_much_are_refused_before_anything_is_made() {
    let (stack, _shared) = Stack::shared();
    let abuse = Abuse::new(stack);
    let service = abuse.start();
    let names: Vec<_> = (0..1_000).map(|number| format!("f{number}")).collect();
    let long = |bytes: usize| "x".repeat(bytes);
    let body = |field: &str, value: Value| {
        let mut body = json!({"flag_names": names});
        body[field] = value;
        body.to_string()
    };
    let contexts = |context: Value| body("contexts", json!(vec![context; 20]));
    let many = json!({"flag_names": ["on"], "default_values": {"on": long(900_000)}, "contexts": vec![json!({}); 1_000]});
    let (bulk, batch, all) = ("evaluate/bulk", "evaluate/batch", "/ofrep/v1/evaluate/flags");
    let environment = format!("{bulk}?environment={}", long(101));
    let user = format!("{batch}?user_id={}", long(4_097));
    let calls: [(&str, String, u16, &str); 10] = [
        (bulk, body("environment", json!(long(20_000))), 422, "environment"),
        (bulk, body("user_id", json!(long(4_097))), 422, "user_id"),
        (bulk, body("session_id", json!(long(4_097))), 422, "session_id"),
        (bulk, body("context", json!({"userId": long(4_097)})), 422, "context.userId"),
        (&environment, body("user_id", json!("u")), 422, "environment"),
        (&user, json!(names).to_string(), 422, "user_id"),
        (bulk, contexts(json!({"user_id": long(4_096)})), 413, "repeats"),
        (bulk, body("context", json!({"a": long(100_000)})), 413, "repeats"),
        (bulk, many.to_string(), 413, "repeats"),
        (all, json!({"context": {"targetingKey": long(4_097)}}).to_string(), 400, "context.targetingKey"),
    ];
    for (path, body, status, named) in calls {
        let path =
            if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/feature-flags/{path}") };
        let url = format!("{}{path}", service.url);
        let answer = call("POST", &url, &[("content-type", "application/json")], body.as_bytes());
        let text = answer.body.clone();
        assert_eq!(answer.status, status, "{path:.60} {body:.60}: {text:.300}");
        assert!(text.contains(named) && text.len() < 2_000, "{path:.60} {body:.60}: {text:.300}");
    }
    // The longest that is taken is answered.
    let url = format!("{}/api/v1/feature-flags/{bulk}", service.url);
    let body = body("user_id", json!(long(4_096)));
    assert_eq!(call("POST", &url, &[("content-type", "application/json")], body.as_bytes()).status, 200);
}
