//! Usage, stale flags, cleanup, revert and preload: with good and bad input, on real services.

use serde_json::{Value, json};

use super::{Fixture, evaluate, is_on, leads, new_flag, refused};
use crate::harness::{
    Answer, Flag, Flags, Load, Redis, Service, Stack, TEST_TIMEOUT, flagstream, wait_for, wait_until,
};

const STALE: &str = "/api/v1/feature-flags/stale";
const CLEANUP: &str = "/api/v1/feature-flags/cleanup";
const PRELOAD: &str = "/api/v1/feature-flags/preload";

fn get(fixture: &Fixture, service: &Service, path: &str) -> Answer {
    fixture.ask(service, "GET", path, &[], &Value::Null)
}

fn of(name: &str, action: &str) -> String {
    format!("/api/v1/feature-flags/{name}/{action}?environment=development")
}

fn revert(fixture: &Fixture, service: &Service, name: &str, body: &Value) -> Answer {
    fixture.ask(service, "POST", &of(name, "revert"), &[("x-change-reason", "back")], body)
}

#[test]
fn usage_is_that_of_the_rows_and_becomes_coarser_with_age() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let topics = fixture.group.topics.clone();
    Flags::new(&topics).set_load();
    let migrated = flagstream(fixture.group.folder.path(), &["migrate"], fixture.group.settings());
    assert!(migrated.status.success(), "{migrated:?}");
    // Of three days ago and of two months ago, by the minute.
    for (days, count) in [(3, 5), (60, 7)] {
        fixture.database.run(&format!(
            "INSERT INTO feature_flag_usage SELECT 'production', 'old', 60,
                (extract(epoch FROM date_trunc('day', now())) - {days} * 86400)::bigint + 60 * minute, 'v', {count}, 2, 1,
                1, 1000
            FROM generate_series(0, 119) AS minute"
        ));
    }
    let service = fixture.start("one");
    let by_length = || -> Vec<(i32, i64, i64)> {
        fixture.database.rows(
            "SELECT seconds, count(*), sum(evaluations)::bigint FROM feature_flag_usage WHERE flag_name = 'old'
            GROUP BY 1 ORDER BY 1",
        )
    };
    wait_until("coarser", TEST_TIMEOUT, || by_length() == [(3_600, 2, 600), (86_400, 1, 840)]);
    fixture.database.run("DELETE FROM feature_flag_usage WHERE flag_name = 'old'");

    let load = Load::start(&topics, &topics.reply_topic("replies"), 1_000);
    wait_until("evaluations", TEST_TIMEOUT, || fixture.database.audited() > 3_000);
    let body = json!({"flag_name": "theme", "user_id": "u", "default_value": 5, "environment": "production",
        "context": {"subscription_tier": "premium"}});
    let url = format!("{}/api/v1/feature-flags/evaluate", service.url);
    assert_eq!(crate::harness::post(&url, &body).json()["error_code"], "TYPE_MISMATCH");
    load.stop();
    let published = || service.metrics().sum("flagstream_events_published_total", &[]);
    wait_until("all are rows", TEST_TIMEOUT, || {
        let evaluated = service.metrics().sum("flagstream_evaluations_total", &[]);
        evaluated > 0.0 && published() >= evaluated && fixture.database.audited() as f64 >= published()
    });
    fixture.database.assert_counts();
    let path = "/api/v1/feature-flags/theme/usage?environment=production";
    let asked = |rest: &str| {
        let answer = get(&fixture, &service, &format!("{path}{rest}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let rows = |rest: &str| {
        let query = format!(
            "SELECT count(*) FROM feature_flag_evaluations WHERE flag_name = 'theme' AND flag_version IS NOT NULL {rest}"
        );
        json!(fixture.database.number(&query).unwrap())
    };
    let minutes = asked("&resolution=minute");
    for resolution in ["minute", "hour", "day"] {
        let usage = asked(&format!("&resolution={resolution}"));
        let total = &usage["total"];
        assert_eq!(*total, minutes["total"], "{resolution}");
        assert_eq!(
            (&total["evaluations"], &total["enabled"]),
            (&rows(""), &rows("AND enabled")),
            "{resolution}"
        );
        assert_eq!((&total["errors"], &total["disabled"]), (&json!(1), &rows("AND NOT enabled")));
        assert_eq!(total["variants"]["dark"], rows("AND variant = 'dark'"));
        let buckets = usage["buckets"].as_array().unwrap();
        let sum: i64 = buckets.iter().map(|bucket| bucket["evaluations"].as_i64().unwrap()).sum();
        assert_eq!(json!(sum), total["evaluations"], "{resolution}");
        let mean = total["mean_evaluation_us"].as_f64().unwrap();
        assert!(mean > 0.0 && mean < 100_000.0, "{mean}");
    }
    for (rest, status, field) in [
        ("&resolution=week", 422, "resolution"),
        ("&from=yesterday", 422, "from"),
        ("&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 422, "from"),
        ("&resolution=minute&from=2020-01-01T00:00:00Z", 422, "from"),
    ] {
        let answer = get(&fixture, &service, &format!("{path}{rest}"));
        assert_eq!((answer.status, refused(&answer)), (status, vec![field.to_owned()]), "{rest}");
    }
    assert_eq!(get(&fixture, &service, &of("nobody", "usage")).status, 404);
}

#[test]
fn stale_flags_are_listed_with_why_and_archived_ones_cleaned_up() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    for name in ["asleep", "busy", "expired", "gone", "kept"] {
        let mut flag = new_flag(name);
        flag["owner"] = json!("ann");
        assert_eq!(fixture.create(&service, &flag).status, 201);
    }
    assert_eq!(fixture.create(&service, &new_flag("unowned")).status, 201);
    for name in ["busy", "expired", "gone", "kept", "unowned"] {
        assert!(is_on(&service, name, "u"));
    }
    wait_until("audited", TEST_TIMEOUT, || fixture.database.audited() == 5);
    fixture.database.run(
        "UPDATE feature_flags SET outcomes_since = now() - interval '31 days' WHERE name = 'busy';
        UPDATE local_flags SET document = document || '{\"expires_at\": \"2026-01-01T00:00:00Z\"}' WHERE name = 'expired';
        UPDATE local_flags SET document = document || '{\"status\": \"archived\"}' WHERE name IN ('gone', 'kept');
        UPDATE local_flags SET updated_at = now() - interval '91 days' WHERE name IN ('gone', 'asleep')",
    );
    let stale = |rest: &str| {
        let answer = get(&fixture, &service, &format!("{STALE}?environment=development{rest}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let items = answer.json()["items"].as_array().unwrap().clone();
        items.into_iter().map(|item| (item["name"].as_str().unwrap().to_owned(), item)).collect::<Vec<_>>()
    };
    let told = stale("");
    let reasons: Vec<_> = told.iter().map(|(name, item)| (name.as_str(), item["reasons"].clone())).collect();
    let expected = [
        ("asleep", json!(["never_evaluated"])),
        ("busy", json!(["always_on"])),
        ("expired", json!(["expired"])),
        ("unowned", json!(["unowned"])),
    ];
    assert_eq!(reasons, expected);
    let busy = &told[1].1;
    assert_eq!(
        (&busy["evaluation_count"], &busy["evaluations"], &busy["enabled"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(stale("&limit=1&offset=1")[0].0, "busy");
    assert_eq!(stale("&min_age_days=1").len(), 0);
    // Off once, it is not always on.
    fixture.update(&service, "busy", &json!({"is_enabled": false}));
    assert!(!is_on(&service, "busy", "u"));
    wait_until("seen off", TEST_TIMEOUT, || stale("").iter().all(|(name, _)| name != "busy"));
    for (rest, field) in [("?days=0", "days"), ("?min_age_days=x", "min_age_days"), ("?limit=101", "limit")] {
        let answer = get(&fixture, &service, &format!("{STALE}{rest}"));
        assert!(answer.status == 422 || answer.status == 400, "{answer:?}");
        assert_eq!(refused(&answer), [field]);
    }
    let settings = fixture.group.settings();
    let command = |arguments: &[&str]| {
        let mut all = vec!["flags"];
        all.extend(arguments);
        all.extend(["--url", &service.url]);
        let output = flagstream(fixture.group.folder.path(), &all, settings.clone());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let printed = command(&["stale", "--environment", "development"]);
    assert!(
        printed.starts_with("asleep in development (local): never_evaluated; 0 evaluations;"),
        "{printed}"
    );
    assert_eq!(printed.lines().count(), 3, "{printed}");

    // Cleanup reports the flags first, removes them when requested, and only those that have not changed since.
    let clean = |body: &Value| fixture.ask(&service, "POST", CLEANUP, &[], body);
    let told = clean(&json!({})).json();
    assert_eq!((&told["dry_run"], told["flags"].as_array().unwrap().len()), (&json!(true), 1), "{told}");
    assert_eq!((&told["flags"][0]["name"], &told["flags"][0]["removed"]), (&json!("gone"), &json!(false)));
    assert_eq!(fixture.show(&service, "gone").status, 200);
    assert!(command(&["cleanup"]).contains("gone in development, archived"), "told only");
    assert_eq!(clean(&json!({"dry_run": false, "older_than_days": 200})).json()["flags"], json!([]));
    let removed = command(&["cleanup", "--apply", "--reason", "spring"]);
    assert!(removed.trim_end().ends_with(": removed") && removed.lines().count() == 1, "{removed}");
    wait_until("gone", TEST_TIMEOUT, || fixture.show(&service, "gone").status == 404);
    assert_eq!(fixture.show(&service, "kept").status, 200);
    let log = get(&fixture, &service, &of("gone", "changes")).json();
    assert_eq!((&log[0]["action"], &log[0]["reason"]), (&json!("deleted"), &json!("spring")), "{log}");
    assert_eq!(clean(&json!({"dry_run": false})).json()["flags"], json!([]));
    for (body, field) in [
        (json!({"dry_run": "no"}), "dry_run"),
        (json!({"older_than_days": -1}), "older_than_days"),
        (json!({"older_than_days": "90"}), "older_than_days"),
        (json!({"older": 1}), "older"),
    ] {
        assert_eq!(refused(&clean(&body)), [field], "{body}");
    }
}

#[test]
fn a_local_flag_goes_back_to_what_it_was() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    let made = fixture.create(&service, &new_flag("f")).json();
    let first = made["revision"].clone();
    wait_until("versions", TEST_TIMEOUT, || {
        fixture.database.number("SELECT count(*) FROM feature_flag_versions WHERE name = 'f'") == Some(1)
    });
    assert_eq!(fixture.update(&service, "f", &json!({"is_enabled": false, "owner": "ann"})).status, 200);
    assert!(!is_on(&service, "f", "u"));
    let back = revert(&fixture, &service, "f", &json!({"revision": first}));
    assert_eq!(back.status, 200, "{back:?}");
    assert!(is_on(&service, "f", "u") && back.json()["owner"].is_null(), "{back:?}");
    // What it says already is no change.
    let again = revert(&fixture, &service, "f", &json!({"version": made["version"]}));
    assert_eq!((again.status, &again.json()["revision"]), (200, &back.json()["revision"]));
    let log = get(&fixture, &service, &of("f", "changes")).json();
    assert_eq!((&log[0]["action"], &log[0]["reason"]), (&json!("reverted"), &json!("back")));
    assert_eq!((&log[0]["before"]["owner"], log.as_array().unwrap().len()), (&json!("ann"), 3), "{log}");
    // Deleted, it is made again.
    assert_eq!(fixture.delete(&service, "f").status, 204);
    let deleted = get(&fixture, &service, &of("f", "changes")).json()[0]["revision"].clone();
    assert_eq!(refused(&revert(&fixture, &service, "f", &json!({"revision": deleted}))), ["revision"]);
    assert_eq!(revert(&fixture, &service, "f", &json!({"revision": first})).status, 200);
    assert!(is_on(&service, "f", "u"));
    for (body, status, field) in [
        (json!({}), 422, "revision"),
        (json!({"revision": "1"}), 400, "revision"),
        (json!({"revision": 1, "version": 2}), 422, "version"),
        (json!({"revision": 999_999}), 422, "revision"),
        (json!({"version": 1}), 422, "version"),
        (json!({"to": 1}), 422, "to"),
    ] {
        let answer = revert(&fixture, &service, "f", &body);
        assert_eq!((answer.status, refused(&answer)), (status, vec![field.to_owned()]), "{body}");
    }
    Flags::new(&fixture.group.topics).set("development", Flag::on("theirs"));
    wait_until("theirs", TEST_TIMEOUT, || is_on(&service, "theirs", "u"));
    assert_eq!(revert(&fixture, &service, "theirs", &json!({"revision": first})).status, 409);
}

#[test]
fn preloading_warms_redis_and_audits_nothing() {
    let (stack, _shared) = Stack::shared();
    let redis = Redis::database(stack);
    let mut fixture = Fixture::new(stack).set("REDIS_URL", &redis.url);
    let topics = fixture.group.topics.clone();
    let mut flags = Flags::new(&topics);
    flags.set("development", Flag::on("one"));
    flags.set("development", Flag::on("two").where_in("region", &["us"]));
    let chance = json!({"name": "chance", "enabled": true, "strategies":
        [{"name": "flexibleRollout", "parameters": {"rollout": "50", "stickiness": "random", "groupId": "g"}}]});
    flags.set("development", Flag::on("chance").body(chance));
    let service = fixture.start("one");
    let preload = |body: &Value| fixture.ask(&service, "POST", PRELOAD, &[], body);
    let contexts = json!([{"user_id": "a"}, {"user_id": "b", "context": {"region": "us"}}]);
    let done = preload(&json!({"environment": "development", "contexts": contexts}));
    assert_eq!(done.status, 200, "{done:?}");
    let done = done.json();
    // Without a context an outcome has two keys; what chance decides is not kept.
    assert_eq!(
        (&done["flags"], &done["contexts"], &done["written"]),
        (&json!(3), &json!(2), &json!(6)),
        "{done}"
    );
    assert_eq!(done["skipped"], json!({"random": 2}));
    assert_eq!(redis.get("ff_eval:development:one:a").unwrap()["enabled"], true);
    assert_eq!(redis.get("ff_eval:development:two:a").unwrap()["enabled"], false);
    let keys: Vec<String> = redis.command(&["KEYS", "feature_flag:eval:development:two:b:*"]);
    assert_eq!(redis.get(&keys[0]).unwrap()["enabled"], true);
    // A change finds what was preloaded.
    let version = flags.change("development", Flag::off("one"));
    redis.wait("ff_eval:development:one:a", |value| {
        value["enabled"] == false && value["flag_version"] == version
    });
    assert!(!evaluate(&service, "one", "a")["enabled"].as_bool().unwrap());
    wait_until("the one evaluation", TEST_TIMEOUT, || fixture.database.audited() == 1);
    let one = json!({"environment": "development", "flag_names": ["one"], "user_id": "a"});
    let some = preload(&one).json();
    assert_eq!(
        (&some["written"], &some["newer"], &some["skipped"]),
        (&json!(2), &json!(0), &json!({})),
        "{some}"
    );
    let many: Vec<_> = (0..1_000).map(|user| json!({"user_id": format!("u-{user}")})).collect();
    for (body, field) in [
        (json!({"environment": "development", "flag_names": ["one", "nobody"]}), "flag_names"),
        (json!({"environment": "elsewhere", "user_id": "a"}), "environment"),
        (json!({"flag_names": "one"}), "flag_names"),
    ] {
        assert_eq!(refused(&preload(&body)), [field], "{body}");
    }
    for number in 0..10 {
        flags.set("development", Flag::on(&format!("more-{number}")));
    }
    let full = wait_for("too many", TEST_TIMEOUT, || {
        let answer = preload(&json!({"environment": "development", "contexts": many}));
        (answer.status == 422).then_some(answer)
    });
    assert_eq!(refused(&full), ["contexts"]);
}

#[test]
fn unused_flags_are_found_sorted_and_archived_in_one_step() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    leads(&service);
    for name in ["never", "unused", "used"] {
        let mut flag = new_flag(name);
        flag["owner"] = json!("ann");
        assert_eq!(fixture.create(&service, &flag).status, 201);
    }
    for name in ["unused", "used"] {
        assert!(is_on(&service, name, "u"));
    }
    wait_until("audited", TEST_TIMEOUT, || fixture.database.audited() == 2);
    fixture.database.run(
        "UPDATE feature_flags SET last_evaluated_at = now() - interval '100 days' WHERE name = 'unused'",
    );
    let names = |path: &str| {
        let answer = get(&fixture, &service, path);
        assert_eq!(answer.status, 200, "{answer:?}");
        let items = answer.json()["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    const LIST: &str = "/api/v1/feature-flags?environment=development";
    assert_eq!(names(&format!("{LIST}&sort=last_evaluated_at")), ["never", "unused", "used"]);
    assert_eq!(names(&format!("{LIST}&sort=last_evaluated_at&unused_days=90")), ["never", "unused"]);
    assert_eq!(names(&format!("{LIST}&unused_days=101")), ["never"]);
    let bad = get(&fixture, &service, &format!("{LIST}&sort=size"));
    assert_eq!((bad.status, refused(&bad)), (422, vec!["sort".to_owned()]));
    let stale = get(&fixture, &service, &format!("{STALE}?environment=development")).json();
    let reasons = |name: &str| {
        let items = stale["items"].as_array().unwrap();
        items.iter().find(|item| item["name"] == name).map(|item| item["reasons"].clone())
    };
    assert_eq!((reasons("unused"), reasons("used")), (Some(json!(["unused"])), None), "{stale}");
    assert_eq!(names(&format!("{STALE}?environment=development&unused_days=101")), ["never"]);

    let arguments =
        ["flags", "stale", "--environment", "development", "--archive-unused", "--url", &service.url];
    let output = flagstream(fixture.group.folder.path(), &arguments, fixture.group.settings());
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("unused in development: archived"),
        "{output:?}"
    );
    assert_eq!(fixture.show(&service, "unused").json()["status"], "archived");
    assert_eq!(fixture.show(&service, "never").json()["status"], "active");
}
