//! Memory over time, while reply topics, listeners and instances come and go. `scripts/soak` runs it.

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rdkafka::message::{Header, OwnedHeaders};

use crate::harness::{
    Database, Flags, Group, Ledger, Load, Redis, Sender, Service, Stack, TEST_TIMEOUT, Topics,
};

/// One round: topics and listeners are replaced, and memory is measured.
const ROUND: Duration = Duration::from_secs(10);
/// New reply topics in a round. Each is deleted some rounds later.
const REPLY_TOPICS: usize = 16;
const ROUNDS_KEPT: usize = 3;
/// Listeners to the stream of changes that are connected in a round, and replaced in the next one.
const LISTENERS: usize = 200;
/// An instance is killed every so many rounds.
const ROUNDS_PER_KILL: usize = 6;
const REQUESTS_PER_SECOND: u32 = 500;
/// Few commits, so that other work on the machine goes on for the hour.
const TARGET_LATENCY: &str = "200ms";
/// The last quarter may use this much more memory than the second one.
const GROWTH_MAX_KIB: u64 = 32 << 10;

#[test]
fn memory_stays_flat() {
    let Ok(seconds) = std::env::var("FLAGSTREAM_TEST_SOAK_S") else {
        eprintln!("left out: scripts/soak runs it");
        return;
    };
    let duration = Duration::from_secs(seconds.parse().unwrap());
    let (stack, _shared) = Stack::shared();
    let (database, redis) = (Database::create(stack), Redis::database(stack));
    let group = Group::new(stack)
        .set("DATABASE_URL", &database.url)
        .set("REDIS_URL", &redis.url)
        .set("FLAGSTREAM_DELIVERY__TARGET_LATENCY", TARGET_LATENCY)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read");
    Flags::new(&group.topics).set_load();
    let reply_to = group.topics.reply_topic("load");
    let mut ledger = Ledger::open(&group.topics, &reply_to);
    let (mut kept, mut killed) = (group.start("kept"), group.start("killed"));
    let load = Load::start(&group.topics, &reply_to, REQUESTS_PER_SECOND);
    let started = Instant::now();
    let (mut churn, mut samples) = (Churn::new(&group.topics), Vec::new());
    for round in 1.. {
        churn.replace(round, &kept);
        if round % ROUNDS_PER_KILL == 0 {
            killed.kill();
            killed.spawn();
        }
        while started.elapsed() < ROUND * u32::try_from(round).unwrap() {
            ledger.progress();
        }
        kept.assert_running();
        samples.push(kept.resident_kib());
        let (seconds, events) = (started.elapsed().as_secs(), ledger.progress());
        println!("| {seconds} s | {events} events | {} MiB |", samples[round - 1] >> 10);
        if started.elapsed() >= duration {
            break;
        }
    }
    killed.wait_until_ready();
    ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    println!("{} requests of the load", load.stop());
    ledger.assert_exactly_once();
    assert_flat(&samples);
}

/// Compares the last quarter with the second one: memory that is filled once, such as caches, is filled by then.
fn assert_flat(samples: &[u64]) {
    let quarter = samples.len() / 4;
    let mean = |from: usize, to: usize| samples[from..to].iter().sum::<u64>() / (to - from).max(1) as u64;
    let (before, after) = (mean(quarter, quarter * 2), mean(quarter * 3, samples.len()));
    println!("second quarter: {} MiB, last quarter: {} MiB", before >> 10, after >> 10);
    assert!(after <= before + GROWTH_MAX_KIB, "memory grows");
}

/// Reply topics and listeners that are replaced in each round.
struct Churn<'t> {
    topics: &'t Topics,
    sender: Sender,
    rounds: VecDeque<Vec<String>>,
    listeners: Vec<TcpStream>,
}

impl<'t> Churn<'t> {
    fn new(topics: &'t Topics) -> Self {
        let sender = Sender::new(&topics.kafka);
        Self { topics, sender, rounds: VecDeque::new(), listeners: Vec::new() }
    }

    fn replace(&mut self, round: usize, service: &Service) {
        let made: Vec<_> =
            (0..REPLY_TOPICS).map(|number| self.topics.reply_topic(&format!("{round}-{number}"))).collect();
        for topic in &made {
            let body = br#"{"flag_name":"theme","environment":"production","user_id":"someone"}"#;
            let headers = OwnedHeaders::new().insert(Header { key: "reply-to", value: Some(topic) });
            self.sender.send(&self.topics.requests, None, None, body, Some(headers));
        }
        self.rounds.push_back(made);
        if self.rounds.len() > ROUNDS_KEPT {
            self.topics.delete(&self.rounds.pop_front().unwrap());
        }
        self.listeners.clear();
        self.listeners.extend((0..LISTENERS).map(|_| {
            let mut stream = TcpStream::connect(service.url.trim_start_matches("http://")).unwrap();
            write!(stream, "GET /api/v1/changes HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        }));
    }
}
