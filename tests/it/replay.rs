//! `flagstream replay`: what was evaluated, evaluated again.

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::harness::{
    Database, Flag, Flags, Group, Service, Stack, TEST_TIMEOUT, flagstream, post, wait_until,
};

const ENVIRONMENT: &str = "development";
const USERS: u32 = 40;

fn replay(group: &Group, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let all = [&["replay", "--from", "1h", "--output", "json"], arguments].concat();
    let output = flagstream(group.folder.path(), &all, group.settings());
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

/// Half of all, by the user's id; with two variants.
fn half(name: &str, stickiness: &str) -> Flag {
    let variant = |name: &str| {
        json!({"name": name, "weight": 500, "weightType": "variable", "stickiness": stickiness,
            "payload": {"type": "json", "value": format!(r#"{{"value":"{name}","size":1.5}}"#)}})
    };
    Flag::on(name).body(
        json!({"name": name, "enabled": true, "strategies": [{"name": "flexibleRollout", "constraints": [],
        "parameters": {"rollout": "50", "stickiness": stickiness, "groupId": name}}],
        "variants": [variant("left"), variant("right")]}),
    )
}

fn child(name: &str, parent: &str) -> Flag {
    Flag::on(name).body(json!({"name": name, "enabled": true, "strategies": [],
        "dependencies": [{"feature": parent, "enabled": true}]}))
}

/// Asks for all flags with all kinds of types and contexts.
fn ask_all(service: &Service) {
    let asks = [
        ("plain", json!(false), json!({})),
        ("plain", json!("text"), json!({"plan": "gold"})),
        ("half", json!("none"), json!({"age": 17})),
        ("half", json!({"value": 0}), json!({"age": 18.5, "nested": {"b": 1, "a": [true, null]}})),
        ("half", json!(5), json!({})),
        ("gold", json!(false), json!({"plan": "gold"})),
        ("gold", json!(false), json!({"plan": "silver", "userId": "another"})),
        ("soon", json!(false), json!({})),
        ("soon", json!(false), json!({"currentTime": "2100-01-02T00:00:00Z"})),
        ("child", json!(false), json!({})),
        ("lottery", json!(false), json!({})),
        ("unknown", json!("x"), json!({})),
        ("exact", json!(false), json!({"size": 1e30})),
    ];
    for (number, (flag, default, context)) in
        (0..USERS).flat_map(|number| asks.iter().map(move |ask| (number, ask)))
    {
        let body = json!({"flag_name": flag, "user_id": format!("user-{number}"), "default_value": default,
            "environment": ENVIRONMENT, "context": context});
        let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let natural = json!({"context": {"targetingKey": "user-1", "plan": "gold"}});
    assert_eq!(post(&format!("{}/ofrep/v1/evaluate/flags", service.url), &natural).status, 200);
    let elsewhere = json!({"flag_name": "plain", "user_id": "u", "environment": "elsewhere"});
    post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &elsewhere);
}

struct Fixture {
    group: Group,
    database: Database,
    service: Service,
    /// A time after the first definitions and before the second ones.
    between: String,
}

impl Fixture {
    /// Evaluations before and after every flag has changed, all of them rows.
    fn new(stack: &Stack) -> Self {
        Self::with(stack, Group::new(stack))
    }

    fn with(stack: &Stack, group: Group) -> Self {
        let database = Database::create(stack);
        let group = group
            .set("DATABASE_URL", &database.url)
            .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
            .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,audit,write,delete");
        let mut flags = Flags::new(&group.topics);
        let soon = json!({"name": "soon", "enabled": true, "strategies": [{"name": "default", "constraints": [
            {"contextName": "currentTime", "operator": "DATE_AFTER", "value": "2100-01-01T00:00:00Z"}]}]});
        let first = [
            Flag::on("plain"),
            half("half", "default"),
            Flag::on("gold").where_in("plan", &["gold"]),
            Flag::on("soon").body(soon),
            child("child", "plain"),
            Flag::on("exact").where_in("size", &["1e30", "1e+30"]),
            half("lottery", "random"),
        ];
        for flag in first {
            flags.set(ENVIRONMENT, flag);
        }
        let service = group.start("one");
        ask_all(&service);
        let between = Utc::now();
        // Kafka's timestamps have no more digits.
        wait_until("the next millisecond", TEST_TIMEOUT, || {
            Utc::now().timestamp_millis() > between.timestamp_millis()
        });
        let between = between.to_rfc3339_opts(SecondsFormat::Micros, true);
        flags.set(ENVIRONMENT, Flag::off("plain"));
        flags.set(ENVIRONMENT, half("half", "userId").where_in("userId", &["user-1", "user-2"]));
        let last = flags.set(ENVIRONMENT, Flag::on("gold"));
        let asked = json!({"flag_name": "gold", "user_id": "u", "environment": ENVIRONMENT});
        wait_until("the change", TEST_TIMEOUT, || {
            post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &asked).json()["flag_version"]
                == last
        });
        ask_all(&service);
        let killed = post(
            &format!("{}/api/v1/feature-flags/soon/kill?environment={ENVIRONMENT}", service.url),
            &json!({"reason": "a test"}),
        );
        assert_eq!(killed.status, 200, "{killed:?}");
        ask_all(&service);
        let fixture = Self { group, database, service, between };
        fixture.wait_until_audited();
        fixture
    }

    fn wait_until_audited(&self) {
        let evaluated = || self.service.metrics().sum("flagstream_evaluations_total", &[]);
        wait_until("all rows", TEST_TIMEOUT, || self.database.audited() as f64 >= evaluated());
        wait_until("the turn", TEST_TIMEOUT, || {
            self.database.number("SELECT count(*) FROM feature_flag_changes WHERE version IS NOT NULL")
                == Some(1)
        });
    }
}

#[test]
fn every_result_is_what_it_was_or_says_why_that_cannot_be_known() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let (code, report, said) = replay(&fixture.group, &[]);
    assert_eq!((code, &report["different"]), (Some(0), &json!(0)), "{report:#} {said}");
    assert_eq!(report["evaluations"], fixture.database.audited());
    let reasons = report["unrepeatable"].as_object().unwrap();
    assert!(
        reasons.keys().all(|why| ["random", "not_ready", "parents", "amended"].contains(&why.as_str())),
        "{report:#}"
    );
    // By the user's share, and at random among the variants: all of the lottery's.
    let lottery = "SELECT count(*) FROM feature_flag_evaluations WHERE flag_name = 'lottery'";
    assert_eq!(reasons["random"].as_i64(), fixture.database.number(lottery));
    assert_eq!(reasons["not_ready"], 3, "of the environment that is not served");
    assert_eq!(reasons["amended"], 3 * USERS, "a number that Postgres writes differently");
    // A replay from the topics gives the same result, with the database's versions and with the topics' own.
    for settings in [fixture.group.settings(), fixture.group.topics.settings()] {
        let arguments = ["replay", "--from", "1h", "--source", "topics", "--output", "json"];
        let output = flagstream(fixture.group.folder.path(), &arguments, settings);
        let of_topics: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &of_topics["different"]), (Some(0), &json!(0)), "{of_topics:#}");
        assert_eq!(of_topics["evaluations"], report["evaluations"]);
        assert_eq!(of_topics["unrepeatable"]["random"], reasons["random"]);
        assert_eq!(of_topics["unrepeatable"].get("amended"), None, "the topic has it as it was");
    }
    let text = flagstream(fixture.group.folder.path(), &["replay", "--from", "1h"], fixture.group.settings());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("all results that can be evaluated again are unchanged"), "{text}");

    // What is not as it was is found, and nothing else.
    let changed = "WHERE flag_name = 'gold' AND user_id = 'user-7' AND context->>'plan' = 'gold'";
    fixture
        .database
        .run(&format!("UPDATE feature_flag_evaluations SET result = false, enabled = false {changed}"));
    let (code, report, _) = replay(&fixture.group, &[]);
    assert_eq!((code, &report["different"], &report["users"]), (Some(1), &json!(3), &json!(1)), "{report:#}");
    let [flag] = report["flags"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert_eq!(flag["flag_name"], "gold");
    assert_eq!(flag["examples"][0]["recorded"]["enabled"], false);
    assert_eq!(flag["examples"][0]["again"]["value"], "true");
    let (code, report, _) = replay(&fixture.group, &["--flag", "plain,half", "--environment", ENVIRONMENT]);
    assert_eq!((code, &report["different"]), (Some(0), &json!(0)), "{report:#}");
    // A missing version is not counted as a difference.
    fixture.database.run("DELETE FROM feature_flag_versions WHERE name = 'gold'");
    let (code, report, _) = replay(&fixture.group, &["--flag", "gold"]);
    assert_eq!((code, &report["different"]), (Some(0), &json!(0)), "{report:#}");
    assert_eq!(report["unrepeatable"]["version_unknown"], report["evaluations"]);
}

#[test]
fn events_in_avro_tell_the_same_as_rows() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::with(stack, Group::new(stack).in_avro(&stack.registry));
    let (_, of_rows, said) = replay(&fixture.group, &[]);
    let (_, of_topics, _) = replay(&fixture.group, &["--source", "topics"]);
    for report in [&of_rows, &of_topics] {
        assert_eq!(report["different"], 0, "{report:#} {said}");
        assert_eq!(report["evaluations"], fixture.database.audited());
        assert_eq!(report["unrepeatable"]["random"], of_rows["unrepeatable"]["random"]);
    }
}

#[test]
fn another_moment_and_proposed_flags_tell_who_gets_something_else() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let count = |condition: &str| {
        let question = format!("SELECT count(*) FROM feature_flag_evaluations WHERE {condition}");
        fixture.database.number(&question).unwrap()
    };
    // As of before the change: everything of `plain` since then was off, and is on.
    let (code, report, said) =
        replay(&fixture.group, &["--as-of", &fixture.between, "--flag", "plain,child"]);
    assert_eq!(code, Some(0), "{said}");
    let off = count("flag_name IN ('plain', 'child') AND environment = 'development' AND NOT enabled");
    assert_eq!(report["different"], off, "{report:#}");
    let before = replay(&fixture.group, &["--as-of", &fixture.between, "--to", &fixture.between]).1;
    assert_eq!(before["different"], 0, "{before:#}");

    // A proposal counts for the flag and for what depends on it, and for nothing else.
    let proposed = json!({"name": "plain", "environment": ENVIRONMENT, "is_enabled": true,
        "rollout_percentage": "50"});
    std::fs::write(fixture.group.folder.path().join("plain.json"), proposed.to_string()).unwrap();
    let (code, report, said) = replay(&fixture.group, &["--with", "plain.json"]);
    assert_eq!(code, Some(0), "{said}");
    let others = "flag_name NOT IN ('plain', 'child') OR environment <> 'development'";
    assert_eq!(report["untouched"], count(others), "{report:#}");
    let (different, same) = (report["different"].as_i64().unwrap(), report["same"].as_i64().unwrap());
    assert_eq!(different + same, count(&format!("NOT ({others})")), "{report:#}");
    let flags = report["flags"].as_array().unwrap();
    assert_eq!(flags.len(), 2, "{report:#}");
    assert!(different > 0 && report["users"].as_u64().unwrap() <= u64::from(USERS) + 1);
    assert!(
        flags[0]["reasons"].as_array().unwrap().len() >= 2 && !flags[0]["examples"][0]["context"].is_null()
    );

    // In Unleash's format too; a flag that is new is asked for in vain so far.
    let unleash = json!({"version": 2, "features": [{"name": "unknown", "enabled": true,
        "strategies": [{"name": "default"}], "variants": [{"name": "v", "weight": 1000}]}]});
    std::fs::write(fixture.group.folder.path().join("new.json"), unleash.to_string()).unwrap();
    let (_, report, _) = replay(&fixture.group, &["--with", "new.json"]);
    assert_eq!(report["different"], count("flag_name = 'unknown'"), "{report:#}");
    assert_eq!(report["flags"][0]["examples"][0]["again"]["value"], "\"v\"");
    std::fs::write(fixture.group.folder.path().join("bad.json"), r#"{"name":"x"}"#).unwrap();
    let (code, _, said) = replay(&fixture.group, &["--with", "bad.json"]);
    assert!(code == Some(1) && said.contains("bad.json") && said.contains("environment"), "{said}");
    assert_eq!(replay(&fixture.group, &["--to", "2h"]).0, Some(2));
}

#[test]
fn a_preview_tells_what_a_definition_would_change() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let preview = |name: &str, body: &Value| {
        let path = format!("/api/v1/feature-flags/{name}/preview?environment={ENVIRONMENT}");
        post(&format!("{}{path}", fixture.service.url), body)
    };
    let definition = json!({"name": "gold", "enabled": false, "strategies": []});
    let answer = preview("gold", &json!({"definition": definition}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let on = "SELECT count(*) FROM feature_flag_evaluations WHERE flag_name = 'gold' AND enabled";
    let body = answer.json();
    assert_eq!(body["different"].as_i64(), fixture.database.number(on), "{body:#}");
    assert_eq!(body["flags"][0]["examples"][0]["again"]["enabled"], false);
    let few = preview("gold", &json!({"definition": definition, "last": 3})).json();
    assert_eq!((&few["evaluations"], &few["different"]), (&json!(3), &json!(3)), "the last ones were on");
    let local =
        json!({"name": "child", "environment": ENVIRONMENT, "is_enabled": true, "depends_on": ["gold"]});
    let with_parent = preview("child", &json!({"flag": local})).json();
    assert_eq!(with_parent["unrepeatable"], json!({}), "{with_parent:#}");

    for (body, field) in [
        (json!({}), "definition"),
        (json!({"definition": definition, "flag": local}), "definition"),
        (json!({"definition": {"name": "gold"}}), "definition"),
        (json!({"definition": {"name": "other", "enabled": true}}), "definition.name"),
        (json!({"flag": {"name": "gold", "environment": "production"}}), "flag.environment"),
        (json!({"definition": definition, "last": 0}), "last"),
        (json!({"definition": definition, "first": 1}), "first"),
        (json!({"definition": 5}), "definition"),
    ] {
        let refused = preview("gold", &body);
        assert!([400, 422].contains(&refused.status), "{body}: {refused:?}");
        assert_eq!(refused.json()["errors"][0]["field"], field, "{body}: {refused:?}");
    }
}
