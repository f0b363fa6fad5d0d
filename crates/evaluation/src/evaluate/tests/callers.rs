//! Tests of anonymous callers, unmet parents, and flags that cannot be evaluated.

use super::*;

/// A parent with a rollout of 50 % and its child, as Unleash writes them: each has its own group.
fn family() -> [Value; 2] {
    let half = |group: &str, more: Value| {
        let mut feature = json!({ "name": group, "enabled": true, "strategies": [{ "name": "flexibleRollout",
            "parameters": { "rollout": "50", "stickiness": "default", "groupId": group } }] });
        feature.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        feature
    };
    let always = json!({ "strategies": [{ "name": "default" }], "dependencies": [{ "feature": "parent" }] });
    [half("parent", json!({})), half("child", always)]
}

#[test]
fn for_one_anonymous_id_parent_and_child_agree_and_the_draw_is_a_sessions() {
    let features = family();
    let mut on = 0;
    for number in 0..200_u128 {
        let id = format!("generated-{number:032x}");
        let nobody =
            EvaluationContext { anonymous_id: Some(id.as_str().into()), ..EvaluationContext::default() };
        let session =
            EvaluationContext { session_id: Some(id.as_str().into()), ..EvaluationContext::default() };
        let parent = evaluate(&features, "parent", &nobody).0;
        assert_eq!(evaluate(&features, "child", &nobody).0, parent, "{id}");
        assert_eq!(evaluate(&features, "parent", &session).0, parent, "{id}");
        on += usize::from(parent);
    }
    assert!((60..140).contains(&on), "{on} of 200");
}

#[test]
fn an_anonymous_id_decides_draws_and_nothing_else() {
    let with = |strategy: Value| [json!({ "name": "f", "enabled": true, "strategies": [strategy] })];
    let id = "generated-00000000000000000000000000000007";
    let nobody = EvaluationContext { anonymous_id: Some(id.into()), ..EvaluationContext::default() };
    let someone = EvaluationContext { session_id: Some(id.into()), ..EvaluationContext::default() };
    let by_session =
        json!({ "rollout": "100", "percentage": "100", "stickiness": "sessionId", "groupId": "g" });
    for strategy in ["flexibleRollout", "gradualRolloutSessionId"] {
        let features = with(json!({ "name": strategy, "parameters": by_session }));
        assert!(!evaluate(&features, "f", &nobody).0, "{strategy}");
        assert!(evaluate(&features, "f", &someone).0, "{strategy}");
    }
    for name in ["sessionId", "session_id"] {
        for strategy in ["default", "flexibleRollout"] {
            let constraint = json!({ "contextName": name, "operator": "REGEX", "value": "generated" });
            let features = with(json!({ "name": strategy, "constraints": [constraint],
                "parameters": { "rollout": "100", "stickiness": "default", "groupId": "g" } }));
            assert!(!evaluate(&features, "f", &nobody).0, "{strategy} {name}");
            assert!(evaluate(&features, "f", &someone).0, "{strategy} {name}");
        }
    }
}

#[test]
fn what_was_drawn_for_an_anonymous_id_can_be_repeated_and_is_not_kept() {
    use crate::Cacheability;
    let features = family();
    let snapshot = snapshot(&features);
    let flags = snapshot.environment("production").unwrap();
    let nobody = EvaluationContext { anonymous_id: Some("a".into()), ..EvaluationContext::default() };
    for name in ["parent", "child"] {
        let flag = flags.get(name).unwrap();
        assert_eq!(flags.unrepeatable(flag, &nobody, 0), None);
        assert_eq!(flags.unrepeatable(flag, &EvaluationContext::default(), 0), Some("random"));
        assert_eq!(flags.cacheability(flag, &nobody, 0), Cacheability::Never("random"));
        assert!(flags.draws_for_nobody(flag, &nobody));
        assert!(!flags.draws_for_nobody(flag, &user("u")));
    }
}

#[test]
fn the_parent_that_is_not_met_is_named() {
    use crate::{Lookup, ValueType, answer};
    let depending = |name: &str, dependency: Value, local: Value| {
        json!({ "name": name, "enabled": true,
        "dependencies": [{ "feature": "on" }, dependency], "local": local })
    };
    let features = [
        json!({ "name": "on", "enabled": true }),
        json!({ "name": "off", "enabled": false }),
        depending("child", json!({ "feature": "off" }), json!({})),
        depending("opposite", json!({ "feature": "on", "enabled": false }), json!({})),
        depending("chained", json!({ "feature": "off" }), json!({ "chained": true })),
        depending("met", json!({ "feature": "off", "enabled": false }), json!({})),
    ];
    let snapshot = snapshot(&features);
    let flags = snapshot.environment("production").unwrap();
    let moment = Moment { now: NOW, hostname: "host", app_name: "app" };
    for (name, parent) in
        [("child", Some("off")), ("opposite", Some("on")), ("chained", Some("off")), ("met", None)]
    {
        let outcome = flags.evaluate(name, &user("u"), &moment).unwrap();
        assert_eq!((outcome.unmet, outcome.enabled), (parent, parent.is_none()), "{name}");
        let said = answer(name, Lookup::Found(outcome), ValueType::Boolean, None);
        let expected = parent.map(|parent| {
            format!("the flag is off, because its parent flag {parent} does not have the required state")
        });
        assert_eq!((said.error_code, said.error_message.as_deref()), (None, expected.as_deref()));
    }
}

#[test]
fn a_flag_that_cannot_be_evaluated_and_its_children_say_why() {
    let broken = CompiledFlag::unusable("production", "broken", 3, "strategies: expected a list");
    let child = |name: &str, on: bool| {
        let text = json!({ "name": name, "enabled": true, "dependencies": [{ "feature": "broken", "enabled": on }] });
        CompiledFlag::compile("production", 1, &text.to_string()).unwrap()
    };
    let flags = [broken, child("child", true), child("opposite", false)];
    let snapshot = Snapshot::default().with(flags.map(|flag| FlagChange::Set(Arc::new(flag))));
    let flags = snapshot.environment("production").unwrap();
    let moment = Moment { now: NOW, hostname: "host", app_name: "app" };
    let failure = |name: &str| {
        let outcome = flags.evaluate(name, &user("u"), &moment).unwrap();
        assert!(!outcome.enabled && outcome.variant.is_none());
        outcome.failure.unwrap()
    };
    assert_eq!(failure("broken"), "strategies: expected a list");
    assert_eq!(failure("child"), "a parent flag cannot be evaluated");
    assert_eq!(failure("opposite"), failure("child"));
}

#[test]
fn the_limits_of_dependencies_are_told_apart() {
    use crate::evaluate::parents::{MAX_PARENTS_ASKED, TOO_DEEP, TOO_MANY};
    use crate::local::MAX_DEPENDENCY_LEVELS;
    let flag = |name: String, parents: Vec<String>| {
        let dependencies: Vec<Value> = parents.iter().map(|parent| json!({ "feature": parent })).collect();
        json!({ "name": name, "enabled": true, "dependencies": dependencies, "local": { "chained": true } })
    };
    // Each branch and its 99 parents are 100 parents of the flag below.
    let leaves: Vec<String> = (0..99).map(|n| format!("leaf-{n}")).collect();
    let branches: Vec<String> = (0..MAX_PARENTS_ASKED / 100).map(|n| format!("branch-{n}")).collect();
    let mut features: Vec<Value> = leaves.iter().map(|leaf| flag(leaf.clone(), Vec::new())).collect();
    features.extend(branches.iter().map(|branch| flag(branch.clone(), leaves.clone())));
    features.push(flag("many".to_owned(), branches.clone()));
    features.push(flag("too-many".to_owned(), [branches, vec!["leaf-0".to_owned()]].concat()));
    for level in 0..=MAX_DEPENDENCY_LEVELS + 1 {
        let above: Vec<String> = (level > 0).then(|| format!("level-{}", level - 1)).into_iter().collect();
        features.push(flag(format!("level-{level}"), above));
    }
    let snapshot = snapshot(&features);
    let flags = snapshot.environment("production").unwrap();
    let moment = Moment { now: NOW, hostname: "host", app_name: "app" };
    let failure = |name: &str| flags.evaluate(name, &user("u"), &moment).unwrap().failure;
    assert_eq!(failure("many"), None);
    assert_eq!(failure("too-many"), Some(TOO_MANY));
    assert_eq!(failure(&format!("level-{MAX_DEPENDENCY_LEVELS}")), None);
    assert_eq!(failure(&format!("level-{}", MAX_DEPENDENCY_LEVELS + 1)), Some(TOO_DEEP));
    assert!(TOO_MANY.contains(&format!(" {MAX_PARENTS_ASKED} flags")));
    assert!(TOO_DEEP.contains(&format!(" {MAX_DEPENDENCY_LEVELS} levels")));
}
