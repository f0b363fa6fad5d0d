#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::Strategy;
use serde_json::{Value, json};

use super::*;
use crate::{FlagChange, Snapshot};

const MOMENT: Moment<'_> = Moment { now: "2026-01-15T10:30:00Z", hostname: "host", app_name: "app" };

/// Explains the first of the features.
fn explain(features: &[Value], context: &EvaluationContext<'_>) -> Explanation {
    let snapshot = Snapshot::default().with(features.iter().map(|feature| {
        let flag = CompiledFlag::compile("production", 1, &feature.to_string());
        FlagChange::Set(Arc::new(flag.unwrap()))
    }));
    let flags = snapshot.environment("production").unwrap();
    flags.explain(&features[0].to_string(), context, &MOMENT).unwrap().unwrap()
}

fn user<'c>(id: &'c str, properties: &[(&'c str, &'c str)]) -> EvaluationContext<'c> {
    let properties = properties.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    EvaluationContext { user_id: Some(id.into()), properties, ..EvaluationContext::default() }
}

#[test]
fn the_failed_constraint_of_each_strategy_is_named() {
    let within =
        |name: &str, values: &[&str]| json!({"contextName": name, "operator": "IN", "values": values});
    let flag = json!({"name": "f", "enabled": true, "strategies": [
        {"name": "default", "constraints": [within("plan", &["gold"]), within("region", &["eu"])]},
        {"name": "userWithId", "parameters": {"userIds": "ann"}},
        {"name": "flexibleRollout", "parameters": {"rollout": "0", "stickiness": "default"}},
    ]});
    let explained = explain(std::slice::from_ref(&flag), &user("bob", &[("plan", "gold"), ("region", "us")]));
    assert_eq!((explained.decision, explained.enabled), (Decision::NoStrategyMatched, false));
    let failures: Vec<_> = explained.strategies.iter().map(|tried| tried.failure.clone().unwrap()).collect();
    let Failure::Constraint { index: 1, context_name, actual, .. } = &failures[0] else {
        panic!("{failures:?}");
    };
    assert_eq!((context_name.as_str(), actual.as_deref()), ("region", Some("us")));
    assert_eq!(failures[1], Failure::NotListed { parameter: "userIds" });
    assert!(matches!(&failures[2], Failure::Rollout { bucket: Some(1..=100), .. }), "{failures:?}");
    assert!(
        explained.summary.contains("region IN eu does not hold for the value us"),
        "{}",
        explained.summary
    );

    let explained = explain(&[flag], &user("ann", &[]));
    assert_eq!((explained.decision, explained.enabled), (Decision::Strategy, true));
    assert_eq!(explained.summary, "The flag is on because strategy 2 (userWithId) matches.");
}

#[test]
fn a_parent_that_is_not_as_required_is_named() {
    let child = json!({"name": "child", "enabled": true, "strategies": [],
        "dependencies": [{"feature": "parent", "enabled": true, "variants": ["blue"]}]});
    let parent = json!({"name": "parent", "enabled": false, "strategies": []});
    let explained = explain(&[child, parent], &user("u", &[]));
    assert_eq!(explained.decision, Decision::Parent);
    assert_eq!(
        explained.summary,
        "The flag is off because its parent flag parent is not on with the variant blue."
    );
}

#[test]
fn every_other_decision_has_its_summary() {
    let decisions = [
        (json!({"name": "f", "enabled": false}), Decision::SwitchedOff, "switched off"),
        (json!({"name": "f", "enabled": true}), Decision::Everyone, "has no strategies"),
        (
            json!({"name": "f", "enabled": true, "dependencies": [{"feature": "nobody"}]}),
            Decision::Unusable,
            "does not exist",
        ),
        (
            json!({"name": "f", "enabled": true, "strategies": [{"name": "invented"}]}),
            Decision::NoStrategyMatched,
            "unknown or lacks a parameter",
        ),
        (
            json!({"name": "f", "enabled": true, "strategies": [{"name": "default", "segments": [9]}]}),
            Decision::NoStrategyMatched,
            "a segment does not exist",
        ),
    ];
    for (flag, decision, text) in decisions {
        let explained = explain(&[flag], &user("u", &[]));
        assert_eq!(explained.decision, decision);
        assert!(explained.summary.contains(text), "{}", explained.summary);
    }
}

#[test]
fn the_strategies_of_the_phase_in_force_are_tried() {
    let only = |name: &str| json!({"name": "userWithId", "parameters": {"userIds": name}});
    let flag = json!({"name": "f", "enabled": true, "strategies": [only("before")],
    "local": {"schedule": [
        {"from": "2026-01-01T00:00:00Z", "enabled": true, "strategies": [only("x"), only("now")]},
        {"from": "2027-01-01T00:00:00Z", "enabled": true, "strategies": [only("later")]},
    ]}});
    let explained = explain(std::slice::from_ref(&flag), &user("now", &[]));
    assert_eq!((explained.decision, explained.strategies.len()), (Decision::Strategy, 2));
    let explained = explain(&[flag], &user("later", &[]));
    assert_eq!((explained.decision, explained.strategies.len()), (Decision::NoStrategyMatched, 2));
}

#[test]
fn a_definition_that_is_too_large_is_explained_in_part() {
    let users: Vec<String> = (0..60_000).map(|number| number.to_string()).collect();
    let strategy = json!({"name": "default", "constraints": [
        {"contextName": "userId", "operator": "IN", "values": users}]});
    let flag = json!({"name": "f", "enabled": true, "strategies": [strategy, strategy, {"name": "default"}]});
    let explained = explain(&[flag], &user("u", &[]));
    assert!(explained.truncated && explained.enabled, "{explained:?}");
    assert_eq!(explained.decision, Decision::Strategy);
    assert_eq!(explained.strategies.len(), 1);
    assert_eq!(explained.strategies[0].failure, Some(Failure::NotExamined));
}

fn strategy() -> impl Strategy<Value = Value> {
    let plans = || proptest::sample::subsequence(vec!["gold", "silver", "bronze"], 1..3);
    let constraint = (plans(), any::<bool>()).prop_map(|(values, inverted)| {
        json!({"contextName": "plan", "operator": "IN", "values": values, "inverted": inverted})
    });
    let numeric = (0..4i32)
        .prop_map(|value| json!({"contextName": "age", "operator": "NUM_GT", "value": value.to_string()}));
    let constraints = proptest::collection::vec(prop_oneof![constraint, numeric], 0..3);
    let kind = prop_oneof![
        Just(json!({"name": "default"})),
        (0..=100u8).prop_map(|rollout| json!({"name": "flexibleRollout",
            "parameters": {"rollout": rollout.to_string(), "stickiness": "default", "groupId": "g"}})),
        Just(json!({"name": "userWithId", "parameters": {"userIds": "u1,u2"}})),
    ];
    (kind, constraints, any::<bool>()).prop_map(|(mut strategy, constraints, off)| {
        strategy["constraints"] = json!(constraints);
        strategy["local"] = json!({"off": off});
        strategy
    })
}

proptest! {
    #[test]
    fn an_explanation_agrees_with_the_evaluation(
        strategies in proptest::collection::vec(strategy(), 0..4),
        enabled in any::<bool>(),
        id in 0..6u8,
        plan in proptest::sample::select(vec!["gold", "silver", "none"]),
        age in 0..4u8,
    ) {
        let flag = json!({"name": "f", "enabled": enabled, "strategies": strategies});
        let (id, age) = (format!("u{id}"), age.to_string());
        let explained = explain(&[flag], &user(&id, &[("plan", plan), ("age", &age)]));
        let last = explained.strategies.last();
        let on = match explained.decision {
            Decision::Everyone => true,
            Decision::Strategy => last.is_some_and(|last| last.matched && !last.off),
            _ => false,
        };
        prop_assert_eq!(on, explained.enabled);
        prop_assert_eq!(explained.decision == Decision::SwitchedOff, !enabled);
        for tried in &explained.strategies {
            prop_assert_eq!(tried.matched, tried.failure.is_none());
            if let Some(Failure::Rollout { percentage, bucket: Some(bucket), .. }) = &tried.failure {
                prop_assert!(*bucket > percentage.parse::<u32>().unwrap());
            }
        }
    }
}
