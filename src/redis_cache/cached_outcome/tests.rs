#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::flag::{
    CompiledFlag, DefaultValue, EvaluationContext, FlagChange, Moment, Snapshot, ValueType, answer,
};

const PAYLOADS: [Option<(&str, &str)>; 12] = [
    None,
    Some(("string", "dark")),
    Some(("string", "42")),
    Some(("string", r#"{"a": 1}"#)),
    Some(("string", "\"quoted\" \u{1F600}\n")),
    Some(("number", "5")),
    Some(("number", "5.50")),
    Some(("number", "12345678901234567890")),
    Some(("json", r#"{"value": "inside", "b": [1, 2.50]}"#)),
    Some(("json", "[1, 2]")),
    Some(("json", "broken")),
    Some(("csv", "a,b")),
];

const TYPES: [ValueType; 6] = [
    ValueType::Boolean,
    ValueType::String,
    ValueType::Integer,
    ValueType::Float,
    ValueType::Number,
    ValueType::Object,
];

#[test]
fn a_kept_outcome_answers_for_every_type_and_default_as_the_flag_does() {
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
    let defaults = [
        None,
        Some(DefaultValue::Boolean(true)),
        Some(DefaultValue::Number("7")),
        Some(DefaultValue::Json("{}")),
    ];
    for (enabled, payload) in [true, false].into_iter().flat_map(|on| PAYLOADS.map(|payload| (on, payload))) {
        let mut variant = json!({"name": "v \"1\"", "weight": 1000});
        if let Some((kind, value)) = payload {
            variant["payload"] = json!({"type": kind, "value": value});
        }
        let body = json!({"name": "f", "type": "experiment", "enabled": enabled, "strategies": [], "variants": [variant]});
        let flag = CompiledFlag::compile("e", 7, &body.to_string()).unwrap();
        let snapshot = Snapshot::default().with([FlagChange::Set(Arc::new(flag))]);
        let flags = snapshot.environment("e").unwrap();
        let outcome = flags.evaluate("f", &EvaluationContext::default(), &moment).unwrap();
        let mut text = Vec::new();
        write(&mut text, &outcome, 9, "2026-01-15T10:30:00Z");
        let warm = CachedOutcome::read(&text).unwrap();
        assert_eq!((warm.flag_version, warm.basis), (7, 9));
        for asked in TYPES {
            for default in &defaults {
                let from_flag = answer("f", Lookup::Found(outcome), asked, default.as_ref());
                assert_eq!(
                    answer("f", warm.lookup(), asked, default.as_ref()),
                    from_flag,
                    "{payload:?} {asked:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_none_of_ours_is_no_outcome() {
    for text in
        ["", "{}", "[]", r#"{"enabled":true,"cached_at":"x"}"#, r#"{"flag_version":-1,"enabled":true}"#]
    {
        assert_eq!(CachedOutcome::read(text.as_bytes()), None, "{text}");
    }
}
