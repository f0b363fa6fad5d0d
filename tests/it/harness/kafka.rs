//! Producing and consuming as any other service would.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use super::http::block_on;
use super::{TEST_TIMEOUT, avro, wait_for};

/// A record's place in its topic.
pub type Position = (i32, i64);

/// Sends one record after the other and waits until it is there.
pub struct Sender {
    producer: FutureProducer,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

impl Sender {
    pub fn new(kafka: &str) -> Self {
        Self::compressing(kafka, "none")
    }

    /// A producer that compresses with this codec, or `none`.
    pub fn compressing(kafka: &str, codec: &str) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "0")
            .set("compression.type", codec)
            // What a topic takes is the broker's decision.
            .set("message.max.bytes", "8388608")
            .create()
            .unwrap();
        Self { producer }
    }

    /// Sends a record; the key decides on the partition where none is given.
    pub fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: Option<OwnedHeaders>,
    ) -> Position {
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).payload(payload);
        record.partition = partition;
        record.key = key;
        record.headers = headers;
        self.deliver(record)
    }

    pub fn tombstone(&self, topic: &str, key: &[u8], headers: OwnedHeaders) -> Position {
        self.deliver(FutureRecord::to(topic).key(key).headers(headers))
    }

    pub fn tombstone_in(&self, topic: &str, partition: i32, key: &[u8]) -> Position {
        self.deliver(FutureRecord::to(topic).partition(partition).key(key))
    }

    fn deliver(&self, record: FutureRecord<'_, [u8], [u8]>) -> Position {
        let delivered = block_on(self.producer.send(record, Duration::from_secs(30)));
        let delivery = delivered.map_err(|(error, _)| error).unwrap();
        (delivery.partition, delivery.offset)
    }
}

/// A committed record.
#[derive(Debug, Clone)]
pub struct Received {
    pub position: Position,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub timestamp_ms: Option<i64>,
}

impl Received {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            position: (message.partition(), message.offset()),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect(),
            timestamp_ms: message.timestamp().to_millis(),
        }
    }

    pub fn json(&self) -> Value {
        let payload = self.payload.as_deref().expect("a tombstone");
        serde_json::from_slice(&avro::to_json(payload))
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(payload)))
    }

    /// The text of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(std::str::from_utf8(value.as_deref()?).unwrap())
    }

    /// Partition, offset and index of the request that this is the result of.
    pub fn source(&self) -> (i32, i64, u64) {
        let body = self.json();
        let source = &body["source"];
        let partition = source["partition"].as_i64().unwrap();
        let index = source["index"].as_u64().unwrap();
        (i32::try_from(partition).unwrap(), source["offset"].as_i64().unwrap(), index)
    }
}

/// Reads a topic from its beginning, committed records only.
pub struct TopicReader {
    consumer: BaseConsumer,
    topic: String,
    /// All records read so far.
    pub seen: Vec<Received>,
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("topic", &self.topic).field("seen", &self.seen.len()).finish()
    }
}

impl TopicReader {
    pub fn open(kafka: &str, topic: &str) -> Self {
        Self { consumer: consumer(kafka, &[topic]), topic: topic.to_owned(), seen: Vec::new() }
    }

    /// The first record that fits, read already or yet to come.
    pub fn wait(&mut self, what: &str, limit: Duration, mut fits: impl FnMut(&Received) -> bool) -> Received {
        let deadline = Instant::now() + limit;
        let mut looked_at = 0;
        loop {
            while let Some(received) = self.seen.get(looked_at) {
                if fits(received) {
                    return received.clone();
                }
                looked_at += 1;
            }
            assert!(
                Instant::now() < deadline,
                "{}: not within {limit:?}: {what}; {} other records",
                self.topic,
                self.seen.len()
            );
            self.poll(Duration::from_millis(100));
        }
    }

    /// Reads until `enough` of what was seen.
    pub fn until(&mut self, what: &str, limit: Duration, mut enough: impl FnMut(&[Received]) -> bool) {
        let deadline = Instant::now() + limit;
        while !enough(&self.seen) {
            assert!(
                Instant::now() < deadline,
                "{}: not within {limit:?}: {what}; {} records",
                self.topic,
                self.seen.len()
            );
            self.poll(Duration::from_millis(100));
        }
    }

    fn poll(&mut self, patience: Duration) {
        let mut patience = patience;
        while let Some(received) = next(&self.consumer, patience) {
            // What the leader says of its sources stands between the definitions of flags.
            let is_status = received.key().is_some_and(|key| key.starts_with(b"/"));
            if !(is_status && self.topic.ends_with("definitions")) {
                self.seen.push(Received::of(&received));
            }
            patience = Duration::ZERO;
        }
    }
}

/// A consumer of all partitions of these topics from the beginning, committed records only.
pub fn consumer(kafka: &str, topics: &[&str]) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", "it-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        // A broker that comes back may not know a place for a moment: nothing must be left out then.
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "500")
        // A client that has found the topic missing would look for it again only minutes later.
        .set("topic.metadata.refresh.interval.ms", "1000")
        .set("allow.auto.create.topics", "false")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..partitions(&consumer, topic) {
            all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
    }
    consumer.assign(&all).unwrap();
    consumer
}

/// The next record. A broker that is away for a while is what some tests are about.
pub fn next(consumer: &BaseConsumer, patience: Duration) -> Option<BorrowedMessage<'_>> {
    match consumer.poll(patience)? {
        Ok(message) => Some(message),
        Err(KafkaError::MessageConsumption(code)) if is_passing(code) => None,
        Err(error) => panic!("{error}"),
    }
}

fn is_passing(code: rdkafka::types::RDKafkaErrorCode) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::AllBrokersDown | Code::BrokerTransportFailure | Code::OperationTimedOut | Code::Resolve
    )
}

/// Waits for the topic: one that was just made is not known at once.
fn partitions(consumer: &BaseConsumer, topic: &str) -> i32 {
    let count = wait_for(&format!("topic {topic}"), TEST_TIMEOUT, || {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).ok()?;
        let topic = metadata.topics().first()?;
        (topic.error().is_none() && !topic.partitions().is_empty()).then(|| topic.partitions().len())
    });
    i32::try_from(count).unwrap()
}
