//! Counts of experiments while roles are killed: they equal the rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::{Fixture, evaluate, rfc3339, total, users};
use crate::harness::{Ledger, Load, Sender, Service, Stack, TEST_TIMEOUT, is_long, wait_until};

/// Sends conversions of the load's users until it is stopped, every fifth twice; how many there were.
fn converting(fixture: &Fixture, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let sender = Sender::new(&fixture.group.topics.kafka);
    let topic = fixture.group.topics.conversions.clone();
    std::thread::spawn(move || {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let user = format!("user-{}", number % 1_000);
            let body = json!({"experiment": "theme", "user_id": user, "metric": "purchase", "value": 1,
                "occurred_at": rfc3339(Utc::now()), "event_id": format!("c-{number}")});
            for _ in 0..if number % 5 == 0 { 2 } else { 1 } {
                sender.send(&topic, None, Some(user.as_bytes()), body.to_string().as_bytes(), None);
            }
            number += 1;
        }
        number
    })
}

#[test]
fn counts_are_those_of_the_rows_though_every_role_is_killed() {
    let (stack, _shared) = Stack::shared();
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::new(stack);
    let api = fixture.start("api");
    let begun = fixture.begin(&api, &json!([{"name": "purchase"}]));
    let mut workers = ["one", "two"].map(|name| fixture.start(name));
    let reply_to = fixture.group.topics.reply_topic("load");
    let mut ledger = Ledger::open(&fixture.group.topics, &reply_to);
    let load = Load::start(&fixture.group.topics, &reply_to, 500);
    ledger.sign_of_life("all partitions served", TEST_TIMEOUT);
    let stop = Arc::new(AtomicBool::new(false));
    let converting = converting(&fixture, Arc::clone(&stop));
    let kills = if is_long() { 20 } else { 4 };
    for kill in 0..kills {
        let before = fixture.database.audited();
        wait_until("rows are written", TEST_TIMEOUT * 2, || fixture.database.audited() > before);
        std::thread::sleep(Duration::from_millis(chance.random_range(0..400)));
        let service: &mut Service = &mut workers[kill % 2];
        service.kill();
        service.spawn();
        ledger.progress();
    }
    stop.store(true, Ordering::Relaxed);
    let converted = converting.join().unwrap();
    let sent = load.stop();
    let events = ledger.assert_exactly_once();
    fixture.database.assert_audited(&events, TEST_TIMEOUT * 2);
    let since = begun["started_at"].as_str().unwrap();
    let expected = fixture.recount(since);
    let conversions = || fixture.database.number("SELECT count(*) FROM experiment_conversions").unwrap();
    wait_until("each conversion once", TEST_TIMEOUT, || conversions() == converted as i64);
    let results = fixture.wait(&api, "the results are a recount", |results| users(results, 0) == expected);
    // The same from the rows, with another query: conversions of exposed users, after their exposure or a little before.
    let attributed = fixture.database.number(
        "SELECT count(*) FROM experiment_conversions AS c JOIN (SELECT user_key, min(exposed_at) AS exposed_at
            FROM experiment_exposures GROUP BY 1) AS e USING (user_key) WHERE c.occurred_at >= e.exposed_at - 300000000",
    );
    let counted = |results: &serde_json::Value| results["conversions"]["attributed"].as_i64();
    fixture.wait(&api, "the conversions too", |results| counted(results) == attributed);
    println!("{sent} requests, {converted} conversions, {:?} users, {kills} kills", users(&results, 0));
}

#[test]
fn who_is_killed_while_it_counts_is_not_waited_for() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let mut services = ["one", "two"].map(|name| fixture.start(name));
    fixture.begin(&services[0], &json!([{"name": "purchase"}]));
    evaluate(&services[0], "first");
    fixture.wait(&services[0], "a user is counted", |results| total(results, 0) == 1);
    let locked = "LOCK TABLE experiment_exposures; SELECT pg_sleep(120)";
    std::thread::scope(|scope| {
        // Ended below, with an error that says so.
        scope.spawn(|| fixture.database.try_run(&format!("BEGIN; {locked}")));
        // A running aggregation postpones the due time further than a finished one, which is due again in two seconds.
        let claimed = "SELECT (due_at / 1000000 - extract(epoch FROM now()))::bigint FROM experiments";
        wait_until("somebody counts", TEST_TIMEOUT, || {
            fixture.database.number(claimed).is_some_and(|left| left > 4)
        });
        services.iter_mut().for_each(Service::kill);
        fixture.database.run(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%{locked}' AND pid <> pg_backend_pid()"
        ));
    });
    services.iter_mut().for_each(Service::spawn);
    services.iter_mut().for_each(Service::wait_until_ready);
    evaluate(&services[1], "second");
    fixture.wait(&services[1], "another one is counted", |results| total(results, 0) == 2);
}
