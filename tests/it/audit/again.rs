//! Records that are sent again after a crash: an event of a call, a dead letter.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Fixture, event, paused};
use crate::harness::{
    Callers, Database, Flags, Group, Sender, Stack, TEST_TIMEOUT, TopicReader, is_long, post, wait_until,
};

#[test]
fn events_of_calls_are_a_row_each_however_often_they_are_sent() {
    let (stack, exclusive) = Stack::exclusive();
    let database = Database::create(stack);
    let group = Group::new(stack)
        .set("DATABASE_URL", &database.url)
        .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s");
    Flags::new(&group.topics).set_load();
    let mut sink = group.prepare("sink").roles("sink");
    let mut api = group.prepare("api").roles("api");
    sink.spawn();
    api.spawn();
    sink.wait_until_ready();
    api.wait_until_ready();

    let stopped = stack.stop("kafka", &exclusive);
    let callers = Callers::start(&api.url, 4);
    let wanted = if is_long() { 40_000 } else { 4_000 };
    wait_until("calls are answered", TEST_TIMEOUT * 4, || callers.answered() >= wanted);
    let said = callers.stop();
    assert_eq!(said.failures, Vec::<String>::new());
    // Without a user an event has no key.
    let keyless = |_| -> String {
        let body = json!({"flag_name": "on", "environment": "production"});
        let answer = post(&format!("{}/api/v1/feature-flags/evaluate", api.url), &body).json();
        answer["event_id"].as_str().unwrap().to_owned()
    };
    let keyless: Vec<String> = (0..500).map(keyless).collect();
    let ids: HashSet<String> = said.event_ids.into_iter().chain(keyless).collect();
    let spooled = "flagstream_publish_spooled_events_total";
    wait_until("all are on disk", TEST_TIMEOUT, || api.metrics().sum(spooled, &[]) >= ids.len() as f64);
    api.kill();
    let (spool, saved) = (group.folder.path().join("state/api/spool"), group.folder.path().join("saved"));
    copy(&spool, &saved);
    drop(stopped);

    // Each life finds the whole disk again, as if it had died before it could note what Kafka has.
    let lives = if is_long() { 25 } else { 5 };
    for _ in 0..lives {
        copy(&saved, &spool);
        api.spawn();
        api.wait_until_ready();
        let sent = rand::random_range(0..=ids.len()) as f64;
        let published = || api.metrics().sum("flagstream_events_published_total", &[]);
        wait_until("some are sent", TEST_TIMEOUT, || published() >= sent);
        api.kill();
        if rand::random_bool(0.4) {
            sink.kill();
            sink.spawn();
        }
    }
    copy(&saved, &spool);
    api.spawn();
    api.wait_until_ready();
    wait_until("the disk is empty", TEST_TIMEOUT, || {
        let metrics = api.metrics();
        metrics.sum("flagstream_events_published_total", &[]) >= ids.len() as f64
            && metrics.sum("flagstream_publish_spool_bytes", &[]) == 0.0
    });
    let body = json!({"flag_name": "on", "user_id": "last", "environment": "production"});
    let last = post(&format!("{}/api/v1/feature-flags/evaluate", api.url), &body).json();
    let last = last["event_id"].as_str().unwrap().to_owned();

    let mut events = TopicReader::open(&group.topics.kafka, &group.topics.events);
    let end = |(partition, offset): (i32, i64)| {
        format!(
            "SELECT count(*) FROM sink_offsets WHERE topic = '{}' AND partition = {partition} AND next_offset > {offset}",
            group.topics.events
        )
    };
    events.wait("the last event", TEST_TIMEOUT, |event| event.json()["event_id"] == last.as_str());
    let (mut ends, mut sent) = (std::collections::BTreeMap::new(), 0);
    events.until("every event", TEST_TIMEOUT * 2, |seen| {
        sent = seen.iter().filter(|event| ids.contains(event.json()["event_id"].as_str().unwrap())).count();
        let found: HashSet<String> =
            seen.iter().map(|event| event.json()["event_id"].as_str().unwrap().to_owned()).collect();
        found.is_superset(&ids)
    });
    for received in &events.seen {
        let (partition, offset) = received.position;
        let end = ends.entry(partition).or_insert(offset);
        *end = offset.max(*end);
    }
    wait_until("the sink has read all that was sent", TEST_TIMEOUT * 2, || {
        ends.iter().all(|place| database.number(&end((*place.0, *place.1))) == Some(1))
    });
    let rows: Vec<(String,)> = database.rows("SELECT event_id::text FROM feature_flag_evaluations");
    let rows: Vec<String> = rows.into_iter().map(|(id,)| id).filter(|id| *id != last).collect();
    assert_eq!(rows.len(), ids.len(), "a row each; {sent} events were sent");
    assert_eq!(HashSet::from_iter(rows), ids);
    assert!(sent > ids.len(), "{sent} events for {} calls: nothing was sent again", ids.len());
    database.assert_counts();
    println!("{} events, sent {sent} times over {lives} kills, {} rows", ids.len(), ids.len());
}

/// Puts a folder's files in the place of another's.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_dead_letter_is_sent_once_whoever_dies_before_the_commit() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let topics = &fixture.group.topics;
    let mut sinks = [fixture.start("a", "sink"), fixture.group.prepare("b").roles("sink")];
    wait_until("the tables are there", TEST_TIMEOUT, || fixture.database.audited() == 0);
    // While the database is held up, a transaction fails at its commit: the dead letters are in Kafka by then.
    fixture.database.run(
        "CREATE TABLE held_up (why text);
         CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT 1 FROM held_up) THEN RAISE EXCEPTION 'held up' USING ERRCODE = '55000'; END IF;
            RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER hold_up AFTER UPDATE ON sink_offsets DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION hold_up();",
    );
    let sender = Sender::new(&topics.kafka);
    let mut letters = TopicReader::open(&topics.kafka, &topics.dead_letters);
    let (mut rows, mut places) = (0, Vec::new());
    for round in 0..if is_long() { 20 } else { 4 } {
        let before = places.len();
        fixture.database.run("INSERT INTO held_up VALUES ('the test')");
        for partition in 0..3 {
            let send = |body: &str| sender.send(&topics.events, Some(partition), None, body.as_bytes(), None);
            places.push(send("no event"));
            send(
                &event(round * 10 + partition.unsigned_abs(), &[("evaluated_at", json!(now()))]).to_string(),
            );
            places.push(send("nor this"));
            rows += 1;
        }
        // Those of the batch that is held up; what came later waits behind it.
        letters.until("letters are there", TEST_TIMEOUT, |seen| seen.len() > before);
        let (here, there) = (round as usize % 2, (round as usize + 1) % 2);
        wait_until("it waits for the database", TEST_TIMEOUT, || paused(&sinks[here], "other"));
        sinks[here].kill();
        sinks[there].spawn();
        sinks[there].wait_until_ready();
        wait_until("its successor waits as well", TEST_TIMEOUT, || paused(&sinks[there], "other"));
        assert!(fixture.database.audited() < rows);
        fixture.database.run("DELETE FROM held_up");
        wait_until("the others are rows", TEST_TIMEOUT, || fixture.database.audited() == rows);
        letters.until("all letters are there", TEST_TIMEOUT, |seen| {
            let seen: HashSet<_> = seen.iter().map(place).collect();
            places.iter().all(|place| seen.contains(place))
        });
    }
    let (partition, body) = (Some(0), "the last one");
    places.push(sender.send(&topics.events, partition, None, body.as_bytes(), None));
    let last = places.last().copied();
    letters.wait("the last letter", TEST_TIMEOUT, |letter| Some(place(letter)) == last);
    let mut found: Vec<_> = letters.seen.iter().map(place).collect();
    found.sort_unstable();
    places.sort_unstable();
    assert_eq!(found, places, "each once");
}

/// Partition and offset of the record that a dead letter is about.
fn place(letter: &crate::harness::Received) -> (i32, i64) {
    let number = |name| letter.header(name).unwrap().parse::<i64>().unwrap();
    (i32::try_from(number("source-partition")).unwrap(), number("source-offset"))
}

fn now() -> Value {
    json!(chrono::Utc::now().to_rfc3339())
}

#[test]
fn a_full_disk_is_waited_for() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let services = [fixture.group.start("a")];
    fixture.load(500);
    fixture.wait_for_rows("rows are written");
    // What Postgres says when it cannot extend a file.
    fixture.database.run(
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
         CREATE TRIGGER no_room BEFORE INSERT ON feature_flag_evaluations
            FOR EACH STATEMENT EXECUTE FUNCTION no_room();",
    );
    wait_until("it waits: full", TEST_TIMEOUT, || paused(&services[0], "full"));
    fixture.run_for(Duration::from_secs(1));
    fixture.database.run("DROP TRIGGER no_room ON feature_flag_evaluations");
    fixture.wait_for_rows("there is room again");
    fixture.balance();
}
