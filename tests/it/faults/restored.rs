//! Kafka that is restored from an older copy while the services run: all logs end earlier, under the same topic ids.

use serde_json::{Value, json};

use super::*;
use crate::harness::{Cluster, PROMPT, call, post};

const ENVIRONMENT: &str = "production";

fn evaluate(service: &Service, flag: &str) -> Value {
    let body = json!({"flag_name": flag, "user_id": "u", "environment": ENVIRONMENT});
    post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body).json()
}

fn write(service: &Service, method: &str, path: &str, body: &Value) -> u16 {
    let url = format!("{}/api/v1/feature-flags{path}?environment={ENVIRONMENT}", service.url);
    call(method, &url, &[("content-type", "application/json")], body.to_string().as_bytes()).status
}

#[test]
fn kafka_restored_from_an_older_copy_loses_no_flag_and_is_read_and_audited_again() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return;
    }
    let mut cluster = Cluster::single(stack, PROMPT);
    let stack = stack.with_kafka(cluster.kafka());
    let mut fixture = Fixture::new(&stack, Mode::Transactional).impatient();
    let database = Database::create(&stack);
    fixture.group = fixture
        .group
        .set("DATABASE_URL", &database.url)
        .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write,delete");
    let mut services = ["a", "b"].map(|name| fixture.group.start(name));
    let flag = json!({"name": "mine", "environment": ENVIRONMENT, "is_enabled": true});
    assert!(matches!(write(&services[0], "POST", "", &flag), 201 | 202));
    fixture.load(300);
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    cluster.stop(1);
    cluster.back_up(1);
    cluster.spawn(1);
    cluster.wait_until_complete();
    fixture.ledger.sign_of_life("all partitions served again", TEST_TIMEOUT * 2);

    // All of this is later than the copy.
    let later = json!({"is_enabled": true, "description": "later"});
    wait_until("a change", TEST_TIMEOUT, || write(&services[0], "PUT", "/mine", &later) == 200);
    let new = json!({"name": "new", "environment": ENVIRONMENT, "is_enabled": true});
    wait_until("a new flag", TEST_TIMEOUT, || {
        matches!(write(&services[0], "POST", "", &new), 201 | 202 | 409)
    });
    let killed = json!({"reason": "for good"});
    wait_until("a switch", TEST_TIMEOUT, || write(&services[1], "POST", "/mine/kill", &killed) == 200);
    for service in &services {
        wait_until("killed", TEST_TIMEOUT, || evaluate(service, "mine")["enabled"] == false);
        wait_until("there", TEST_TIMEOUT, || evaluate(service, "new")["enabled"] == true);
    }
    fixture.run_for(Duration::from_secs(2));
    fixture.load = None;
    fixture.ledger.sign_of_life("everything is answered", TEST_TIMEOUT);
    let version = evaluate(&services[0], "mine")["flag_version"].as_u64().unwrap();
    let before = database.audited();
    assert!(before > 0);

    cluster.kill(1);
    cluster.restore(1);
    cluster.spawn(1);
    cluster.wait_until_complete();
    // What the books have read is gone, so they begin again.
    fixture.ledger = Ledger::open(&fixture.group.topics, &fixture.reply_to);
    fixture.load(300);
    let took = fixture.ledger.sign_of_life("all partitions served from the copy", TEST_TIMEOUT * 3);
    println!("answered {took:?} after the restored broker was up");
    for service in &mut services {
        service.assert_running();
        assert_eq!(evaluate(service, "mine")["enabled"], false, "the switch stays in force");
        assert_eq!(evaluate(service, "new")["enabled"], true, "the flag stays in force");
        assert!(evaluate(service, "mine")["flag_version"].as_u64().unwrap() >= version);
    }
    let audited = database.audited();
    wait_until("new results become rows", TEST_TIMEOUT * 2, || database.audited() > audited + 500);
    // What the topics lacked is written again: an instance without a copy on disk has it too.
    let fresh = fixture.group.start("fresh");
    wait_until("the switch is in its topic", TEST_TIMEOUT * 2, || {
        evaluate(&fresh, "mine")["enabled"] == false
    });
    wait_until("the flag is in its topic", TEST_TIMEOUT * 2, || evaluate(&fresh, "new")["enabled"] == true);
    let changed = json!({"is_enabled": true, "description": "after the copy"});
    wait_until("changes are possible", TEST_TIMEOUT, || write(&services[0], "PUT", "/mine", &changed) == 200);
    fixture.ledger.sign_of_life("all partitions served at the end", TEST_TIMEOUT);
    fixture.balance();
}
