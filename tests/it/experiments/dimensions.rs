//! Results by attributes of the context, and by the metadata of conversions.

use chrono::Utc;
use serde_json::{Value, json};

use super::rows::{convert_all, evaluate_all};
use super::{ENVIRONMENT, Fixture, rfc3339};
use crate::harness::Stack;

/// Levels of a dimension of the results, each with its purchases.
fn levels(results: &Value, dimension: usize) -> Vec<(Value, u64, Value)> {
    let levels = results["phase"]["dimensions"][dimension]["levels"].as_array().cloned().unwrap_or_default();
    let level = |level: &Value| {
        let name = if level["kind"] == "value" { &level["value"] } else { &level["kind"] };
        (name.clone(), level["users"].as_u64().unwrap(), level["metrics"][0].clone())
    };
    levels.iter().map(level).collect()
}

fn converted(metric: &Value) -> u64 {
    let levels = metric["levels"].as_array().unwrap();
    levels.iter().map(|level| level["converted"].as_u64().unwrap()).sum()
}

#[test]
fn results_are_broken_down_by_attributes_and_by_metadata() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let service = fixture.start("one");
    // Users from before the start, whose contexts are in the rows.
    let started_at = rfc3339(Utc::now());
    let group = |plan: &'static str, numbers: std::ops::Range<usize>| {
        numbers.map(move |number| (format!("{plan}-{number}"), plan)).collect::<Vec<_>>()
    };
    let mut users = group("gold", 0..200);
    let mut variants = evaluate_all(&service, &users);
    crate::harness::wait_until("rows", crate::harness::TEST_TIMEOUT, || fixture.database.audited() == 200);
    let body = json!({"name": "theme", "environment": ENVIRONMENT, "control": "light", "started_at": started_at,
        "metrics": [{"name": "purchase"}], "dimensions": [{"name": "plan"}, {"name": "payment", "source": "conversion"}]});
    let begun = fixture.create(&service, &body);
    assert_eq!(begun["dimensions"][0], json!({"name": "plan", "source": "context"}), "{begun:#}");
    let others = [group("gold", 200..2_000), group("free", 0..1_000)].concat();
    variants.extend(evaluate_all(&service, &others));
    users.extend(others);
    // More values than there are levels.
    for number in 0..14 {
        let plan: &'static str = Box::leak(format!("rare{number:02}").into_boxed_str());
        let rare = group(plan, 0..if number < 8 { 2 } else { 1 });
        variants.extend(evaluate_all(&service, &rare));
        users.extend(rare);
    }
    let now = rfc3339(Utc::now());
    let mut conversions = Vec::new();
    for (number, ((user, plan), variant)) in users.iter().zip(&variants).enumerate() {
        // Only gold users buy more under dark.
        let share = match (*plan, variant.as_str()) {
            ("gold", "dark") => 4,
            _ => 2,
        };
        if number % 10 < share {
            let payment = if number % 2 == 0 { "visa" } else { "cash" };
            conversions.push(json!({"user_id": user, "metric": "purchase", "occurred_at": now,
                "event_id": format!("p-{user}"), "metadata": {"payment": payment}}));
        }
    }
    convert_all(&fixture, &service, &conversions);
    let bought = conversions.len() as u64;
    let results = fixture.wait(&service, "all rows", |results| {
        results["conversions"]["attributed"] == bought && levels(results, 0).len() == 11
    });
    let plans = levels(&results, 0);
    let names: Vec<&Value> = plans.iter().map(|(name, ..)| name).collect();
    assert_eq!(names[..3], [&json!("gold"), &json!("free"), &json!("rare00")], "{names:?}");
    assert_eq!(names[10], &json!("other"), "{names:?}");
    let counts: Vec<u64> = plans.iter().map(|(_, users, _)| *users).collect();
    assert_eq!(counts, [2_000, 1_000, 2, 2, 2, 2, 2, 2, 2, 2, 6]);
    let gold = &plans[0].2["comparisons"][0];
    assert_eq!((&gold["variant"], &gold["verdict"]), (&json!("dark"), &json!("better")), "{gold:#}");
    let free = &plans[1].2["comparisons"][0];
    assert_ne!(free["verdict"], "better", "{free:#}");
    // Eleven comparisons; the one that is rejected leaves α to the others.
    assert!((gold["alpha"].as_f64().unwrap() - 0.05 / 11.0).abs() < 1e-9, "{gold:#}");
    assert!((free["alpha"].as_f64().unwrap() - 0.05 / 10.0).abs() < 1e-9, "{free:#}");
    let all: u64 = plans.iter().map(|(.., metric)| converted(metric)).sum();
    assert_eq!(all, bought);

    let payments = levels(&results, 1);
    assert_eq!(payments.iter().map(|(name, ..)| name).collect::<Vec<_>>(), [&json!("visa"), &json!("cash")]);
    assert!(payments.iter().all(|(_, users, _)| *users == 3_022), "all users may pay with either");
    let all: u64 = payments.iter().map(|(.., metric)| converted(metric)).sum();
    assert_eq!(all, bought);

    let mut body = body;
    body["name"] = json!("other");
    body["dimensions"] = json!([{"name": "plan"}, {"name": "plan"}]);
    let refused = fixture.ask(&service, "POST", "", &body);
    assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!("dimensions[1].name")));
}
