//! The ledger of evaluations for frontend SDKs: what was answered is in Kafka and in the database, also after a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Fixture;
use crate::harness::{Database, Stack, TEST_TIMEOUT, TopicReader, block_on, client, is_long, wait_until};

const FLAGS: [&str; 3] = ["one", "two", "three"];
const CALLERS: usize = 8;

#[test]
fn every_answered_evaluation_is_published_and_audited_once_though_the_service_is_killed() {
    answered_evaluations_are_recorded_once("each");
}

#[test]
fn bulk_events_are_published_and_audited_once_though_the_service_is_killed() {
    answered_evaluations_are_recorded_once("together");
}

fn answered_evaluations_are_recorded_once(bulk: &str) {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let fixture = Fixture::new(stack)
        .set("DATABASE_URL", &database.url)
        .set("FLAGSTREAM_UNLEASH_API__EVENTS", "all")
        .set("FLAGSTREAM_EVENTS__BULK", bulk)
        .set("FLAGSTREAM_API__DURABILITY", "sync");
    fixture.flags(&FLAGS);
    let mut service = fixture.group.start("one");
    let calls = if is_long() { 100_000 } else { 3_000 };
    let (next, answered) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let url = service.url.clone();
    let call = |number: usize| {
        let url = format!("{url}/api/frontend?userId=user-{number}");
        let response =
            block_on(async { client().get(url).header("authorization", &fixture.frontend).send().await });
        let is_answered = response.is_ok_and(|response| response.status() == 200);
        if is_answered {
            answered.lock().unwrap().insert(format!("user-{number}"));
        }
        is_answered
    };
    assert!(call(calls), "the token is validated");
    let run = |until: usize| {
        while next.load(Ordering::Relaxed) < until {
            call(next.fetch_add(1, Ordering::Relaxed));
        }
    };
    let all_run = |until: usize, meanwhile: &mut dyn FnMut()| {
        std::thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| run(until));
            }
            meanwhile();
        });
    };
    all_run(calls / 2, &mut || {});
    all_run(calls / 2 + 500, &mut || {
        wait_until("calls are under way", TEST_TIMEOUT, || next.load(Ordering::Relaxed) > calls / 2 + 50);
        service.kill();
    });
    service.spawn();
    service.wait_until_ready();
    next.store(calls / 2 + 1_000, Ordering::Relaxed);
    all_run(calls, &mut || {});
    let answered = answered.into_inner().unwrap();
    assert!(answered.len() > calls / 2, "{}", answered.len());
    let wanted = i64::try_from(FLAGS.len()).unwrap();
    let count = "SELECT user_id, count(*) FROM feature_flag_evaluations WHERE source_api = 'unleash' GROUP BY user_id";
    let audited = || database.rows(count).into_iter().collect::<BTreeMap<String, i64>>();
    let mut counts = BTreeMap::new();
    // Rows of calls that were cut off may come before those of answered ones, so each user is looked for.
    wait_until("all answers are audited", 2 * TEST_TIMEOUT, || {
        counts = audited();
        answered.iter().all(|user| counts.get(user).is_some_and(|rows| *rows >= wanted))
    });
    // A call that was cut off may have been recorded, but never twice.
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > wanted).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let topics = &fixture.group.topics;
    let mut events = TopicReader::open(&topics.kafka, &topics.events);
    let rows = counts.values().sum::<i64>();
    let evaluations = |event: &crate::harness::Received| match event.json() {
        event if event["event_type"] == "FEATURE_FLAG_EVALUATED" => 1,
        event => event["results"].as_array().map_or(0, Vec::len),
    };
    events.until("all events", TEST_TIMEOUT, |seen| {
        i64::try_from(seen.iter().map(evaluations).sum::<usize>()).unwrap() >= rows
    });
    println!("{} calls answered, {rows} evaluations audited", answered.len());
}
