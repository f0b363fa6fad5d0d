#![allow(clippy::unwrap_used)]
//! Dead letters that the client or the broker rejects, on a mock broker.

use std::time::Instant;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::config::{Profile, load_from};
use crate::kafka::dead_letter::DeadLetterRecord;

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
const TOO_LARGE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;

struct Fixture {
    cluster: MockCluster<'static, DefaultProducerContext>,
    config: Arc<Config>,
    log: Log,
}

impl Fixture {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let address = ("KAFKA_BOOTSTRAP_SERVERS".into(), cluster.bootstrap_servers().into());
        let config = load_from(None, [address], Profile::Service).unwrap().config;
        for topic in [&config.topics.events, &config.topics.dead_letters] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let log = Log { topic: config.topics.events.clone(), id: "one".to_owned() };
        Self { cluster, config: Arc::new(config), log }
    }

    fn send(&self, batch: &Batch) -> Result<(), Vec<UnsentDeadLetter>> {
        DeadLetters::new(Arc::clone(&self.config)).send(&self.log, batch)
    }

    /// Reads `count` dead letters, by the offset of the original record.
    fn pending_dead_letters(&self, count: usize) -> BTreeMap<i64, DeadLetterRecord> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader")
            .create()
            .unwrap();
        let mut all = rdkafka::TopicPartitionList::new();
        let topic = &self.config.topics.dead_letters;
        all.add_partition_offset(topic, 0, rdkafka::Offset::Beginning).unwrap();
        consumer.assign(&all).unwrap();
        let mut pending_dead_letters = BTreeMap::new();
        let until = Instant::now() + DEADLINE;
        while pending_dead_letters.len() < count && Instant::now() < until {
            if let Some(Ok(record)) = consumer.poll(std::time::Duration::from_millis(100)) {
                let dead_letter = DeadLetterRecord::read(&record).unwrap();
                pending_dead_letters.insert(dead_letter.source_offset, dead_letter);
            }
        }
        assert_eq!(pending_dead_letters.len(), count);
        pending_dead_letters
    }
}

fn batch(records: &[(&[u8], OwnedHeaders)]) -> Batch {
    let mut batch = Batch::default();
    for (offset, (value, headers)) in records.iter().enumerate() {
        batch.refuse_made_up(i64::try_from(offset).unwrap(), b"key", value, headers.clone());
    }
    batch
}

fn header(value: &[u8]) -> OwnedHeaders {
    OwnedHeaders::new().insert(Header { key: "traceparent", value: Some(value) })
}

#[test]
fn what_this_client_refuses_is_sent_with_as_much_as_it_takes() {
    let fixture = Fixture::new();
    let large = vec![b' '; 9 << 20];
    let records: [(&[u8], _); 4] =
        [(b"a", header(b"x")), (&large, header(b"x")), (b"c", header(&large)), (b"d", header(b"x"))];
    fixture.send(&batch(&records)).unwrap();
    let pending_dead_letters = fixture.pending_dead_letters(4);
    let kept = |offset: i64| {
        let dead_letter = pending_dead_letters.get(&offset).unwrap();
        let body = dead_letter.body.as_deref().map(<[u8]>::to_vec);
        (body, dead_letter.key.is_some(), dead_letter.headers.iter().count(), dead_letter.body_omitted)
    };
    assert_eq!(kept(0), (Some(b"a".to_vec()), true, 1, false));
    assert_eq!(kept(1), (None, true, 1, true), "without its body");
    assert_eq!(kept(2), (None, false, 0, true), "neither key nor headers");
    assert_eq!(kept(3), (Some(b"d".to_vec()), true, 1, false));
    assert_eq!(pending_dead_letters.get(&2).unwrap().code, "INVALID_EVENT");
}

#[test]
fn what_a_broker_refuses_is_sent_with_less_each_time() {
    // Rejections of, in this order: all dead letters in one request, the dead letter alone, without its body, with
    // coordinates only.
    for (refusals, expected) in [(1, (true, true)), (2, (false, true)), (3, (false, false))] {
        let fixture = Fixture::new();
        fixture.cluster.request_errors(RDKafkaApiKey::Produce, &vec![TOO_LARGE; refusals]);
        fixture.send(&batch(&[(b"a", header(b"x"))])).unwrap();
        let pending_dead_letters = fixture.pending_dead_letters(1);
        let dead_letter = pending_dead_letters.get(&0).unwrap();
        assert_eq!((dead_letter.body.is_some(), dead_letter.key.is_some()), expected, "{refusals}");
        assert_eq!(dead_letter.body_omitted, !expected.0);
    }
}

#[test]
fn a_letter_that_nobody_takes_is_an_error_and_no_loop() {
    let fixture = Fixture::new();
    fixture.cluster.request_errors(RDKafkaApiKey::Produce, &[TOO_LARGE; 4]);
    let [unsent] = fixture.send(&batch(&[(b"a", header(b"x"))])).unwrap_err().try_into().unwrap();
    assert_eq!((unsent.partition, unsent.offset), (0, 0));
    let error = unsent.error;
    assert!(matches!(error, DeadLetterError::Undelivered(RDKafkaErrorCode::MessageSizeTooLarge)), "{error}");
}

#[test]
fn offsets_of_another_generation_are_other_records() {
    let fixture = Fixture::new();
    let mut pending_dead_letters = DeadLetters::new(Arc::clone(&fixture.config));
    let mut batch = batch(&[(b"a", header(b"x"))]);
    let moved = |generation| super::super::batch::Move {
        partition: 0,
        from: 0,
        to: 1,
        generation,
        sources: Default::default(),
        streams: Vec::new(),
    };
    let count = |pending_dead_letters: &mut DeadLetters, batch: &Batch| {
        pending_dead_letters.send(&fixture.log, batch).unwrap();
        let topic = &fixture.config.topics.dead_letters;
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", fixture.cluster.bootstrap_servers())
            .create()
            .unwrap();
        consumer.fetch_watermarks(topic, 0, DEADLINE).unwrap().1
    };
    batch.moves.push(moved(0));
    assert_eq!(
        (count(&mut pending_dead_letters, &batch), count(&mut pending_dead_letters, &batch)),
        (1, 1),
        "sent once"
    );
    batch.moves = vec![moved(1)];
    assert_eq!(
        (count(&mut pending_dead_letters, &batch), count(&mut pending_dead_letters, &batch)),
        (2, 2),
        "another record at offset 0"
    );
}

#[test]
fn the_dead_letters_of_one_record_are_in_one_transaction() {
    let mut batch = Batch::default();
    let offsets = [(1, 3), (2, TRANSACTION_LETTERS_MAX + 100), (3, 2), (4, 1), (5, TRANSACTION_LETTERS_MAX)];
    for (offset, count) in offsets {
        for _ in 0..count {
            batch.refuse_made_up(offset, b"key", b"value", OwnedHeaders::new());
        }
    }
    let all: Vec<PendingDeadLetter<'_>> =
        batch.entries.iter().map(|entry| (entry, entry.refusal.as_ref().unwrap())).collect();
    let sizes: Vec<_> = transactions(&all).map(<[_]>::len).collect();
    assert_eq!(sizes, [3, TRANSACTION_LETTERS_MAX + 100, 3, TRANSACTION_LETTERS_MAX]);
    assert_eq!(transactions(&[]).count(), 0);
}
