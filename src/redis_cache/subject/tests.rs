#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::flag::{CompiledFlag, FlagChange};

const SUBJECT: Subject<'_> =
    Subject { environment: "e", flag: "f", user: Some("u"), session: None, context: "{}" };

#[test]
fn only_bare_subjects_have_a_plain_key() {
    let plain = |subject: Subject<'_>| subject.keys().unwrap().plain;
    assert_eq!(plain(SUBJECT).as_deref(), Some("ff_eval:e:f:u"));
    assert_eq!(plain(Subject { context: " { } ", ..SUBJECT }).as_deref(), Some("ff_eval:e:f:u"));
    assert_eq!(plain(Subject { context: r#"{"a":1}"#, ..SUBJECT }), None);
    assert_eq!(plain(Subject { session: Some("s"), ..SUBJECT }), None);
    assert!(Subject { context: "[]", ..SUBJECT }.keys().is_none());
    let long = "u".repeat(KEY_BYTES_MAX + 1);
    assert!(Subject { user: Some(&long), ..SUBJECT }.keys().is_none());
}

#[test]
fn a_session_within_the_context_is_not_added_to_it() {
    let hash = |subject: Subject<'_>| subject.keys().unwrap().evaluation;
    let within = Subject { context: r#"{"sessionId":"s"}"#, ..SUBJECT };
    assert_eq!(hash(within), hash(Subject { session: Some("s"), ..within }));
    assert_ne!(hash(within), hash(Subject { session: Some("other"), ..within }));
}

#[test]
fn members_say_what_they_were_made_of() {
    let subject = Subject { session: Some("s\"9"), context: r#"{"a": [1]}"#, ..SUBJECT };
    let bytes = subject.member(&subject.keys().unwrap());
    let Some(Member::Subject { user, session, context }) = Member::read(&bytes) else { panic!("{bytes:?}") };
    assert_eq!((user.as_deref(), session.as_deref(), context), (Some("u"), Some("s\"9"), r#"{"a": [1]}"#));
    let context = format!(r#"{{"a":"{}"}}"#, "x".repeat(LISTED_CONTEXT_BYTES_MAX));
    let large = Subject { context: &context, ..SUBJECT };
    let keys = large.keys().unwrap();
    let bytes = large.member(&keys);
    assert!(matches!(Member::read(&bytes), Some(Member::Key(key)) if key == keys.evaluation));
    assert!(Member::read(b"[1,2]").is_none());
}

/// One boolean flag for every operator, name and value of the contexts below, and for every stickiness.
fn flags() -> Snapshot {
    let names = ["userId", "sessionId", "session_id", "remoteAddress", "appName", "x", "y"];
    let values =
        ["", "1", "1.0", "1e0", "100.0", "1e2", "0", "-0", "true", "a", "{\"a\":1,\"b\":2}", "[1,2]"];
    let mut strategies: Vec<Value> = Vec::new();
    for name in names {
        for operator in ["IN", "NOT_IN", "STR_CONTAINS", "STR_STARTS_WITH", "STR_ENDS_WITH", "IN_CIDR"] {
            strategies.extend(
                values
                    .iter()
                    .map(|value| json!({"contextName": name, "operator": operator, "values": [value]})),
            );
        }
        for operator in ["NUM_EQ", "NUM_GT", "NUM_GTE", "NUM_LT", "NUM_LTE"] {
            strategies.push(json!({"contextName": name, "operator": operator, "value": "1"}));
        }
        for operator in ["SEMVER_EQ", "SEMVER_GT", "SEMVER_GTE", "SEMVER_LT", "SEMVER_LTE"] {
            strategies.push(json!({"contextName": name, "operator": operator, "value": "1.0.0"}));
        }
        for operator in ["DATE_AFTER", "DATE_BEFORE"] {
            strategies
                .push(json!({"contextName": name, "operator": operator, "value": "2026-01-15T10:30:00Z"}));
        }
        strategies.push(json!({"contextName": name, "operator": "REGEX", "value": "^[a-z]"}));
    }
    let mut features: Vec<Value> = strategies
        .into_iter()
        .map(|constraint| json!([{"name": "default", "constraints": [constraint]}]))
        .collect();
    features.extend(names.iter().map(|name| {
        json!([{"name": "flexibleRollout", "parameters": {"rollout": "50", "stickiness": name, "groupId": "g"}}])
    }));
    features.push(json!([{"name": "default", "local": {"conditions": [
        {"contextNames": ["x", "y"], "operator": "HAS", "values": [1, "a"]}]}}]));
    let compiled = features.into_iter().enumerate().map(|(number, strategies)| {
        let definition = json!({"name": format!("f{number}"), "enabled": true, "strategies": strategies});
        FlagChange::Set(CompiledFlag::compile("e", 1, &definition.to_string()).unwrap().into())
    });
    Snapshot::default().with(compiled.collect::<Vec<_>>())
}

fn value() -> impl Strategy<Value = String> {
    let values = [
        "null",
        "true",
        "1",
        "1.0",
        "1e0",
        "10e-1",
        "100",
        "100.0",
        "1e2",
        "0",
        "-0",
        "0.0",
        "-0.0",
        "\"\"",
        "\"1\"",
        "\"a\"",
        "\"\\u0061\"",
        "{\"a\":1,\"b\":2}",
        "{\"x\":1,\"y\":\"a\"}",
        "{\"x\":1e0,\"userId\":1}",
        "{\"b\":2,\"a\":1}",
        "{\"a\":1,\"b\":2.0}",
        "{\"b\":2,\"b\":2,\"a\":1}",
        "[1,2]",
        "[ 1 , 2 ]",
        "[1,2e0]",
        "[\"a\"]",
        "[\"\\u0061\"]",
        "1e400",
        "{}",
        "[]",
    ];
    proptest::sample::select(values.to_vec()).prop_map(str::to_owned)
}

fn context_text() -> impl Strategy<Value = String> {
    let names = ["userId", "sessionId", "session_id", "remoteAddress", "appName", "x", "y", "properties"];
    let member = (proptest::sample::select(names.to_vec()), value());
    prop::collection::vec(member, 0..4).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

fn identity() -> impl Strategy<Value = Option<String>> {
    prop_oneof![2 => Just(None), 1 => Just(Some(String::new())), 2 => Just(Some("1".to_owned())), 1 => Just(Some("a".to_owned()))]
}

/// Returns the caller's key, and the outcome of every flag.
fn evaluated(snapshot: &Snapshot, body: &str) -> (String, Vec<bool>) {
    let request = request::Request::decode(body.as_bytes()).unwrap();
    let subject = Subject {
        environment: "e",
        flag: "f",
        user: request.context.user_id.as_deref(),
        session: request.context.session_id.as_deref(),
        context: &request.context_json,
    };
    let key = subject.keys().unwrap().evaluation;
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
    let flags = snapshot.environment("e").unwrap();
    let recorded = request::recorded_context(subject.context, subject.user, subject.session).unwrap();
    let mut names: Vec<_> = flags.iter().map(|flag| flag.name.to_string()).collect();
    names.sort_unstable();
    let outcomes = names.iter().map(|name| {
        let outcome = flags.evaluate(name, &request.context, &moment).unwrap().enabled;
        assert_eq!(flags.evaluate(name, &recorded, &moment).unwrap().enabled, outcome, "{name} {body}");
        outcome
    });
    (key, outcomes.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Many callers at once, so that some share a key.
    #[test]
    fn callers_that_share_a_key_get_the_same(
        callers in prop::collection::vec((identity(), identity(), context_text()), 250),
    ) {
        let snapshot = flags();
        let mut known: HashMap<String, (String, Vec<bool>)> = HashMap::new();
        for (user, session, context) in callers {
            let context: &RawValue = serde_json::from_str(&context).unwrap();
            let user = user.map_or("null".to_owned(), |user| json!(user).to_string());
            let session = session.map_or("null".to_owned(), |session| json!(session).to_string());
            let body = format!(r#"{{"flag_name":"f","user_id":{user},"session_id":{session},"context":{context}}}"#);
            let (key, outcomes) = evaluated(&snapshot, &body);
            if let Some((other, known)) = known.get(&key) {
                prop_assert_eq!(known, &outcomes, "{} and {}", other, body);
            }
            known.entry(key).or_insert((body, outcomes));
        }
    }
}

#[test]
fn callers_that_evaluate_differently_have_keys_of_their_own() {
    for (one, other) in [
        (r#"{"context":{"plan":"gold","plan":null}}"#, r#"{"context":{"plan":"gold"}}"#),
        (r#"{"context":{"x":100.0}}"#, r#"{"context":{"x":1e2}}"#),
        (r#"{"context":{"n":-0}}"#, r#"{"context":{"n":0}}"#),
        (r#"{"context":{"o":{"a":1,"b":2}}}"#, r#"{"context":{"o":{"b":2,"a":1}}}"#),
        (r#"{"session_id":"s1"}"#, r#"{"session_id":"s2"}"#),
        (r#"{"session_id":"s1"}"#, r#"{"context":{"sessionId":"s1"}}"#),
    ] {
        let key = |body: &str| {
            let body = body.replacen('{', r#"{"flag_name":"f","#, 1);
            evaluated(&Snapshot::default().serving(["e"]), &body).0
        };
        assert_ne!(key(one), key(other), "{one} {other}");
    }
}
