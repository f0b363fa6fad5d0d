//! Experiments that begin in the past: the sinks go on while it is read, and a start that is interrupted leaves nothing.

use chrono::Utc;
use serde_json::{Value, json};

use super::{ENVIRONMENT, Fixture, HALVES, evaluate, rfc3339, total, users};
use crate::harness::{
    Flag, Flags, Group, Service, Stack, TEST_TIMEOUT, flagstream, get, post, temporary_folder, wait_until,
};

/// Blocks inserts of exposures as long as the table `gate` has a row.
const GATE: &str = "CREATE TABLE gate AS SELECT 1 AS closed;
    CREATE FUNCTION wait_for_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        WHILE EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP;
        RETURN NULL;
    END $$;
    CREATE TRIGGER gate BEFORE INSERT ON experiment_exposures FOR EACH STATEMENT EXECUTE FUNCTION wait_for_gate();";
const OPEN: &str = "DELETE FROM gate";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND query LIKE 'INSERT INTO experiment_exposures%'";

/// An experiment since `started_at`.
fn design(started_at: &str) -> Value {
    json!({"name": "theme", "environment": ENVIRONMENT, "metrics": [{"name": "m"}], "started_at": started_at})
}

/// Users of the flag, in the database.
fn evaluated(fixture: &Fixture, service: &Service, count: i64) -> String {
    let started_at = rfc3339(Utc::now());
    for number in 0..count {
        evaluate(service, &format!("user-{number}"));
    }
    wait_until("rows", TEST_TIMEOUT, || fixture.database.audited() == count);
    started_at
}

#[test]
fn the_sinks_write_while_the_past_of_an_experiment_is_read() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    Flags::new(&fixture.group.topics).later(10).set(ENVIRONMENT, Flag::on("plain"));
    let (service, other) = (fixture.start("one"), fixture.start("two"));
    let started_at = evaluated(&fixture, &service, 25);
    fixture.database.run(GATE);
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| fixture.ask(&service, "POST", "", &design(&started_at)));
        wait_until("the backfill is under way", TEST_TIMEOUT, || fixture.database.number(WAITING) == Some(1));
        let body = json!({"flag_name": "plain", "user_id": "u", "environment": ENVIRONMENT});
        let url = format!("{}/api/v1/feature-flags/evaluate", service.url);
        wait_until("the other flag is in force", TEST_TIMEOUT, || post(&url, &body).json()["value"] == true);
        let before = fixture.database.audited();
        post(&url, &body);
        wait_until("a batch of the sink", TEST_TIMEOUT, || fixture.database.audited() > before);
        // A user who is erased meanwhile was read before, and is erased all the same.
        let erasing = scope.spawn(|| {
            let settings = fixture.group.settings();
            flagstream(fixture.group.folder.path(), &["erase", "--user", "user-3"], settings)
        });
        let left = "SELECT count(*) FROM feature_flag_evaluations WHERE user_id = 'user-3'";
        wait_until("the user's rows are gone", TEST_TIMEOUT, || fixture.database.number(left) == Some(0));
        // The experiment is not visible yet, and its name is taken.
        assert_eq!(fixture.ask(&other, "GET", "/theme", &Value::Null).status, 404);
        let again = fixture.ask(&other, "POST", "", &design(&started_at));
        assert_eq!((again.status, again.header("retry-after")), (503, "1"), "{again:?}");
        fixture.database.run(OPEN);
        let started = starting.join().unwrap();
        assert_eq!(started.status, 201, "{started:?}");
        let erased = erasing.join().unwrap();
        assert!(erased.status.success(), "{erased:?}");
    });
    for number in 20..30 {
        evaluate(&service, &format!("user-{number}"));
    }
    let results = fixture.wait(&service, "all but one of them", |results| total(results, 0) == 29);
    assert_eq!(users(&results, 0), fixture.recount(&started_at));
    assert_eq!(fixture.ask(&other, "POST", "", &design(&started_at)).status, 409);
}

#[test]
fn a_start_that_is_interrupted_leaves_nothing() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let mut service = fixture.start("one");
    let started_at = evaluated(&fixture, &service, 5);
    fixture.database.run(GATE);
    std::thread::scope(|scope| {
        let url = format!("{}/api/v1/experiments", service.url);
        let body = design(&started_at).to_string();
        scope.spawn(move || {
            let headers = ["-s", "-H", "content-type: application/json", "-d", body.as_str(), url.as_str()];
            std::process::Command::new("curl").args(headers).output()
        });
        wait_until("the backfill is under way", TEST_TIMEOUT, || fixture.database.number(WAITING) == Some(1));
        service.kill();
    });
    fixture.database.run(OPEN);
    let experiments = "SELECT count(*) FROM experiments";
    assert_eq!(fixture.database.number(experiments), Some(1));
    // A chunk that was written, and a deadline that has passed.
    fixture.database.run(
        "INSERT INTO experiment_exposures SELECT id, '\\x00', 1, 'dark', started_at, false FROM experiments;
        UPDATE experiments SET due_at = 0",
    );
    service.spawn();
    service.wait_until_ready();
    wait_until("it is discarded", TEST_TIMEOUT, || fixture.database.number(experiments) == Some(0));
    let exposures = "SELECT count(*) FROM experiment_exposures";
    wait_until("with its exposures", TEST_TIMEOUT, || fixture.database.number(exposures) == Some(0));
    let again = fixture.ask(&service, "POST", "", &design(&started_at));
    assert_eq!(again.status, 201, "{again:?}");
    let results = fixture.wait(&service, "all of them", |results| total(results, 0) == 5);
    assert_eq!(users(&results, 0), fixture.recount(&started_at));
}

#[test]
fn the_past_is_counted_on_sqlite_too() {
    let (stack, _shared) = Stack::shared();
    let folder = temporary_folder();
    let group = Group::new(stack)
        .set("DATABASE_URL", format!("sqlite:{}", folder.path().join("past.db").display()))
        .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write");
    Flags::new(&group.topics).set(ENVIRONMENT, Flag::experiment("theme", HALVES));
    let service = group.start("one");
    let started_at = rfc3339(Utc::now());
    (0..5).for_each(|number| drop(evaluate(&service, &format!("user-{number}"))));
    let ask = |path: &str| get(&format!("{}/api/v1/{path}?environment={ENVIRONMENT}", service.url)).unwrap();
    wait_until("rows", TEST_TIMEOUT, || {
        let (_, rows) = ask("feature-flags/theme/history");
        serde_json::from_str::<Value>(&rows)
            .is_ok_and(|rows| rows.as_array().is_some_and(|rows| rows.len() == 5))
    });
    let begun = post(&format!("{}/api/v1/experiments", service.url), &design(&started_at));
    assert_eq!(begun.status, 201, "{begun:?}");
    wait_until("all of them", TEST_TIMEOUT, || {
        let (status, results) = ask("experiments/theme/results");
        status == 200 && total(&serde_json::from_str(&results).unwrap(), 0) == 5
    });
}
