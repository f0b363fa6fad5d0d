//! Kill switches while the services around them fail.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ENVIRONMENT, Fixture, changes, evaluate, is_on, kill, restore, turns};
use crate::harness::{
    Admin, Flags, Load, Service, Stack, TEST_TIMEOUT, TopicReader, is_long, post, rollout, wait_for,
    wait_until,
};

fn is_leader(service: &Service) -> bool {
    service.metrics().sum("flagstream_feed_leader", &[]) == 1.0
}

/// How long after `asked` each of `services` answers that the flag is off (or on).
fn until_all(
    services: &[&Service],
    environment: &str,
    flag: &str,
    on: bool,
    asked: Instant,
) -> Vec<Duration> {
    std::thread::scope(|scope| {
        let waits: Vec<_> = services
            .iter()
            .map(|service| {
                scope.spawn(move || {
                    let body = json!({"flag_name": flag, "user_id": "u", "environment": environment,
                        "context": {"subscription_tier": "premium"}});
                    let url = format!("{}/api/v1/feature-flags/evaluate", service.url);
                    wait_until("everywhere", TEST_TIMEOUT, || post(&url, &body).json()["enabled"] == on);
                    asked.elapsed()
                })
            })
            .collect();
        waits.into_iter().map(|wait| wait.join().unwrap()).collect()
    })
}

#[test]
fn under_load_a_kill_is_in_force_on_all_of_three_instances() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let topics = &fixture.group.topics;
    Flags::new(topics).later(100).set_load();
    let services = ["one", "two", "three"].map(|name| fixture.group.start(name));
    let all: Vec<&Service> = services.iter().collect();
    let load = Load::start(topics, &topics.reply_topic("replies"), 2_000);
    let mut events = TopicReader::open(&topics.kafka, &topics.events);
    events.until("evaluations", TEST_TIMEOUT, |seen| seen.len() > 2_000);
    let url = |service: &Service, action: &str| {
        format!("{}/api/v1/feature-flags/theme/{action}?environment=production", service.url)
    };
    let rounds = if is_long() { 20 } else { 3 };
    let (mut kills, mut restores) = (Vec::new(), Vec::new());
    let mut last = 0;
    for round in 0..rounds {
        for (action, on) in [("kill", false), ("restore", true)] {
            let service = all[round % all.len()];
            let asked = Instant::now();
            let (turned, took) = std::thread::scope(|scope| {
                let turning = scope.spawn(|| post(&url(service, action), &json!({"reason": "under load"})));
                let took = until_all(&all, "production", "theme", on, asked);
                (turning.join().unwrap(), took)
            });
            assert_eq!(turned.status, 200, "{turned:?}");
            last = turned.json()["version"].as_u64().unwrap();
            (if on { &mut restores } else { &mut kills }).extend(took);
        }
    }
    for (what, took) in [("kill", &mut kills), ("restore", &mut restores)] {
        took.sort_unstable();
        println!(
            "{what}: time to effect on all of three instances under load: median {:?}, worst {:?} of {}",
            took[took.len() / 2],
            took[took.len() - 1],
            took.len()
        );
    }
    // Every result is what its version says, under every version there was: off between a kill and its restoring.
    let killed =
        post(&url(all[0], "kill"), &json!({"reason": "for good"})).json()["version"].as_u64().unwrap();
    assert!(killed > last);
    until_all(&all, "production", "theme", false, Instant::now());
    events.until("results under the last version", TEST_TIMEOUT, |seen| {
        seen.iter().filter(|record| record.json()["flag_version"] == killed).count() > 200
    });
    load.stop();
    let mut updates = TopicReader::open(&topics.kafka, &topics.updates);
    updates.wait("the last kill", TEST_TIMEOUT, |record| record.json()["version"] == killed);
    let turned: Vec<u64> =
        updates.seen.iter().map(|record| record.json()["version"].as_u64().unwrap()).collect();
    assert!(turned.is_sorted_by(|a, b| a < b) && turned.len() == 2 * rounds + 1, "{turned:?}");
    let mut seen = 0;
    for event in events.seen.iter().map(|record| record.json()) {
        if event["flag_name"] != "theme" || event["event_type"] != "FEATURE_FLAG_EVALUATED" {
            continue;
        }
        let version = event["flag_version"].as_u64().unwrap();
        let is_killed = turned.iter().position(|turn| *turn == version).is_some_and(|turn| turn % 2 == 0);
        assert_eq!(event["killed"] == true, is_killed, "{event}");
        assert_eq!(event["reason"] == "DISABLED", is_killed, "{event}");
        seen += u64::from(is_killed);
    }
    assert!(seen > 200, "{seen}");
    // Doubly counted nowhere: the log has each turn once.
    let log = || {
        let url = format!("{}/api/v1/feature-flags/theme/changes?environment=production", all[1].url);
        let changes = crate::harness::call("GET", &url, &[], b"").json();
        changes.as_array().unwrap().iter().filter(|change| change["source"] == "override").count()
    };
    wait_until("the change log", TEST_TIMEOUT, || log() > 2 * rounds);
    assert_eq!(log(), 2 * rounds + 1);
}

#[test]
fn with_unleash_and_postgres_down_a_kill_works_and_is_written_down_later() {
    let (stack, exclusive) = Stack::exclusive();
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture
        .group
        .set("UNLEASH_URL", &stack.unleash.url)
        .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
        .set("UNLEASH_REFRESH_INTERVAL", "1s");
    let admin = Admin::new(stack, &fixture.group.topics.prefix);
    admin.create("burning", &rollout(&json!([])));
    let flag = admin.name("burning");
    let services = ["one", "two", "three"].map(|name| fixture.group.start(name));
    let all: Vec<&Service> = services.iter().collect();
    until_all(&all, ENVIRONMENT, &flag, true, Instant::now());
    {
        let _unleash = stack.stop("unleash", &exclusive);
        let _postgres = stack.stop("postgres", &exclusive);
        let asked = Instant::now();
        let killed = kill(all[2], &flag, &json!({"reason": "nothing else works"}));
        assert_eq!(killed.status, 200, "{killed:?}");
        let took = until_all(&all, ENVIRONMENT, &flag, false, asked);
        println!("kill: time to effect with Unleash and Postgres down: {took:?}");
        assert_eq!(restore(all[0], &flag, "too early").status, 200);
        until_all(&all, ENVIRONMENT, &flag, true, Instant::now());
        assert_eq!(kill(all[1], &flag, &json!({"reason": "after all"})).status, 200);
        until_all(&all, ENVIRONMENT, &flag, false, Instant::now());
        assert_eq!(evaluate(all[0], &flag, &json!(true))["reason"], "DISABLED");
    }
    let expected = [("killed", "nothing else works"), ("restored", "too early"), ("killed", "after all")];
    wait_until("the change log", Duration::from_secs(60), || {
        let url = super::address(all[0], &flag, "changes");
        let answer = crate::harness::call("GET", &url, &[], b"");
        answer.status == 200 && turns(all[0], &flag).len() == expected.len()
    });
    for ((action, _, reason), expected) in turns(all[0], &flag).iter().zip(expected) {
        assert_eq!((action.as_str(), reason.as_str()), expected);
    }
    // Unleash says on, as it always did.
    assert!(admin.served().iter().any(|served| served["name"] == flag.as_str() && served["enabled"] == true));
    wait_until("Unleash is looked at again", TEST_TIMEOUT, || {
        all.iter()
            .any(|service| is_leader(service) && service.health()["components"]["unleash"]["status"] == "up")
            || all.iter().any(|service| {
                service.metrics().sum(
                    "flagstream_feed_polls_total",
                    &[("environment", ENVIRONMENT), ("outcome", "unchanged")],
                ) >= 1.0
            })
    });
    assert!(all.iter().all(|service| !is_on(service, &flag)));
    assert_eq!(restore(all[0], &flag, "over").status, 200);
    until_all(&all, ENVIRONMENT, &flag, true, Instant::now());
}

#[test]
fn the_leader_is_killed_around_a_kill_and_undoes_nothing() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let make = |service: &Service, on: bool, method: &str| {
        let name = if method == "POST" { "" } else { "/mine" };
        let body = match method {
            "POST" => json!({"name": "mine", "environment": ENVIRONMENT, "is_enabled": on}),
            _ => json!({"description": format!("{}", rand::random::<u32>()), "is_enabled": on}),
        };
        let url = format!("{}/api/v1/feature-flags{name}?environment={ENVIRONMENT}", service.url);
        crate::harness::call(
            method,
            &url,
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        )
        .status
    };
    let mut services = ["one", "two", "three"].map(|name| fixture.group.start(name));
    wait_until("a leader", TEST_TIMEOUT, || services.iter().any(is_leader));
    assert!(matches!(make(&services[0], true, "POST"), 201 | 202));
    until_all(&services.iter().collect::<Vec<_>>(), ENVIRONMENT, "mine", true, Instant::now());
    let rounds = if is_long() { 8 } else { 2 };
    for round in 0..rounds {
        let leader = wait_for("a leader", TEST_TIMEOUT, || services.iter().position(is_leader));
        let (asked, other) = ((leader + 1) % 3, (leader + 2) % 3);
        // The leader is busy with the flag itself while another instance kills it, and dies at some moment of that.
        let status = std::thread::scope(|scope| {
            let (kills, changes) = (&services[asked], &services[other]);
            let changing = scope.spawn(move || make(changes, true, "PUT"));
            let killing = scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(20 * u64::from(rand::random_range(0..10_u32))));
                kill(kills, "mine", &json!({"reason": "now"})).status
            });
            let killed = killing.join().unwrap();
            changing.join().unwrap();
            killed
        });
        assert_eq!(status, 200, "round {round}");
        services[leader].kill();
        let left: Vec<&Service> = vec![&services[asked], &services[other]];
        until_all(&left, ENVIRONMENT, "mine", false, Instant::now());
        wait_until("another leads", TEST_TIMEOUT, || left.iter().any(|service| is_leader(service)));
        // The new leader publishes the flag again: it stays killed.
        wait_until("changed under the switch", TEST_TIMEOUT, || make(left[0], true, "PUT") == 200);
        assert!(left.iter().all(|service| !is_on(service, "mine")));
        services[leader].spawn();
        services[leader].wait_until_ready();
        assert!(!is_on(&services[leader], "mine"), "read from the topic");
        // The kill works without a leader too.
        let leader = wait_for("a leader", TEST_TIMEOUT, || services.iter().position(is_leader));
        services[leader].kill();
        let left: Vec<&Service> =
            services.iter().enumerate().filter(|(at, _)| *at != leader).map(|(_, it)| it).collect();
        let asked = Instant::now();
        assert_eq!(restore(left[0], "mine", "round over").status, 200);
        let took = until_all(&left, ENVIRONMENT, "mine", true, asked);
        println!("restore: time to effect with the leader dead: {took:?}");
        services[leader].spawn();
        services[leader].wait_until_ready();
        assert!(is_on(&services[leader], "mine"));
    }
    wait_until("the change log", TEST_TIMEOUT, || turns(&services[0], "mine").len() >= 2 * rounds);
    assert_eq!(turns(&services[0], "mine").len(), 2 * rounds, "{:?}", changes(&services[0], "mine"));
}
