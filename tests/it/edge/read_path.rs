//! Memory first or Redis first; and Redis while there are no flags in memory.

use serde_json::{Value, json};

use super::{ENVIRONMENT, Fixture};
use crate::harness::{
    Flag, Flags, Group, Redis, Service, Stack, TEST_TIMEOUT, TcpProxy, TopicReader, Way, free_port, get,
    post, wait_until,
};

const EVALUATE: &str = "/api/v1/feature-flags/evaluate";
/// `context_hash` of `{}`.
const EMPTY: &str = "44136fa355b3678a";

fn key(flag: &str, user: &str) -> String {
    format!("feature_flag:eval:{ENVIRONMENT}:{flag}:{user}:{EMPTY}")
}

/// A value that no evaluation gives, by which it is known again.
fn planted(version: u64) -> String {
    json!({"enabled": true, "variant": "planted", "payload": {"type": "string", "value": "from redis"},
        "reason": "TARGETING_MATCH", "evaluated_at": "2026-01-15T10:30:00Z"})
    .to_string()
    .replacen('{', &format!("{{\"flag_version\":{version},"), 1)
}

fn ask(service: &Service, flag: &str, user: &str) -> Value {
    let body =
        json!({"flag_name": flag, "user_id": user, "environment": ENVIRONMENT, "default_value": "none"});
    let answer = post(&format!("{}{EVALUATE}", service.url), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn redis_first_takes_what_is_not_older_than_memory() {
    let (stack, _shared) = Stack::shared();
    let redis = Redis::database(stack);
    let door = TcpProxy::to(&redis.url);
    let url = door.url.clone();
    let group = Group::new(stack).set("FLAGSTREAM_EVALUATION__READ_PATH", "redis_first");
    // No warmer: what is planted stays.
    let mut fixture = Fixture::start_as(group, redis, &url, "api");
    let version = ask(&fixture.service, "themed", "u0")["flag_version"].as_u64().unwrap();

    fixture.redis.set(&key("themed", "u1"), &planted(version));
    let answer = ask(&fixture.service, "themed", "u1");
    assert_eq!((&answer["value"], &answer["variant"]), (&json!("from redis"), &json!("planted")));
    assert_eq!(fixture.event(&answer["event_id"])["value"], "from redis", "an event like any other");

    fixture.redis.set(&key("themed", "u2"), &planted(version - 1));
    assert_eq!(ask(&fixture.service, "themed", "u2")["value"], "dark", "older than memory");
    fixture.redis.set(&key("themed", "u3"), "what is this");
    assert_eq!(ask(&fixture.service, "themed", "u3")["value"], "dark", "not ours");
    fixture.redis.set(&key("gone", "u1"), &planted(version));
    assert_eq!(ask(&fixture.service, "gone", "u1")["error_code"], "FLAG_NOT_FOUND", "memory knows better");

    // Of many, some.
    let body = json!({"flag_names": ["themed", "everybody", "nobody-made-it"], "environment": ENVIRONMENT,
        "default_values": {"themed": "none"}, "contexts": [{"user_id": "u1"}, {"user_id": "u9"}]});
    let many = post(&format!("{}{EVALUATE}/bulk", fixture.service.url), &body).json();
    let values: Vec<_> = (0..2).map(|index| &many["contexts"][index]["results"]["themed"]["value"]).collect();
    assert_eq!(values, [&json!("from redis"), &json!("dark")]);
    assert_eq!(many["contexts"][0]["results"]["everybody"]["value"], true);

    let metrics = fixture.service.metrics();
    let reads = |outcome| metrics.sum("flagstream_warm_reads_total", &[("outcome", outcome)]);
    assert!(
        reads("hit") >= 2.0 && reads("stale") >= 1.0 && reads("unreadable") >= 1.0 && reads("absent") >= 2.0
    );

    for way in [Way::Shut, Way::Slow] {
        door.set(way);
        for _ in 0..100 {
            let begun = std::time::Instant::now();
            assert_eq!(ask(&fixture.service, "themed", "u1")["value"], "dark", "{way:?}");
            assert!(begun.elapsed().as_millis() < 2_500, "{way:?}: {:?}", begun.elapsed());
        }
        door.set(Way::Open);
        wait_until("Redis again", TEST_TIMEOUT, || {
            ask(&fixture.service, "themed", "u1")["value"] == "from redis"
        });
    }
}

#[test]
fn memory_first_does_not_ask_redis() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let version = ask(&fixture.service, "themed", "u0")["flag_version"].as_u64().unwrap();
    fixture.redis.set(&key("themed", "u1"), &planted(version));
    assert_eq!(ask(&fixture.service, "themed", "u1")["value"], "dark");
    assert_eq!(fixture.service.metrics().sum("flagstream_warm_reads_total", &[]), 0.0);
}

#[test]
fn while_there_are_no_flags_in_memory_redis_answers() {
    let (stack, _shared) = Stack::shared();
    let redis = Redis::database(stack);
    let group = Group::new(stack)
        .set("REDIS_URL", &redis.url)
        .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read");
    // No broker listens there, and nothing is on disk.
    let kafka = group.topics.kafka.clone();
    let cut_off = group.clone().set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", free_port()));
    let mut service = cut_off.prepare("one").roles("api");
    service.spawn();
    wait_until("alive", TEST_TIMEOUT, || get(&format!("{}/health/live", service.url)).is_some());
    redis.set(&key("themed", "u1"), &planted(7));
    redis.set(&format!("flag_check:{ENVIRONMENT}:themed:u1"), &planted(7));
    wait_until("asked", TEST_TIMEOUT, || ask(&service, "themed", "u1")["value"] == "from redis");
    let answer = ask(&service, "themed", "u1");
    assert_eq!((&answer["flag_version"], &answer["error_code"]), (&json!(7), &Value::Null));
    let unknown = ask(&service, "themed", "somebody-else");
    assert_eq!((&unknown["value"], &unknown["error_code"]), (&json!("none"), &json!("PROVIDER_NOT_READY")));

    let url = format!("{}/ofrep/v1/evaluate/flags/themed?environment={ENVIRONMENT}", service.url);
    let openfeature = post(&url, &json!({"context": {"targetingKey": "u1"}}));
    // The targeting key is the context's only member, so this is another key.
    assert_eq!(openfeature.status, 503, "{openfeature:?}");

    let check = |user: &str| {
        let (status, body) = get(&format!("{}/flags/themed/check?user_id={user}", service.url)).unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let kept = check("u1");
    assert_eq!((&kept["enabled"], &kept["_cache"]), (&json!(true), &json!("hit")));
    let unknown = check("somebody-else");
    assert_eq!((&unknown["enabled"], &unknown["error_code"]), (&json!(false), &json!("PROVIDER_NOT_READY")));

    let health = service.health();
    assert_eq!(health["parts"]["store"]["state"], "starting", "{health}");
    assert!(service.stop().0.success());

    // What was answered is published as soon as there is a Kafka.
    let mut service = group.prepare("one").roles("api");
    Flags::new(&group.topics).set(ENVIRONMENT, Flag::on("themed"));
    service.spawn();
    service.wait_until_ready();
    let mut events = TopicReader::open(&kafka, &group.topics.events);
    events.wait("an answer from Redis", TEST_TIMEOUT, |event| {
        let event = event.json();
        event["value"] == "from redis" && event["environment"] == ENVIRONMENT
    });
    events.wait("a hit of the edge", TEST_TIMEOUT, |event| event.json()["source"]["api"] == "edge");
}
