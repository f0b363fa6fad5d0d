//! External changes of the partitions of the requests topic: codecs, growth, retention, deletion.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::harness::{
    Database, Flag, Flags, Group, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, get, is_long, wait_until,
};

/// A deployment with one flag, and the events it answers with.
struct Fixture {
    group: Group,
    sender: Sender,
    events: TopicReader,
}

impl Fixture {
    fn new(group: Group) -> Self {
        let topics = &group.topics;
        Flags::new(topics).set("production", Flag::on("on"));
        Self {
            sender: Sender::new(&topics.kafka),
            events: TopicReader::open(&topics.kafka, &topics.events),
            group,
        }
    }

    /// Sends requests with these ids to one partition.
    fn ask(&self, partition: i32, ids: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let ids: BTreeSet<String> = ids.into_iter().collect();
        for id in &ids {
            self.ask_with(&self.sender, partition, id);
        }
        ids
    }

    fn ask_with(&self, sender: &Sender, partition: i32, id: &str) {
        // Even enough that each codec makes less of it.
        let context = json!({"padding": " ".repeat(4_000)});
        let request = json!({
            "request_id": id, "flag_name": "on", "user_id": "u", "environment": "production", "context": context,
        });
        let body = request.to_string();
        sender.send(&self.group.topics.requests, Some(partition), None, body.as_bytes(), None);
    }

    /// Sends a request as [`Fixture::ask`] does, from a sender whose clock shows `at`.
    fn ask_at(
        &self,
        at: DateTime<Utc>,
        partition: i32,
        ids: impl IntoIterator<Item = String>,
    ) -> BTreeSet<String> {
        let topics = &self.group.topics;
        let sender: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &topics.kafka).create().unwrap();
        let ids: BTreeSet<String> = ids.into_iter().collect();
        for id in &ids {
            let request =
                json!({"request_id": id, "flag_name": "on", "user_id": "u", "environment": "production"});
            let body = request.to_string();
            let record = BaseRecord::<(), str>::to(&topics.requests).partition(partition).payload(&body);
            sender.send(record.timestamp(at.timestamp_millis())).map_err(|(error, _)| error).unwrap();
        }
        sender.flush(TEST_TIMEOUT).unwrap();
        ids
    }

    /// Waits until each of these requests has an event.
    fn wait_for_answers(&mut self, what: &str, ids: &BTreeSet<String>) {
        self.events.until(what, TEST_TIMEOUT * 2, |seen| {
            let answered: BTreeSet<String> = seen.iter().map(request_id).collect();
            ids.is_subset(&answered)
        });
    }

    /// How many different requests have an event.
    fn answered(&self) -> BTreeSet<String> {
        self.events.seen.iter().map(request_id).collect()
    }
}

fn request_id(event: &crate::harness::Received) -> String {
    event.json()["request_id"].as_str().unwrap_or_default().to_owned()
}

fn ids(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{prefix}-{number}"))
}

/// State and detail of a part in health.
fn part(service: &Service, name: &str) -> (String, String) {
    let health = service.health();
    let text = |member: &str| health["parts"][name][member].as_str().unwrap_or_default().to_owned();
    (text("state"), text("detail"))
}

/// How many partitions are stuck for this reason.
fn stuck(service: &Service, reason: &str) -> f64 {
    service.metrics().sum("flagstream_evaluate_stuck", &[("reason", reason)])
}

fn is_up(service: &Service) -> bool {
    part(service, "evaluator").0 == "up"
}

#[test]
fn every_codec_is_read_in_requests_events_and_definitions() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = Group::new(stack).set("DATABASE_URL", &database.url);
    let topics = group.topics.clone();
    for topic in [&topics.events, &topics.definitions] {
        topics.configure(topic, "compression.type", "zstd");
    }
    let mut fixture = Fixture::new(group);
    let service = fixture.group.start("one");
    let mut asked = BTreeSet::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        fixture.ask_with(&Sender::compressing(&topics.kafka, codec), 0, codec);
        asked.insert(codec.to_owned());
    }
    fixture.wait_for_answers("an answer in every codec", &asked);
    let enabled = |event: &crate::harness::Received| event.json()["enabled"] == Value::Bool(true);
    assert!(fixture.events.seen.iter().all(enabled), "the definition was read");
    wait_until("rows of all", TEST_TIMEOUT, || database.audited() == i64::try_from(asked.len()).unwrap());
    // A new instance reads the definitions from Kafka.
    let other = fixture.group.start("two");
    wait_until("the lag is gone", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_evaluate_lag", &[])
            + other.metrics().sum("flagstream_evaluate_lag", &[])
            == 0.0
    });
}

#[test]
fn an_idle_start_is_up_and_its_lag_is_zero_at_rest() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(Group::new(stack).set("FLAGSTREAM_DELIVERY__WORKERS", "2"));
    let service = fixture.group.start("one");
    wait_until("up without a request", TEST_TIMEOUT, || is_up(&service));
    let asked = fixture.ask(0, ids("first", 5));
    fixture.wait_for_answers("answers", &asked);
    let lags = || {
        (0..fixture.group.topics.partitions).map(|partition| {
            service.metrics().sum("flagstream_evaluate_lag", &[("partition", &partition.to_string())])
        })
    };
    wait_until("no lag", TEST_TIMEOUT, || lags().sum::<f64>() == 0.0);
    let log = service.log();
    let expected = ["ILLEGAL_GENERATION", "CONCURRENT_TRANSACTIONS", "generation id is not valid"];
    let alarms = log.lines().filter(|line| line.contains("ERROR") || line.contains("WARN"));
    let alarms: Vec<_> = alarms.filter(|line| expected.iter().any(|cause| line.contains(cause))).collect();
    assert!(alarms.is_empty(), "{alarms:#?}");
}

#[test]
fn new_partitions_wait_for_the_events_topic_while_all_others_go_on() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(Group::new(stack).set("FLAGSTREAM_HEALTH__STUCK_AFTER", "1s"));
    let service = fixture.group.start("one");
    let before = fixture.group.topics.partitions;
    let asked =
        (0..before).flat_map(|partition| fixture.ask(partition, [format!("before-{partition}")])).collect();
    fixture.wait_for_answers("answers before", &asked);
    fixture.group.topics.grow(before + 2);
    fixture.sender = Sender::new(&fixture.group.topics.kafka);
    let after: Vec<_> =
        (0..before + 2).map(|partition| fixture.ask(partition, [format!("after-{partition}")])).collect();
    wait_until("the new partitions are named", TEST_TIMEOUT * 2, || {
        let (state, detail) = part(&service, "evaluator");
        state == "degraded" && detail.contains(&format!("has {before} partitions"))
    });
    let old = after[..before as usize].concat_sets();
    fixture.wait_for_answers("answers of the old partitions", &old);
    let again = fixture.ask(0, ids("while-they-wait", 10));
    fixture.wait_for_answers("they go on", &again);
    let new = after[before as usize..].concat_sets();
    assert!(fixture.answered().is_disjoint(&new));
    assert_eq!(get(&format!("{}/health/ready", service.url)).unwrap().0, 200);
    wait_until("they count as stuck", TEST_TIMEOUT, || stuck(&service, "held") == 2.0);
    // A start in this state serves, too.
    let other = fixture.group.start("two");
    wait_until("kafka is only degraded", TEST_TIMEOUT, || part(&other, "kafka").0 == "degraded");
    let events = fixture.group.topics.events.clone();
    fixture.group.topics.grow_topic(&events, before + 2);
    fixture.events = TopicReader::open(&fixture.group.topics.kafka, &events);
    fixture.wait_for_answers("the new partitions go on by themselves", &new);
    for service in [&service, &other] {
        wait_until("up again", TEST_TIMEOUT, || is_up(service) && stuck(service, "held") == 0.0);
    }
}

trait ConcatSets {
    fn concat_sets(&self) -> BTreeSet<String>;
}

impl ConcatSets for [BTreeSet<String>] {
    fn concat_sets(&self) -> BTreeSet<String> {
        self.iter().flatten().cloned().collect()
    }
}

#[test]
fn requests_that_retention_deletes_are_counted() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(Group::new(stack));
    let topics = fixture.group.topics.clone();
    let mut service = fixture.group.start("one");
    let first = fixture.ask(0, ids("first", 10));
    fixture.wait_for_answers("the first", &first);
    let expired =
        |service: &Service| service.metrics().sum("flagstream_requests_expired_total", &[("partition", "0")]);
    assert_eq!(expired(&service), 0.0);

    // Before a start: 20 are sent, the first 8 of them are deleted.
    service.stop();
    let late: Vec<String> = ids("late", 20).collect();
    for id in &late {
        fixture.ask(0, [id.clone()]);
    }
    topics.delete_records_before(&topics.requests, 0, 18);
    service.spawn();
    service.wait_until_ready();
    fixture.wait_for_answers("those that are left", &late[8..].iter().cloned().collect());
    wait_until("the gap is counted", TEST_TIMEOUT, || expired(&service) == 8.0);
    assert!(service.log().contains("deleted requests before they were read"), "{}", service.log());
    assert_eq!(fixture.answered().len(), 10 + 12);

    // While it runs: frozen, it may have fetched some of them already.
    service.freeze();
    let more = fixture.ask(0, ids("more", 40));
    topics.delete_records_before(&topics.requests, 0, 10 + 20 + 40);
    service.thaw();
    let last = fixture.ask(0, ids("last", 1));
    fixture.wait_for_answers("it goes on", &last);
    wait_until("each is answered or counted", TEST_TIMEOUT, || {
        let answered = fixture.answered().intersection(&more).count();
        answered as f64 + expired(&service) - 8.0 == more.len() as f64
    });

    // A restart counts nothing twice, also if no request has come since.
    service.stop();
    let gone = fixture.ask(1, ids("gone", 5));
    topics.delete_records_before(&topics.requests, 1, 5);
    for _ in 0..2 {
        service.spawn();
        service.wait_until_ready();
        wait_until("up", TEST_TIMEOUT, || is_up(&service));
        service.stop();
    }
    assert!(fixture.answered().is_disjoint(&gone));
}

#[test]
fn a_requests_topic_that_is_deleted_and_created_anew_is_read_from_its_beginning() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(Group::new(stack));
    let topics = fixture.group.topics.clone();
    let service = fixture.group.start("one");
    let old = fixture.ask(0, ids("old", 30));
    fixture.wait_for_answers("the old ones", &old);
    topics.recreate(&topics.requests, topics.partitions);
    // At once, and more than there were: the old position is in the middle of them.
    fixture.sender = Sender::new(&topics.kafka);
    let new = fixture.ask(0, ids("new", 100));
    fixture.wait_for_answers("all of the new ones", &new);
    let recreated = || service.metrics().sum("flagstream_requests_topic_recreated_total", &[]);
    wait_until("it is counted", TEST_TIMEOUT, || recreated() >= 1.0);
    wait_until("health tells it", TEST_TIMEOUT, || {
        let (state, detail) = part(&service, "evaluator");
        state == "up" && detail.contains("deleted and recreated")
    });
    let more = fixture.ask(1, ids("more", 5));
    fixture.wait_for_answers("it goes on", &more);
}

#[test]
fn results_of_a_requests_topic_created_anew_are_rows_whatever_the_senders_clocks_say() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let mut fixture = Fixture::new(Group::new(stack).set("DATABASE_URL", &database.url));
    let topics = fixture.group.topics.clone();
    let service = fixture.group.start("one");
    // The clock of the first sender is an hour ahead.
    let old = fixture.ask_at(Utc::now() + TimeDelta::hours(1), 0, ids("old", 30));
    wait_until("rows of the old topic", TEST_TIMEOUT, || database.audited() == 30);
    topics.recreate(&topics.requests, topics.partitions);
    let sum = |name: &str| service.metrics().sum(name, &[]);
    wait_until("it is found out", TEST_TIMEOUT, || sum("flagstream_requests_topic_recreated_total") >= 1.0);
    let new = fixture.ask_at(Utc::now(), 0, ids("new", 100));
    fixture.wait_for_answers("all of the new ones", &new);
    let id_of =
        |event: &crate::harness::Received| event.json()["source"]["topic_id"].as_str().map(str::to_owned);
    let topic_ids = |of: &BTreeSet<String>| -> BTreeSet<Option<String>> {
        fixture.events.seen.iter().filter(|event| of.contains(&request_id(event))).map(id_of).collect()
    };
    let (before, after) = (topic_ids(&old), topic_ids(&new));
    assert_eq!((before.len(), after.len()), (1, 1), "{before:?} {after:?}");
    assert!(before.is_disjoint(&after) && !before.contains(&None) && !after.contains(&None));
    wait_until("each result is a row", TEST_TIMEOUT, || database.audited() >= 130);
    let rows = database.rows::<(String, i64)>(
        "SELECT request_id, count(*) FROM feature_flag_evaluations GROUP BY request_id ORDER BY request_id",
    );
    assert_eq!(rows.len(), 130);
    assert!(rows.iter().all(|(_, count)| *count == 1), "{rows:?}");
    assert_eq!(sum("flagstream_audit_repeated_total"), 0.0);
}

/// The first requests of each new topic are read before anything has noticed that it is another one.
#[test]
fn requests_that_arrive_while_their_topic_is_created_anew_are_answered_and_audited_once() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let mut fixture = Fixture::new(Group::new(stack).set("DATABASE_URL", &database.url));
    let topics = fixture.group.topics.clone();
    let service = fixture.group.start("one");
    let mut all = 0;
    for round in 0..if is_long() { 20 } else { 3 } {
        let old = fixture.ask(0, ids(&format!("old-{round}"), 5));
        fixture.wait_for_answers("the old ones", &old);
        topics.recreate(&topics.requests, topics.partitions);
        fixture.sender = Sender::new(&topics.kafka);
        let new = fixture.ask(0, ids(&format!("new-{round}"), 60));
        fixture.wait_for_answers("all of the new ones", &new);
        all += old.len() + new.len();
    }
    wait_until("each result is a row", TEST_TIMEOUT, || database.audited() >= i64::try_from(all).unwrap());
    let rows = database.rows::<(String, i64)>(
        "SELECT request_id, count(*) FROM feature_flag_evaluations GROUP BY request_id ORDER BY request_id",
    );
    let twice: Vec<_> = rows.iter().filter(|(_, count)| *count != 1).collect();
    assert!(rows.len() == all && twice.is_empty(), "{} of {all}, more than once: {twice:?}", rows.len());
    let answered: Vec<_> = fixture.events.seen.iter().map(request_id).filter(|id| !id.is_empty()).collect();
    assert_eq!(answered.len(), all, "events committed more than once");
    assert!(service.metrics().sum("flagstream_requests_topic_recreated_total", &[]) >= 1.0);
}

#[test]
fn expired_offsets_of_the_group_are_told() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(Group::new(stack));
    let topics = fixture.group.topics.clone();
    let mut service = fixture.group.start("one");
    let asked = fixture.ask(0, ids("first", 10));
    fixture.wait_for_answers("answers", &asked);
    service.stop();
    // What Kafka does a week after the last member has left.
    topics.delete_group(&format!("{}-evaluator", topics.prefix));
    service.spawn();
    service.wait_until_ready();
    fixture.events.until("all are answered again", TEST_TIMEOUT * 2, |seen| seen.len() == 20);
    let ids = |events: &[crate::harness::Received]| {
        events.iter().map(|event| event.json()["event_id"].to_string()).collect::<BTreeSet<_>>()
    };
    assert_eq!(ids(&fixture.events.seen).len(), 10, "the same events again");
    let told = service.metrics().sum("flagstream_requests_without_offset_total", &[("partition", "0")]);
    assert!(told >= 10.0, "{told}");
    assert!(service.log().contains("the group's offsets have expired"), "{}", service.log());
}

#[test]
fn a_transaction_that_is_left_open_is_named() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(Group::new(stack).set("FLAGSTREAM_HEALTH__STUCK_AFTER", "1s"));
    let topics = fixture.group.topics.clone();
    let service = fixture.group.start("one");
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &topics.kafka)
        .set("transactional.id", format!("{}-foreign", topics.prefix))
        .create()
        .unwrap();
    producer.init_transactions(TEST_TIMEOUT).unwrap();
    producer.begin_transaction().unwrap();
    let record = BaseRecord::<(), str>::to(&topics.requests).partition(0).payload("{}");
    producer.send(record).unwrap();
    producer.flush(TEST_TIMEOUT).unwrap();
    let behind = fixture.ask(0, ids("behind", 3));
    let elsewhere = fixture.ask(1, ids("elsewhere", 3));
    fixture.wait_for_answers("other partitions", &elsewhere);
    wait_until("it is named", TEST_TIMEOUT, || {
        let (state, detail) = part(&service, "evaluator");
        stuck(&service, "open_transaction") == 1.0
            && state == "degraded"
            && detail.contains("the transaction that begins at offset 0 is still open")
    });
    assert!(fixture.answered().is_disjoint(&behind));
    producer.abort_transaction(TEST_TIMEOUT).unwrap();
    fixture.wait_for_answers("what is behind it", &behind);
    wait_until("up again", TEST_TIMEOUT, || is_up(&service) && stuck(&service, "open_transaction") == 0.0);
}
