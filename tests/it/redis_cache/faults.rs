//! Faults of Redis.

use serde_json::json;

use super::{EMPTY, World, key, request};
use crate::harness::{
    Flag, Flags, Group, Redis, Stack, TEST_TIMEOUT, TcpProxy, TopicReader, Way, get, wait_for, wait_until,
};

/// An instance that reaches Redis through a proxy.
fn behind_a_door(stack: &Stack) -> (World, TcpProxy) {
    let redis = Redis::database(stack);
    let door = TcpProxy::to(&redis.url);
    let url = door.url.clone();
    let world = World::start_at(Group::new(stack), redis, &url, |flags| {
        flags.set("production", Flag::on("f"));
    });
    (world, door)
}

/// Detail of the warmer in `/health`.
fn warmer(world: &World) -> String {
    let (_, body) = get(&format!("{}/health", world.service.url)).unwrap();
    let overview: serde_json::Value = serde_json::from_str(&body).unwrap();
    overview["parts"]["warmer"]["state"].as_str().unwrap().to_owned()
}

#[test]
fn evaluation_goes_on_without_redis_and_the_view_catches_up() {
    let (stack, _shared) = Stack::shared();
    let (world, door) = behind_a_door(stack);
    let mut events = TopicReader::open(&world.group.topics.kafka, &world.group.topics.events);
    world.ask(&request("f", "before", json!({})));
    world.redis.wait(&key("f", "before", EMPTY), |_| true);
    for (way, user) in [(Way::Shut, "shut"), (Way::Slow, "slow"), (Way::Garbled, "garbled")] {
        door.set(way);
        world.ask(&request("f", user, json!({})));
        events.wait("evaluated all the same", TEST_TIMEOUT, |event| event.json()["user_id"] == user);
        wait_until("health tells", TEST_TIMEOUT, || warmer(&world) == "degraded");
        assert_eq!(world.redis.get(&key("f", user, EMPTY)), None);
        door.set(Way::Open);
        world.redis.wait(&key("f", user, EMPTY), |_| true);
        wait_until("health tells", TEST_TIMEOUT, || warmer(&world) == "up");
    }
    // A change that could not be applied is applied later.
    door.set(Way::Shut);
    let version = Flags::new(&world.group.topics).later(1_000).change("production", Flag::off("f"));
    wait_until("in force", TEST_TIMEOUT, || world.count("flagstream_store_version", &[]) >= version as f64);
    assert_eq!(world.redis.get(&key("f", "before", EMPTY)).unwrap()["enabled"], true);
    door.set(Way::Open);
    world.redis.wait(&key("f", "before", EMPTY), |it| it["flag_version"] == version);
    assert_eq!(world.count("flagstream_dropped_total", &[("what", "warm_write")]), 0.0);
}

#[test]
fn a_flushed_view_is_built_again_and_found_by_changes() {
    let (stack, _shared) = Stack::shared();
    let world = World::start(stack, |flags| {
        flags.set("production", Flag::on("f"));
    });
    for user in ["a", "b", "c"] {
        world.ask(&request("f", user, json!({"plan": "x"})));
        world.ask(&request("f", user, json!({})));
    }
    let users = ["a", "b", "c"].map(|user| key("f", user, EMPTY));
    users.iter().for_each(|key| drop(world.redis.wait(key, |_| true)));
    world.redis.flush();
    users.iter().for_each(|key| drop(world.redis.wait(key, |_| true)));
    let keys = || world.redis.command::<Vec<String>>(&["KEYS", "feature_flag:eval:*"]);
    wait_until("those with a context too", TEST_TIMEOUT, || keys().len() == 6);
    let version = Flags::new(&world.group.topics).later(1_000).change("production", Flag::off("f"));
    for key in keys() {
        world.redis.wait(&key, |it| it["flag_version"] == version);
    }
}

#[test]
fn without_memory_writes_are_counted_and_nothing_stale_stays() {
    let (stack, _exclusive) = Stack::exclusive();
    let world = World::start(stack, |flags| {
        flags.set("production", Flag::on("f"));
    });
    world.ask(&request("f", "before", json!({})));
    world.redis.wait(&key("f", "before", EMPTY), |_| true);
    let full = Full::of(&world.redis);
    world.ask(&request("f", "during", json!({})));
    wait_until("the write is given up", TEST_TIMEOUT, || {
        world.count("flagstream_dropped_total", &[("what", "warm_write"), ("reason", "full")]) >= 1.0
    });
    Flags::new(&world.group.topics).later(1_000).change("production", Flag::off("f"));
    wait_until("the old value goes", TEST_TIMEOUT, || world.redis.get(&key("f", "before", EMPTY)).is_none());
    assert_eq!(world.redis.get(&key("f", "during", EMPTY)), None);
    drop(full);
    world.ask(&request("f", "after", json!({})));
    let value = wait_for("the view works again", TEST_TIMEOUT, || world.redis.get(&key("f", "after", EMPTY)));
    assert_eq!(value["enabled"], false);
}

/// A Redis without memory, until this goes.
struct Full<'r>(&'r Redis);

impl<'r> Full<'r> {
    fn of(redis: &'r Redis) -> Self {
        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1000"]);
        Self(redis)
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        self.0.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    }
}
