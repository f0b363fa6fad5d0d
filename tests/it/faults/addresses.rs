//! Brokers, Postgres and Redis that move to another address behind the same name, as after a change of DNS records.
//!
//! The services themselves stay where they are. A proxy listens at the present address of each, and the service finds the
//! addresses in a table of host names of its own (nss_wrapper).

use std::path::Path;

use super::*;
use crate::harness::{Cluster, PROMPT, Redis, TcpProxy, post, programs, wait_for};

const KAFKA: &str = "kafka.flagstream.test";
const POSTGRES: &str = "postgres.flagstream.test";
const REDIS: &str = "redis.flagstream.test";

/// The present address of all services.
struct Location {
    _proxies: Vec<TcpProxy>,
}

impl Location {
    /// Moves everything to `host`. The services at `urls` listen at 127.0.0.1; the proxies have the same ports.
    fn new(hosts: &Path, host: &str, urls: &[&str]) -> Self {
        let proxy = |url: &&str| {
            let port = reqwest::Url::parse(url).unwrap().port().unwrap();
            TcpProxy::at(&format!("{host}:{port}"), &format!("tcp://127.0.0.1:{port}"))
        };
        let proxies = urls.iter().map(proxy).collect();
        let table: String = [KAFKA, POSTGRES, REDIS].map(|name| format!("{host} {name}\n")).concat();
        std::fs::write(hosts, table).unwrap();
        Self { _proxies: proxies }
    }
}

#[test]
fn what_moves_behind_its_name_is_found_at_its_new_address() {
    let (stack, _shared) = Stack::shared();
    let Some(library) = programs::library("nss_wrapper", "libnss_wrapper.so") else { return };
    if !Cluster::is_possible(stack) {
        return;
    }
    let advertised = format!("CLIENTS://{KAFKA}:{{clients}},INTERNAL://127.0.0.1:{{brokers}}");
    let cluster = Cluster::single(stack, &[PROMPT, &[("advertised.listeners", &advertised)]].concat());
    let mut fixture = Fixture::new(&stack.with_kafka(cluster.internal()), Mode::Transactional);
    let (database, redis) = (Database::create(stack), Redis::database(stack));
    let hosts = fixture.group.folder.path().join("hosts");
    let kafka = format!("tcp://{}", cluster.kafka());
    let urls = [kafka.as_str(), &database.url, &redis.url];
    let mut location = Location::new(&hosts, "127.0.0.2", &urls);
    let named = |url: &str, name: &str| url.replace("127.0.0.1", name);
    fixture.group = fixture
        .group
        .set("KAFKA_BOOTSTRAP_SERVERS", named(&cluster.kafka(), KAFKA))
        .set("DATABASE_URL", named(&database.url, POSTGRES))
        .set("REDIS_URL", named(&redis.url, REDIS))
        .set("LD_PRELOAD", library.to_str().unwrap())
        .set("NSS_WRAPPER_HOSTS", hosts.to_str().unwrap());
    let mut service = fixture.group.start("a");
    fixture.load(300);
    fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    let cached = |redis: &Redis, user: &str| redis.get(&format!("ff_eval:production:on:{user}")).is_some();
    for (number, host) in ["127.0.0.3", "127.0.0.2"].into_iter().enumerate() {
        let before = database.audited();
        // The old address refuses connections from now on.
        let moved = Location::new(&hosts, host, &urls);
        drop(std::mem::replace(&mut location, moved));
        let took = fixture.ledger.sign_of_life("all partitions served at the new address", TEST_TIMEOUT);
        println!("{host}: answered after {took:?}");
        let user = format!("user-of-{number}");
        let ask = || {
            let body = serde_json::json!({"flag_name": "on", "user_id": user, "environment": "production"});
            post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body).status
        };
        assert_eq!(ask(), 200);
        wait_until("a value in Redis", TEST_TIMEOUT, || cached(&redis, &user));
        wait_until("rows", TEST_TIMEOUT, || database.audited() > before.max(0));
        wait_for("everything is up", TEST_TIMEOUT, || {
            let parts = service.health()["parts"].clone();
            let is_up = |name: &str| parts[name]["state"] == "up";
            ["kafka", "evaluator", "store", "sink", "database", "redis", "warmer"]
                .into_iter()
                .all(is_up)
                .then_some(())
        });
    }
    service.assert_running();
    fixture.database = Some(database);
    fixture.balance();
}
