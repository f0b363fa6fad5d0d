//! The books: every request that is in Kafka against every result that is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::{ClientConfig, TopicPartitionList};
use serde::Deserialize;
use serde::de::IgnoredAny;

use flagstream::message::evaluations::single_events;

use super::kafka::{consumer, next};
use super::{Sender, TEST_TIMEOUT, Topics, avro};

/// How many mistakes are printed.
const SHOWN: usize = 10;

/// Origin of a result: partition, offset, and index among the request's flags.
pub type Coordinate = (i32, i64, u32);

/// Reads results from the beginning of their topics, and stores the origin of each.
pub struct Ledger {
    topics: Topics,
    reply_to: String,
    sender: Sender,
    results: BaseConsumer,
    /// Events by their own partition, in its order.
    events: BTreeMap<i32, Vec<Coordinate>>,
    /// Own offset and evaluation time of each event, in the order of `events`.
    origins: BTreeMap<i32, Vec<(i64, String)>>,
    /// Source coordinates of dead letters.
    dead_letters: Vec<(i32, i64)>,
    /// Request ids of replies.
    replies: Vec<String>,
    /// Highest source offset seen, by source partition.
    reached: BTreeMap<i32, i64>,
}

/// Content of the requests topic.
#[derive(Debug, Default)]
struct Asked {
    events: BTreeSet<Coordinate>,
    dead_letters: BTreeSet<(i32, i64)>,
    replies: BTreeSet<String>,
    /// How many replies were asked for: two loads have the same ids.
    reply_count: usize,
}

/// An event. Changes of flags and results of HTTP calls have no source in Kafka, and the books leave them out.
#[derive(Debug, Deserialize)]
struct Event {
    source: Option<AnySource>,
    evaluated_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AnySource {
    Place(Source),
    Other(IgnoredAny),
}

#[derive(Debug, Deserialize)]
struct Source {
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    index: Option<u32>,
}

impl Event {
    /// Topic and place of the request that this is the result of, and the time of its evaluation.
    fn of_request(self) -> Option<(String, Coordinate, String)> {
        let Some(AnySource::Place(source)) = self.source else { return None };
        Some((source.topic?, (source.partition?, source.offset?, source.index?), self.evaluated_at?))
    }
}

#[derive(Debug, Deserialize)]
struct Request {
    request_id: Option<String>,
    flag_name: Option<String>,
    flag_names: Option<Vec<IgnoredAny>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("reached", &self.reached).finish_non_exhaustive()
    }
}

impl Ledger {
    /// `reply_to` is the one topic that requests name for replies.
    pub fn open(topics: &Topics, reply_to: &str) -> Self {
        Self {
            sender: Sender::new(&topics.kafka),
            results: consumer(&topics.kafka, &[&topics.events, &topics.dead_letters, reply_to]),
            topics: topics.clone(),
            reply_to: reply_to.to_owned(),
            events: BTreeMap::new(),
            origins: BTreeMap::new(),
            dead_letters: Vec::new(),
            replies: Vec::new(),
            reached: BTreeMap::new(),
        }
    }

    /// Sends a request to every partition and waits for its result: then the current owners of the partitions work,
    /// and all earlier requests are answered. Returns how long that took.
    pub fn sign_of_life(&mut self, what: &str, limit: Duration) -> Duration {
        let started = Instant::now();
        let asked: Vec<_> = (0..self.topics.partitions).map(|partition| self.ask(partition)).collect();
        let deadline = started + limit;
        while let Some((partition, offset)) = asked.iter().find(|(p, o)| self.reached.get(p) < Some(o)) {
            assert!(
                Instant::now() < deadline,
                "not within {limit:?}: {what}; partition {partition} is at {:?}, not at {offset}\n{}",
                self.reached.get(partition),
                self.positions()
            );
            self.read(Duration::from_millis(20));
        }
        started.elapsed()
    }

    /// Reads what is there, and returns how many results were seen so far.
    pub fn progress(&mut self) -> usize {
        self.read(Duration::from_millis(10));
        self.events.values().map(Vec::len).sum()
    }

    /// Once the load has stopped: each request has each of its outcomes exactly once, in the order of its partition.
    /// Where the events came from.
    pub fn assert_exactly_once(mut self) -> Vec<Coordinate> {
        let asked = self.settle();
        let doubled = self.doubled();
        assert!(
            doubled.is_empty(),
            "{} events twice, such as {:?}\n{}",
            doubled.len(),
            first(&doubled),
            self.trace(doubled[0])
        );
        let deduplicated = self.deduplicated();
        // No event was doubled, so what the rule for readers drops was out of order.
        let dropped = self.events.values().map(Vec::len).sum::<usize>() - deduplicated.len();
        assert_eq!(dropped, 0, "events out of order");
        self.compare(&asked, &deduplicated);
        assert_eq!(self.dead_letters.len(), asked.dead_letters.len(), "dead letters twice");
        assert_eq!(self.replies.len(), asked.reply_count, "replies twice");
        self.report("exactly once", &asked);
        deduplicated
    }

    /// Once the load has stopped: a reader that keeps the last (offset, index) per source partition, and nothing
    /// else, has each event exactly once and in order.
    pub fn assert_last_pair_suffices(mut self) -> Vec<Coordinate> {
        let asked = self.settle();
        let deduplicated = self.deduplicated();
        self.compare(&asked, &deduplicated);
        self.report("at least once", &asked);
        deduplicated
    }

    fn report(&self, what: &str, asked: &Asked) {
        let events: usize = self.events.values().map(Vec::len).sum();
        println!(
            "{what}: {} events for {} asked, {} dead letters for {}, {} replies for {}",
            events,
            asked.events.len(),
            self.dead_letters.len(),
            asked.dead_letters.len(),
            self.replies.len(),
            asked.replies.len(),
        );
    }

    /// Reads until the last request is answered, and everything asked for that is not in a partition's order too.
    fn settle(&mut self) -> Asked {
        self.sign_of_life("the last requests answered", TEST_TIMEOUT * 2);
        let asked = self.asked();
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let dead: BTreeSet<_> = self.dead_letters.iter().copied().collect();
            let replied: BTreeSet<_> = self.replies.iter().cloned().collect();
            if dead == asked.dead_letters && replied == asked.replies {
                return asked;
            }
            if Instant::now() > deadline {
                let missing: Vec<_> = asked.dead_letters.difference(&dead).collect();
                let extra: Vec<_> = dead.difference(&asked.dead_letters).collect();
                let silent: Vec<_> = asked.replies.difference(&replied).collect();
                panic!(
                    "dead letters: {} missing {:?}, {} too many {:?}; replies: {} missing {:?}",
                    missing.len(),
                    first(&missing),
                    extra.len(),
                    first(&extra),
                    silent.len(),
                    first(&silent),
                );
            }
            self.read(Duration::from_millis(50));
        }
    }

    fn compare(&self, asked: &Asked, answered: &[Coordinate]) {
        let set: BTreeSet<_> = answered.iter().copied().collect();
        let lost: Vec<_> = asked.events.difference(&set).collect();
        let invented: Vec<_> = set.difference(&asked.events).collect();
        assert!(
            lost.is_empty() && invented.is_empty(),
            "of {} events {} are lost, such as {:?}, and {} were not asked for, such as {:?}",
            asked.events.len(),
            lost.len(),
            first(&lost),
            invented.len(),
            first(&invented),
        );
    }

    fn doubled(&self) -> Vec<Coordinate> {
        let mut all: Vec<_> = self.events.values().flatten().copied().collect();
        all.sort_unstable();
        all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
    }

    /// How far everybody is, for a failure that needs to be understood.
    fn positions(&self) -> String {
        let topics = &self.topics;
        let reader = |isolation: &str| -> BaseConsumer {
            ClientConfig::new()
                .set("bootstrap.servers", &topics.kafka)
                .set("group.id", format!("{}-evaluator", topics.prefix))
                .set("isolation.level", isolation)
                .create()
                .unwrap()
        };
        let (all, committed) = (reader("read_uncommitted"), reader("read_committed"));
        let limit = Duration::from_secs(5);
        let end = |reader: &BaseConsumer, topic: &str, partition| {
            reader.fetch_watermarks(topic, partition, limit).map(|(_, end)| end)
        };
        let mut requests = TopicPartitionList::new();
        requests.add_partition_range(&topics.requests, 0, topics.partitions - 1);
        let group = all.committed_offsets(requests, limit);
        let lines = (0..topics.partitions).map(|partition| {
            let taken = group.as_ref().ok().and_then(|group| {
                group.find_partition(&topics.requests, partition).map(|element| element.offset())
            });
            format!(
                "partition {partition}: requests to {:?}, taken to {taken:?}; events to {:?}, committed to {:?}, \
                 read from {:?}",
                end(&all, &topics.requests, partition),
                end(&all, &topics.events, partition),
                end(&committed, &topics.events, partition),
                self.origins.get(&partition).and_then(|read| read.last()),
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Every appearance of one result.
    fn trace(&self, wanted: Coordinate) -> String {
        let mut lines = Vec::new();
        for (partition, coordinates) in &self.events {
            let found = coordinates.iter().zip(&self.origins[partition]);
            lines.extend(found.filter(|(coordinate, _)| **coordinate == wanted).map(|(_, (offset, at))| {
                format!("{wanted:?} stands at offset {offset} of events-{partition}, evaluated at {at}")
            }));
        }
        lines.join("\n")
    }

    /// The rule of docs/api.md for readers of events.
    fn deduplicated(&self) -> Vec<Coordinate> {
        let mut last: BTreeMap<i32, (i64, u32)> = BTreeMap::new();
        let mut kept = Vec::new();
        for (partition, offset, index) in self.events.values().flatten().copied() {
            if last.get(&partition).is_none_or(|last| *last < (offset, index)) {
                last.insert(partition, (offset, index));
                kept.push((partition, offset, index));
            }
        }
        kept
    }

    fn ask(&self, partition: i32) -> (i32, i64) {
        let id = format!("sign-of-life-{:016x}", rand::random::<u64>());
        let body = format!(r#"{{"request_id":"{id}","flag_name":"theme","environment":"production"}}"#);
        let headers = OwnedHeaders::new().insert(Header { key: "reply-to", value: Some(&self.reply_to) });
        self.sender.send(&self.topics.requests, Some(partition), None, body.as_bytes(), Some(headers))
    }

    fn read(&mut self, patience: Duration) {
        let mut patience = patience;
        while let Some(message) = next(&self.results, patience) {
            patience = Duration::ZERO;
            if message.topic() == self.topics.events {
                let event = message.detach();
                drop(message);
                self.enter(&event);
            } else if message.topic() == self.topics.dead_letters {
                self.dead_letters
                    .push((number(&message, "source-partition"), number(&message, "source-offset")));
            } else {
                let reply: Request =
                    serde_json::from_slice(&avro::to_json(message.payload().unwrap())).unwrap();
                self.replies.push(reply.request_id.unwrap());
            }
        }
    }

    /// Enters the results of an event, of which a bulk event has several.
    fn enter(&mut self, message: &impl Message) {
        let json = avro::to_json(message.payload().unwrap());
        let singles = single_events(std::str::from_utf8(&json).unwrap()).unwrap();
        let bodies = if singles.is_empty() { vec![json.to_vec()] } else { singles };
        for body in bodies {
            let event: Event = serde_json::from_slice(&body).unwrap();
            let Some((topic, place, evaluated_at)) = event.of_request() else { continue };
            let (partition, offset, _) = place;
            assert_eq!(topic, self.topics.requests);
            assert_eq!(partition, message.partition(), "an event in another partition than its request");
            let reached = self.reached.entry(partition).or_insert(-1);
            *reached = (*reached).max(offset);
            self.origins.entry(partition).or_default().push((message.offset(), evaluated_at));
            self.events.entry(partition).or_default().push(place);
        }
    }

    /// Reads the whole requests topic. No other writer may be active.
    fn asked(&self) -> Asked {
        let requests = consumer(&self.topics.kafka, &[&self.topics.requests]);
        let mut asked = Asked::default();
        let mut open: BTreeMap<i32, i64> = (0..self.topics.partitions)
            .map(|partition| {
                let (_, end) = requests
                    .fetch_watermarks(&self.topics.requests, partition, Duration::from_secs(10))
                    .unwrap();
                (partition, end - 1)
            })
            .collect();
        // The deadline is for the next record: after an hour of load there are millions.
        let mut deadline = Instant::now() + TEST_TIMEOUT;
        while !open.is_empty() {
            assert!(Instant::now() < deadline, "requests not read: {open:?}");
            let Some(message) = next(&requests, Duration::from_millis(100)) else {
                continue;
            };
            deadline = Instant::now() + TEST_TIMEOUT;
            if open.get(&message.partition()) == Some(&message.offset()) {
                open.remove(&message.partition());
            }
            asked.enter(&message, &self.reply_to);
        }
        asked
    }
}

impl Asked {
    fn enter(&mut self, message: &impl Message, reply_to: &str) {
        let (partition, offset) = (message.partition(), message.offset());
        let Ok(request) = serde_json::from_slice::<Request>(&avro::to_json(message.payload().unwrap()))
        else {
            self.dead_letters.insert((partition, offset));
            return;
        };
        let count = match (&request.flag_name, &request.flag_names) {
            (Some(_), None) => 1,
            (None, Some(flags)) => flags.len(),
            _ => panic!("not a request of the load: {request:?}"),
        };
        self.events.extend((0u32..).take(count).map(|index| (partition, offset, index)));
        let is_ours =
            |header: Header<'_, &[u8]>| header.key == "reply-to" && header.value == Some(reply_to.as_bytes());
        if message.headers().is_some_and(|headers| headers.iter().any(is_ours)) {
            self.replies.insert(request.request_id.unwrap());
            self.reply_count += 1;
        }
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(message: &impl Message, header: &str) -> T {
    let headers = message.headers().unwrap();
    let header = headers.iter().find(|known| known.key == header).unwrap();
    std::str::from_utf8(header.value.unwrap()).unwrap().parse().unwrap()
}

fn first<T>(all: &[T]) -> &[T] {
    &all[..all.len().min(SHOWN)]
}
