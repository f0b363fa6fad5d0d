#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Made by `tests/vectors/context_hash.py`.
const VECTORS: &str = include_str!("../../../tests/vectors/context_hash.json");

#[test]
fn pythons_vectors() {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.len() > 30);
    for vector in vectors {
        let (context, session) = (vector["context"].as_str().unwrap(), vector["session_id"].as_str());
        assert_eq!(hashed_text(context, session).unwrap(), vector["hashed"].as_str().unwrap(), "{context}");
        assert_eq!(
            context_hash(context, session).unwrap(),
            vector["context_hash"].as_str().unwrap(),
            "{context}"
        );
    }
}

#[test]
fn what_is_no_object_has_no_hash() {
    for text in ["", "[]", "1", "{", "{}x", "{\"a\":}"] {
        assert!(context_hash(text, None).is_err(), "{text}");
    }
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|it| it.to_string()),
        any::<f64>().prop_filter("JSON has no other", |it| it.is_finite()).prop_map(|it| format!("{it:e}")),
        any::<f64>().prop_filter("JSON has no other", |it| it.is_finite()).prop_map(|it| format!("{it:.3}")),
        (any::<f32>(), -330..330).prop_map(|(m, e)| format!("{:.4}e{e}", m.fract())),
        "-?[1-9][0-9]{0,60}",
    ]
    .prop_filter("JSON's grammar", |text| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,8}", "[a-c]{1,2}", "[\u{0}-\u{20}\u{7f}-\u{a0}\u{d7ff}\u{e000}\u{ffff}\u{10000}]{0,3}"]
        .prop_map(|text| serde_json::to_string(&text).unwrap())
}

fn value() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![Just("null".to_owned()), Just("true".into()), Just("false".into()), number(), text()];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" ,"))),
            object(inner),
        ]
    })
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((text(), value), 0..5).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}\n:{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Contexts go to one Python at a time: starting it is what costs.
    #[test]
    fn as_python_has_it(contexts in prop::collection::vec((object(value()), prop::option::of(".{0,6}")), 200)) {
        let script = "import json, sys\n\
            for line in sys.stdin:\n\
            \x20 text, session = json.loads(line)\n\
            \x20 context = json.loads(text)\n\
            \x20 if session is not None: context['session_id'] = session\n\
            \x20 print(json.dumps(context, sort_keys=True))\n";
        let mut python = Command::new("python3").args(["-X", "utf8", "-c", script])
            .stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = python.stdin.take().unwrap();
        let lines: String = contexts.iter().map(|it| format!("{}\n", json!(it))).collect();
        let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
        let output = python.wait_with_output().unwrap();
        writing.join().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let forms: Vec<_> = output.lines().collect();
        prop_assert_eq!(forms.len(), contexts.len());
        for ((context, session), form) in contexts.iter().zip(forms) {
            let hashed = hashed_text(context, session.as_deref()).unwrap();
            prop_assert_eq!(hashed.split('\n').next().unwrap(), form);
        }
    }
}
