//! The warm view in Redis.

use serde_json::{Value, json};

use crate::harness::{Flag, Flags, Group, Redis, Sender, Service, Stack, wait_until};

/// One running instance with a Redis.
struct World {
    group: Group,
    service: Service,
    sender: Sender,
    redis: Redis,
}

const TTL_SECONDS: i64 = 120;

impl World {
    fn start(stack: &Stack, set_flags: impl FnOnce(&mut Flags<'_>)) -> Self {
        let redis = Redis::database(stack);
        let url = redis.url.clone();
        Self::start_at(stack, redis, &url, set_flags)
    }

    fn start_at(stack: &Stack, redis: Redis, url: &str, set_flags: impl FnOnce(&mut Flags<'_>)) -> Self {
        let group =
            Group::new(stack).set("REDIS_URL", url).set("FEATURE_FLAG_CACHE_TTL", format!("{TTL_SECONDS}s"));
        let mut flags = Flags::new(&group.topics);
        set_flags(&mut flags);
        Self { service: group.start("one"), sender: Sender::new(&group.topics.kafka), redis, group }
    }

    /// Asks, without waiting for anything.
    fn ask(&self, request: &Value) {
        let key = request["user_id"].as_str().map(str::as_bytes);
        self.sender.send(&self.group.topics.requests, None, key, request.to_string().as_bytes(), None);
    }
}

fn request(flag: &str, user: &str, context: Value) -> Value {
    json!({"flag_name": flag, "user_id": user, "context": context, "environment": "production"})
}

/// The key of an evaluation in `production`.
fn key(flag: &str, user: &str, hash: &str) -> String {
    format!("feature_flag:eval:production:{flag}:{user}:{hash}")
}

/// `context_hash` of `{}`.
const EMPTY: &str = "44136fa355b3678a";

#[test]
fn results_stand_under_keys_that_anyone_can_compute() {
    let (stack, _together) = Stack::together();
    let mut versions = (0, 0);
    let world = World::start(stack, |flags| {
        versions.0 = flags.set("production", Flag::on("on"));
        let payload = Some(("json", r#"{"colour": "blue"}"#));
        versions.1 = flags
            .set("production", Flag::on("themed").where_in("region", &["us-west"]).variant("dark", payload));
        flags.set("production", Flag::on("chance").body(json!({"name": "chance", "enabled": true, "strategies": [
            {"name": "flexibleRollout", "parameters": {"rollout": "50", "stickiness": "random", "groupId": "g"}}]})));
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
    let odd = redis.wait("feature_flag:eval:production:odd%3A%25:u%3A1:44136fa355b3678a", |_| true);
    assert_eq!((&odd["enabled"], &odd["reason"]), (&json!(false), &json!("DEFAULT")));

    // Hashes as Python makes them; see tests/vectors/context_hash.json.
    let themed = redis.wait(&key("themed", "u2", "5e7756044c02959b"), |_| true);
    assert_eq!((&themed["flag_version"], &themed["variant"]), (&json!(versions.1), &json!("dark")));
    assert_eq!(themed["payload"], json!({"type": "json", "value": r#"{"colour": "blue"}"#}));
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../vectors/context_hash.json")).unwrap();
    let vector = vectors
        .iter()
        .find(|it| it["context"].as_str().unwrap().contains("premium") && !it["session_id"].is_null());
    redis.wait(&key("on", "u2", vector.unwrap()["context_hash"].as_str().unwrap()), |_| true);
    // The last one of its partition: what is not there by now does not come.
    let mut east = None;
    wait_until("the last key", crate::harness::SOON, || {
        let keys: Vec<String> = redis.command(&["KEYS", "feature_flag:eval:production:themed:u2:*"]);
        east = keys.into_iter().find(|it| !it.ends_with("5e7756044c02959b"));
        east.is_some()
    });
    assert_eq!(redis.get(&east.unwrap()).unwrap()["enabled"], false);
    assert_eq!(redis.get("ff_eval:production:on:u2"), None, "only without a context");

    let life: i64 = redis.command(&["PTTL", &key("on", "u%3A1", EMPTY)]);
    assert!((TTL_SECONDS * 800..=TTL_SECONDS * 1_100).contains(&life), "{life}");
    assert_eq!(redis.get(&key("chance", "u%3A1", EMPTY)), None, "chance is not kept");
    assert_eq!(redis.get(&key("unknown", "u%3A1", EMPTY)), None);
    let metrics = world.service.metrics();
    assert_eq!(metrics.sum("flagstream_warm_passed_over_total", &[("outcome", "random")]), 1.0);
    assert_eq!(metrics.sum("flagstream_warm_passed_over_total", &[("outcome", "no_flag")]), 1.0);
    assert_eq!(metrics.sum("flagstream_warm_writes_total", &[("outcome", "written")]), 7.0);
}
