//! The Redis cache.

mod changes;
mod faults;
mod servers;
mod stale;

use serde_json::{Value, json};

use crate::harness::{Flag, Flags, Group, Redis, Sender, Service, Stack, TEST_TIMEOUT, Topics, wait_until};

/// One running instance with a Redis.
struct World {
    group: Group,
    service: Service,
    sender: Sender,
    redis: Redis,
}

const TTL_SECONDS: i64 = 120;
/// `context_hash` of `{}`.
const EMPTY: &str = "44136fa355b3678a";

impl World {
    fn start(stack: &Stack, set_flags: impl FnOnce(&mut Flags<'_>)) -> Self {
        let redis = Redis::database(stack);
        let url = redis.url.clone();
        Self::start_at(Group::new(stack), redis, &url, set_flags)
    }

    /// Starts the fixture with another URL of the same database.
    fn start_at(group: Group, redis: Redis, url: &str, set_flags: impl FnOnce(&mut Flags<'_>)) -> Self {
        let group = group.set("REDIS_URL", url).set("FEATURE_FLAG_CACHE_TTL", format!("{TTL_SECONDS}s"));
        set_flags(&mut Flags::new(&group.topics));
        Self { service: group.start("one"), sender: Sender::new(&group.topics.kafka), redis, group }
    }

    /// Asks, without waiting for anything.
    fn ask(&self, request: &Value) {
        ask(&self.sender, &self.group.topics, request);
    }

    /// A part of `/health`.
    fn part(&self, name: &str) -> Value {
        self.service.health()["parts"][name].clone()
    }

    fn count(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.service.metrics().sum(metric, labels)
    }
}

fn ask(sender: &Sender, topics: &Topics, request: &Value) {
    let key = request["user_id"].as_str().map(str::as_bytes);
    sender.send(&topics.requests, None, key, request.to_string().as_bytes(), None);
}

fn request(flag: &str, user: &str, context: Value) -> Value {
    json!({"flag_name": flag, "user_id": user, "context": context, "environment": "production"})
}

/// The key of an evaluation in `production`.
fn key(flag: &str, user: &str, hash: &str) -> String {
    format!("feature_flag:eval:production:{flag}:{user}:{hash}")
}

#[test]
fn results_stand_under_keys_that_anyone_can_compute() {
    let (stack, _shared) = Stack::shared();
    let mut versions = (0, 0);
    let world = World::start(stack, |flags| {
        versions.0 = flags.set("production", Flag::on("on"));
        let payload = Some(("json", r#"{"colour": "blue"}"#));
        let themed = Flag::on("themed").where_in("region", &["us-west"]).variant("dark", payload);
        versions.1 = flags.set("production", themed);
        let parameters = json!({"rollout": "50", "stickiness": "random", "groupId": "g"});
        flags.set(
            "production",
            Flag::on("chance").body(json!({"name": "chance", "enabled": true,
            "strategies": [{"name": "flexibleRollout", "parameters": parameters}]})),
        );
        flags.set("production", Flag::off("odd:%"));
    });
    for flag in ["chance", "unknown", "on", "odd:%"] {
        world.ask(&request(flag, "u:1", json!({})));
    }
    world.ask(&request("themed", "u2", json!({"subscription_tier": "premium", "region": "us-west"})));
    let mut with_session = request("on", "u2", json!({"subscription_tier": "premium", "region": "us-west"}));
    with_session["session_id"] = json!("s-9");
    world.ask(&with_session);
    world.ask(&request("themed", "u2", json!({"region": "us-east"})));

    let redis = &world.redis;
    let on = redis.wait(&key("on", "u%3A1", EMPTY), |_| true);
    assert_eq!(on["flag_version"], versions.0);
    assert_eq!((&on["enabled"], &on["variant"], &on["payload"]), (&json!(true), &Value::Null, &Value::Null));
    assert_eq!(on["reason"], "TARGETING_MATCH");
    assert!(on["evaluated_at"].as_str().unwrap().starts_with("20"), "{on}");
    let plain = redis.wait("ff_eval:production:on:u%3A1", |_| true);
    assert_eq!((&plain["enabled"], &plain["cached_at"]), (&json!(true), &on["evaluated_at"]));
    let odd = redis.wait(&key("odd%3A%25", "u%3A1", EMPTY), |_| true);
    assert_eq!((&odd["enabled"], &odd["reason"]), (&json!(false), &json!("DEFAULT")));

    // Hashes as Python makes them; see tests/vectors/context_hash.json.
    let themed = redis.wait(&key("themed", "u2", "5e7756044c02959b"), |_| true);
    assert_eq!((&themed["flag_version"], &themed["variant"]), (&json!(versions.1), &json!("dark")));
    assert_eq!(themed["payload"], json!({"type": "json", "value": r#"{"colour": "blue"}"#}));
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../vectors/context_hash.json")).unwrap();
    let with_session =
        |it: &&Value| it["context"].as_str().unwrap().contains("premium") && !it["session_id"].is_null();
    let hash = &vectors.iter().find(with_session).unwrap()["context_hash"];
    redis.wait(&key("on", "u2", hash.as_str().unwrap()), |_| true);
    // The last one of its partition: what is not there by now does not come.
    let mut east = None;
    wait_until("the last key", TEST_TIMEOUT, || {
        let keys: Vec<String> = redis.command(&["KEYS", &key("themed", "u2", "*")]);
        east = keys.into_iter().find(|it| !it.ends_with("5e7756044c02959b"));
        east.is_some()
    });
    assert_eq!(redis.get(&east.unwrap()).unwrap()["enabled"], false);
    assert_eq!(redis.get("ff_eval:production:on:u2"), None, "only without a context");

    let life: i64 = redis.command(&["PTTL", &key("on", "u%3A1", EMPTY)]);
    assert!((TTL_SECONDS * 800..=TTL_SECONDS * 1_100).contains(&life), "{life}");
    assert_eq!(redis.get(&key("chance", "u%3A1", EMPTY)), None, "chance is not kept");
    assert_eq!(redis.get(&key("unknown", "u%3A1", EMPTY)), None);
    let passed_over = |outcome| world.count("flagstream_warm_passed_over_total", &[("outcome", outcome)]);
    assert_eq!((passed_over("random"), passed_over("no_flag")), (1.0, 1.0));
    assert_eq!(world.count("flagstream_warm_writes_total", &[("outcome", "written")]), 7.0);
}
