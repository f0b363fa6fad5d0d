//! Rows that enter the statistics: only users with a drawn variant, each compared with those of the same weights, and what
//! they did before their first exposure in any phase.

use std::process::Command;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use super::{ENVIRONMENT, Fixture, HALVES, phase, rfc3339, total};
use crate::harness::{Answer, Flag, Flags, Service, Stack, TEST_TIMEOUT, flagstream, get, post, wait_until};

/// Contexts of one call.
const CONTEXTS: usize = 500;
/// Conversions of one call.
const CONVERSIONS: usize = 1_000;
/// Relative difference allowed between flagstream and other packages on the exported rows.
const TOLERANCE: f64 = 1e-9;

/// Absolute difference allowed: gbstats computes small p-values as 1 minus a number close to 1.
const ROUNDING: f64 = 1e-15;

/// Evaluates the flag for users with their plans. Returns the variant of each.
pub(super) fn evaluate_all(service: &Service, users: &[(String, &str)]) -> Vec<String> {
    let mut variants = Vec::new();
    for users in users.chunks(CONTEXTS) {
        let contexts: Vec<Value> =
            users.iter().map(|(user, plan)| json!({"user_id": user, "context": {"plan": plan}})).collect();
        let body = json!({"flag_names": ["theme"], "default_values": {"theme": "none"}, "environment": ENVIRONMENT,
            "contexts": contexts});
        let answer = post(&format!("{}/api/v1/feature-flags/evaluate/bulk", service.url), &body).json();
        let contexts = answer["contexts"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let variant = |context: &Value| context["results"]["theme"]["variant"].as_str().unwrap().to_owned();
        variants.extend(contexts.iter().map(variant));
    }
    variants
}

pub(super) fn convert_all(fixture: &Fixture, service: &Service, conversions: &[Value]) {
    for conversions in conversions.chunks(CONVERSIONS) {
        let answer: Answer = fixture.ask(service, "POST", "/theme/conversions", &json!(conversions));
        assert_eq!(answer.status, 202, "{answer:?}");
    }
}

fn in_force(service: &Service, version: u64) {
    wait_until("in force", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_store_version", &[]) >= version as f64
    });
}

/// A flag whose own variants are drawn 9:1, with a rule for premium users that draws 1:1, one that gives testers the
/// treatment, and one that draws other variants.
fn flag_with_rules() -> Flag {
    let rule = |field: &str, values: &[&str], variants: Value| {
        json!({"name": "default", "parameters": {"stickiness": "default", "groupId": "theme"}, "variants": variants,
            "constraints": [{"contextName": field, "operator": "IN", "values": values}]})
    };
    let variants = |weights: &[(&str, u32)]| -> Value {
        weights.iter().map(|(name, weight)| json!({"name": name, "weight": weight})).collect()
    };
    let body = json!({"name": "theme", "type": "experiment", "enabled": true, "strategies": [
        rule("plan", &["tester"], variants(&[("dark", 1000)])),
        rule("plan", &["premium"], variants(HALVES)),
        rule("plan", &["odd"], variants(&[("red", 500), ("blue", 500)])),
        {"name": "default", "parameters": {}, "constraints": []}],
        "variants": variants(&[("light", 900), ("dark", 100)])});
    Flag::on("theme").body(body)
}

#[test]
fn drawn_users_are_compared_with_users_of_the_same_weights_only() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    Flags::new(&fixture.group.topics).later(10).set(ENVIRONMENT, flag_with_rules());
    let service = fixture.start("one");
    let metrics = json!([{"name": "purchase"}, {"name": "weight", "kind": "mean"}, {"name": "crash", "role": "guardrail", "goal": "decrease"}]);
    let body = json!({"name": "theme", "environment": ENVIRONMENT, "metrics": metrics, "control": "light",
        "on_harm": "kill"});
    fixture.create(&service, &body);
    let group =
        |plan: &'static str, count: usize| (0..count).map(move |number| (format!("{plan}-{number}"), plan));
    let users: Vec<(String, &str)> = group("free", 4_000)
        .chain(group("premium", 1_600))
        .chain(group("tester", 60))
        .chain(group("odd", 20))
        .collect();
    let variants = evaluate_all(&service, &users);
    // Premium users buy eight times as often as the others, and all testers buy; the variant does not matter.
    let (now, early) = (rfc3339(Utc::now()), rfc3339(Utc::now() - TimeDelta::seconds(60)));
    let buys = |plan: &str, number: usize| match plan {
        "premium" => number % 5 < 2,
        "free" => number.is_multiple_of(20),
        _ => true,
    };
    let mut conversions = Vec::new();
    for (index, ((user, plan), variant)) in users.iter().zip(&variants).enumerate() {
        let number: usize = user.split('-').nth(1).unwrap().parse().unwrap();
        if buys(plan, number) {
            // The clock of every second one is a minute behind.
            let at = if index % 2 == 0 { &now } else { &early };
            conversions.push(json!({"user_id": user, "metric": "purchase", "occurred_at": at, "event_id": format!("p-{user}")}));
        }
        // A large value, with a small difference between the variants.
        let more = if variant == "dark" { 3.0 } else { 0.0 };
        let value = 1e6 + (number % 11) as f64 - 5.0 + more;
        conversions.push(json!({"user_id": user, "metric": "weight", "value": value, "occurred_at": now, "event_id": format!("w-{user}")}));
        // Crashes under dark only, too few for an interval.
        if variant == "dark" && *plan == "premium" && number.is_multiple_of(40) {
            conversions.push(json!({"user_id": user, "metric": "crash", "occurred_at": now, "event_id": format!("c-{user}")}));
        }
    }
    convert_all(&fixture, &service, &conversions);
    // One more time, and one long before its exposure.
    convert_all(&fixture, &service, &conversions[..5]);
    let before = rfc3339(Utc::now() - TimeDelta::hours(2));
    let late =
        json!({"user_id": users[1].0, "metric": "purchase", "occurred_at": before, "event_id": "early"});
    convert_all(&fixture, &service, &[late]);

    let sent = conversions.len() as u64 + 6;
    let sum = |results: &Value| -> u64 {
        let counts = results["conversions"].as_object();
        counts.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
    };
    let results = fixture
        .wait(&service, "all rows are counted", |results| total(results, 0) == 5_600 && sum(results) == sent);
    let counts = &results["conversions"];
    let excluded = 2 * 60 + 2 * 20;
    assert_eq!(
        *counts,
        json!({"attributed": conversions.len() - excluded, "waiting": 0, "expired": 0, "before_exposure": 1,
            "after_window": 0, "excluded": excluded, "duplicates": 5}),
    );
    let phase = &results["phase"];
    assert_eq!(phase["excluded"], json!({"forced": 60, "other": 20, "unknown": 0, "crossed": 0}));
    let strata: Vec<(u64, Value)> = phase["strata"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stratum| (stratum["users"].as_u64().unwrap(), stratum["rules"].clone()))
        .collect();
    assert_eq!(strata, [(4_000, json!([])), (1_600, json!([1]))]);
    assert_eq!(phase["sample_ratio"]["alarm"], false, "{phase:#}");
    let comparison = |metric: usize| {
        let comparisons = phase["metrics"][metric]["comparisons"].as_array().unwrap();
        assert_eq!(comparisons.len(), 1, "red and blue are no treatments");
        comparisons[0].clone()
    };
    let levels = &phase["metrics"][0]["levels"];
    let level = |at: usize| levels[at]["mean"].as_f64().unwrap();
    let (dark, light) =
        if levels[0]["variant"] == "dark" { (level(0), level(1)) } else { (level(1), level(0)) };
    assert!(dark > 1.8 * light, "together, dark buys far more: {dark} and {light}");
    let purchase = comparison(0);
    assert_eq!(purchase["verdict"], "not_known_yet", "{purchase:#}");
    assert!(purchase["p_value"].as_f64().unwrap() > 0.2, "{purchase:#}");
    let weight = comparison(1);
    assert_eq!(weight["verdict"], "better", "{weight:#}");
    assert!((weight["difference"].as_f64().unwrap() - 3.0).abs() < 1.0, "{weight:#}");
    let crash = comparison(2);
    assert_eq!(
        (&crash["verdict"], &crash["missing"]),
        (&json!("harmed"), &json!("too_few_conversions")),
        "{crash:#}"
    );
    assert!(crash["rare"]["p_value"].as_f64().unwrap() < 0.01, "{crash:#}");
    // The design requests that a harmful flag is killed.
    let url = format!("{}/api/v1/feature-flags/theme?environment={ENVIRONMENT}", service.url);
    let switch = || {
        let (_, body) = get(&url).unwrap();
        serde_json::from_str::<Value>(&body).unwrap_or_default()["kill_switch"].clone()
    };
    wait_until("the flag is killed", TEST_TIMEOUT, || switch().is_object());
    let switch = switch();
    assert_eq!(switch["actor"], "experiment theme", "{switch}");
    assert!(switch["reason"].as_str().unwrap().starts_with("crash: harmed by dark"), "{switch}");
}

#[test]
fn what_users_did_in_an_earlier_phase_is_no_covariate_and_others_compute_the_same_from_the_export() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    fixture.begin(&service, &json!([{"name": "spent", "kind": "mean"}]));
    let users: Vec<(String, &str)> = (0..2_000).map(|number| (format!("user-{number}"), "free")).collect();
    let spend = |round: u64| {
        let variants = evaluate_all(&service, &users);
        let now = rfc3339(Utc::now());
        let conversion = |(number, ((user, _), variant)): (usize, (&(String, &str), &String))| {
            let number = number as u64;
            // A habit of each user, and something random, increased by 30% in both phases.
            let habit = 4.0 + (number * 7_919 % 97) as f64 / 10.0;
            let random = 0.8 + ((number + 31 * round) * 104_729 % 83) as f64 / 200.0;
            let value = habit * random * if variant == "dark" { 1.3 } else { 1.0 };
            json!({"user_id": user, "metric": "spent", "value": value, "occurred_at": now,
                "event_id": format!("{round}-{user}")})
        };
        let conversions: Vec<Value> = users.iter().zip(&variants).enumerate().map(conversion).collect();
        convert_all(&fixture, &service, &conversions);
    };
    spend(1);
    fixture.wait(&service, "the first phase", |results| results["conversions"]["attributed"] == 2_000);
    let weights = [("dark", 450), ("light", 550)];
    in_force(
        &service,
        Flags::new(&fixture.group.topics).later(10).set(ENVIRONMENT, Flag::experiment("theme", &weights)),
    );
    spend(2);
    let results = fixture.wait(&service, "both phases", |results| {
        results["conversions"]["attributed"] == 4_000 && total(results, 1) == 2_000
    });
    let metric = &phase(&results, 1)["metrics"][0];
    let comparison = &metric["comparisons"][0];
    let relative = &comparison["relative"];
    let [difference, low, high] =
        [&relative["difference"], &relative["interval"]["low"], &relative["interval"]["high"]]
            .map(|of| of.as_f64().unwrap());
    assert!(low < 0.3 && 0.3 < high && difference > 0.25, "{comparison:#}");
    assert_eq!((&comparison["verdict"], &metric["cuped"]), (&json!("better"), &Value::Null), "{metric:#}");
    assert!(phase(&results, 1)["changed"].as_u64().unwrap() > 0, "some users have another variant now");

    // The rows, as an analyst gets them, and what other packages say of them.
    let folder = fixture.group.folder.path().join("export");
    let out = folder.to_string_lossy().into_owned();
    let arguments = ["experiments", "export", "theme", "--environment", ENVIRONMENT, "--out", &out];
    let exported = flagstream(fixture.group.folder.path(), &arguments, fixture.group.settings());
    assert!(exported.status.success(), "{exported:?}");
    let text = String::from_utf8(exported.stdout).unwrap();
    assert!(text.contains("4,000 exposures, 4,000 conversions, 4,000 values"), "{text}");
    let notebook = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/experiments/notebook.py");
    let python = Command::new("python3")
        .args([notebook, &out, "2", "spent", "light", "dark"])
        .env("PYTHONPATH", &stack.python_path)
        .output()
        .unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let theirs: Value = serde_json::from_slice(&python.stdout).unwrap();
    let look = &comparison["single_look"];
    let ours =
        [&comparison["difference"], &look["interval"]["low"], &look["interval"]["high"], &look["p_value"]];
    for package in ["tea_tasting", "gbstats"] {
        for (ours, theirs) in ours.iter().zip(theirs[package].as_array().unwrap()) {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
            assert!(
                (ours - theirs).abs() <= TOLERANCE * theirs.abs() + ROUNDING,
                "{package}: {ours} is not {theirs}"
            );
        }
    }
    let documented = include_str!("../../../docs/experiments.md");
    assert!(documented.contains(include_str!("notebook.py")), "docs/experiments.md has the script");
}
