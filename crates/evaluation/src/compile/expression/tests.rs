#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::{CompileError, CompiledFlag, EvaluationContext, FlagChange, Moment, Snapshot};

/// An expression that takes more than a megabyte when compiled.
const LARGE: &str = r"\w{30}";

fn compile_flag(expressions: impl Iterator<Item = String>) -> Result<CompiledFlag, CompileError> {
    let constraints: Vec<_> =
        expressions.map(|text| json!({"contextName": "path", "operator": "REGEX", "value": text})).collect();
    let strategies = json!([{"name": "default", "constraints": constraints}]);
    let definition = json!({"name": "f", "enabled": true, "strategies": strategies});
    CompiledFlag::compile("e", 1, &definition.to_string())
}

fn is_on(flag: CompiledFlag, path: &str) -> bool {
    let snapshot = Snapshot::default().with([FlagChange::Set(flag.into())]);
    let context =
        EvaluationContext { properties: vec![("path".into(), path.into())], ..EvaluationContext::default() };
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
    snapshot.environment("e").unwrap().evaluate("f", &context, &moment).unwrap().enabled
}

#[test]
fn the_sum_of_a_flags_expressions_is_limited_while_they_are_compiled() {
    let error = compile_flag((0..50).map(|n| format!("{n}{LARGE}"))).unwrap_err();
    assert!(error.message.contains("8388608 bytes"), "{error}");
    let one = compile_flag([LARGE.to_owned()].into_iter()).unwrap();
    assert!((1 << 20..=MAX_EXPRESSION_BYTES).contains(&one.expression_bytes()), "{}", one.expression_bytes());
    let error = compile_flag([r"(\pL{100}){100}".to_owned()].into_iter()).unwrap_err();
    assert!(error.message.contains("2097152 bytes"), "{error}");
}

#[test]
fn the_number_of_a_flags_expressions_is_limited() {
    assert!(compile_flag((0..MAX_FLAG_EXPRESSIONS).map(|_| "a".to_owned())).is_ok());
    let error = compile_flag((0..=MAX_FLAG_EXPRESSIONS).map(|_| "a".to_owned())).unwrap_err();
    assert!(error.message.contains("more than 100 regular expressions"), "{error}");
    assert!(compile_flag((0..200).map(|_| String::new())).is_ok(), "the empty one costs nothing");
}

#[test]
fn one_text_is_compiled_once() {
    let text = r"^one-of-a-kind-\d+$";
    let (mut one, mut other) = (Expressions::default(), Expressions::default());
    let first = one.get(text, false).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &one.get(text, false).unwrap().unwrap()));
    assert!(Arc::ptr_eq(&first, &other.get(text, false).unwrap().unwrap()));
    assert!(!Arc::ptr_eq(&first, &other.get(text, true).unwrap().unwrap()));
    assert_eq!(one.bytes(), first.bytes);
}

#[test]
fn a_text_beyond_the_limit_has_no_match() {
    let flag = || compile_flag(["a$".to_owned()].into_iter()).unwrap();
    assert!(is_on(flag(), &"a".repeat(MAX_SEARCHED_BYTES)));
    assert!(!is_on(flag(), &"a".repeat(MAX_SEARCHED_BYTES + 1)));
    let exists = compile_flag([String::new()].into_iter()).unwrap();
    assert!(is_on(exists, &"a".repeat(MAX_SEARCHED_BYTES + 1)));
}
