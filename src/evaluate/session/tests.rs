//! Tests of workers against a mock broker.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::config::{Config, HealthConfig, Profile, load_from};
use crate::dev::embed;
use crate::evaluate::answer::{Respond, Responded};
use crate::evaluate::batch::SourceOffset;
use crate::evaluate::batch_sender::{BatchSender, Results, place};
use crate::evaluate::status::EvaluatorStatus;
use crate::evaluate::worker::Worker;
use crate::feed::Usage;
use crate::health::{Registry, State};
use crate::kafka::consumer::Record;
use crate::metrics::{Metrics, PartitionLabels, StuckLabels};
use crate::progress::watch::Watch;
use crate::progress::{Progress, Reason};
use crate::schema_registry::Formats;
use crate::shutdown::Shutdown;
use crate::store::Store;

mod background;

const DEADLINE: Duration = Duration::from_secs(30);

/// Sends one event per request.
struct Echo;

impl Respond for Echo {
    fn begin(&mut self, _: Option<&Arc<str>>) {}

    fn respond(&mut self, record: &Record<'_>, sender: &mut BatchSender<'_>) -> KafkaResult<Responded> {
        sender.event(record, record.key(), Results::One(0), None, b"{}")?;
        Ok(Responded::Done)
    }
}

/// Answers each request with as many events as its body says, and logs it.
struct Logged(Log);

type Log = Arc<Mutex<Vec<SourceOffset>>>;

impl Respond for Logged {
    fn begin(&mut self, _: Option<&Arc<str>>) {}

    fn respond(&mut self, record: &Record<'_>, sender: &mut BatchSender<'_>) -> KafkaResult<Responded> {
        let events: u32 = std::str::from_utf8(record.payload()).unwrap().parse().unwrap();
        for index in 0..events {
            sender.event(record, record.key(), Results::One(index), None, b"{}")?;
        }
        self.0.lock().unwrap().push(place(record));
        Ok(Responded::Done)
    }
}

struct Fixture {
    cluster: MockCluster<'static, DefaultProducerContext>,
    parts: Parts,
    progress: Progress,
    status: EvaluatorStatus,
    health: Arc<Registry>,
    workers: Vec<JoinHandle<()>>,
}

impl Fixture {
    /// A mock broker with the given partition counts.
    fn new(requests: i32, events: i32) -> Self {
        Self::with_health(requests, events, |_| {})
    }

    fn with_health(requests: i32, events: i32, set: impl FnOnce(&mut HealthConfig)) -> Self {
        Self::with_config(requests, events, |config| set(&mut config.health))
    }

    fn with_config(requests: i32, events: i32, set: impl FnOnce(&mut Config)) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let variables = [("FLAGSTREAM_HTTP__LISTEN", "127.0.0.1:0"), ("FLAGSTREAM_INSTANCE", "test")];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let mut config = load_from(None, variables, Profile::Dev).unwrap().config;
        embed(&mut config, Some(cluster.bootstrap_servers())).unwrap();
        set(&mut config);
        cluster.create_topic(&config.topics.requests, requests, 1).unwrap();
        cluster.create_topic(&config.topics.events, events, 1).unwrap();
        let (metrics, health) = (Metrics::new(), Arc::new(Registry::new("test")));
        let gauges = metrics.evaluate.partition_gauges();
        let progress = Progress::new(&config.topics.requests, &config.health, gauges);
        let shown = progress.clone();
        let reporter =
            health.reporter_with("evaluator", false, move |report| shown.add_to(report, Instant::now()));
        let store = Arc::new(Store::default());
        store.replace(Default::default());
        let parts = Parts {
            config: Arc::new(config),
            formats: Arc::new(Formats::default()),
            store,
            attributes: None,
            metrics,
            usage: Arc::new(Usage::default()),
            shutdown: Shutdown::new(),
            health: reporter,
        };
        let status = EvaluatorStatus::with_progress(&parts, progress.clone());
        Self { cluster, parts, progress, status, health, workers: Vec::new() }
    }

    fn start_worker(&mut self) {
        self.start_with(Echo);
    }

    fn start_with(&mut self, responder: impl Respond + 'static) {
        let worker = Worker::sharing(self.parts.clone(), self.workers.len(), &self.status);
        self.workers.push(std::thread::spawn(move || worker.run_with(responder)));
    }

    /// Starts a worker that logs what it answers.
    fn start_logged(&mut self) -> Log {
        let log = Log::default();
        self.start_with(Logged(Arc::clone(&log)));
        log
    }

    fn send(&self, partition: i32) {
        self.send_many(partition, 1, "{}", None);
    }

    fn send_many(&self, partition: i32, count: usize, body: &str, reply_to: Option<&str>) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.cluster.bootstrap_servers()).create().unwrap();
        let topic = &self.parts.config.topics.requests;
        for _ in 0..count {
            let mut record = BaseRecord::<(), str>::to(topic).partition(partition).payload(body);
            if let Some(reply_to) = reply_to {
                let header = Header { key: "reply-to", value: Some(reply_to) };
                record = record.headers(OwnedHeaders::new().insert(header));
            }
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
    }

    /// Waits until so many requests are committed.
    fn wait_for(&self, requests: usize) {
        let metrics = &self.parts.metrics;
        wait_until("the requests are answered", || metrics.requests.get() == requests as u64);
    }

    fn evaluator(&self) -> (State, String) {
        let report = self.health.overview().parts["evaluator"].report.clone();
        (report.state, report.detail.unwrap_or_default())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.parts.shutdown.cancel();
        for worker in self.workers.drain(..) {
            assert!(worker.join().is_ok());
        }
    }
}

fn wait_until(what: &str, mut paused: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !paused() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn workers_are_well_without_a_request_and_without_a_partition() {
    let mut fixture = Fixture::new(1, 1);
    fixture.start_worker();
    assert_eq!(fixture.evaluator().0, State::Starting);
    wait_until("up", || fixture.evaluator().0 == State::Up);
    fixture.start_worker();
    wait_until("up with a worker that has no partition", || fixture.evaluator().0 == State::Up);
    assert_eq!(fixture.parts.metrics.evaluate.partitions.get(), 1);
}

#[test]
fn partitions_that_the_events_topic_lacks_wait_and_the_others_go_on() {
    let mut fixture = Fixture::new(3, 2);
    for partition in [0, 1, 2, 0, 1] {
        fixture.send(partition);
    }
    fixture.start_worker();
    wait_until("the others are answered", || fixture.parts.metrics.requests.get() == 4);
    let watch = Watch::new(&fixture.parts.config, "evaluator", fixture.progress.clone()).unwrap();
    wait_until("the lag of all", || {
        watch.refresh(Instant::now());
        [0, 1, 2].map(|partition| fixture.progress.lag(partition)) == [Some(0), Some(0), Some(1)]
    });
    let stuck = fixture.progress.stuck(Instant::now() + fixture.parts.config.health.stuck_after * 2);
    let found: Vec<_> = stuck.iter().map(|stuck| (stuck.partition, stuck.reason)).collect();
    assert_eq!(found, [(2, Reason::Held)]);
    let (state, detail) = fixture.evaluator();
    assert!(state == State::Degraded && detail.contains("has 2 partitions"), "{state:?} {detail}");
    assert_eq!(fixture.parts.metrics.evaluate.waiting.get(), 1);
    fixture.send(1);
    wait_until("they go on", || fixture.parts.metrics.requests.get() == 5);
}

/// Each request of each partition was answered once and in order.
fn assert_in_order(log: &[SourceOffset], partitions: &[(i32, usize)]) {
    for (partition, count) in partitions {
        let offsets =
            log.iter().filter(|answered| answered.partition == *partition).map(|answered| answered.offset);
        let expected = i64::try_from(*count).unwrap();
        assert_eq!(offsets.collect::<Vec<_>>(), (0..expected).collect::<Vec<_>>(), "partition {partition}");
    }
}

#[test]
fn cheap_requests_do_not_wait_for_the_expensive_ones_of_another_partition() {
    let mut fixture = Fixture::new(3, 3);
    // Each takes more work than a turn.
    fixture.send_many(0, 300, "1000", None);
    fixture.send_many(1, 300, "1", None);
    fixture.send_many(2, 3, "1", None);
    let log = fixture.start_logged();
    fixture.wait_for(603);
    let log = log.lock().unwrap().clone();
    assert_in_order(&log, &[(0, 300), (1, 300), (2, 3)]);
    assert_eq!(log.last().unwrap().partition, 0, "the backlog ends last, though it began first");
}

#[test]
fn only_the_partition_of_a_record_with_a_new_reply_topic_waits_for_the_lookup() {
    let mut fixture = Fixture::new(2, 2);
    for number in 0..100 {
        fixture.send_many(0, 1, "1", Some(&format!("feature-flag-replies-{number}")));
    }
    fixture.send_many(1, 50, "1", None);
    let log = fixture.start_logged();
    fixture.wait_for(150);
    let log = log.lock().unwrap().clone();
    assert_in_order(&log, &[(0, 100), (1, 50)]);
    let first_waiting = log.iter().position(|answered| answered.partition == 0).unwrap();
    let others = log.iter().filter(|answered| answered.partition == 1).count();
    assert_eq!((first_waiting, others), (50, 50), "the other partition's requests came first");
}

#[test]
fn requests_that_wait_without_a_committed_offset_are_counted() {
    let mut fixture = Fixture::new(2, 2);
    for _ in 0..3 {
        fixture.send(1);
    }
    fixture.start_worker();
    wait_until("they are answered", || fixture.parts.metrics.requests.get() == 3);
    let counted = |partition| {
        let family = &fixture.parts.metrics.requests_without_offset;
        family.get_or_create(&PartitionLabels { partition }).get()
    };
    assert_eq!([counted(0), counted(1)], [0, 3]);
    assert_eq!(fixture.progress.stuck(Instant::now()), []);
}

#[test]
fn a_partition_that_may_not_be_read_is_named_until_kafka_answers_again() {
    let mut fixture = Fixture::new(1, 1);
    fixture.start_worker();
    wait_until("up", || fixture.evaluator().0 == State::Up);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    fixture.cluster.request_errors(RDKafkaApiKey::Fetch, &[refused; 1_000]);
    fixture.send(0);
    wait_until("named", || {
        let (state, detail) = fixture.evaluator();
        state == State::Degraded && detail.contains("partition 0") && detail.contains("(unauthorized)")
    });
    fixture.cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    wait_until("the request is answered", || fixture.parts.metrics.requests.get() == 1);
    wait_until("up again", || fixture.evaluator().0 == State::Up);
}

#[test]
fn a_stuck_partition_makes_the_process_not_ready_where_that_is_asked_for() {
    let mut fixture = Fixture::with_health(2, 1, |health| {
        *health = HealthConfig { stuck_after: Duration::from_millis(1), stuck_not_ready: true };
    });
    fixture.start_worker();
    wait_until("ready", || fixture.health.is_ready());
    fixture.send(1);
    let watch = Watch::new(&fixture.parts.config, "evaluator", fixture.progress.clone()).unwrap();
    wait_until("not ready", || {
        watch.refresh(Instant::now() + DEADLINE);
        fixture.progress.observe(Instant::now());
        !fixture.health.is_ready()
    });
    let labels = StuckLabels { topic: None, tap: None, partition: 1, reason: "held" };
    assert_eq!(fixture.parts.metrics.evaluate.stuck.get_or_create(&labels).get(), 1);
}
