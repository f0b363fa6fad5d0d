//! Faults, and the guarantees under them: no loss, no duplicates, the order of each partition.
//!
//! Load runs during each fault. At the end the ledger compares every request in Kafka with every result.

mod addresses;
mod backlog;
mod brokers;
mod clock;
mod leader;
mod restored;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use flagstream::config::{Profile, load_from};
use flagstream::kafka::orphaned_partitions;
use flagstream::shutdown::Shutdown;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use flagstream::message::avro::Kind;

use crate::harness::{
    Database, Flags, Group, Ledger, Load, Service, Stack, TEST_TIMEOUT, avro, get, is_long, wait_until,
};

/// The modes of delivery, by their setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Transactional,
    AtLeastOnce,
}

/// Instances under load, and the books.
struct Fixture {
    mode: Mode,
    group: Group,
    reply_to: String,
    ledger: Ledger,
    load: Option<Load>,
    /// Id of the schema of requests in Avro; `None` for requests in JSON.
    schema: Option<u32>,
    /// Database to which every event is written as a row.
    database: Option<Database>,
}

impl Fixture {
    fn new(stack: &Stack, mode: Mode) -> Self {
        let setting = match mode {
            Mode::Transactional => "transactional",
            Mode::AtLeastOnce => "at_least_once",
        };
        let group = Group::new(stack).set("FLAGSTREAM_DELIVERY__MODE", setting);
        Flags::new(&group.topics).set_load();
        let reply_to = group.topics.reply_topic("load");
        let ledger = Ledger::open(&group.topics, &reply_to);
        Self { mode, group, reply_to, ledger, load: None, schema: None, database: None }
    }

    /// Members are given up, and their transactions aborted, after two seconds.
    fn impatient(mut self) -> Self {
        self.group = self
            .group
            .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s")
            .set("FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT", "2s");
        self
    }

    /// Half of the requests, and all results, from which the sink makes rows.
    fn in_avro(mut self, stack: &Stack) -> Self {
        let database = Database::create(stack);
        let subject = format!("{}-value", self.group.topics.requests);
        self.schema = Some(avro::register(stack, &subject, Kind::Request.text()));
        self.group = self.group.in_avro(&stack.registry).set("DATABASE_URL", &database.url);
        self.database = Some(database);
        self
    }

    /// One event for all results of a request, from which the sink makes rows.
    fn together(mut self, stack: &Stack) -> Self {
        let database = Database::create(stack);
        self.group = self
            .group
            .set("FLAGSTREAM_EVENTS__BULK", "together")
            .set("FLAGSTREAM_EVENTS__NULLS", "omit")
            .set("DATABASE_URL", &database.url);
        self.database = Some(database);
        self
    }

    fn load(&mut self, rate: u32) {
        self.load = Some(Load::start_with(&self.group.topics, &self.reply_to, rate, self.schema));
    }

    /// Lets the load run into whatever the test broke.
    fn run_for(&mut self, time: Duration) {
        let before = Instant::now();
        while before.elapsed() < time {
            self.ledger.progress();
        }
    }

    fn balance(mut self) {
        let sent = self.load.take().unwrap().stop();
        println!("{:?}: {sent} requests", self.mode);
        let events = match self.mode {
            Mode::Transactional => self.ledger.assert_exactly_once(),
            Mode::AtLeastOnce => self.ledger.assert_last_pair_suffices(),
        };
        if let Some(database) = &self.database {
            database.assert_audited(&events, TEST_TIMEOUT * 2);
        }
    }
}

fn published(service: &Service) -> f64 {
    service.metrics().sum("flagstream_events_published_total", &[])
}

fn wait_until_at_work(service: &Service) {
    let before = published(service);
    wait_until(&format!("{} at work", service.name), TEST_TIMEOUT, || published(service) > before);
}

#[test]
fn kills_at_random_moments_transactional() {
    kills_at_random_moments(Mode::Transactional, 11, |fixture, _| fixture);
}

#[test]
fn kills_at_random_moments_at_least_once() {
    kills_at_random_moments(Mode::AtLeastOnce, 11, |fixture, _| fixture);
}

#[test]
fn kills_at_random_moments_in_avro() {
    kills_at_random_moments(Mode::Transactional, 4, Fixture::in_avro);
}

#[test]
fn kills_at_random_moments_with_bulk_events() {
    kills_at_random_moments(Mode::Transactional, 6, |fixture, stack| fixture.together(stack));
}

#[test]
fn kills_at_random_moments_with_bulk_events_at_least_once() {
    kills_at_random_moments(Mode::AtLeastOnce, 4, |fixture, stack| fixture.together(stack));
}

fn kills_at_random_moments(mode: Mode, kills: usize, set: fn(Fixture, &Stack) -> Fixture) {
    let (stack, _shared) = Stack::shared();
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut fixture = set(Fixture::new(stack, mode).impatient(), stack);
    let mut services: Vec<_> = ["a", "b", "c"].iter().map(|name| fixture.group.start(name)).collect();
    fixture.load(if is_long() { 4_000 } else { 1_500 });
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    let kills = if is_long() { 60 } else { kills };
    for _ in 0..kills {
        fixture.run_for(Duration::from_millis(chance.random_range(100..1_500)));
        let victim = chance.random_range(0..services.len());
        services[victim].kill();
        // Some instances return at once, before the group notices; for others the rest takes over first.
        if chance.random_bool(0.4) {
            fixture.ledger.sign_of_life("the others took over", TEST_TIMEOUT);
        }
        services[victim].spawn();
    }
    services.iter_mut().for_each(Service::wait_until_ready);
    println!("{kills} kills");
    fixture.balance();
}

#[test]
fn a_frozen_member_that_wakes_up_writes_nothing_transactional() {
    a_frozen_member_that_wakes_up_writes_nothing(Mode::Transactional);
}

#[test]
fn a_frozen_member_that_wakes_up_does_no_harm_at_least_once() {
    a_frozen_member_that_wakes_up_writes_nothing(Mode::AtLeastOnce);
}

fn a_frozen_member_that_wakes_up_writes_nothing(mode: Mode) {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack, mode).impatient();
    let services = [fixture.group.start("a"), fixture.group.start("b")];
    fixture.load(if is_long() { 4_000 } else { 1_500 });
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    let rounds = if is_long() { 20 } else { 3 };
    for round in 0..rounds {
        let frozen = &services[round % 2];
        wait_until_at_work(frozen);
        frozen.freeze();
        // Only the other one can answer now: the frozen one's session has timed out.
        fixture.ledger.sign_of_life("the other took over", TEST_TIMEOUT);
        frozen.thaw();
        // It does not just sit there: it comes back, and is given work again.
        wait_until_at_work(frozen);
        fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    }
    fixture.balance();
}

#[test]
fn members_come_and_go_transactional() {
    members_come_and_go(Mode::Transactional, |group| group);
}

#[test]
fn members_come_and_go_at_least_once() {
    members_come_and_go(Mode::AtLeastOnce, |group| group);
}

#[test]
fn members_come_and_go_in_the_consumer_protocol() {
    members_come_and_go(Mode::Transactional, |group| {
        group.set("FLAGSTREAM_KAFKA__GROUP_PROTOCOL", "consumer")
    });
}

/// 1 → 3 → 2 → 3 members; no partition waits longer than a session's timeout.
fn members_come_and_go(mode: Mode, set: fn(Group) -> Group) {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack, mode).impatient();
    fixture.group = set(fixture.group);
    let first = fixture.group.start("a");
    fixture.load(1_500);
    fixture.ledger.sign_of_life("all partitions served by one", TEST_TIMEOUT);
    for _ in 0..if is_long() { 10 } else { 2 } {
        let mut second = fixture.group.start("b");
        let mut third = fixture.group.start("c");
        wait_until_at_work(&second);
        wait_until_at_work(&third);
        fixture.ledger.sign_of_life("all partitions served by three", TEST_TIMEOUT);
        assert!(third.stop().0.success());
        fixture.ledger.sign_of_life("all partitions served by two", TEST_TIMEOUT);
        third.spawn();
        third.wait_until_ready();
        wait_until_at_work(&third);
        assert!(second.stop().0.success());
        assert!(third.stop().0.success());
        fixture.ledger.sign_of_life("all partitions served by one again", TEST_TIMEOUT);
    }
    wait_until_at_work(&first);
    fixture.balance();
}

/// An orderly stop is expected, so that it causes no warning. Left out are librdkafka's own lines about closing connections,
/// and what is reported of a partition that a group gets for the first time.
fn assert_quiet(log: &str) {
    let is_loud = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let others = ["kafka::client", "the group has no committed offset"];
    let is_other = |line: &&str| others.iter().any(|other| line.contains(other));
    let loud: Vec<_> = log.lines().filter(is_loud).filter(|line| !is_other(line)).collect();
    assert!(loud.is_empty(), "{loud:#?}");
}

#[test]
fn sigterm_under_load_drains_and_ends() {
    let (stack, _shared) = Stack::shared();
    for mode in [Mode::Transactional, Mode::AtLeastOnce] {
        let mut fixture = Fixture::new(stack, mode);
        let database = Database::create(stack);
        fixture.group = fixture.group.set("DATABASE_URL", &database.url);
        fixture.database = Some(database);
        let mut service = fixture.group.start("a");
        fixture.load(4_000);
        for _ in 0..if is_long() { 20 } else { 3 } {
            wait_until_at_work(&service);
            let (status, took) = service.stop();
            assert!(status.success(), "{mode:?}: {status}");
            println!("{mode:?}: ended after {took:?}");
            let log = service.log();
            assert!(!log.contains("panicked"), "{log}");
            assert_quiet(log.rsplit_once("stopping signal").unwrap().1);
            service.spawn();
            service.wait_until_ready();
        }
        // What was taken was committed before the end: even at-least-once has no doubles after a tidy one.
        fixture.mode = Mode::Transactional;
        fixture.balance();
    }
}

#[test]
fn a_killed_members_partitions_are_taken_over_within_ten_seconds() {
    let (stack, _shared) = Stack::shared();
    let limit = Duration::from_secs(10);
    let mut fixture = Fixture::new(stack, Mode::Transactional);
    let (mut first, second) = (fixture.group.start("a"), fixture.group.start("b"));
    fixture.load(2_000);
    for _ in 0..if is_long() { 20 } else { 2 } {
        wait_until_at_work(&first);
        wait_until_at_work(&second);
        fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
        first.kill();
        let took = fixture.ledger.sign_of_life("taken over at default settings", limit);
        println!("taken over after {took:?}");
        first.spawn();
        first.wait_until_ready();
    }
    // Who comes back at once gets the same partitions, without the others waiting for its session.
    wait_until_at_work(&first);
    first.kill();
    first.spawn();
    let took = fixture.ledger.sign_of_life("back without a rebalance", limit / 2);
    println!("back after {took:?}");
    fixture.balance();
}

#[test]
fn the_broker_is_stopped_and_comes_back() {
    let (stack, exclusive) = Stack::exclusive();
    let mut scenes = [Mode::Transactional, Mode::AtLeastOnce].map(|mode| Fixture::new(stack, mode));
    let mut services = Vec::new();
    for fixture in &mut scenes {
        services.extend(["a", "b"].map(|name| fixture.group.start(name)));
        fixture.load(1_000);
        fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    }
    let stopped = stack.stop("kafka", &exclusive);
    // The outage itself. No condition can be observed while the broker is down.
    std::thread::sleep(Duration::from_secs(if is_long() { 30 } else { 10 }));
    for service in &mut services {
        service.assert_running();
        let live = get(&format!("{}/health/live", service.url));
        assert!(live.is_some_and(|(status, _)| status == 200), "{} is not alive", service.name);
    }
    drop(stopped);
    for fixture in &mut scenes {
        fixture.ledger.sign_of_life("all partitions served again", TEST_TIMEOUT * 2);
    }
    services.iter_mut().for_each(Service::assert_running);
    scenes.into_iter().for_each(Fixture::balance);
}

/// State of a group whose broker was lost during a rebalance: partitions have no owner, and no member requests another
/// rebalance.
#[test]
fn partitions_that_belong_to_nobody_are_shared_out() {
    let (stack, _shared) = Stack::shared();
    let mut topics = Group::new(stack).topics;
    let member: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &topics.kafka)
        .set("group.id", format!("{}-evaluator", topics.prefix))
        .set("group.instance.id", "member")
        .set("partition.assignment.strategy", "cooperative-sticky")
        // It never looks at its topics again by itself.
        .set("topic.metadata.refresh.interval.ms", "-1")
        .create()
        .unwrap();
    member.subscribe(&[&topics.requests]).unwrap();
    let owned = || {
        member.poll(Duration::from_millis(10));
        member.assignment().unwrap().count()
    };
    let before = usize::try_from(topics.partitions).unwrap();
    wait_until("its partitions", TEST_TIMEOUT, || owned() == before);
    topics.grow(topics.partitions + 2);
    let settings = topics.settings().into_iter().map(|(name, value)| (name.into(), value.into()));
    let config = load_from(None, settings, Profile::Service).unwrap().config;
    let visit = orphaned_partitions::Visit {
        session_timeout: config.delivery.session_timeout,
        topic: topics.overrides.clone(),
    };
    let groups =
        [orphaned_partitions::Group { role: "evaluator".to_owned(), topic: topics.requests.clone() }];
    let shutdown = Shutdown::new();
    std::thread::scope(|scope| {
        let looking =
            scope.spawn(|| orphaned_partitions::look_after(&config.kafka, &visit, &groups, &shutdown));
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
            wait_until("the new partitions too", TEST_TIMEOUT * 2, || owned() == before + 2);
        }));
        shutdown.cancel();
        looking.join().unwrap().unwrap();
        ended.unwrap();
    });
}
