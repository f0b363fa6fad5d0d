#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use super::{
    Answer, DefaultValue, ErrorCode, Lookup, OutcomeParts, Payload, Reason, Value, ValueType, answer,
    natural_answer,
};
use crate::{CompiledFlag, EvaluationContext, FlagChange, Moment, Outcome, Snapshot};

const MOMENT: Moment<'static> = Moment { now: "2026-01-15T10:30:00Z", hostname: "host", app_name: "app" };

/// A snapshot with one flag, `f`, that has one variant, `blue`.
fn snapshot(enabled: bool, variants: Json) -> Snapshot {
    let definition = json!({ "name": "f", "enabled": enabled, "variants": variants }).to_string();
    let flag = CompiledFlag::compile("e", 7, &definition).unwrap();
    Snapshot::default().with([FlagChange::Set(Arc::new(flag))])
}

fn variant(payload: &Json) -> Json {
    json!([{ "name": "blue", "weight": 1, "payload": payload }])
}

fn found(snapshot: &Snapshot) -> Outcome<'_> {
    let flags = snapshot.environment("e").unwrap();
    flags.evaluate("f", &EvaluationContext::default(), &MOMENT).unwrap()
}

fn default_value(text: &str) -> DefaultValue<'_> {
    match serde_json::from_str(text).unwrap() {
        Json::Bool(boolean) => DefaultValue::Boolean(boolean),
        Json::String(string) => DefaultValue::String(string.into()),
        Json::Number(_) => DefaultValue::Number(text),
        _ => DefaultValue::Json(text),
    }
}

fn written(value: &Value<'_>) -> Json {
    let mut out = Vec::new();
    value.write_json(&mut out);
    serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(&out)))
}

#[test]
fn vectors() {
    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        #[serde(default)]
        state: String,
        #[serde(default)]
        payload: Json,
        asked: Option<String>,
        default: Option<Box<RawValue>>,
        value: Json,
        text: Option<String>,
        reason: String,
        error_code: Option<String>,
    }
    let mut vectors: Json =
        serde_json::from_str(include_str!("../../../../tests/vectors/values.json")).unwrap();
    let cases: Vec<Json> = serde_json::from_value(vectors["cases"].take()).unwrap();
    for case in cases {
        let case: Case = serde_json::from_str(&case.to_string()).unwrap();
        let name = &case.name;
        let variants = if case.state == "no-variants" { json!([]) } else { variant(&case.payload) };
        let snapshot = snapshot(case.state != "off", variants);
        let lookup = match case.state.as_str() {
            "unknown" => Lookup::NotFound,
            "not-ready" => Lookup::NotReady("no flags loaded yet".into()),
            _ => Lookup::Found(found(&snapshot)),
        };
        let default = case.default.as_deref().map(|raw| default_value(raw.get()));
        let asked = match &case.asked {
            Some(name) => name.parse().unwrap(),
            None => ValueType::of_default(default.as_ref()),
        };
        let answer = answer("f", lookup, asked, default.as_ref());
        assert_eq!(written(&answer.value), case.value, "{name}");
        assert_eq!(answer.reason.as_str(), case.reason, "{name}");
        assert_eq!(answer.error_code.map(ErrorCode::as_str), case.error_code.as_deref(), "{name}");
        assert_eq!(answer.error_message.is_some(), case.error_code.is_some(), "{name}");
        if let Some(text) = case.text {
            assert_eq!(answer.value.as_text(), text, "{name}");
        }
    }
}

#[test]
fn an_answer_says_which_variant_and_version() {
    let snapshot = snapshot(true, variant(&json!({ "type": "string", "value": "dark" })));
    let answer = answer("f", Lookup::Found(found(&snapshot)), ValueType::String, None);
    let expected = Answer {
        value: Value::String("dark".into()),
        enabled: true,
        variant: Some("blue"),
        reason: Reason::TargetingMatch,
        error_code: None,
        error_message: None,
        flag_version: Some(7),
        assignment: None,
    };
    assert_eq!(answer, expected);
}

#[test]
fn a_failure_answers_the_default_and_of_a_boolean_off() {
    let snapshot = snapshot(true, json!([]));
    let outcome = || Outcome { failure: Some("it broke"), ..found(&snapshot) };
    let default = DefaultValue::Boolean(true);
    let boolean = answer("f", Lookup::Found(outcome()), ValueType::Boolean, Some(&default));
    assert_eq!((boolean.value, boolean.reason), (Value::Boolean(false), Reason::Error));
    let answer = answer("f", Lookup::Found(outcome()), ValueType::String, Some(&default));
    assert_eq!((answer.value, answer.reason), (Value::Boolean(true), Reason::Error));
    assert_eq!(
        (answer.error_code, answer.error_message),
        (Some(ErrorCode::General), Some("it broke".into()))
    );
}

#[test]
fn a_mismatch_says_what_was_asked_and_what_was_there_in_short() {
    let message = |text: &str, asked| {
        let snapshot = snapshot(true, variant(&json!({ "type": "string", "value": text })));
        let answer = answer("f", Lookup::Found(found(&snapshot)), asked, None);
        answer.error_message.unwrap().into_owned()
    };
    assert_eq!(
        message("dark", ValueType::Integer),
        "integer was requested, but variant blue of flag f has a payload of type string: dark"
    );
    assert!(message(&"ä".repeat(1_000), ValueType::Object).len() < 200);
    assert!(
        message("9223372036854775808", ValueType::Integer)
            .ends_with("(the number does not fit into a 64-bit integer)")
    );
}

#[test]
fn without_a_type_the_payload_decides() {
    for (kind, text, expected) in [
        ("json", "{\"value\": [1]}", json!([1])),
        ("json", "{\"a\": 1}", json!({ "a": 1 })),
        ("json", "true", json!(true)),
        ("json", "\"x\"", json!("x")),
        ("json", "{", json!("{")),
        ("number", "5.5", json!(5.5)),
        ("number", "five", json!("five")),
        ("string", "{\"value\": 1}", json!("{\"value\": 1}")),
        ("csv", "a,b", json!("a,b")),
    ] {
        let payload = Payload::parse(kind, text);
        assert_eq!(written(&payload.natural()), expected, "{kind} {text}");
    }
}

fn payload() -> impl Strategy<Value = (String, String)> {
    let kind = proptest::sample::select(vec!["string", "json", "number", "csv", "?"]).prop_map(str::to_owned);
    let text = prop_oneof![
        ".*",
        "[-+]?[0-9]{0,30}[.]?[0-9]{0,30}(e[-+]?[0-9]{1,4})?",
        "\\{\"value\": ?[-0-9.e\"\\[\\]{}]{0,8}\\}",
        "[\\[{]{0,60}[\\]}]{0,60}",
    ];
    (kind, text)
}

proptest! {
    #[test]
    fn every_answer_is_json_of_the_type_asked((kind, text) in payload(), enabled in any::<bool>()) {
        let snapshot = snapshot(enabled, variant(&json!({ "type": kind, "value": text })));
        for asked in ["boolean", "string", "integer", "float", "number", "object"] {
            let asked: ValueType = asked.parse().unwrap();
            let answer = answer("f", Lookup::Found(found(&snapshot)), asked, None);
            let json = written(&answer.value);
            if answer.reason == Reason::TargetingMatch {
                let right = match asked {
                    ValueType::Boolean => json.is_boolean(),
                    ValueType::String => json.is_string(),
                    ValueType::Integer => json.is_i64(),
                    ValueType::Float => json.is_f64(),
                    ValueType::Number => json.is_number(),
                    ValueType::Object => json.is_object() || json.is_array(),
                };
                prop_assert!(right, "{} {}", asked.as_str(), json);
            } else {
                let none = if asked == ValueType::Boolean { json!(false) } else { Json::Null };
                prop_assert_eq!(json, none);
            }
        }
    }
}

#[test]
fn what_was_kept_says_the_same_without_a_type() {
    let payload = Payload::parse("json", r#"{"value": 5}"#);
    let kept = |enabled, variant| {
        Lookup::OutcomeParts(OutcomeParts {
            enabled,
            killed: false,
            variant,
            unmet: None,
            flag_version: 7,
            assignment: None,
        })
    };
    let value = |lookup| written(&natural_answer("f", lookup).value);
    assert_eq!(value(kept(true, Some(("five", Some(&payload))))), json!(5));
    assert_eq!(value(kept(true, Some(("five", None)))), json!("five"));
    assert_eq!(value(kept(true, None)), json!(true));
    assert_eq!(value(kept(false, None)), json!(false));
    let snapshot = snapshot(true, variant(&json!({"type": "json", "value": r#"{"value": 5}"#})));
    let in_force = natural_answer("f", Lookup::Found(found(&snapshot)));
    assert_eq!(
        in_force,
        Answer { variant: Some("blue"), ..natural_answer("f", kept(true, Some(("blue", Some(&payload))))) }
    );
}

#[test]
fn a_killed_flag_is_disabled_and_says_so() {
    let kept = || {
        Lookup::OutcomeParts(OutcomeParts {
            enabled: false,
            killed: true,
            variant: None,
            unmet: None,
            flag_version: 7,
            assignment: None,
        })
    };
    let dark = DefaultValue::String("dark".into());
    for (asked, default, value) in [
        (ValueType::Boolean, None, "false"),
        (ValueType::Boolean, Some(&DefaultValue::Boolean(true)), "false"),
        (ValueType::String, Some(&dark), "dark"),
        (ValueType::Integer, None, "null"),
    ] {
        let answer = answer("f", kept(), asked, default);
        assert_eq!((answer.value.as_text(), answer.reason.as_str()), (value, "DISABLED"));
        assert_eq!((answer.error_code, answer.flag_version, answer.enabled), (None, Some(7), false));
    }
    assert_eq!(natural_answer("f", kept()).reason, Reason::Disabled);
}

#[test]
fn an_integer_is_exact_or_a_mismatch() {
    let integer = |text: &str| {
        let snapshot = snapshot(true, variant(&json!({ "type": "number", "value": text })));
        let answer = answer("f", Lookup::Found(found(&snapshot)), ValueType::Integer, None);
        match answer.error_code {
            None => Some(answer.value.as_text().to_owned()),
            Some(code) => {
                assert_eq!(code, ErrorCode::TypeMismatch, "{text}");
                None
            }
        }
    };
    for (text, expected) in [
        ("9.007199254740993e15", "9007199254740993"),
        ("9007199254740993.0", "9007199254740993"),
        ("90071992547409930e-1", "9007199254740993"),
        ("+9007199254740993", "9007199254740993"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("922337203685477580.7e1", "9223372036854775807"),
        ("1e18", "1000000000000000000"),
        ("007", "7"),
        ("5.", "5"),
        ("5.0", "5"),
        ("-0.0", "0"),
        ("0e999999999999999999999", "0"),
    ] {
        assert_eq!(integer(text).as_deref(), Some(expected), "{text}");
    }
    for text in [
        "4503599627370497.25",
        "1.0000000000000000001",
        "0.5",
        "1e-1",
        "5e-324",
        "9223372036854775808",
        "-9223372036854775809",
        "1e19",
        "inf",
        "nan",
        "five",
    ] {
        assert_eq!(integer(text), None, "{text}");
    }
}

#[test]
fn a_number_that_json_cannot_write_keeps_its_digits() {
    for (text, expected) in
        [("+9007199254740993", "9007199254740993"), (".50", "0.50"), ("-007.1E+3", "-7.1e+3")]
    {
        let payload = Payload::parse("number", text);
        assert_eq!(payload.natural().as_text(), expected);
    }
}
