//! Exactly once: every record of the source is in one output topic, once and in order, whatever is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::harness::{Service, Stack, TEST_TIMEOUT, is_long};

use super::{Fixture, PARTITIONS, SELECTORS, headers};

/// How often records are sent; each time as many as the rate asks for.
const TICK: Duration = Duration::from_millis(5);
const RECORDS_PER_SECOND: u64 = 1_500;
const KILLS: usize = 6;
/// One record in so many is not JSON.
const BAD_EVERY: u64 = 50;

/// Number of the last dead letter.
const LAST: &str = "18446744073709551615";

/// A thread that sends orders until it is stopped.
struct Orders {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Orders {
    fn start(fixture: &Fixture) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (kafka, topic) = (fixture.group.topics.kafka.clone(), fixture.source.clone());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", &kafka)
                .set("enable.idempotence", "true")
                .set("linger.ms", "5")
                .set("message.timeout.ms", "300000")
                .create()
                .unwrap();
            let (started, mut sent) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let due = started.elapsed().as_millis() as u64 * RECORDS_PER_SECOND / 1_000;
                while sent < due {
                    send(&producer, &topic, sent);
                    sent += 1;
                }
                producer.poll(TICK);
            }
            producer.flush(Duration::from_secs(60)).unwrap();
            sent
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn is_bad(number: u64) -> bool {
    number % BAD_EVERY == 7
}

/// Sends the order with this number. Numbers increase within a partition.
fn send(producer: &BaseProducer, topic: &str, number: u64) {
    let plan = if number % 4 < 2 { "gold" } else { "free" };
    let value = match is_bad(number) {
        true => format!("order {number}"),
        false => format!(r#"{{"n":{number},"customer":{{"id":"c-{}","plan":"{plan}"}}}}"#, number % 500),
    };
    let (number, partition) = (number.to_string(), i32::try_from(number % PARTITIONS as u64).unwrap());
    let header = OwnedHeaders::new().insert(Header { key: "n", value: Some(&number) });
    let mut record = BaseRecord::to(topic).partition(partition).key("order").payload(&value).headers(header);
    while let Err((_, back)) = producer.send(record) {
        producer.poll(Duration::from_millis(10));
        record = back;
    }
}

/// Content of the topics: the numbers of records in each partition of each output, and of dead letters.
#[derive(Default)]
struct Books {
    outputs: BTreeMap<(String, i32), Vec<u64>>,
    dead_letters: Vec<u64>,
}

impl Books {
    /// Reads everything that was written until every partition of the source is processed. The proof that nothing more
    /// comes is a tombstone for each partition, which follows all earlier records into every output.
    fn read(fixture: &Fixture) -> Self {
        let mut books = Self::default();
        for partition in 0..PARTITIONS {
            fixture.tombstone(partition);
        }
        let outputs = fixture.outputs.iter().map(String::as_str);
        for topic in outputs {
            let mut reader = fixture.reader(topic);
            reader.until("the last records", TEST_TIMEOUT * 2, |seen| {
                let ends = seen.iter().filter(|record| record.payload.is_none());
                ends.map(|record| record.position.0).collect::<BTreeSet<_>>().len() == PARTITIONS as usize
            });
            for record in reader.seen.iter().filter(|record| record.payload.is_some()) {
                let number: u64 = record.header("n").unwrap().parse().unwrap();
                books.outputs.entry((topic.to_owned(), record.position.0)).or_default().push(number);
            }
        }
        // Dead letters have one key and so one partition: this one follows all others.
        fixture.send(0, "order", "the last dead letter", headers(&[("n", b"18446744073709551615")]));
        let mut letters = fixture.reader(&fixture.group.topics.dead_letters);
        letters.wait("the last dead letter", TEST_TIMEOUT, |letter| letter.header("n") == Some(LAST));
        let numbers = letters.seen.iter().filter(|letter| letter.header("n") != Some(LAST));
        books.dead_letters = numbers.map(|letter| letter.header("n").unwrap().parse().unwrap()).collect();
        books
    }

    fn count(&self) -> usize {
        self.outputs.values().map(Vec::len).sum()
    }

    fn numbers(&self) -> BTreeSet<u64> {
        self.outputs.values().flatten().copied().collect()
    }
}

/// Kills instances under load. Returns what was written at the end, and the number of records sent.
fn kills(mode: &str, settings: &str) -> (Fixture, Books, u64) {
    let (stack, _shared) = Stack::shared();
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::new(stack, &format!("{SELECTORS}\n{settings}"));
    fixture.group = fixture
        .group
        .set("FLAGSTREAM_DELIVERY__MODE", mode)
        .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s")
        .set("FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT", "2s");
    let mut services: Vec<_> = ["a", "b"].iter().map(|name| fixture.group.start(name)).collect();
    let orders = Orders::start(&fixture);
    let mut target = fixture.reader(&fixture.target);
    let kills = if is_long() { 20 } else { KILLS };
    for round in 0..kills {
        // In the middle of batches: records have just arrived.
        let seen = target.seen.len();
        target.until("records arrive", TEST_TIMEOUT, |all| all.len() > seen);
        let pause = Instant::now() + Duration::from_millis(chance.random_range(50..1_000));
        target.until("a moment", TEST_TIMEOUT, |_| Instant::now() > pause);
        let victim = round % services.len();
        services[victim].kill();
        services[victim].spawn();
    }
    services.iter_mut().for_each(Service::wait_until_ready);
    let sent = orders.stop();
    let books = Books::read(&fixture);
    println!("{mode}: {kills} kills, {sent} records");
    (fixture, books, sent)
}

fn assert_exactly_once(books: &Books, sent: u64) {
    let good: BTreeSet<u64> = (0..sent).filter(|number| !is_bad(*number)).collect();
    let lost: Vec<_> = good.difference(&books.numbers()).copied().collect();
    assert!(lost.is_empty(), "{} records are lost, such as {:?}", lost.len(), lost.first());
    assert_eq!(books.count(), good.len(), "records were written twice");
    for ((topic, partition), numbers) in &books.outputs {
        assert!(numbers.is_sorted(), "{topic}/{partition} is out of order");
        let modulus = PARTITIONS as u64;
        let place = u64::try_from(*partition).unwrap();
        assert!(
            numbers.iter().all(|number| number % modulus == place),
            "another partition than the source's"
        );
    }
    let dead: BTreeSet<_> = books.dead_letters.iter().copied().collect();
    assert_eq!(dead, (0..sent).filter(|number| is_bad(*number)).collect());
    assert_eq!(dead.len(), books.dead_letters.len(), "dead letters were written twice");
}

/// Each good record has an event for each of its two flags, once.
fn assert_audited(fixture: &Fixture, books: &Books) {
    let expected = books.count() * 2;
    let mut events = fixture.reader(&fixture.group.topics.events);
    events.until("the events", TEST_TIMEOUT, |seen| seen.len() >= expected);
    let places: BTreeSet<_> = events.seen.iter().map(|event| event.source()).collect();
    assert_eq!((places.len(), events.seen.len()), (expected, expected), "events were written twice");
}

#[test]
fn kills_cost_nothing_with_headers_and_routes() {
    let (fixture, books, sent) =
        kills("transactional", "route = { new-pricing = { on = \"@-canary\", off = \"@-flagged\" } }");
    assert_exactly_once(&books, sent);
    assert_audited(&fixture, &books);
    let canary: usize = books
        .outputs
        .iter()
        .filter(|((topic, _), _)| topic.ends_with("canary"))
        .map(|(_, numbers)| numbers.len())
        .sum();
    assert!(canary > 0 && canary < books.count(), "{canary} of {}", books.count());
}

#[test]
fn kills_cost_nothing_with_a_member() {
    let (_, books, sent) = kills("transactional", "write = { member = \"flags\" }\naudit = \"none\"");
    assert_exactly_once(&books, sent);
}

#[test]
fn at_least_once_loses_nothing_and_keeps_the_order_of_first_appearances() {
    let (_, books, sent) = kills("at_least_once", "audit = \"none\"");
    let good: BTreeSet<u64> = (0..sent).filter(|number| !is_bad(*number)).collect();
    assert_eq!(books.numbers(), good);
    for ((topic, partition), numbers) in &books.outputs {
        let (mut last, mut first) = (None, Vec::new());
        for number in numbers.iter().copied() {
            if last.is_none_or(|last| number > last) {
                first.push(number);
                last = Some(number);
            }
        }
        let all = numbers.iter().copied().collect::<BTreeSet<_>>().len();
        assert_eq!(first.len(), all, "{topic}/{partition}: a record appears first after a later one");
    }
}
