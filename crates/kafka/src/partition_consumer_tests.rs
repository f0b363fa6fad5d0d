//! Partitions that are read one by one, on a mock broker.

use std::time::Instant;

use rdkafka::Offset;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::*;

const TOPIC: &str = "requests";
const DEADLINE: Duration = Duration::from_secs(20);

struct Fixture {
    cluster: MockCluster<'static, DefaultProducerContext>,
    consumer: PartitionConsumer,
}

impl Fixture {
    /// A consumer with both partitions of the topic, each with so many records.
    fn new(records: [usize; 2]) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 2, 1).unwrap();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "evaluators")
            // After a member has left, the mock group waits for a second less than this before it assigns partitions.
            .set("session.timeout.ms", "5000")
            .set("heartbeat.interval.ms", "100")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest");
        let consumer = PartitionConsumer::subscribe(&config, TOPIC).unwrap();
        let mut fixture = Self { cluster, consumer };
        for (partition, count) in [0, 1].into_iter().zip(records) {
            fixture.send(partition, count);
        }
        fixture.wait_until("both partitions", |consumer| consumer.waiting().count() == 2);
        fixture
    }

    fn send(&self, partition: i32, count: usize) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.cluster.bootstrap_servers()).create().unwrap();
        for _ in 0..count {
            producer.send(BaseRecord::<(), [u8]>::to(TOPIC).partition(partition).payload(b"{}")).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
    }

    fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&mut PartitionConsumer) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.consumer.serve().unwrap();
            if holds(&mut self.consumer) {
                return;
            }
            assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
            self.consumer.wait(Duration::from_millis(10));
        }
    }

    /// Reads a partition from `from` up to `to`, `limit` records at once.
    fn read(&mut self, partition: i32, from: usize, to: usize, limit: usize) {
        let mut next = i64::try_from(from).unwrap();
        self.wait_until("the records", |consumer| {
            let records = consumer.peek(partition, limit);
            assert!(records.len() <= limit);
            for record in records.iter() {
                assert_eq!((record.partition(), record.offset()), (partition, next));
                next += 1;
            }
            let count = records.len();
            consumer.advance(partition, count);
            next == i64::try_from(to).unwrap()
        });
    }

    fn list(&self, partition: i32, offset: i64) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(TOPIC, partition, Offset::Offset(offset)).unwrap();
        list
    }
}

#[test]
fn each_partition_is_read_by_itself_and_in_order() {
    let mut fixture = Fixture::new([200, 100]);
    fixture.read(1, 0, 30, 10);
    fixture.read(0, 0, 200, 50);
    fixture.read(1, 30, 100, 10);
    assert!(fixture.consumer.waiting().all(|(_, waiting)| waiting == 0));
}

#[test]
fn records_that_are_left_come_next() {
    let mut fixture = Fixture::new([100, 0]);
    fixture.read(0, 0, 7, 7);
    assert_eq!(fixture.consumer.first_taken(0), Some(7));
    assert!(fixture.consumer.waiting_in(0) >= TAKEN_RECORDS - 7);
    for _ in 0..2 {
        assert_eq!(fixture.consumer.peek(0, 1).iter().next().unwrap().offset(), 7);
    }
    fixture.read(0, 7, 100, TAKEN_RECORDS);
    assert_eq!(fixture.consumer.first_taken(0), None);
}

#[test]
fn a_partition_begins_where_it_is_sought_though_records_were_taken() {
    let mut fixture = Fixture::new([100, 5]);
    fixture.read(0, 0, 10, 10);
    let sought = fixture.consumer.inner().seek_partitions(fixture.list(0, 3), DEADLINE).unwrap();
    sought.elements().iter().for_each(|element| element.error().unwrap());
    fixture.consumer.discard(0);
    fixture.read(0, 3, 100, 10);
    fixture.read(1, 0, 5, 10);
}

#[test]
fn nothing_is_read_of_a_paused_partition() {
    let mut fixture = Fixture::new([100, 100]);
    fixture.read(0, 0, 10, 10);
    fixture.consumer.pause(&fixture.list(0, 0)).unwrap();
    assert_eq!(fixture.consumer.first_taken(0), None);
    fixture.read(1, 0, 100, 10);
    assert!(fixture.consumer.peek(0, 10).is_empty());
    fixture.consumer.inner().resume(&fixture.list(0, 0)).unwrap();
    let sought = fixture.consumer.inner().seek_partitions(fixture.list(0, 10), DEADLINE).unwrap();
    sought.elements().iter().for_each(|element| element.error().unwrap());
    fixture.read(0, 10, 100, 10);
}

#[test]
fn a_partition_that_goes_and_comes_back_begins_at_its_committed_offset() {
    let mut fixture = Fixture::new([100, 100]);
    fixture.read(0, 0, 10, 10);
    fixture.consumer.peek(1, 10);
    let committed = fixture.list(0, 5);
    fixture.consumer.inner().commit(&committed, rdkafka::consumer::CommitMode::Sync).unwrap();
    fixture.consumer.inner().unsubscribe();
    fixture.wait_until("no partition", |consumer| consumer.waiting().count() == 0);
    fixture.consumer.inner().subscribe(&[TOPIC]).unwrap();
    fixture.wait_until("both partitions again", |consumer| consumer.waiting().count() == 2);
    fixture.read(0, 5, 100, 10);
    fixture.read(1, 0, 100, 10);
}

#[test]
fn an_arrival_ends_a_wait() {
    let mut fixture = Fixture::new([0, 0]);
    fixture.consumer.wait(Duration::ZERO);
    fixture.send(1, 1);
    fixture.consumer.wait(DEADLINE);
    fixture.read(1, 0, 1, 10);
}
