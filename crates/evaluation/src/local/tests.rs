use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::*;
use crate::{CompiledFlag, EvaluationContext, FlagChange, Moment, Snapshot};

fn on_for(flag: &LocalFlag, user: Option<&str>) -> bool {
    let definition = feature("f", flag, 7, DateTime::<Utc>::UNIX_EPOCH).to_string();
    let compiled = CompiledFlag::compile("e", 1, &definition).unwrap();
    let snapshot = Snapshot::default().with([FlagChange::Set(compiled.into())]);
    let context = EvaluationContext { user_id: user.map(Into::into), ..EvaluationContext::default() };
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "", app_name: "" };
    snapshot.environment("e").unwrap().evaluate("f", &context, &moment).unwrap().enabled
}

fn flag(body: &Value) -> LocalFlag {
    let mut body = body.clone();
    body["name"] = json!("f");
    body["environment"] = json!("e");
    created(body.to_string().as_bytes()).unwrap().2
}

#[test]
fn who_gets_a_flag() {
    let cases = [
        (json!({}), [false, false]),
        (json!({"is_enabled": true}), [true, true]),
        (json!({"is_enabled": true, "target_users": []}), [true, true]),
        (json!({"is_enabled": true, "target_users": ["ann"]}), [true, false]),
        (json!({"is_enabled": true, "target_users": ["ann"], "rollout_percentage": 0}), [true, false]),
        (json!({"is_enabled": true, "target_users": ["ann"], "rollout_percentage": "100"}), [true, true]),
        (json!({"is_enabled": true, "rollout_percentage": "0"}), [false, false]),
        (json!({"is_enabled": false, "target_users": ["ann"], "rollout_percentage": 100}), [false, false]),
    ];
    for (body, expected) in cases {
        let flag = flag(&body);
        assert_eq!([Some("ann"), Some("bob")].map(|user| on_for(&flag, user)), expected, "{body}");
        assert!(!on_for(&flag, None) || expected[1], "{body}: nobody in particular is no target");
    }
}

#[test]
fn a_rollout_is_unleashs_own() {
    let local = flag(&json!({"is_enabled": true, "rollout_percentage": 25}));
    let unleash = json!({"name": "f", "enabled": true, "strategies": [{"name": "flexibleRollout",
        "parameters": {"rollout": "25", "stickiness": "default", "groupId": "f"}}]});
    let compiled = CompiledFlag::compile("e", 1, &unleash.to_string()).unwrap();
    let snapshot = Snapshot::default().with([FlagChange::Set(compiled.into())]);
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "", app_name: "" };
    let mut on = 0;
    for user in (0..1_000).map(|number| format!("user-{number}")) {
        let context =
            EvaluationContext { user_id: Some(user.as_str().into()), ..EvaluationContext::default() };
        let theirs = snapshot.environment("e").unwrap().evaluate("f", &context, &moment).unwrap().enabled;
        assert_eq!(on_for(&local, Some(&user)), theirs, "{user}");
        on += u32::from(theirs);
    }
    assert!((200..300).contains(&on), "{on}");
}

#[test]
fn a_definition_tells_its_revision() {
    assert_eq!(
        revision(&feature("f", &LocalFlag::default(), 7, DateTime::<Utc>::UNIX_EPOCH).to_string()),
        Some(7)
    );
    assert_eq!(revision(r#"{"name": "f"}"#), None);
}

/// Fields of the problems, and whether each value could not be read at all.
fn refused(body: &str) -> Vec<(String, bool)> {
    let problems = created(body.as_bytes()).unwrap_err();
    problems.into_iter().map(|problem| (problem.field, problem.malformed)).collect()
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let body = json!({"name": "a\u{0}", "environment": "a/b", "description": 7, "is_enabled": "yes",
        "rollout_percentage": 101, "target_users": ["ann", 7, ""], "type": "other", "owner": [], "tags": "x",
        "surprise": null});
    let mut refused = refused(&body.to_string());
    refused.sort();
    let expected = [
        ("description", true),
        ("environment", false),
        ("is_enabled", true),
        ("name", false),
        ("owner", true),
        ("rollout_percentage", false),
        ("surprise", false),
        ("tags", true),
        ("target_users[1]", true),
        ("target_users[2]", false),
        ("type", false),
    ];
    assert_eq!(refused, expected.map(|(field, malformed)| (field.to_owned(), malformed)));
}

#[test]
fn what_is_no_object_or_lacks_its_name_is_refused() {
    for body in ["", "{", "[]", "7", "null", "\"text\"", "{\"name\": 1e999}"] {
        assert_eq!(refused(body), [("body".to_owned(), true)], "{body}");
    }
    assert_eq!(refused("{}"), [("name".to_owned(), false), ("environment".to_owned(), false)]);
    assert_eq!(refused(r#"{"name": "a", "environment": "e", "name": "b"}"#), [("name".to_owned(), false)]);
    assert_eq!(
        refused(r#"{"name": null, "environment": 7}"#),
        [("name".to_owned(), false), ("environment".to_owned(), true)]
    );
}

#[test]
fn names_that_can_be_told_in_a_path() {
    let longest = "n".repeat(255);
    for name in ["a", "a/b%2F c?d#é🚩", "sync", "...", longest.as_str()] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    for name in ["", ".", "..", " a", "a\n", "a\u{7f}", &"n".repeat(256)] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn percentages_as_number_or_text() {
    let read = |value: Value| {
        let body = json!({"name": "f", "environment": "e", "rollout_percentage": value});
        created(body.to_string().as_bytes()).map(|(.., flag)| flag.rollout_percentage)
    };
    for value in [json!(25), json!("25"), json!(25.0), json!(" 25 "), json!("25.0")] {
        assert_eq!(read(value.clone()), Ok(Some(25)), "{value}");
    }
    assert_eq!(read(json!(null)), Ok(None));
    for value in [json!(-1), json!(100.5), json!("abc"), json!("25%"), json!("NaN"), json!(""), json!(1e300)]
    {
        let problems = read(value.clone()).unwrap_err();
        assert!(!problems[0].malformed, "{value}: {problems:?}");
    }
    assert!(read(json!(true)).unwrap_err()[0].malformed);
}

#[test]
fn an_update_changes_what_it_names() {
    let flag = flag(&json!({"is_enabled": true, "rollout_percentage": 25, "owner": "ann", "tags": ["a"]}));
    let change =
        updated(br#"{"rollout_percentage": null, "tags": ["b", "b"], "name": "f"}"#, "f", "e").unwrap();
    let flag = change.apply_to(&flag, DateTime::<Utc>::UNIX_EPOCH).unwrap();
    assert!(flag.is_enabled);
    assert_eq!(
        (flag.rollout_percentage, flag.owner.as_deref(), flag.tags),
        (None, Some("ann"), vec!["b".to_owned()])
    );
    let problems = updated(br#"{"name": "g", "is_enabled": 1}"#, "f", "e").unwrap_err();
    let mut fields: Vec<_> =
        problems.iter().map(|problem| (problem.field.as_str(), problem.malformed)).collect();
    fields.sort_unstable();
    assert_eq!(fields, [("is_enabled", true), ("name", false)]);
}

/// Uses three rules with fifty expressions each; each expression takes more than a megabyte when compiled.
#[test]
fn too_many_expressions_are_refused_before_any_is_compiled() {
    let attribute =
        |n: usize| json!({"attribute": format!("a{n}"), "operator": "matches", "value": r"\w{30}"});
    let rule = || json!({"attributes": (0..50).map(attribute).collect::<Vec<_>>()});
    let body =
        json!({"name": "f", "environment": "e", "is_enabled": true, "rules": [rule(), rule(), rule()]});
    let problems = created(body.to_string().as_bytes()).unwrap_err();
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["rules"]);
    assert!(problems[0].message.ends_with("got 150"), "{}", problems[0].message);
    let flag = json!({"rules": [rule()]});
    let definition = feature("f", &self::flag(&flag), 1, DateTime::<Utc>::UNIX_EPOCH).to_string();
    assert!(CompiledFlag::compile("e", 1, &definition).is_ok(), "fifty times the same is compiled once");
}

#[test]
fn a_schema_of_values_has_few_regular_expressions() {
    let properties = |count: usize| {
        let each = (0..count).map(|n| (format!("p{n}"), json!({"pattern": "^[a-z]+$"})));
        json!({"name": "f", "environment": "e", "value_type": "object",
            "value_schema": {"properties": each.collect::<serde_json::Map<_, _>>()}})
    };
    assert!(created(properties(20).to_string().as_bytes()).is_ok());
    let problems = created(properties(21).to_string().as_bytes()).unwrap_err();
    assert_eq!(problems[0].field, "value_schema");
}

#[test]
fn weights_that_add_up_to_less_than_a_hundred_are_warned_about() {
    let warned = |body: Value| warnings(&flag(&body)).len();
    let variants = |weights: &[f64]| {
        let named =
            weights.iter().enumerate().map(|(n, weight)| json!({"name": format!("v{n}"), "weight": weight}));
        Value::from(named.collect::<Vec<_>>())
    };
    assert_eq!(warned(json!({"variants": variants(&[25.0, 25.0])})), 1);
    assert_eq!(warned(json!({"rules": [{"variants": variants(&[25.0, 25.0])}]})), 1);
    assert_eq!(warned(json!({"variants": variants(&[25.0, 25.0]), "weights": "absolute"})), 0);
    assert_eq!(warned(json!({"variants": variants(&[50.0, 50.0])})), 0);
    assert_eq!(warned(json!({"variants": variants(&[0.5, 0.5])})), 0);
    assert_eq!(warned(json!({"variants": [{"name": "a"}, {"name": "b"}]})), 0);
    assert_eq!(warned(json!({"variants": [{"name": "a"}], "distribution": {"a": 70}})), 1);
}

#[test]
fn what_absolute_weights_leave_is_a_draw_that_a_cache_has_to_know() {
    let body = json!({"is_enabled": true, "value_type": "string", "weights": "absolute",
        "variants": [{"name": "a", "weight": 50}]});
    let definition = feature("f", &flag(&body), 1, DateTime::<Utc>::UNIX_EPOCH).to_string();
    let compiled = CompiledFlag::compile("e", 1, &definition).unwrap();
    let snapshot = Snapshot::default().with([FlagChange::Set(compiled.into())]);
    let flags = snapshot.environment("e").unwrap();
    let cacheability = flags.cacheability(flags.get("f").unwrap(), &EvaluationContext::default(), 0);
    assert_eq!(cacheability, crate::Cacheability::Never("random"));
}

#[test]
fn a_percentage_of_nobody_known_is_no_draw() {
    let body = json!({"is_enabled": true, "rollout_percentage": 50});
    let definition = feature("f", &flag(&body), 1, DateTime::<Utc>::UNIX_EPOCH).to_string();
    let compiled = CompiledFlag::compile("e", 1, &definition).unwrap();
    let snapshot = Snapshot::default().with([FlagChange::Set(compiled.into())]);
    let flags = snapshot.environment("e").unwrap();
    let cacheability = flags.cacheability(flags.get("f").unwrap(), &EvaluationContext::default(), 0);
    assert_eq!(cacheability, crate::Cacheability::UntilChanged);
    assert!((0..100).all(|_| !on_for(&flag(&body), None)));
}
