#![allow(clippy::unwrap_used)]
//! Dead letters of rows that several instances read, on a mock broker.

use std::time::Instant;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::*;
use crate::config::{Profile, load_from};
use crate::kafka::dead_letter::DeadLetterRecord;
use crate::message::request::RefusalCode;

const TOPIC: &str = "rows";
const DEADLINE: Duration = Duration::from_secs(30);

struct Fixture {
    cluster: MockCluster<'static, DefaultProducerContext>,
    config: Arc<Config>,
}

impl Fixture {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let address = ("KAFKA_BOOTSTRAP_SERVERS".into(), cluster.bootstrap_servers().into());
        let config = load_from(None, [address], Profile::Service).unwrap().config;
        cluster.create_topic(TOPIC, 2, 1).unwrap();
        cluster.create_topic(&config.topics.dead_letters, 1, 1).unwrap();
        Self { cluster, config: Arc::new(config) }
    }

    /// Sends rows as an instance of its own.
    fn send(&self, rows: &[MalformedRow]) {
        let reader = TableReader::open(&self.config.kafka, "attributes-user", TOPIC, CALL_TIMEOUT).unwrap();
        let metrics = Arc::new(Metrics::new());
        DeadLetters::new(&self.config, "user", &metrics, &Shutdown::new()).send(&reader, rows).unwrap();
    }

    /// Sets the marks as the transaction of an instance does. This broker does not keep the offsets of transactions.
    fn mark(&self, next: &BTreeMap<i32, i64>) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", format!("{}-attributes-user", self.config.kafka.group_id))
            .create()
            .unwrap();
        consumer.commit(&offsets(TOPIC, next).unwrap(), CommitMode::Sync).unwrap();
    }

    /// Reads the dead letters up to the end of their topic.
    fn dead_letters(&self) -> Vec<DeadLetterRecord> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(&self.config.topics.dead_letters, 0, Offset::Beginning).unwrap();
        consumer.assign(&all).unwrap();
        let (mut letters, until) = (Vec::new(), Instant::now() + DEADLINE);
        loop {
            assert!(Instant::now() < until, "the topic has no end");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => letters.extend(DeadLetterRecord::read(&record)),
                Some(Err(KafkaError::PartitionEOF(_))) => return letters,
                _ => {}
            }
        }
    }
}

fn row(partition: i32, offset: i64, body: &[u8], header: &[u8]) -> MalformedRow {
    let headers = OwnedHeaders::new().insert(Header { key: "traceparent", value: Some(header) });
    let refusal = Refusal {
        code: RefusalCode::NotJson,
        field: String::new(),
        message: "at byte 1".to_owned(),
        wrong_type: false,
    };
    MalformedRow {
        partition,
        offset,
        key: Some(b"ann".to_vec()),
        body: Some(body.to_vec()),
        headers,
        refusal,
    }
}

#[test]
fn a_row_that_another_instance_has_sent_is_not_sent_again() {
    let fixture = Fixture::new();
    let rows = |last: i64| -> Vec<_> {
        [(0, 4), (1, 7), (0, last)].map(|(partition, offset)| row(partition, offset, b"{", b"x")).into()
    };
    fixture.send(&rows(5));
    fixture.mark(&[(0, 6), (1, 8)].into());
    fixture.send(&rows(5));
    fixture.send(&rows(9));
    let letters = fixture.dead_letters();
    let found: Vec<_> = letters.iter().map(|it| (it.source_partition, it.source_offset)).collect();
    assert_eq!(found, [(0, 4), (1, 7), (0, 5), (0, 9)]);
    let first = letters.first().unwrap();
    assert_eq!((first.code.as_str(), first.source_topic.as_str()), ("NOT_JSON", TOPIC));
    assert_eq!((first.key.as_deref(), first.body.as_deref()), (Some(&b"ann"[..]), Some(&b"{"[..])));
    assert_eq!(first.headers.iter().count(), 1);
}

#[test]
fn a_dead_letter_that_is_too_large_loses_its_body_and_then_all_but_its_position() {
    let fixture = Fixture::new();
    let large = vec![b' '; 9 << 20];
    fixture.send(&[row(0, 1, b"{", b"x"), row(0, 2, &large, b"x"), row(0, 3, b"{", &large)]);
    let kept = |it: DeadLetterRecord| {
        (it.source_offset, (it.body.is_some(), it.key.is_some(), it.headers.iter().count(), it.body_omitted))
    };
    // By offset, because readers of this broker also see records of aborted transactions.
    let found: BTreeMap<_, _> = fixture.dead_letters().into_iter().map(kept).collect();
    let expected = [(1, (true, true, 1, false)), (2, (false, true, 1, true)), (3, (false, false, 0, true))];
    assert_eq!(found, expected.into());
}

#[test]
fn only_rows_behind_the_marks_are_sent() {
    let rows = [row(0, 4, b"{", b"x"), row(0, 5, b"{", b"x"), row(1, 1, b"{", b"x")];
    let marks = [(0, 5)].into();
    let found: Vec<_> = unsent(&marks, &rows).map(|row| (row.partition, row.offset)).collect();
    assert_eq!(found, [(0, 5), (1, 1)]);
}
