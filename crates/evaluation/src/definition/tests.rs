#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{MAX_DEFINITION_BYTES, Segments, canonical, checksum, inline_segments, read};
use crate::{CompiledFlag, EvaluationContext, FlagChange, Moment, Snapshot};

/// A feature whose only strategy has the given member.
fn strategy(member: &str, value: Value) -> Value {
    json!({ "name": "f", "enabled": true, "strategies": [{ "name": "flexibleRollout", member: value }] })
}

fn constraint(operator: &str, value: Value) -> Value {
    strategy("constraints", json!([{ "contextName": "p", "operator": operator, "value": value }]))
}

fn refusal(definition: &Value) -> (String, String) {
    let error = read(&definition.to_string()).unwrap_err();
    (error.field, error.message)
}

#[test]
fn what_does_not_change_the_meaning_is_tolerated() {
    let text = r#"{"name": "f", "enabled": false, "enabled": true, "unheard": {"of": []}, "strategies": [{
        "name": "flexibleRollout", "constraints": null, "segments": null, "variants": null,
        "parameters": {"rollout": 25, "sticky": true, "nothing": null, "list": ["a", 1]}}],
        "variants": null, "dependencies": null, "createdAt": "not a date", "lastSeenAt": 5}"#;
    let (feature, _) = read(text).unwrap();
    assert!(feature.enabled);
    let parameters = feature.strategies.unwrap()[0].parameters.clone().unwrap();
    let expected = [("rollout", "25"), ("sticky", "true"), ("list", "a,1")];
    assert_eq!(parameters, expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
}

#[test]
fn values_are_brought_into_the_engines_notation() {
    for (operator, value, expected) in [
        ("NUM_EQ", json!(5), "5"),
        ("NUM_GT", json!(" .5 "), "0.5"),
        ("NUM_LT", json!("1e3"), "1000"),
        ("DATE_AFTER", json!("2022-01-22T14:00:00+02:00"), "2022-01-22T12:00:00.000Z"),
        ("SEMVER_EQ", json!("1.2.3-rc.1+b"), "1.2.3-rc.1+b"),
        ("SEMVER_EQ", json!("v1.2.3"), "v1.2.3"),
    ] {
        let (feature, _) = read(&constraint(operator, value).to_string()).unwrap();
        let constraints = feature.strategies.unwrap()[0].constraints.clone().unwrap();
        assert_eq!(constraints[0].value.as_deref(), Some(expected), "{operator}");
    }
}

#[test]
fn refusals_name_the_path() {
    let long = "x".repeat(256);
    let cases = [
        (json!({ "enabled": true }), "name"),
        (json!({ "name": "", "enabled": true }), "name"),
        (json!({ "name": long, "enabled": true }), "name"),
        (json!({ "name": "f" }), "enabled"),
        (json!({ "name": "f", "enabled": "yes" }), "enabled"),
        (json!({ "name": "f", "enabled": true, "strategies": {} }), "strategies"),
        (json!({ "name": "f", "enabled": true, "strategies": [{}, 5] }), "strategies[0].name"),
        (strategy("parameters", json!({ "rollout": "101" })), "strategies[0].parameters.rollout"),
        (strategy("parameters", json!({ "rollout": 33.3 })), "strategies[0].parameters.rollout"),
        (strategy("parameters", json!({ "x": {} })), "strategies[0].parameters.x"),
        (strategy("parameters", json!({ "x": [[]] })), "strategies[0].parameters.x[0]"),
        (strategy("segments", json!(["one"])), "strategies[0].segments[0]"),
        (strategy("variants", json!([{ "name": "v", "weight": -1 }])), "strategies[0].variants[0].weight"),
        (
            strategy("constraints", json!([{ "contextName": "p", "operator": "IN", "values": [{}] }])),
            "strategies[0].constraints[0].values[0]",
        ),
        (
            json!({ "name": "f", "enabled": true, "variants": [{ "name": "v", "weight": 1, "payload": { "value": "x" } }] }),
            "variants[0].payload.type",
        ),
        (json!({ "name": "f", "enabled": true, "dependencies": [{}] }), "dependencies[0].feature"),
    ];
    for (definition, path) in cases {
        assert_eq!(refusal(&definition).0, path, "{definition}");
    }
}

#[test]
fn a_constraint_that_cannot_be_evaluated_never_holds_and_is_named() {
    let path = |member: &str| format!("strategies[0].constraints[0].{member}: ");
    for (operator, value, place) in [
        ("SOUNDS_LIKE", json!("x"), "operator"),
        ("NUM_EQ", json!("5 or true"), "value"),
        ("NUM_EQ", json!("NaN"), "value"),
        ("NUM_EQ", Value::Null, "value"),
        ("DATE_AFTER", json!("yesterday"), "value"),
        ("DATE_AFTER", json!("+12022-01-22T14:00:00Z"), "value"),
        ("SEMVER_GT", json!("1.2"), "value"),
    ] {
        for inverted in [false, true] {
            let mut definition = constraint(operator, value.clone());
            definition["strategies"][0]["constraints"][0]["inverted"] = inverted.into();
            let flag = CompiledFlag::compile("e", 1, &definition.to_string()).unwrap();
            let problems: Vec<_> = flag.problems().collect();
            assert!(matches!(problems.as_slice(), [one] if one.starts_with(&path(place))), "{problems:?}");
            assert!(!is_on(flag), "{operator} {inverted}");
            // The other strategies still apply.
            definition["strategies"].as_array_mut().unwrap().push(json!({ "name": "default" }));
            assert!(is_on(CompiledFlag::compile("e", 1, &definition.to_string()).unwrap()));
        }
    }
}

fn is_on(flag: CompiledFlag) -> bool {
    let context = EvaluationContext { user_id: Some("u".into()), ..EvaluationContext::default() };
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
    let snapshot = Snapshot::default().with([FlagChange::Set(flag.into())]);
    snapshot.environment("e").unwrap().evaluate("f", &context, &moment).unwrap().enabled
}

#[test]
fn dates_that_unleash_accepts_are_read_as_utc() {
    for (text, expected) in [
        ("2022-01-29", "2022-01-29T00:00:00.000Z"),
        ("2022-01-29T13:00", "2022-01-29T13:00:00.000Z"),
        ("2022-01-29T13:00:00", "2022-01-29T13:00:00.000Z"),
        ("2022-01-29T13:00:00.250", "2022-01-29T13:00:00.250Z"),
        ("2022-01-29T13:00Z", "2022-01-29T13:00:00.000Z"),
        ("2022-01-29T13:00+02:00", "2022-01-29T11:00:00.000Z"),
        ("Sat, 29 Jan 2022 13:00:00 GMT", "2022-01-29T13:00:00.000Z"),
    ] {
        for operator in ["DATE_AFTER", "DATE_BEFORE"] {
            let (feature, _) = read(&constraint(operator, json!(text)).to_string()).unwrap();
            let constraints = feature.strategies.unwrap()[0].constraints.clone().unwrap();
            assert_eq!(constraints[0].value.as_deref(), Some(expected), "{text}");
        }
    }
    for text in ["2022-02-30", "2022", "13:00", "2022-01-29 13:00 or true", "Sat, 29 Jan"] {
        let flag = CompiledFlag::compile("e", 1, &constraint("DATE_AFTER", json!(text)).to_string()).unwrap();
        assert_eq!(flag.problems().count(), 1, "{text}");
    }
}

#[test]
fn a_definition_that_stands_for_an_unusable_one_gives_its_reason() {
    let text = super::unusable("f", "strategies: expected a list");
    let flag = CompiledFlag::compile("e", 1, &text).unwrap();
    assert_eq!(flag.unusable_because(), Some("strategies: expected a list"));
    let made = CompiledFlag::unusable("e", "f", 1, "strategies: expected a list");
    assert_eq!((made.unusable_because(), &*made.name), (flag.unusable_because(), "f"));
    for flag in [flag, made] {
        let snapshot = Snapshot::default().with([FlagChange::Set(flag.into())]);
        let flags = snapshot.environment("e").unwrap();
        let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
        let outcome = flags.evaluate("f", &EvaluationContext::default(), &moment).unwrap();
        assert_eq!((outcome.enabled, outcome.failure), (false, Some("strategies: expected a list")));
    }
}

#[test]
fn limits_are_those_of_the_whole_definition() {
    let large = json!({ "name": "f", "enabled": true, "description": "x".repeat(MAX_DEFINITION_BYTES) });
    assert_eq!(refusal(&large).0, "definition");
    let nested = (0..40).fold(json!(1), |inner, _| json!([inner]));
    let (field, message) = refusal(&json!({ "name": "f", "enabled": true, "x": nested }));
    assert_eq!((field.as_str(), message.as_str()), ("definition", "nested deeper than 32 levels"));
    for text in ["", "null", "[]", "{", "\u{0}", &"[".repeat(100_000)] {
        assert_eq!(read(text).unwrap_err().field, "definition");
    }
}

#[test]
fn canonical_text_is_one_for_one_meaning() {
    let one =
        canonical(r#"{"name":"f", "b":[1, {"z":1,"a":2}], "lastSeenAt":"x", "createdAt":"y", "a":"\u00e9"}"#)
            .unwrap();
    assert_eq!(one, r#"{"a":"é","b":[1,{"a":2,"z":1}],"name":"f"}"#);
    assert_eq!(canonical(&one).unwrap(), one);
    assert_eq!(checksum("{}"), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
}

#[test]
fn segments_are_put_into_the_strategies() {
    let segments = json!([{ "id": 1, "name": "s", "constraints": [{ "contextName": "a" }] }, { "id": 2, "constraints": [] }]);
    let segments = Segments::read(&segments).unwrap();
    let inline = |strategy: Value| {
        let text = inline_segments(&json!({ "name": "f", "strategies": [strategy] }).to_string(), &segments)
            .unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["strategies"][0].clone()
    };
    assert_eq!(inline(json!({ "segments": [1, 2] })), json!({ "constraints": [{ "contextName": "a" }] }));
    assert_eq!(
        inline(json!({ "segments": ["1", 9], "constraints": [{ "contextName": "b" }] })),
        json!({ "segments": [9], "constraints": [{ "contextName": "b" }, { "contextName": "a" }] })
    );
    assert_eq!(inline(json!({ "segments": [] })), json!({}));
    assert_eq!(Segments::read(&json!([{ "constraints": [] }])).unwrap_err().field, "segments[0].id");
    assert!(Segments::read(&Value::Null).is_ok());
}

/// Arbitrary JSON that uses names and texts of definitions.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "name",
        "enabled",
        "strategies",
        "constraints",
        "operator",
        "contextName",
        "values",
        "value",
        "variants",
        "weight",
        "payload",
        "type",
        "dependencies",
        "feature",
        "parameters",
        "rollout",
        "groupId",
        "stickiness",
        "default",
        "flexibleRollout",
        "userWithId",
        "IN",
        "NUM_GT",
        "REGEX",
        "SEMVER_EQ",
        "DATE_AFTER",
        "json",
        "overrides",
        "segments",
        "userIds",
        "\\",
        "\"",
        "50",
        "2022-01-22T14:00:00Z",
        "(",
        "userId",
    ];
    let word = prop_oneof![4 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => ".*"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(word.clone(), inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Replaces the `n`th value of a definition.
fn replace(value: &mut Value, n: &mut usize, new: &Value) {
    if *n == 0 {
        *value = new.clone();
    }
    *n = n.wrapping_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, n, new)),
        Value::Object(members) => members.values_mut().for_each(|member| replace(member, n, new)),
        _ => {}
    }
}

fn well_formed() -> Value {
    json!({ "name": "f", "enabled": true,
        "strategies": [{ "name": "flexibleRollout", "segments": [1],
            "parameters": { "rollout": "50", "groupId": "g", "stickiness": "plan" },
            "constraints": [{ "contextName": "p", "operator": "IN", "values": ["a"], "inverted": true },
                { "contextName": "n", "operator": "NUM_GT", "value": "5" }],
            "variants": [{ "name": "v", "weight": 1, "payload": { "type": "json", "value": "{\"value\":1}" } }] }],
        "variants": [{ "name": "v", "weight": 1000, "stickiness": "x", "overrides": [{ "contextName": "userId", "values": ["u"] }] }],
        "dependencies": [{ "feature": "p", "enabled": false, "variants": ["v"] }] })
}

/// Compiles the text, and checks that making it canonical again changes neither the text nor whether it
/// compiles.
fn survive(text: &str) {
    let compiled = CompiledFlag::compile("e", 1, text);
    if let Ok(one) = inline_segments(text, &Segments::default()) {
        assert_eq!(canonical(&one).unwrap(), one);
        let again = CompiledFlag::compile("e", 1, &one);
        assert_eq!(again.is_ok(), compiled.is_ok(), "{text}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_on_any_text(text in ".*") {
        survive(&text);
    }

    #[test]
    fn nothing_panics_on_any_json(value in any_json()) {
        survive(&value.to_string());
    }

    #[test]
    fn nothing_panics_on_a_definition_with_a_part_replaced(new in any_json(), position in 0_usize..50) {
        let mut definition = well_formed();
        replace(&mut definition, &mut position.clone(), &new);
        survive(&definition.to_string());
    }
}
