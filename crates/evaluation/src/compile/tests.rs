#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use serde_json::{Value, json};
use unleash_yggdrasil::strategy_parsing::normalized_hash;

use super::CompiledFlag;
use crate::definition::MAX_CONSTRAINTS_PER_STRATEGY;
use crate::{EvaluationContext, FlagChange, Moment, Snapshot};

/// Texts that would end a string of the engine's grammar, or that look like a rule.
const NASTY: [&str; 16] = [
    "\"",
    "\\",
    "a\"b",
    "a\\",
    "a\\\"",
    "a\\\\",
    "\\\"",
    "\" or true or \"",
    "x\"] or true or user_id in [\"",
    "\"] or true) or (true",
    "0",
    "user_id",
    "é\n\t 🦀",
    "[",
    "context[\"plan\"]",
    " ",
];

fn strategies(strategies: Value) -> Value {
    json!({ "name": "f", "enabled": true, "strategies": strategies })
}

fn constrained(constraint: Value) -> Value {
    strategies(json!([{ "name": "default", "constraints": [constraint] }]))
}

fn user(id: &str) -> EvaluationContext<'_> {
    EvaluationContext { user_id: Some(id.into()), ..EvaluationContext::default() }
}

fn property<'a>(name: &'a str, value: &'a str) -> EvaluationContext<'a> {
    EvaluationContext {
        properties: vec![("plan".into(), "free".into()), (name.into(), value.into())],
        ..EvaluationContext::default()
    }
}

fn is_on(definition: &Value, context: &EvaluationContext<'_>) -> bool {
    on_host(definition, context, "host")
}

fn on_host(definition: &Value, context: &EvaluationContext<'_>, hostname: &str) -> bool {
    let flag = CompiledFlag::compile("production", 1, &definition.to_string()).unwrap();
    let snapshot = Snapshot::default().with([FlagChange::Set(Arc::new(flag))]);
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname, app_name: "app" };
    let flags = snapshot.environment("production").unwrap();
    flags.evaluate("f", context, &moment).unwrap().enabled
}

#[test]
fn names_and_values_of_constraints_are_taken_literally() {
    let matching = ["IN", "STR_CONTAINS", "STR_STARTS_WITH", "STR_ENDS_WITH"];
    for name in NASTY {
        for value in NASTY {
            for operator in matching {
                let constraint = |inverted| {
                    let values = json!(["other", value]);
                    constrained(
                        json!({ "contextName": name, "operator": operator, "values": values, "inverted": inverted }),
                    )
                };
                let here = format!("{name:?} {operator} {value:?}");
                assert!(is_on(&constraint(false), &property(name, value)), "{here}");
                assert!(
                    !is_on(&constraint(false), &property(name, "something else!")) || value == " ",
                    "{here}"
                );
                assert!(!is_on(&constraint(false), &user(value)), "{here}");
                assert!(!is_on(&constraint(true), &property(name, value)), "{here}, inverted");
                assert!(is_on(&constraint(true), &user(value)), "{here}, inverted");
            }
            let not_in = constrained(json!({ "contextName": name, "operator": "NOT_IN", "values": [value] }));
            assert!(!is_on(&not_in, &property(name, value)), "{name:?} NOT_IN {value:?}");
            assert!(is_on(&not_in, &property(name, "another")), "{name:?} NOT_IN {value:?}");
        }
    }
}

#[test]
fn a_rollouts_group_and_stickiness_are_taken_literally() {
    for group in NASTY {
        for strategy in [
            json!({ "name": "flexibleRollout", "parameters": { "rollout": "50", "groupId": group, "stickiness": "userId" } }),
            json!({ "name": "gradualRolloutUserId", "parameters": { "percentage": 50, "groupId": group } }),
            json!({ "name": "gradualRollout", "parameters": { "percentage": 50, "groupId": group } }),
        ] {
            for id in 0..50 {
                let id = id.to_string();
                let expected = normalized_hash(group, &id, 100, 0).unwrap() <= 50;
                assert_eq!(is_on(&strategies(json!([strategy])), &user(&id)), expected, "{group:?} {id}");
            }
        }
        let sticky =
            json!([{ "name": "flexibleRollout", "parameters": { "rollout": 100, "stickiness": group } }]);
        assert!(is_on(&strategies(sticky.clone()), &property(group, "x")), "{group:?}");
        assert!(!is_on(&strategies(sticky), &user("x")), "{group:?}");
    }
}

#[test]
fn lists_in_parameters_are_taken_literally() {
    for text in NASTY.into_iter().filter(|text| text.trim() == *text) {
        let with = |name: &str, parameter: &str| {
            let list = format!("one, {text} ,two");
            strategies(json!([{ "name": name, "parameters": { parameter: list } }]))
        };
        assert!(is_on(&with("userWithId", "userIds"), &user(text)), "{text:?}");
        assert!(!is_on(&with("userWithId", "userIds"), &user("three")), "{text:?}");
        assert!(!is_on(&with("remoteAddress", "IPs"), &user(text)), "{text:?}");
        let hosts = with("applicationHostname", "hostNames");
        assert!(on_host(&hosts, &user("x"), "TWO"), "{text:?}");
        assert!(!on_host(&hosts, &user("x"), "three"), "{text:?}");
        assert_eq!(on_host(&hosts, &user("x"), text), !text.ends_with('\\'), "{text:?}");
        let custom = json!([{ "name": "customProperty", "parameters": { "property": text, "values": ["gold", text] } }]);
        assert!(is_on(&strategies(custom.clone()), &property(text, text)), "{text:?}");
        assert!(!is_on(&strategies(custom), &property(text, "silver")), "{text:?}");
    }
}

#[test]
fn a_regular_expression_keeps_its_meaning() {
    let matches = |expression: &str, value: &str| {
        let constraint = json!({ "contextName": "path", "operator": "REGEX", "value": expression });
        is_on(&constrained(constraint), &property("path", value))
    };
    assert!(matches(r"^C:\\", r"C:\temp"));
    assert!(matches(r"\\", r"a\b"));
    assert!(!matches(r"\\", "ab"));
    assert!(matches(r#"^"x\"$"#, r#""x""#));
    for ill_formed in [r"\", r"(a\", "(", "[a", r"(?P<"] {
        assert!(!matches(ill_formed, "a"), "{ill_formed}");
        assert!(!matches(ill_formed, r"\"), "{ill_formed}");
    }
}

#[test]
fn a_list_as_long_as_a_definition_may_be_is_compiled() {
    let ids = (0..120_000).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let definition = strategies(json!([{ "name": "userWithId", "parameters": { "userIds": ids } }]));
    assert!(is_on(&definition, &user("119999")));
    assert!(!is_on(&definition, &user("120000")));
}

/// Uses more properties than there are free fields and shared numbers, with and without constraints on the
/// fields themselves.
#[test]
fn any_number_of_properties_can_be_read() {
    for fields in [&[][..], &["environment", "appName", "remoteAddress"]] {
        let properties: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
        let names = fields.iter().copied().chain(properties.iter().map(String::as_str));
        let constraints: Vec<Value> = names
            .map(|name| json!({ "contextName": name, "operator": "IN", "values": [name, "production", "app"] }))
            .collect();
        let definition = strategies(json!([{ "name": "default", "constraints": constraints }]));
        let mut context = EvaluationContext {
            remote_address: Some("remoteAddress".into()),
            properties: properties.iter().map(|name| (name.into(), name.into())).collect(),
            ..EvaluationContext::default()
        };
        assert!(is_on(&definition, &context));
        for position in 0..properties.len() {
            let value = std::mem::replace(&mut context.properties[position].1, "other".into());
            assert!(!is_on(&definition, &context), "p{position}");
            context.properties[position].1 = value;
        }
        context.remote_address = None;
        assert_eq!(is_on(&definition, &context), fields.is_empty());
    }
}

#[test]
fn a_strategy_that_cannot_match_leaves_the_others_working() {
    for never in [
        json!({ "name": "default", "segments": [7] }),
        json!({ "name": "myOwnStrategy", "parameters": { "x": "y" } }),
        json!({ "name": "userWithId" }),
        json!({ "name": "flexibleRollout", "parameters": { "rollout": "" } }),
        json!({ "name": "gradualRolloutUserId", "parameters": { "percentage": "100" } }),
        json!({ "name": "remoteAddress", "parameters": { "IPs": "no address" } }),
    ] {
        assert!(!is_on(&strategies(json!([never])), &user("u")), "{never}");
        assert!(is_on(&strategies(json!([never, { "name": "default" }])), &user("u")), "{never}");
    }
    assert!(is_on(&strategies(json!([])), &user("u")));
    assert!(is_on(&strategies(Value::Null), &user("u")));
}

#[test]
fn the_seeds_own_strategies_are_evaluated() {
    let tiers = json!([{ "name": "customProperty",
        "parameters": { "property": "subscription_tier", "values": "premium, gold" } }]);
    assert!(is_on(&strategies(tiers.clone()), &property("subscription_tier", "gold")));
    assert!(!is_on(&strategies(tiers), &property("subscription_tier", "free")));
    let gradual = strategies(json!([{ "name": "gradualRollout",
        "parameters": { "percentage": 25, "groupId": "new-feature" } }]));
    let on = (0..1_000).filter(|id| is_on(&gradual, &user(&id.to_string()))).count();
    assert!((200..300).contains(&on), "{on} of 1000");
}

#[test]
fn empty_lists_match_nothing() {
    for operator in ["IN", "STR_CONTAINS", "STR_STARTS_WITH", "STR_ENDS_WITH", "IN_CIDR"] {
        for values in [json!([]), Value::Null] {
            let constraint = |inverted| {
                constrained(
                    json!({ "contextName": "p", "operator": operator, "values": values, "inverted": inverted }),
                )
            };
            assert!(!is_on(&constraint(false), &property("p", "")), "{operator}");
            assert!(is_on(&constraint(true), &property("p", "")), "{operator}");
        }
    }
}

#[test]
fn the_most_constraints_allowed_need_little_stack() {
    let constraint = json!({ "contextName": "plan", "operator": "IN", "values": ["free"] });
    let all = vec![constraint; MAX_CONSTRAINTS_PER_STRATEGY];
    let definition = strategies(json!([{ "name": "default", "constraints": all }]));
    let small = std::thread::Builder::new().stack_size(256 * 1024);
    let thread = small.spawn(move || is_on(&definition, &property("a", "b")));
    assert!(thread.unwrap().join().unwrap());
}
