//! Requests of all kinds, at a steady rate, while a test breaks things.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use flagstream::message::avro::Kind;

use super::{Topics, avro};

/// How often requests are sent; each time as many as the rate asks for.
const TICK: Duration = Duration::from_millis(5);

/// A thread that sends requests until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Load {
    /// Sends `rate` requests a second, evenly to all partitions; some ask for many flags, some for a reply,
    /// some are no requests at all.
    pub fn start(topics: &Topics, reply_to: &str, rate: u32) -> Self {
        Self::start_with(topics, reply_to, rate, None)
    }

    /// Every other request is in Avro, under this id.
    pub fn start_with(topics: &Topics, reply_to: &str, rate: u32, schema: Option<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (topics, reply_to, stopped) = (topics.clone(), reply_to.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || run(&topics, &reply_to, rate, schema, &stopped));
        Self { stop, thread: Some(thread) }
    }

    /// Waits until everything sent is in Kafka; how many requests that were.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("the load failed")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(topics: &Topics, reply_to: &str, rate: u32, schema: Option<u32>, stop: &AtomicBool) -> u64 {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &topics.kafka)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "300000")
        .set("reconnect.backoff.max.ms", "500")
        .create()
        .unwrap();
    let started = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while sent < due {
            send(&producer, topics, reply_to, sent, schema);
            sent += 1;
        }
        producer.poll(TICK);
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    sent
}

fn send(producer: &BaseProducer, topics: &Topics, reply_to: &str, number: u64, schema: Option<u32>) {
    let text = body(number);
    let body = match schema {
        Some(id) if number.is_multiple_of(2) && text.starts_with('{') => {
            avro::message(id, Kind::Request, &text)
        }
        _ => text.into_bytes(),
    };
    let key = format!("user-{}", number % 1_000);
    let mut record = BaseRecord::to(&topics.requests)
        .partition(i32::try_from(number % u64::from(topics.partitions.unsigned_abs())).unwrap())
        .key(&key)
        .payload(&body);
    if number % 23 == 5 {
        record =
            record.headers(OwnedHeaders::new().insert(Header { key: "reply-to", value: Some(reply_to) }));
    }
    while let Err((error, back)) = producer.send(record) {
        assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
        producer.poll(Duration::from_millis(10));
        record = back;
    }
}

/// The body of one request of the mixture.
fn body(number: u64) -> String {
    let user = number % 1_000;
    if number % 50 == 7 {
        format!("no request {number}")
    } else if number % 20 == 3 {
        format!(
            r#"{{"request_id":"r-{number}","flag_names":["on","off","theme","unknown"],"default_values":{{"theme":"light"}},"user_id":"user-{user}","environment":"production","context":{{"region":"us-west"}}}}"#
        )
    } else {
        format!(
            r#"{{"request_id":"r-{number}","flag_name":"theme","default_value":"light","user_id":"user-{user}","environment":"production","context":{{"region":"us-west","subscription_tier":"premium"}}}}"#
        )
    }
}
