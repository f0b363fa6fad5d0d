//! Faults of the brokers, on clusters that each test starts for itself: restarts, too few replicas, quotas, default
//! settings.

use super::*;
use crate::harness::{Cluster, PROMPT, TRIPLE, flagstream, wait_for};

/// Each of the three brokers is a controller too.
#[test]
fn brokers_are_restarted_and_killed_in_turn() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let mut cluster = Cluster::start(stack, 3, 3, &[PROMPT, TRIPLE].concat());
    let stack = stack.with_kafka(cluster.kafka());
    let mut fixture = Fixture::new(&stack, Mode::Transactional);
    let mut services = ["a", "b"].map(|name| fixture.group.start(name));
    fixture.load(if is_long() { 5_000 } else { 500 });
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    let long =
        (1..=5).flat_map(|_| [false, true]).flat_map(|killed| (1..=3).map(move |broker| (broker, killed)));
    let rounds = if is_long() { long.collect() } else { vec![(1, false), (2, true), (3, false)] };
    for (broker, is_killed) in rounds {
        if is_killed {
            cluster.kill(broker);
        } else {
            cluster.stop(broker);
        }
        let took = fixture
            .ledger
            .sign_of_life(&format!("all partitions served without broker {broker}"), TEST_TIMEOUT);
        println!("broker {broker} gone (killed: {is_killed}): answered after {took:?}");
        cluster.spawn(broker);
        cluster.wait_until_complete();
    }
    fixture.ledger.sign_of_life("all partitions served at the end", TEST_TIMEOUT);
    services.iter_mut().for_each(Service::assert_running);
    fixture.balance();
}

/// Kafka accepts no records for topics with too few in-sync replicas: first one of our topics, then the transaction log,
/// then all topics.
#[test]
fn topics_with_too_few_replicas_are_named_and_continue() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let mut cluster = Cluster::start(stack, 3, 1, &[PROMPT, TRIPLE].concat());
    let stack = stack.with_kafka(cluster.kafka());
    let mut fixture = Fixture::new(&stack, Mode::Transactional);
    let mut service = fixture.group.start("a");
    fixture.load(500);
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    cluster.stop(3);
    fixture.ledger.sign_of_life("all partitions served by two brokers", TEST_TIMEOUT);
    let single = [&fixture.group.topics.events, "__transaction_state"];
    for topic in &single[if is_long() { 0 } else { 1 }..] {
        let needs = |count: &str| {
            let setting = format!("min.insync.replicas={count}");
            let topic = ["--entity-type", "topics", "--entity-name", topic];
            cluster.configure(&[&["--alter", "--add-config", &setting], &topic[..]].concat());
        };
        needs("3");
        wait_until_kafka_names(&service, topic);
        needs("2");
        let took = fixture.ledger.sign_of_life("all partitions served again", TEST_TIMEOUT);
        println!("{topic}: answered {took:?} after it was set back");
        wait_until("kafka is up", TEST_TIMEOUT, || service.health()["parts"]["kafka"]["state"] == "up");
    }
    cluster.stop(2);
    wait_until_kafka_names(&service, &fixture.group.topics.events);
    assert_doctor_names(&fixture.group, &fixture.group.topics.events);
    service.assert_running();
    cluster.spawn(2);
    cluster.spawn(3);
    cluster.wait_until_complete();
    let took = fixture.ledger.sign_of_life("all partitions served again", TEST_TIMEOUT * 2);
    println!("answered {took:?} after all replicas were in sync");
    wait_until("kafka is up", TEST_TIMEOUT, || service.health()["parts"]["kafka"]["state"] == "up");
    fixture.balance();
}

/// Waits until `/health` names the topic and the setting.
fn wait_until_kafka_names(service: &Service, topic: &str) {
    let detail = wait_for("kafka names the topic", TEST_TIMEOUT, || {
        let health = service.health();
        let detail = health["parts"]["kafka"]["detail"].as_str()?;
        (detail.contains(topic) && detail.contains("min.insync.replicas")).then(|| detail.to_owned())
    });
    println!("{detail}; evaluator: {}", service.health()["parts"]["evaluator"]);
}

fn assert_doctor_names(group: &Group, topic: &str) {
    let output = flagstream(group.folder.path(), &["doctor"], group.settings());
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let line = told.lines().find(|line| line.contains("min.insync.replicas") && line.contains(topic));
    assert!(line.is_some(), "{told}");
}

/// By default, brokers abort expired transactions every 10 s, and a group waits 3 s for its first members.
#[test]
fn a_killed_member_is_replaced_at_default_settings_of_the_broker() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let cluster = Cluster::single(stack, &[]);
    let stack = stack.with_kafka(cluster.kafka());
    let mut fixture = Fixture::new(&stack, Mode::Transactional);
    let started = Instant::now();
    let (mut first, second) = (fixture.group.start("a"), fixture.group.start("b"));
    fixture.load(1_000);
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    println!("served {:?} after the start", started.elapsed());
    // The transaction timeout, the interval at which the broker aborts expired transactions, and time for the answers.
    let limit = Duration::from_secs(5 + 10 + 5);
    for _ in 0..if is_long() { 20 } else { 1 } {
        wait_until_at_work(&first);
        wait_until_at_work(&second);
        fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
        first.kill();
        let took = fixture.ledger.sign_of_life("taken over", limit);
        println!("answered {took:?} after the kill");
        first.spawn();
        first.wait_until_ready();
    }
    fixture.balance();
}

/// A broker delays its responses to clients that exceed their quota.
#[test]
fn quotas_slow_everything_down_and_stop_nothing() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let cluster = Cluster::single(stack, PROMPT);
    let stack = stack.with_kafka(cluster.kafka());
    let mut fixture = Fixture::new(&stack, Mode::Transactional);
    // The default quota is for each client id; the test's own clients are exempt.
    let exempt = ["--entity-type", "clients", "--entity-name", "rdkafka"];
    let much = "producer_byte_rate=1000000000,consumer_byte_rate=1000000000,request_percentage=10000";
    cluster.configure(&[&["--alter", "--add-config", much], &exempt[..]].concat());
    let service = fixture.group.start("a");
    fixture.load(if is_long() { 1_000 } else { 300 });
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    let client = ["--entity-type", "clients", "--entity-default"];
    for quota in ["producer_byte_rate=40000", "consumer_byte_rate=60000", "request_percentage=3"] {
        let (name, _) = quota.split_once('=').unwrap();
        cluster.configure(&[&["--alter", "--add-config", quota], &client[..]].concat());
        let before = batches(&service);
        fixture.run_for(Duration::from_secs(if is_long() { 60 } else { 4 }));
        let after = batches(&service);
        println!("{quota}: committed {} batches, aborted {}", after[0] - before[0], after[1] - before[1]);
        let took =
            fixture.ledger.sign_of_life(&format!("all partitions served under {quota}"), TEST_TIMEOUT * 4);
        println!("{quota}: answered after {took:?}; {}", service.health()["parts"]["evaluator"]);
        cluster.configure(&[&["--alter", "--delete-config", name], &client[..]].concat());
    }
    fixture.ledger.sign_of_life("all partitions served without quotas", TEST_TIMEOUT);
    fixture.balance();
}

/// Number of committed and of aborted batches.
fn batches(service: &Service) -> [f64; 2] {
    let metrics = service.metrics();
    ["committed", "aborted"]
        .map(|outcome| metrics.sum("flagstream_evaluate_batches_total", &[("outcome", outcome)]))
}

/// The last broker in sync is lost, and one that lags behind leads: acknowledged records are gone, the log is shorter than
/// positions and offsets in memory. What the log has is answered exactly once.
#[test]
fn an_unclean_leader_election_stops_nothing() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let settings = [
        ("default.replication.factor", "2"),
        ("min.insync.replicas", "1"),
        ("offsets.topic.replication.factor", "2"),
        ("transaction.state.log.replication.factor", "2"),
        ("transaction.state.log.min.isr", "1"),
        ("unclean.leader.election.enable", "true"),
    ];
    let mut cluster = Cluster::with_controller_apart(stack, 2, &[PROMPT, &settings].concat());
    let stack = stack.with_kafka(cluster.kafka());
    let mut fixture = Fixture::new(&stack, Mode::Transactional);
    let mut services = ["a", "b"].map(|name| fixture.group.start(name));
    fixture.load(500);
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    cluster.stop(3);
    fixture.ledger.sign_of_life("all partitions served by one broker", TEST_TIMEOUT);
    fixture.run_for(Duration::from_secs(if is_long() { 20 } else { 3 }));
    fixture.load = None;
    // Kafka sets it to `false` for this topic.
    let topic = ["--entity-type", "topics", "--entity-name", "__transaction_state"];
    let setting = ["--alter", "--add-config", "unclean.leader.election.enable=true"];
    cluster.configure(&[&setting, &topic[..]].concat());
    cluster.kill(2);
    cluster.spawn(3);
    // A part of the events that were read is gone, so the ledger starts again.
    let topics = &fixture.group.topics;
    wait_until("another leader", TEST_TIMEOUT * 2, || cluster.has_leaders());
    fixture.ledger = Ledger::open(topics, &fixture.reply_to);
    fixture.load(500);
    let took = fixture.ledger.sign_of_life("all partitions served after the election", TEST_TIMEOUT * 2);
    println!("answered {took:?} after the election");
    cluster.spawn(2);
    cluster.wait_until_complete();
    fixture.ledger.sign_of_life("all partitions served at the end", TEST_TIMEOUT);
    services.iter_mut().for_each(Service::assert_running);
    fixture.balance();
}

/// The broker closes the connections of whose credentials it refuses at the next re-authentication.
#[test]
fn a_changed_password_is_named_and_service_continues_once_it_is_accepted_again() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let settings = [
        ("listener.security.protocol.map", "CLIENTS:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("sasl.enabled.mechanisms", "SCRAM-SHA-256"),
        (
            "listener.name.clients.scram-sha-256.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
        ("connections.max.reauth.ms", "10000"),
    ];
    let cluster = Cluster::single(stack, &[PROMPT, &settings].concat());
    let user = ["--entity-type", "users", "--entity-name", "flagstream"];
    let set_password = |password: &str| {
        let credential = format!("SCRAM-SHA-256=[iterations=4096,password={password}]");
        cluster.configure(&[&["--alter", "--add-config", &credential], &user[..]].concat());
    };
    set_password("first");
    let mut fixture = Fixture::new(&stack.with_kafka(cluster.internal()), Mode::Transactional);
    let client = [("SECURITY_PROTOCOL", "SASL_PLAINTEXT"), ("SASL_MECHANISM", "SCRAM-SHA-256")];
    let client = client.into_iter().chain([("SASL_USERNAME", "flagstream"), ("SASL_PASSWORD", "first")]);
    let group = fixture.group.clone().set("KAFKA_BOOTSTRAP_SERVERS", cluster.kafka());
    fixture.group = client
        .fold(group, |group, (name, value)| group.set(&format!("FLAGSTREAM_KAFKA__CLIENT__{name}"), value));
    let mut service = fixture.group.start("a");
    fixture.load(300);
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    let delete_user = || {
        cluster.configure(&[&["--alter", "--delete-config", "SCRAM-SHA-256"], &user[..]].concat());
    };
    let changes: [&dyn Fn(); 2] = [&|| set_password("second"), &delete_user];
    for change in changes {
        change();
        let detail = wait_for("health names the reason", TEST_TIMEOUT * 2, || {
            let health = service.health();
            let detail = health["parts"]["kafka"]["detail"].as_str()?.to_owned();
            detail.to_lowercase().contains("authentication").then_some(detail)
        });
        println!("{detail}");
        set_password("first");
        let took = fixture.ledger.sign_of_life("all partitions served again", TEST_TIMEOUT);
        println!("answered {took:?} after the password was accepted again");
    }
    service.assert_running();
    wait_until("kafka is up", TEST_TIMEOUT, || service.health()["parts"]["kafka"]["state"] == "up");
    fixture.balance();
}
