//! The leader stops without ending, in the middle of a transaction.

use serde_json::json;

use super::*;
use crate::harness::{Cluster, block_on, call, client, post};

const ENVIRONMENT: &str = "production";

fn leads(service: &Service) -> bool {
    service.metrics().sum("flagstream_feed_leader", &[]) == 1.0
}

fn is_on(service: &Service, flag: &str) -> bool {
    let body = json!({"flag_name": flag, "user_id": "u", "environment": ENVIRONMENT});
    post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body).json()["enabled"] == true
}

/// Creates or changes a local flag; the status of the answer.
fn write(service: &Service, method: &str, flag: &str, is_enabled: bool) -> u16 {
    let (path, body) = match method {
        "POST" => {
            (String::new(), json!({"name": flag, "environment": ENVIRONMENT, "is_enabled": is_enabled}))
        }
        _ => (format!("/{flag}"), json!({"is_enabled": is_enabled})),
    };
    let url = format!("{}/api/v1/feature-flags{path}?environment={ENVIRONMENT}", service.url);
    call(method, &url, &[("content-type", "application/json")], body.to_string().as_bytes()).status
}

/// Whether a transaction is open in the definitions topic: records are there that readers of committed records do not get.
fn is_open(topics: &crate::harness::Topics) -> bool {
    let end = |isolation: &str| {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &topics.kafka)
            .set("isolation.level", isolation)
            .create()
            .unwrap();
        reader.fetch_watermarks(&topics.definitions, 0, TEST_TIMEOUT).unwrap().1
    };
    end("read_committed") < end("read_uncommitted")
}

/// With the broker's default settings, a transaction is aborted at its timeout (5 s) and up to 10 s more. The others take over
/// meanwhile: the new leader's producer aborts the transaction of the old one.
#[test]
fn a_leader_that_stops_in_mid_transaction_for_11_s_holds_up_nobody_and_writes_nothing_afterwards() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let cluster = Cluster::single(stack, &[]);
    let stack = stack.with_kafka(cluster.kafka());
    let mut fixture = Fixture::new(&stack, Mode::Transactional);
    let database = Database::create(&stack);
    fixture.group = fixture
        .group
        .set("DATABASE_URL", &database.url)
        .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write,delete");
    let leader = fixture.group.start("a");
    wait_until("it leads", TEST_TIMEOUT, || leads(&leader));
    let other = fixture.group.start("b");
    assert!(matches!(write(&leader, "POST", "mine", true), 201 | 202));
    for service in [&leader, &other] {
        wait_until("in force", TEST_TIMEOUT, || is_on(service, "mine"));
    }
    fixture.load(300);
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);

    let frozen = freeze_in_transaction(&leader, &other, &fixture.group.topics);
    // A kill works at once: it needs no leader, and fences only writers of switches.
    let asked = Instant::now();
    let url = format!("{}/api/v1/feature-flags/mine/kill?environment={ENVIRONMENT}", other.url);
    let killed = post(&url, &json!({"reason": "now"}));
    println!("kill: {} after {:?}", killed.status, asked.elapsed());
    wait_until("killed", TEST_TIMEOUT, || !is_on(&other, "mine"));
    println!("in force after {:?}", asked.elapsed());
    wait_until("the other one leads", TEST_TIMEOUT, || leads(&other));
    println!("another leader {:?} after the stop", frozen.elapsed());
    wait_until("a change", TEST_TIMEOUT, || write(&other, "POST", "later", true) == 201);
    println!("a change is in force {:?} after the stop", frozen.elapsed());
    fixture.ledger.sign_of_life("its partitions are taken over", TEST_TIMEOUT);
    // The stop itself lasts 11 s at least.
    while frozen.elapsed() < Duration::from_secs(11) {
        fixture.ledger.progress();
    }
    leader.thaw();
    wait_until("it follows", TEST_TIMEOUT, || !leads(&leader) && is_on(&leader, "later"));
    assert!(leads(&other), "one leader");
    assert!(
        !is_on(&leader, "mine") && !is_on(&other, "mine"),
        "what it wrote last is aborted, the switch stands"
    );
    wait_until("it is at work again", TEST_TIMEOUT, || published(&leader) > 0.0);
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    let log = leader.log();
    assert!(!log.contains("panicked"), "{log}");
    fixture.balance();
}

/// Stops the leader while changes are written, as often as it takes to find a transaction open. Returns when it stopped.
fn freeze_in_transaction(leader: &Service, other: &Service, topics: &crate::harness::Topics) -> Instant {
    let deadline = Instant::now() + TEST_TIMEOUT * 2;
    for number in 0.. {
        assert!(Instant::now() < deadline, "no transaction was open at any stop");
        let url = format!("{}/api/v1/feature-flags/mine?environment={ENVIRONMENT}", other.url);
        // The call is answered late or not at all when the leader stops, so nothing waits for it.
        std::thread::spawn(move || {
            let body = json!({"is_enabled": true, "description": format!("change {number}")});
            let _ = block_on(async { client().put(url).json(&body).send().await });
        });
        std::thread::sleep(Duration::from_millis(rand::random_range(0..40)));
        leader.freeze();
        if is_open(topics) {
            println!("stopped in a transaction at attempt {number}");
            return Instant::now();
        }
        leader.thaw();
    }
    unreachable!()
}
