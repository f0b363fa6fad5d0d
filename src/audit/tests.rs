#![allow(clippy::unwrap_used)]
//! Tests of the whole sink, with an embedded broker and SQLite.

use std::collections::BTreeSet;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::AssertSqlSafe;

use super::*;
use crate::config::{Profile, Secret, load_from};
use crate::dev::Broker;
use crate::health::{Registry, State};
use crate::kafka::dead_letter::DeadLetterRecord;

const DEADLINE: Duration = Duration::from_secs(60);

struct Fixture {
    broker: Broker,
    config: Arc<Config>,
    database: Database,
    metrics: Arc<Metrics>,
    health: Registry,
    shutdown: Shutdown,
    sink: Option<Sink>,
    producer: BaseProducer,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let broker = Broker::start().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let address = ("KAFKA_BOOTSTRAP_SERVERS".into(), broker.address().into());
        let mut config = load_from(None, [address], Profile::Service).unwrap().config;
        config.topics.partitions = 2;
        config.audit.log_id = Some("one".to_owned());
        broker.create_topics(&config).unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let database = Database::open(&Secret::new(url), "test").unwrap();
        database.migrate().await.unwrap();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", broker.address())
            .set("message.max.bytes", "20000000")
            .set("compression.type", "lz4")
            .create()
            .unwrap();
        Self {
            broker,
            config: Arc::new(config),
            database,
            metrics: Metrics::new(),
            health: Registry::new("test"),
            shutdown: Shutdown::new(),
            sink: None,
            producer,
            _folder: folder,
        }
    }

    fn start(&mut self) {
        let parts = Parts {
            config: Arc::clone(&self.config),
            formats: Arc::default(),
            database: self.database.clone(),
            metrics: Arc::clone(&self.metrics),
            shutdown: self.shutdown.clone(),
            pipelines: Pipelines::new(&self.health, &self.config, &self.metrics),
        };
        self.sink = Some(Sink::start(&parts).unwrap());
    }

    /// Sends a record, and returns once the broker has acknowledged it.
    fn send(&self, topic: &str, partition: i32, value: &[u8]) {
        let header = Header { key: "traceparent", value: Some("t") };
        let headers = OwnedHeaders::new().insert(header);
        let record = BaseRecord::to(topic).partition(partition).key("k").payload(value).headers(headers);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.flush(DEADLINE).unwrap();
    }

    async fn number(&self, query: &str) -> i64 {
        let Database::Sqlite(sqlite) = &self.database else { unreachable!() };
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&sqlite.pool).await.unwrap()
    }

    async fn run(&self, statement: &str) {
        let Database::Sqlite(sqlite) = &self.database else { unreachable!() };
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&sqlite.pool).await.unwrap();
    }

    async fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM feature_flag_evaluations").await
    }

    async fn wait_for_rows(&self, count: i64) {
        let until = Instant::now() + DEADLINE;
        while self.rows().await < count {
            assert!(Instant::now() < until, "{} rows, {:?}", self.rows().await, self.health.overview());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.rows().await, count);
    }

    /// Returns the dead letters, once there are `count` of them.
    fn pending_dead_letters(&self, count: usize) -> Vec<DeadLetterRecord> {
        let config = &self.config;
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.broker.address())
            .set("group.id", "letters")
            .create()
            .unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..config.topics.partitions {
            all.add_partition_offset(&config.topics.dead_letters, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let (mut pending_dead_letters, until) = (Vec::new(), Instant::now() + DEADLINE);
        while pending_dead_letters.len() < count && Instant::now() < until {
            if let Some(Ok(record)) = consumer.poll(Duration::from_millis(50)) {
                pending_dead_letters.push(DeadLetterRecord::read(&record).unwrap());
            }
        }
        pending_dead_letters
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.sink.take().into_iter().for_each(|sink| assert!(sink.join()));
    }
}

/// Event of a request at this offset.
fn event(offset: i64, context: &str) -> Vec<u8> {
    let id = crate::message::event::stream_event_id(7, 0, offset, 0, 1_768_473_000_000 + offset);
    let event = format!(
        r#"{{"event_type":"FEATURE_FLAG_EVALUATED","event_id":"{}","flag_name":"a","environment":"e",
        "enabled":true,"reason":"DEFAULT","evaluated_at":"{}","context":{{"c":"{context}"}},
        "source":{{"topic":"requests","partition":0,"offset":{offset},"index":0}}}}"#,
        std::str::from_utf8(&id).unwrap(),
        chrono::Utc::now().to_rfc3339(),
    );
    event.into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_large_once_decompressed_is_a_dead_letter_and_its_neighbours_are_rows() {
    let mut fixture = Fixture::new().await;
    let topics = fixture.config.topics.clone();
    let large = vec![b' '; 9 << 20];
    fixture.send(&topics.events, 0, &event(0, ""));
    for topic in [&topics.events, &topics.definitions, &topics.conversions] {
        fixture.send(topic, 0, &large);
    }
    fixture.send(&topics.events, 0, &event(1, ""));
    fixture.send(&topics.events, 1, &event(2, ""));
    fixture.start();
    fixture.wait_for_rows(3).await;
    let pending_dead_letters = fixture.pending_dead_letters(3);
    let sources: BTreeSet<_> =
        pending_dead_letters.iter().map(|dead_letter| dead_letter.source_topic.clone()).collect();
    assert_eq!(sources, [topics.events.clone(), topics.definitions, topics.conversions].into());
    for dead_letter in pending_dead_letters {
        assert_eq!(
            (dead_letter.code.as_str(), dead_letter.body_omitted, dead_letter.body),
            ("TOO_LARGE", true, None)
        );
        assert_eq!(
            (dead_letter.key.as_deref(), dead_letter.headers.iter().count()),
            (Some(b"k".as_slice()), 1)
        );
        let offset = i64::from(dead_letter.source_topic == topics.events);
        assert_eq!((dead_letter.source_partition, dead_letter.source_offset), (0, offset));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_is_read_again_and_rows_are_not_doubled() {
    let mut fixture = Fixture::new().await;
    let events = fixture.config.topics.events.clone();
    // The sink is at offset 1,000, and has processed the results of requests up to offset 1.
    fixture
        .run(&format!(
            r#"INSERT INTO sink_offsets (topic, log_id, partition, next_offset, sources) VALUES ('{events}', 'one', 0, 1000,
            '[{{"topic":"requests","partition":0,"offset":1,"index":0,"time_ms":1768473000001}}]')"#
        ))
        .await;
    for offset in 0..4 {
        fixture.send(&events, 0, &event(offset, ""));
    }
    fixture.start();
    fixture.wait_for_rows(2).await;
    assert_eq!(fixture.metrics.audit.truncated.get(), 1);
    assert_eq!(fixture.metrics.audit.repeated.get(), 2);
    let sink = fixture.health.overview().parts["sink"].report.clone();
    assert_eq!(sink.state, State::Degraded);
    let detail = sink.detail.unwrap();
    assert!(detail.contains(&format!("the log of {events} [0] was truncated (position 1000")), "{detail}");
    // The sink continues as usual.
    fixture.send(&events, 0, &event(4, ""));
    fixture.wait_for_rows(3).await;
    let generation =
        format!("SELECT generation FROM sink_offsets WHERE topic = '{events}' AND partition = 0");
    assert_eq!(fixture.number(&generation).await, 1);
    assert_eq!(fixture.metrics.audit.truncated.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_removed_before_they_are_read_are_counted_while_it_runs() {
    let mut fixture = Fixture::new().await;
    let events = fixture.config.topics.events.clone();
    fixture.start();
    fixture.send(&events, 0, &event(0, ""));
    fixture.wait_for_rows(1).await;
    // Nothing can be written. The broker keeps 5 MB, and the sink reads ahead about 16 of 40 MB.
    let Database::Sqlite(sqlite) = fixture.database.clone() else { unreachable!() };
    let lock = sqlite.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let sent = 400;
    // Each record is a batch of its own, so the repeated noise does not compress across records.
    let noise: String = (0..100_000).map(|_| char::from(b'a' + rand::random::<u8>() % 26)).collect();
    for offset in 1..=sent {
        fixture.send(&events, 0, &event(offset, &noise));
    }
    lock.rollback().await.unwrap();
    let until = Instant::now() + DEADLINE;
    let expired = || i64::try_from(fixture.metrics.audit.expired.get()).unwrap();
    while fixture.rows().await + expired() < sent + 1 {
        assert!(Instant::now() < until, "{} rows, {} expired", fixture.rows().await, expired());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(expired() > 0);
    assert_eq!(fixture.rows().await + expired(), sent + 1, "each is a row or counted");
    let detail = fixture.health.overview().parts["sink"].report.detail.clone().unwrap();
    assert!(detail.contains("Kafka deleted records"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_event_is_a_row_for_each_result_and_is_not_doubled() {
    let mut fixture = Fixture::new().await;
    let topics = fixture.config.topics.clone();
    let bulk = |offset: i64, first: u32, flags: &[&str]| {
        let id = crate::message::event::stream_event_id(7, 0, offset, first, 1_768_473_000_000 + offset);
        let results: Vec<_> = flags
            .iter()
            .map(|flag| serde_json::json!({"flag_name": flag, "enabled": true, "reason": "DEFAULT", "typed_value": 5}))
            .collect();
        let event = serde_json::json!({"event_type": "FEATURE_FLAGS_EVALUATED",
            "event_id": std::str::from_utf8(&id).unwrap(), "environment": "e", "user_id": "ann",
            "evaluated_at": chrono::Utc::now().to_rfc3339(), "context": {"c": "x"}, "flags_version": 7,
            "source": {"topic": "requests", "partition": 0, "offset": offset, "index": first}, "results": results});
        event.to_string().into_bytes()
    };
    fixture.send(&topics.events, 0, &bulk(0, 0, &["a", "b"]));
    fixture.send(&topics.events, 0, &bulk(0, 2, &["c"]));
    // Written again after a crash, in another division; only the last result is new.
    fixture.send(&topics.events, 0, &bulk(0, 1, &["b", "c", "d"]));
    fixture.send(&topics.events, 0, &event(1, ""));
    fixture.start();
    fixture.wait_for_rows(5).await;
    let shared =
        "user_id = 'ann' AND context = '{\"c\":\"x\"}' AND evaluated_value = '5' AND flags_version = 7";
    let of_bulk = format!("SELECT count(DISTINCT event_id) FROM feature_flag_evaluations WHERE {shared}");
    assert_eq!(fixture.number(&of_bulk).await, 4);
    let sum = "SELECT sum(source_index * 10 + unicode(flag_name)) FROM feature_flag_evaluations WHERE user_id = 'ann'";
    let letters = i64::from(b'a') + i64::from(b'b') + i64::from(b'c') + i64::from(b'd');
    assert_eq!(fixture.number(sum).await, 60 + letters);
    assert_eq!(fixture.metrics.audit.repeated.get(), 2);
}
