//! Effect of a change on raw keys.

use serde_json::json;

use super::{EMPTY, TTL_SECONDS, World, key, request};
use crate::harness::{Flag, Flags, Stack, TEST_TIMEOUT, wait_until};

/// Number of users, more than one page of a refresh has.
const USERS: usize = 700;

fn user(number: usize) -> String {
    format!("user-{number}")
}

/// A flag that is on where another one is.
fn child(name: &str, parent: &str) -> Flag {
    Flag::on(name).body(json!({"name": name, "enabled": true, "strategies": [{"name": "default"}],
        "dependencies": [{"feature": parent}]}))
}

#[test]
fn raw_keys_follow_a_change_and_live_no_longer_for_it() {
    let (stack, _shared) = Stack::shared();
    let world = World::start(stack, |flags| {
        flags.set("production", Flag::on("wide"));
        flags.set("production", Flag::on("other"));
    });
    let redis = &world.redis;
    let large = json!({"text": "x".repeat(2_000)});
    for number in 0..USERS {
        world.ask(&request("wide", &user(number), json!({})));
    }
    world.ask(&request("wide", "large", large));
    world.ask(&request("other", "user-0", json!({})));
    wait_until("all keys", TEST_TIMEOUT, || {
        redis.command::<Vec<String>>(&["KEYS", &key("wide", "*", "*")]).len() == USERS + 1
    });
    redis.wait(&key("other", "user-0", EMPTY), |_| true);
    redis.command::<()>(&["PEXPIRE", &key("wide", "user-1", EMPTY), "60000"]);
    redis.command::<()>(&["DEL", &key("wide", "user-2", EMPTY)]);
    // Seed 001's clients write here too, without a version.
    redis.set("ff_eval:production:wide:user-3", r#"{"enabled": true, "cached_at": "2026-01-01T00:00:00"}"#);

    let version = Flags::new(&world.group.topics).later(1_000).change("production", Flag::off("wide"));
    wait_until("every key is right", TEST_TIMEOUT, || {
        let keys: Vec<String> = redis.command(&["KEYS", &key("wide", "*", "*")]);
        keys.len() == USERS - 1
            && keys.iter().all(|key| redis.get(key).is_some_and(|it| it["flag_version"] == version))
    });
    assert_eq!(redis.get(&key("wide", "user-5", EMPTY)).unwrap()["enabled"], false);
    assert_eq!(redis.get("ff_eval:production:wide:user-5").unwrap()["enabled"], false);
    redis.wait("ff_eval:production:wide:user-3", |it| it["enabled"] == false);
    let life: i64 = redis.command(&["PTTL", &key("wide", "user-1", EMPTY)]);
    assert!((1..=60_000).contains(&life), "{life}");
    let life: i64 = redis.command(&["PTTL", &key("wide", "user-4", EMPTY)]);
    assert!(life <= TTL_SECONDS * 1_100, "{life}");
    assert_eq!(redis.get(&key("wide", "user-2", EMPTY)), None, "what is gone stays so");
    assert_eq!(redis.get(&key("other", "user-0", EMPTY)).unwrap()["enabled"], true);
    wait_until("the sweep is counted", TEST_TIMEOUT, || {
        world.count("flagstream_warm_finished_seconds_count", &[]) == 1.0
    });
    let swept = |outcome| world.count("flagstream_warm_swept_total", &[("outcome", outcome)]);
    assert!(swept("renewed") >= (2 * USERS - 1) as f64, "{}", swept("renewed"));
    assert_eq!(swept("removed"), 1.0, "the one with the large context");
}

#[test]
fn children_change_with_their_parents_and_deleted_flags_go() {
    let (stack, _shared) = Stack::shared();
    let world = World::start(stack, |flags| {
        flags.set("production", Flag::on("parent"));
        flags.set("production", child("child", "parent"));
        flags.set("production", Flag::on("gone"));
    });
    let redis = &world.redis;
    for flag in ["child", "gone"] {
        world.ask(&request(flag, "u", json!({})));
        redis.wait(&key(flag, "u", EMPTY), |it| it["enabled"] == true);
    }
    let mut flags = Flags::new(&world.group.topics).later(1_000);
    let version = flags.change("production", Flag::off("parent"));
    let now = redis.wait(&key("child", "u", EMPTY), |it| it["enabled"] == false);
    assert_eq!(now["basis_version"], version, "{now}");
    assert!(now["flag_version"].as_u64() < Some(version), "its own version is the old one: {now}");
    redis.wait("ff_eval:production:child:u", |it| it["enabled"] == false);

    let version = flags.remove("production", "gone");
    flags.announce("production", "gone", version);
    wait_until("its keys are gone", TEST_TIMEOUT, || {
        redis.get(&key("gone", "u", EMPTY)).is_none() && redis.get("ff_eval:production:gone:u").is_none()
    });
}

#[test]
fn an_older_value_never_takes_the_place_of_a_newer_one() {
    let (stack, _shared) = Stack::shared();
    let mut version = 0;
    let world = World::start(stack, |flags| version = flags.set("production", Flag::on("f")));
    let redis = &world.redis;
    let of_version = |version: u64| {
        format!(
            r#"{{"flag_version":{version},"enabled":false,"variant":null,"payload":null,"reason":"DEFAULT","evaluated_at":"-"}}"#
        )
    };
    redis.set(&key("f", "newer", EMPTY), &of_version(version + 1));
    redis.set(&key("f", "older", EMPTY), &of_version(version - 1));
    redis.set(&key("f", "strange", EMPTY), "\"what is this\"");
    for user in ["newer", "older", "strange"] {
        world.ask(&request("f", user, json!({})));
    }
    for user in ["older", "strange"] {
        redis.wait(&key("f", user, EMPTY), |it| it["flag_version"] == version);
    }
    wait_until("the older write is refused", TEST_TIMEOUT, || {
        world.count("flagstream_warm_writes_total", &[("outcome", "refused")]) == 1.0
    });
    assert_eq!(redis.get(&key("f", "newer", EMPTY)).unwrap()["flag_version"], version + 1);
    assert_eq!(redis.get("ff_eval:production:f:newer").unwrap()["enabled"], true);
}

#[test]
fn a_flag_with_a_date_is_kept_until_then() {
    let (stack, _shared) = Stack::shared();
    let soon = chrono::Utc::now() + chrono::Duration::seconds(60);
    let world = World::start(stack, |flags| {
        flags.set(
            "production",
            Flag::on("dated").body(json!({"name": "dated", "enabled": true,
            "strategies": [{"name": "default", "constraints": [{"contextName": "currentTime",
                "operator": "DATE_AFTER", "value": soon.to_rfc3339()}]}]})),
        );
    });
    world.ask(&request("dated", "u", json!({})));
    let value = world.redis.wait(&key("dated", "u", EMPTY), |_| true);
    assert_eq!(value["enabled"], false);
    let end: i64 = world.redis.command(&["PEXPIRETIME", &key("dated", "u", EMPTY)]);
    assert_eq!(end, soon.timestamp_millis());
}
