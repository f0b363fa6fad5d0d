//! A change is followed by no older answer, wherever it is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use super::{ENVIRONMENT, Fixture, rollout};
use crate::harness::{Flag, Flags, Service, Stack, TEST_TIMEOUT, call, get, is_long, wait_until};

const READERS: usize = 6;

/// Counts of one reader.
#[derive(Default)]
struct Seen {
    hits: u64,
    misses: u64,
}

/// Calls the edge API of one instance until it is stopped. Before each call it reads which version of the flag this
/// instance has in force; an older answer is stale.
fn read(url: &str, in_force: &AtomicU64, stop: &AtomicBool, reader: usize) -> Seen {
    let mut seen = Seen::default();
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let oldest = in_force.load(Ordering::SeqCst);
        let (user, check) = ((number + reader as u64) % 5, if number % 3 == 0 { "" } else { "/check" });
        let (status, body) = get(&format!("{url}/flags/changing{check}?user_id=u{user}")).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200, "{answer}");
        let version = answer["flag_version"].as_u64().unwrap();
        assert!(version >= oldest, "{version} after {oldest}: {answer}");
        // Every second version is off.
        assert_eq!(answer["enabled"], json!(version.is_multiple_of(2)), "{answer}");
        if check.is_empty() {
            assert_eq!(answer["flag_data"]["enabled"], answer["enabled"], "{answer}");
        }
        if number % 10 == 0 {
            let (_, list) = get(&format!("{url}/flags")).unwrap();
            let list: serde_json::Value = serde_json::from_str(&list).unwrap();
            let listed =
                list["flags"].as_array().unwrap().iter().find(|flag| flag["flag_name"] == "changing");
            let listed = listed.unwrap()["metadata"]["version"].as_u64().unwrap();
            assert!(listed >= oldest, "listed {listed} after {oldest}");
        }
        match answer["_cache"].as_str() {
            Some("hit") => seen.hits += 1,
            _ => seen.misses += 1,
        }
    }
    seen
}

fn set_changing(flags: &mut Flags<'_>, version: u64) -> u64 {
    // The next version decides what it says.
    let next = version + 1;
    let flag = if next.is_multiple_of(2) { Flag::on("changing") } else { Flag::off("changing") };
    flags.change(ENVIRONMENT, flag)
}

fn wait_for(service: &Service, version: u64) {
    wait_until("in force", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_store_version", &[]) >= version as f64
    });
}

#[test]
fn an_update_is_followed_by_no_older_answer() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    let mut second = fixture.group.prepare("two").roles("api");
    second.spawn();
    second.wait_until_ready();
    let mut flags = Flags::new(&fixture.group.topics).later(1_000);
    let mut version = set_changing(&mut flags, 1_768_473_001_000);
    let services = [&fixture.service, &second];
    let in_force = [AtomicU64::new(0), AtomicU64::new(0)];
    for (service, in_force) in services.iter().zip(&in_force) {
        wait_for(service, version);
        in_force.store(version, Ordering::SeqCst);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let changes = if is_long() { 300 } else { 25 };
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (url, stop) = (services[reader % 2].url.clone(), Arc::clone(&stop));
                let in_force = &in_force[reader % 2];
                scope.spawn(move || read(&url, in_force, &stop, reader))
            })
            .collect();
        for _ in 0..changes {
            version = set_changing(&mut flags, version);
            for (service, in_force) in services.iter().zip(&in_force) {
                wait_for(service, version);
                in_force.store(version, Ordering::SeqCst);
            }
            if readers.iter().any(|reader| reader.is_finished()) {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let (hits, misses) =
        (seen.iter().map(|s| s.hits).sum::<u64>(), seen.iter().map(|s| s.misses).sum::<u64>());
    println!("{changes} changes, {hits} hits, {misses} misses, none stale");
    assert!(hits > 0 && misses > 0, "{hits} hits, {misses} misses");
    // Raw keys follow: what is there is new, or is nothing.
    wait_until("no raw key is older", TEST_TIMEOUT, || {
        let mut keys: Vec<String> = fixture.redis.command(&["KEYS", "flag_*changing*"]);
        keys.extend(fixture.redis.command::<Vec<String>>(&["KEYS", "feature_flag:data:*changing"]));
        keys.iter().all(|key| fixture.redis.get(key).is_none_or(|value| value["flag_version"] == version))
    });
}

#[test]
fn a_change_removes_the_keys_of_its_flag_and_the_list() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack);
    for user in 0..30 {
        fixture.hit(&format!("/flags/everybody/check?user_id=u{user}"));
    }
    fixture.hit("/flags/everybody?user_id=u1");
    fixture.hit("/flags/dark_mode/check?user_id=u1");
    fixture.hit("/flags");
    let version =
        Flags::new(&fixture.group.topics).later(1_000).change(ENVIRONMENT, rollout("everybody", "0"));
    wait_until("removed", TEST_TIMEOUT, || {
        let patterns =
            ["flag_check:*:everybody:*", "flag_endpoint:*:everybody:*", "feature_flag:data:*:everybody"];
        let list = format!("flag_endpoint:{ENVIRONMENT}");
        let left = |pattern: &str| fixture.redis.command::<Vec<String>>(&["KEYS", pattern]).len();
        patterns.iter().chain([&list.as_str()]).all(|pattern| left(pattern) == 0)
    });
    let answer = fixture.get("/flags/everybody/check?user_id=u1");
    assert_eq!((&answer["enabled"], &answer["flag_version"]), (&json!(false), &json!(version)));
    assert_eq!(answer["_cache"], "miss");
    assert_eq!(fixture.get("/flags/dark_mode/check?user_id=u1")["_cache"], "hit", "of another flag");

    // A deleted flag is unknown, whatever was kept.
    fixture.hit("/flags/everybody/check?user_id=u1");
    Flags::new(&fixture.group.topics).later(2_000).remove(ENVIRONMENT, "everybody");
    wait_until("unknown", TEST_TIMEOUT, || {
        call("GET", &format!("{}/flags/everybody/check?user_id=u1", fixture.service.url), &[], b"").status
            == 404
    });
}
