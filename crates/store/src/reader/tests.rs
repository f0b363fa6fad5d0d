//! Tests of the reader with librdkafka's mock broker, which has no compaction and no transaction isolation.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use crate::kafka::Secret;

use super::super::definition_table::Saved;
use super::super::disk::DiskSnapshot;
use super::super::status::LoadedFrom;
use super::super::test_records::value;
use super::*;

const TOPIC: &str = "feature-flag-definitions";

struct Fixture {
    folder: tempfile::TempDir,
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

struct Running {
    store: Arc<Store>,
    metrics: Arc<StoreMetrics>,
    shutdown: Shutdown,
    reader: Reader,
}

impl Fixture {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        cluster.create_topic("feature-flag-overrides", 1, 1).unwrap();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("linger.ms", "0")
            .create()
            .unwrap();
        Self { folder: tempfile::tempdir().unwrap(), cluster, producer }
    }

    fn start(&self) -> Running {
        self.start_with(false)
    }

    fn start_with(&self, start_without_source: bool) -> Running {
        let mut kafka =
            KafkaConfig { bootstrap_servers: self.cluster.bootstrap_servers(), ..KafkaConfig::default() };
        // The mock broker answers a fetch only after the wait time, even if records arrive earlier.
        kafka.client.insert("fetch.wait.max.ms".to_owned(), Secret::new("10"));
        let config = ReaderConfig {
            kafka,
            definitions: TOPIC.to_owned(),
            overrides: "feature-flag-overrides".to_owned(),
            environments: Vec::new(),
            state_dir: Some(self.folder.path().to_owned()),
            expected: Expected { sources: Vec::new(), start_without_source },
            topic_ids: None,
        };
        let (store, metrics, shutdown) =
            (Arc::new(Store::default()), Arc::new(StoreMetrics::default()), Shutdown::new());
        let reader = Reader::start(config, Arc::clone(&store), Arc::clone(&metrics), shutdown.clone());
        Running { store, metrics, shutdown, reader: reader.unwrap() }
    }

    fn set(&self, key: &str, version: u64) {
        self.send(BaseRecord::to(TOPIC).key(key).payload(&value(key, version, true)));
    }

    fn send(&self, record: BaseRecord<'_, str, Vec<u8>>) {
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.flush(Duration::from_secs(5)).unwrap();
    }
}

impl Running {
    fn until(&self, what: &str, condition: impl Fn(&Store) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(&self.store) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.store.status());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self) {
        self.shutdown.cancel();
        assert!(self.reader.join());
    }
}

fn has(store: &Store, flag: &str) -> bool {
    store.load().environment("e").is_some_and(|flags| flags.get(flag).is_some())
}

#[test]
fn the_whole_topic_is_read_and_then_followed() {
    let fixture = Fixture::new();
    fixture.set("e/a", 1);
    fixture.set("e/a", 2);
    fixture.set("e/b", 3);
    let running = fixture.start();
    running.until("ready", Store::is_ready);
    assert_eq!((running.store.version(), running.store.status().flags), (3, 2));

    fixture.set("e/c/d", 4);
    running.until("a live change", |store| has(store, "c/d"));
    fixture.send(BaseRecord::to(TOPIC).key("e/broken").payload(&b"{".to_vec()));
    let version = Header { key: "version", value: Some("5") };
    fixture.send(BaseRecord::to(TOPIC).key("e/a").headers(OwnedHeaders::new().insert(version)));
    running.until("a tombstone", |store| !has(store, "a"));
    assert_eq!(running.store.version(), 5);
    assert_eq!(running.store.status().refused_total, 1);
    running.until("a sign of life", |store| store.status().follow_error.is_none());
    assert_eq!(running.metrics.version.get(), 5);
    running.stop();
}

#[test]
fn an_empty_topic_is_ready_with_nothing_where_the_operator_wants_that() {
    let fixture = Fixture::new();
    let running = fixture.start_with(true);
    running.until("ready", Store::is_ready);
    assert_eq!(running.store.version(), 0);
    running.stop();
}

#[test]
fn without_kafka_the_snapshot_of_the_last_run_is_served_and_kafka_wins_when_it_is_back() {
    let fixture = Fixture::new();
    fixture.set("e/a", 1);
    let running = fixture.start();
    running.until("ready", Store::is_ready);
    running.stop();

    fixture.cluster.broker_down(-1).unwrap();
    let running = fixture.start();
    running.until("ready from disk", Store::is_ready);
    assert!(has(&running.store, "a"));
    assert_eq!(running.store.status().loaded_from, LoadedFrom::Disk);
    fixture.cluster.broker_up(-1).unwrap();
    running.until("read from Kafka", |store| store.status().loaded_from == LoadedFrom::Kafka);
    fixture.set("e/a", 2);
    running.until("followed", |store| store.version() == 2);
    running.stop();
}

#[test]
fn a_broker_that_goes_away_shows_in_the_standing_and_changes_nothing() {
    let fixture = Fixture::new();
    fixture.set("e/a", 1);
    let running = fixture.start();
    running.until("ready", Store::is_ready);
    fixture.cluster.broker_down(-1).unwrap();
    running.until("trouble", |store| store.status().follow_error.is_some());
    assert!(running.store.is_ready() && has(&running.store, "a"));
    fixture.cluster.broker_up(-1).unwrap();
    running.until("over", |store| store.status().follow_error.is_none());
    fixture.set("e/a", 2);
    running.until("followed", |store| store.version() == 2);
    running.stop();
}

#[test]
fn flags_that_only_the_disk_has_are_gone_once_the_topic_is_read() {
    let fixture = Fixture::new();
    fixture.set("e/kept", 1);
    let saved = Saved {
        values: ["e/kept", "e/gone"].map(|key| value(key, 1, true).into()).to_vec(),
        ..Default::default()
    };
    let (topic, sources) = (TOPIC.to_owned(), Vec::new());
    let snapshot = DiskSnapshot { saved_at: chrono::Utc::now(), topic, offset: 0, saved, sources };
    Disk::new(fixture.folder.path()).save(&snapshot).unwrap();
    let running = fixture.start();
    running.until("read from Kafka", |store| store.status().loaded_from == LoadedFrom::Kafka);
    assert!(has(&running.store, "kept") && !has(&running.store, "gone"));
    running.stop();
}

/// Measures the time from sending a change until it is in force. `cargo test --release -- --ignored
/// --nocapture latency`
#[test]
#[ignore = "measures"]
fn latency_of_a_change_and_of_a_load() {
    let fixture = Fixture::new();
    for number in 0..10_000 {
        let key = format!("e/flag-{number}");
        let value = value(&key, number + 1, true);
        let record = BaseRecord::to(TOPIC).key(&key).payload(&value);
        fixture.producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    fixture.producer.flush(Duration::from_secs(30)).unwrap();
    let started = Instant::now();
    let running = fixture.start();
    running.until("ready", Store::is_ready);
    let flags = running.store.status().flags;
    println!("{flags} flags from the mock broker in {:?}", started.elapsed());
    let mut latencies: Vec<Duration> = (0..500)
        .map(|number| {
            let value = value("e/flag-7", 20_000 + number, true);
            let sent = Instant::now();
            let record = BaseRecord::to(TOPIC).key("e/flag-7").payload(&value);
            fixture.producer.send(record).map_err(|(error, _)| error).unwrap();
            while running.store.version() < 20_000 + number {
                fixture.producer.poll(Duration::ZERO);
                std::hint::spin_loop();
            }
            sent.elapsed()
        })
        .collect();
    latencies.sort_unstable();
    println!(
        "sent -> in force: p50 {:?}, p99 {:?}, max {:?}",
        latencies[250], latencies[495], latencies[499]
    );
    let changed = Instant::now();
    for number in 0..1_000_u64 {
        let key = format!("e/flag-{number}");
        let bytes = value(&key, 30_000 + number, true);
        let body: crate::message::definition::Definition = serde_json::from_slice(&bytes).unwrap();
        let flag = crate::flag::CompiledFlag::compile("e", body.version, body.definition.get()).unwrap();
        let change = crate::flag::FlagChange::Set(Arc::new(flag));
        running.store.apply([change]);
    }
    println!("compile and swap among {flags}: {:?} each", changed.elapsed() / 1_000);
    running.stop();
}
