//! Tests of the whole worker on librdkafka's mock broker, which also returns aborted records and never ends a
//! transaction itself.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers as _, Message, OwnedHeaders, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::*;
use crate::config::{Profile, load_from};
use crate::flag::{CompiledFlag, FlagChange, Snapshot};
use crate::metrics::DropLabels;

const REPLIES: &str = "feature-flag-replies";
const DEADLINE: Duration = Duration::from_secs(60);

/// A running worker, with access to its topics.
struct Fixture {
    cluster: MockCluster<'static, DefaultProducerContext>,
    parts: Parts,
    sender: BaseProducer,
    worker: Option<JoinHandle<()>>,
    asked: usize,
}

impl Fixture {
    fn new(snapshot: Snapshot, change: impl FnOnce(&mut Config)) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let mut config = load_from(None, [], Profile::Dev).unwrap().config;
        crate::dev::embed(&mut config, Some(cluster.bootstrap_servers())).unwrap();
        // Compressed as in a deployment: the mock broker keeps 5 MiB per partition and deletes older records.
        config.kafka.client.remove("compression.type");
        change(&mut config);
        let topics = &config.topics;
        for topic in [&topics.requests, &topics.events, &topics.dead_letters] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        cluster.create_topic(REPLIES, 1, 1).unwrap();
        let sender = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("message.max.bytes", "20000000")
            .set("compression.type", "lz4")
            .create()
            .unwrap();
        let store = Arc::new(Store::default());
        store.replace(snapshot);
        let parts = Parts {
            formats: Arc::default(),
            config: Arc::new(config),
            store,
            attributes: None,
            metrics: Metrics::new(),
            usage: Arc::default(),
            shutdown: Shutdown::new(),
            health: Reporter::detached(),
        };
        Self { cluster, parts, sender, worker: None, asked: 0 }
    }

    /// Starts the worker.
    fn start(&mut self) {
        let worker = Worker::new(self.parts.clone(), 0);
        self.worker = Some(std::thread::spawn(move || worker.run()));
    }

    /// Sends a request and returns its offset.
    fn ask(&mut self, key: Option<&[u8]>, headers: &[(&str, &str)], body: &[u8]) -> i64 {
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(*value) })
        });
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&self.parts.config.topics.requests).partition(0).payload(body).headers(headers);
        record.key = key;
        self.sender.send(record).map_err(|(error, _)| error).unwrap();
        self.sender.flush(DEADLINE).unwrap();
        self.asked += 1;
        self.asked as i64 - 1
    }

    /// Waits for `count` records of a topic and returns them.
    fn read(&self, topic: &str, count: usize) -> Vec<OwnedMessage> {
        let reader = self.reader(topic);
        let (mut records, deadline) = (Vec::new(), Instant::now() + DEADLINE);
        while records.len() < count {
            assert!(Instant::now() < deadline, "{topic}: {} of {count}", records.len());
            if let Some(Ok(record)) = reader.poll(Duration::from_millis(50)) {
                records.push(record.detach());
            }
        }
        records
    }

    /// Sends requests until a reply arrives, because a new topic is looked up in the background. Returns the number of
    /// replies.
    fn ask_until_replied(&mut self) -> usize {
        let deadline = Instant::now() + DEADLINE;
        let reader = self.reader(REPLIES);
        loop {
            assert!(Instant::now() < deadline, "no reply");
            self.ask(Some(b"u"), &[("reply-to", REPLIES)], br#"{"flag_name": "f0"}"#);
            self.events(self.asked);
            if let Some(Ok(_)) = reader.poll(Duration::from_millis(500)) {
                let dropped = usize::try_from(self.dropped("topic_unknown")).unwrap();
                return self.asked - dropped;
            }
        }
    }

    fn reader(&self, topic: &str) -> BaseConsumer {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader")
            .set("fetch.wait.max.ms", "10")
            .set("fetch.message.max.bytes", "20000000")
            .create()
            .unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        reader.assign(&all).unwrap();
        reader
    }

    fn events(&self, count: usize) -> Vec<Value> {
        let events = self.read(&self.parts.config.topics.events, count);
        events.iter().map(|event| serde_json::from_slice(event.payload().unwrap()).unwrap()).collect()
    }

    fn dead_letters(&self, count: usize) -> Vec<OwnedMessage> {
        self.read(&self.parts.config.topics.dead_letters, count)
    }

    fn dropped(&self, reason: &'static str) -> u64 {
        self.parts.metrics.dropped.get_or_create(&DropLabels { what: "reply", reason }).get()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.parts.shutdown.cancel();
        if let Some(worker) = self.worker.take() {
            assert!(worker.join().is_ok() || std::thread::panicking());
        }
    }
}

/// Enabled flags `f0`, `f1`, …, each with a value of the given size.
fn flags(count: usize, value_bytes: usize) -> Snapshot {
    let value = "v".repeat(value_bytes);
    let flags = (0..count).map(|number| {
        let payload = json!({"type": "string", "value": value});
        let variant = json!({"name": "v", "weight": 1000, "payload": payload});
        let body =
            json!({"name": format!("f{number}"), "enabled": true, "strategies": [], "variants": [variant]});
        FlagChange::Set(Arc::new(CompiledFlag::compile("development", 1, &body.to_string()).unwrap()))
    });
    Snapshot::default().with(flags)
}

/// A request for the first `count` flags, each as a string.
fn request(count: usize) -> Value {
    let names: Vec<_> = (0..count).map(|number| format!("f{number}")).collect();
    let types: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), json!("string"))).collect();
    json!({"flag_names": names, "value_types": types})
}

fn header<'m>(record: &'m OwnedMessage, name: &str) -> Option<&'m str> {
    let value = record.headers()?.iter().filter(|header| header.key == name).last()?.value?;
    std::str::from_utf8(value).ok()
}

#[test]
fn a_reply_larger_than_a_record_is_dropped_and_the_next_requests_are_answered() {
    let mut fixture = Fixture::new(flags(13, 700_000), |_| {});
    fixture.start();
    let before = fixture.ask_until_replied();
    assert_eq!(fixture.dropped("too_large"), 0);
    let large = fixture.ask(Some(b"u"), &[("reply-to", REPLIES)], request(13).to_string().as_bytes());
    let last = fixture.ask(Some(b"u"), &[("reply-to", REPLIES)], br#"{"flag_name": "f0"}"#);
    let events = fixture.events(usize::try_from(large).unwrap() + 14);
    assert_eq!(events.last().unwrap()["source"]["offset"], last);
    assert_eq!(fixture.dropped("too_large"), 1);
    assert_eq!(fixture.read(REPLIES, before + 1).len(), before + 1, "the last request's");
}

#[test]
fn what_does_not_fit_into_a_dead_letter_is_left_out_and_its_place_is_kept() {
    let mut fixture = Fixture::new(flags(1, 10), |_| {});
    let large = " ".repeat(9 << 20);
    fixture.ask(Some(b"u"), &[("x-mine", "kept")], large.as_bytes());
    fixture.ask(Some(b"u"), &[("x-large", &large), ("x-mine", "kept")], b"{");
    fixture.ask(Some(large.as_bytes()), &[("x-mine", "kept")], br#"{"flag_name": "f0"}"#);
    fixture.ask(Some(b"u"), &[], br#"{"flag_name": "f0"}"#);
    fixture.start();
    assert_eq!(fixture.events(1)[0]["source"]["offset"], 3);
    let letters = fixture.dead_letters(3);
    let codes: Vec<_> =
        letters.iter().map(|dead_letter| header(dead_letter, "error-code").unwrap()).collect();
    assert_eq!(codes, ["TOO_LARGE", "NOT_JSON", "TOO_LARGE"]);
    for (offset, dead_letter) in letters.iter().enumerate() {
        assert_eq!(header(dead_letter, "source-offset"), Some(offset.to_string().as_str()));
        assert_eq!((header(dead_letter, "body-omitted"), dead_letter.payload()), (Some("true"), None));
        assert_eq!(header(dead_letter, "x-mine"), Some("kept"));
    }
    let omitted: Vec<_> = letters
        .iter()
        .map(|dead_letter| {
            (header(dead_letter, "key-omitted"), header(dead_letter, "headers-omitted"), dead_letter.key())
        })
        .collect();
    let key = Some(b"u".as_slice());
    assert_eq!(omitted, [(None, None, key), (None, Some("1"), key), (Some("true"), None, None)]);
}

#[test]
fn everything_that_results_repeat_is_bounded_before_any_is_made() {
    let mut fixture = Fixture::new(flags(1, 10), |_| {});
    let names: Vec<_> = (0..1_000).map(|number| format!("n{number}")).collect();
    let with = |field: &str, bytes: usize| {
        let mut request = json!({"flag_names": names});
        request[field] = json!("x".repeat(bytes));
        request.to_string()
    };
    let plain = json!({"flag_names": names}).to_string();
    let defaults = json!({"flag_names": names, "default_values": {"n1": "d".repeat(900_000)}}).to_string();
    let context = json!({"flag_names": names, "context": {"a": "c".repeat(100_000)}}).to_string();
    let (key, id) = ("k".repeat((64 << 10) + 1), "c".repeat(1_025));
    let refused: [(Option<&str>, &str, String, &str); 7] = [
        (None, "", with("environment", 101), "environment"),
        (None, "", with("user_id", 4_097), "user_id"),
        (None, "", with("session_id", 4_097), "session_id"),
        (None, "", with("request_id", 100_000), "request"),
        (None, "", context, "request"),
        (Some(&key), "", plain.clone(), "key"),
        (None, &id, plain.clone(), "correlation-id"),
    ];
    for (key, id, body, _) in &refused {
        let headers: &[(&str, &str)] = if id.is_empty() { &[] } else { &[("correlation-id", id)] };
        fixture.ask(key.map(str::as_bytes), headers, body.as_bytes());
    }
    // Values of the maximum accepted length; a default is repeated for its own flag only.
    let key = "k".repeat(60_000);
    fixture.ask(Some(key.as_bytes()), &[("correlation-id", &id[1..])], plain.as_bytes());
    fixture.ask(None, &[], defaults.as_bytes());
    fixture.start();
    let letters = fixture.dead_letters(refused.len());
    for (dead_letter, (.., field)) in letters.iter().zip(&refused) {
        let message = header(dead_letter, "error-message").unwrap();
        assert!(message.starts_with(&format!("{field}: expected")), "{field}: {message}");
    }
    let events = fixture.events(2_000);
    let offsets: BTreeSet<_> = events.iter().map(|event| event["source"]["offset"].as_i64()).collect();
    assert_eq!(offsets, [Some(7), Some(8)].into());
}

#[test]
fn many_unknown_reply_topics_cost_their_replies_only() {
    let mut fixture = Fixture::new(flags(1, 10), |_| {});
    let requests = 300;
    for number in 0..requests {
        let topic = format!("{REPLIES}-{number}");
        fixture.ask(Some(b"u"), &[("reply-to", &topic)], br#"{"flag_name": "f0"}"#);
    }
    fixture.start();
    let offsets: Vec<_> =
        fixture.events(requests).iter().map(|event| event["source"]["offset"].clone()).collect();
    assert_eq!(offsets, (0..requests).map(Value::from).collect::<Vec<_>>());
    assert_eq!(fixture.dropped("topic_unknown"), requests as u64);
    // A topic that exists still receives its replies.
    fixture.ask_until_replied();
}

#[test]
fn a_batch_ends_within_a_fetch_and_what_is_left_of_it_comes_again_in_order() {
    let small = |config: &mut Config| config.delivery.batch_max_bytes = 64 << 10;
    let mut fixture = Fixture::new(flags(100, 10), small);
    let (requests, flags) = (60, 100);
    let mut body = request(flags);
    body["context"] = json!({"noise": "c".repeat(1_000)});
    for _ in 0..requests {
        fixture.ask(Some(b"u"), &[], body.to_string().as_bytes());
    }
    fixture.start();
    let events = fixture.events(requests * flags);
    let places: Vec<_> = events
        .iter()
        .map(|event| {
            (event["source"]["offset"].as_u64().unwrap(), event["source"]["index"].as_u64().unwrap())
        })
        .collect();
    let expected: Vec<_> =
        (0..requests as u64).flat_map(|offset| (0..flags as u64).map(move |index| (offset, index))).collect();
    assert_eq!(places, expected, "each once and in order");
    // 60 requests of about 160 KB each: their results take several batches.
    let batches = &fixture.parts.metrics.evaluate.batches;
    let committed = batches.get_or_create(&crate::metrics::BatchLabels { outcome: "committed" }).get();
    assert!(committed >= 5, "{committed} batches");
}
