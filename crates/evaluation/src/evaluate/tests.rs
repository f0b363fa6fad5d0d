#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::DateTime;
use proptest::prelude::*;
use serde_json::{Value, json};
use unleash_yggdrasil::{Context, EngineState, UpdateMessage};

use crate::{CompiledFlag, EvaluationContext, FlagChange, Moment, Snapshot};

#[path = "tests/callers.rs"]
mod callers;

const NOW: &str = "2026-01-15T10:30:00Z";

fn snapshot(features: &[Value]) -> Snapshot {
    Snapshot::default().with(features.iter().map(|feature| {
        let flag = CompiledFlag::compile("production", 1, &feature.to_string());
        FlagChange::Set(Arc::new(flag.unwrap()))
    }))
}

/// Whether the flag is on, and the name of the variant.
fn evaluate(features: &[Value], flag: &str, context: &EvaluationContext<'_>) -> (bool, Option<String>) {
    let snapshot = snapshot(features);
    let moment = Moment { now: NOW, hostname: "host", app_name: "app" };
    let flags = snapshot.environment("production").unwrap();
    let outcome = flags.evaluate(flag, context, &moment).unwrap();
    if let Some((position, variant)) = outcome.variant {
        assert_eq!(outcome.flag.variants()[position].name, variant.name);
    }
    (outcome.enabled, outcome.variant.map(|(_, variant)| variant.name.to_string()))
}

fn user(id: &str) -> EvaluationContext<'_> {
    EvaluationContext { user_id: Some(id.into()), ..EvaluationContext::default() }
}

#[test]
fn the_strategy_that_matches_chooses_the_variants() {
    let only = |name: &str, user: &str| json!({ "name": "userWithId", "parameters": { "userIds": user }, "variants": [{ "name": name, "weight": 1 }] });
    let features = [json!({ "name": "f", "enabled": true,
        "strategies": [only("one", "a"), only("two", "a,b"), { "name": "userWithId", "parameters": { "userIds": "c" }, "variants": [] }],
        "variants": [{ "name": "own", "weight": 1, "overrides": [] },
            { "name": "special", "weight": 0, "overrides": [{ "contextName": "sessionId", "values": ["s"] }] }] })];
    let variant = |id: &str| evaluate(&features, "f", &user(id));
    assert_eq!(variant("a"), (true, Some("one".to_owned())));
    assert_eq!(variant("b"), (true, Some("two".to_owned())));
    assert_eq!(variant("c"), (true, Some("own".to_owned())));
    assert_eq!(variant("d"), (false, None));
    let session = EvaluationContext { session_id: Some("s".into()), ..user("c") };
    assert_eq!(evaluate(&features, "f", &session), (true, Some("special".to_owned())));
}

#[test]
fn an_experiment_records_how_its_variant_was_chosen() {
    let variants = json!([{ "name": "a", "weight": 900 }, { "name": "b", "weight": 100, "overrides": [{ "contextName": "userId", "values": ["vip"] }] }]);
    let rule = |users: &str, variants: Value| json!({ "name": "userWithId", "parameters": { "userIds": users, "stickiness": "company" }, "variants": variants });
    let halves = json!([{ "name": "a", "weight": 500 }, { "name": "b", "weight": 500 }]);
    let features = |kind: &str| {
        [json!({ "name": "f", "type": kind, "enabled": true, "variants": variants, "strategies": [
            rule("tester", json!([{ "name": "b", "weight": 1000 }])), rule("premium", halves.clone()), { "name": "default" }] })]
    };
    let recorded = |kind: &str, id: &str| -> Value {
        let snapshot = snapshot(&features(kind));
        let moment = Moment { now: NOW, hostname: "host", app_name: "app" };
        let outcome = snapshot.environment("production").unwrap().evaluate("f", &user(id), &moment).unwrap();
        outcome.assignment.map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
    };
    let own = json!({ "a": 900, "b": 100 });
    for (id, how, rule, weights) in [
        ("tester", "forced", json!(0), json!({ "b": 1000 })),
        ("premium", "drawn", json!(1), json!({ "a": 500, "b": 500 })),
        ("vip", "forced", Value::Null, own.clone()),
        ("anyone", "drawn", Value::Null, own.clone()),
    ] {
        let stickiness = if rule.is_null() { "default" } else { "company" };
        let expected = json!({ "how": how, "rule": rule, "stickiness": stickiness, "weights": weights });
        assert_eq!(recorded("experiment", id), expected, "{id}");
        assert_eq!(recorded("release", id), Value::Null, "only experiments need it");
    }
}

#[test]
fn variants_without_weight_are_never_drawn() {
    let features = [
        json!({ "name": "f", "enabled": true, "variants": [{ "name": "v", "weight": 0 }, { "name": "w" }] }),
    ];
    assert_eq!(evaluate(&features, "f", &user("a")), (true, None));
    assert_eq!(evaluate(&features, "f", &EvaluationContext::default()), (true, None));
}

#[test]
fn a_draw_without_a_value_is_random() {
    let variants: Vec<Value> =
        (0..2).map(|name| json!({ "name": name, "weight": 500, "stickiness": "plan" })).collect();
    let features = [json!({ "name": "f", "enabled": true, "variants": variants })];
    let drawn: Vec<_> = (0..200).map(|_| evaluate(&features, "f", &user("a")).1.unwrap()).collect();
    assert!(drawn.iter().any(|name| name == "0") && drawn.iter().any(|name| name == "1"));
}

#[test]
fn a_cycle_of_dependencies_is_off() {
    let depending = |name: &str, parent: &str| json!({ "name": name, "enabled": true, "dependencies": [{ "feature": parent }] });
    let features =
        [depending("self", "self"), depending("a", "b"), depending("b", "a"), depending("orphan", "nobody")];
    for name in ["self", "a", "b", "orphan"] {
        assert_eq!(evaluate(&features, name, &user("u")), (false, None), "{name}");
    }
}

/// The engine behaves this way: a parent's rollout without a group is drawn for the child.
#[test]
fn a_parents_rollout_without_a_group_is_drawn_for_the_child() {
    let features = [
        json!({ "name": "parent", "enabled": true, "strategies": [
            { "name": "flexibleRollout", "parameters": { "rollout": "50", "stickiness": "userId" } }] }),
        json!({ "name": "child", "enabled": true, "dependencies": [{ "feature": "parent" }] }),
    ];
    let engine = EngineState::initial_state(DateTime::UNIX_EPOCH);
    let state = json!({ "version": 2, "features": features });
    engine.take_state(UpdateMessage::FullResponse(serde_json::from_value(state).unwrap()));
    for id in 0..100 {
        let id = id.to_string();
        let theirs = Context { user_id: Some(id.clone()), ..Context::default() };
        for name in ["parent", "child"] {
            assert_eq!(
                evaluate(&features, name, &user(&id)).0,
                engine.is_enabled(name, &theirs, &None),
                "{name} {id}"
            );
        }
    }
}

#[test]
fn the_clock_is_the_callers() {
    let features =
        [json!({ "name": "f", "enabled": true, "strategies": [{ "name": "default", "constraints": [
        { "contextName": "currentTime", "operator": "DATE_AFTER", "value": "2026-01-15T10:29:59Z" }] }] })];
    assert!(evaluate(&features, "f", &user("u")).0);
    let past = EvaluationContext { current_time: Some("2020-01-01T00:00:00Z".into()), ..user("u") };
    assert!(!evaluate(&features, "f", &past).0);
}

/// Words that occur in both contexts and definitions, so that constraints match sometimes.
fn word() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["a", "b", "ab", "", "7", "8.5", "1.2.3", "10.0.0.1", NOW, "Ä"])
        .prop_map(str::to_owned)
}

fn field() -> impl Strategy<Value = &'static str> {
    let names = [
        "userId",
        "sessionId",
        "environment",
        "appName",
        "currentTime",
        "remoteAddress",
        "plan",
        "region",
        "p1",
        "p2",
        "p3",
    ];
    proptest::sample::select(names.to_vec())
}

fn constraint() -> impl Strategy<Value = Value> {
    let lists = ["IN", "NOT_IN", "STR_CONTAINS", "STR_STARTS_WITH", "STR_ENDS_WITH", "IN_CIDR"];
    let singles = vec![
        ("NUM_EQ", "7"),
        ("NUM_GT", "7.5"),
        ("NUM_GTE", "7"),
        ("NUM_LT", "8"),
        ("NUM_LTE", "-3"),
        ("DATE_AFTER", "2026-01-15T10:29:00.000Z"),
        ("DATE_BEFORE", "2026-01-15T10:31:00Z"),
        ("SEMVER_EQ", "1.2.3"),
        ("SEMVER_GT", "1.2.2-beta"),
        ("SEMVER_LTE", "1.2.3"),
        ("SEMVER_LT", "v9.0.0"),
        ("REGEX", "^a"),
        ("REGEX", "("),
        ("REGEX", ""),
    ];
    let list = (proptest::sample::select(lists.to_vec()), proptest::collection::vec(word(), 1..4))
        .prop_map(|(operator, values)| json!({ "operator": operator, "values": values }));
    let single = proptest::sample::select(singles)
        .prop_map(|(operator, value)| json!({ "operator": operator, "value": value }));
    (prop_oneof![list, single], field(), any::<bool>(), any::<bool>()).prop_map(
        |(mut constraint, name, inverted, ignore_case)| {
            constraint["contextName"] = name.into();
            constraint["inverted"] = inverted.into();
            constraint["caseInsensitive"] = ignore_case.into();
            constraint
        },
    )
}

fn variants() -> impl Strategy<Value = Value> {
    proptest::collection::vec((0_u32..4, field(), word()), 0..4).prop_map(|variants| {
        let variant = |(index, (weight, name, value)): (usize, (u32, &str, String))| {
            // The first variant has a weight above 0, because the engine divides by the sum.
            json!({ "name": format!("v{index}"), "weight": weight + u32::from(index == 0), "stickiness": "default",
                "overrides": [{ "contextName": name, "values": [value] }] })
        };
        variants.into_iter().enumerate().map(variant).collect()
    })
}

fn strategy() -> impl Strategy<Value = Value> {
    let names = [
        "default",
        "flexibleRollout",
        "userWithId",
        "gradualRolloutUserId",
        "gradualRolloutSessionId",
        "remoteAddress",
        "someoneElses",
    ];
    let stickiness = proptest::sample::select(vec!["default", "userId", "sessionId"]);
    (
        proptest::sample::select(names.to_vec()),
        (0_u32..=100, stickiness, any::<bool>(), proptest::collection::vec(word(), 1..3)),
        proptest::collection::vec(constraint(), 0..3),
        variants(),
    )
        .prop_map(|(name, (percentage, stickiness, grouped, list), constraints, variants)| {
            let list = list.join(",");
            let mut parameters = json!({ "rollout": percentage.to_string(), "percentage": percentage.to_string(),
                "stickiness": stickiness, "userIds": list, "IPs": list });
            if grouped {
                parameters["groupId"] = "group".into();
            }
            json!({ "name": name, "parameters": parameters, "constraints": constraints, "variants": variants })
        })
}

fn feature(name: &'static str) -> impl Strategy<Value = Value> {
    let parents = proptest::sample::select(vec!["f0", "f1", "f2", "nobody"]);
    let expected =
        proptest::option::of(proptest::collection::vec(proptest::sample::select(vec!["v0", "v1"]), 0..2));
    let dependency = (parents, proptest::option::of(any::<bool>()), expected).prop_map(|(feature, enabled, variants)| {
        json!({ "feature": feature, "enabled": enabled, "variants": variants })
    });
    (
        proptest::bool::weighted(0.9),
        proptest::collection::vec(strategy(), 0..3),
        variants(),
        prop_oneof![2 => Just(vec![]), 1 => proptest::collection::vec(dependency, 0..3)],
    )
        .prop_map(move |(enabled, strategies, variants, dependencies)| {
            json!({ "name": name, "enabled": enabled, "strategies": strategies, "variants": variants,
                "dependencies": dependencies })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Compares with Yggdrasil itself, which compiles the whole state on its own. Every context has a user
    /// and a session, because without either, draws are random.
    #[test]
    fn the_engine_itself_answers_the_same(
        features in (feature("f0"), feature("f1"), feature("f2")).prop_map(|(a, b, c)| [a, b, c]),
        user in word(), session in word(), address in proptest::option::of(word()),
        properties in proptest::collection::btree_map(proptest::sample::select(vec!["plan", "region", "p1", "p2", "p3"]), word(), 0..6),
    ) {
        let engine = EngineState::initial_state(DateTime::UNIX_EPOCH);
        let state = json!({ "version": 2, "features": features });
        engine.take_state(UpdateMessage::FullResponse(serde_json::from_value(state).unwrap()));
        let theirs = Context {
            user_id: Some(user.clone()),
            session_id: Some(session.clone()),
            environment: Some("production".to_owned()),
            app_name: Some("app".to_owned()),
            current_time: Some(NOW.to_owned()),
            remote_address: address.clone(),
            properties: Some(properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()),
        };
        let properties: BTreeMap<&str, String> = properties;
        let ours = EvaluationContext {
            user_id: Some(user.into()),
            session_id: Some(session.into()),
            remote_address: address.map(Into::into),
            properties: properties.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ..EvaluationContext::default()
        };
        for name in ["f0", "f1", "f2"] {
            let expected = engine.get_variant(name, &theirs, &None);
            let variant = expected.enabled.then_some(expected.name);
            prop_assert_eq!(engine.is_enabled(name, &theirs, &None), expected.feature_enabled);
            prop_assert_eq!(evaluate(&features, name, &ours), (expected.feature_enabled, variant), "{}", name);
        }
    }
}

/// The flag with a kill switch. `state` and `expires_at` are the values in its JSON.
fn killed(flag: CompiledFlag, version: u64, state: &str, expires_at: Option<&str>) -> CompiledFlag {
    let switch = json!({"environment": "production", "flag_name": flag.name, "state": state, "version": version,
        "actor": "a", "reason": "r", "changed_at": NOW, "expires_at": expires_at, "change_id": uuid::Uuid::nil()});
    flag.switched(Arc::new(serde_json::from_value(switch).unwrap()))
}

#[test]
fn a_killed_flag_is_off_until_its_time_is_up_whatever_time_the_context_brings() {
    let compile = |feature: Value| CompiledFlag::compile("production", 5, &feature.to_string()).unwrap();
    let plain = || compile(json!({"name": "f", "enabled": true}));
    let child = json!({"name": "child", "enabled": true, "dependencies": [{"feature": "f"}]});
    let opposite =
        json!({"name": "opposite", "enabled": true, "dependencies": [{"feature": "f", "enabled": false}]});
    let at = |switched: CompiledFlag, now: &str| {
        let version = switched.version;
        let flags = [switched, compile(child.clone()), compile(opposite.clone())];
        let snapshot = Snapshot::default().with(flags.map(|flag| FlagChange::Set(Arc::new(flag))));
        let flags = snapshot.environment("production").unwrap();
        let moment = Moment { now, hostname: "host", app_name: "app" };
        let liar = EvaluationContext { current_time: Some("2030-01-01T00:00:00Z".into()), ..user("u") };
        let of = |name: &str| flags.evaluate(name, &liar, &moment).unwrap();
        let flag = of("f");
        assert!(flag.killed != flag.enabled && flag.variant.is_none());
        assert_eq!((of("child").enabled, of("opposite").enabled), (flag.enabled, !flag.enabled));
        assert!(!of("child").killed && flag.flag.definition_version == 5);
        (flag.killed, version)
    };
    let until = Some("2026-01-15T10:30:05Z");
    assert_eq!(at(killed(plain(), 9, "killed", None), NOW), (true, 9));
    assert_eq!(at(killed(plain(), 9, "killed", until), "2026-01-15T10:30:04.999Z"), (true, 9));
    assert_eq!(at(killed(plain(), 9, "killed", until), "2026-01-15T10:30:05.000Z"), (false, 9));
    assert_eq!(at(killed(plain(), 9, "killed", until), "no time"), (true, 9));
    assert_eq!(at(killed(plain(), 9, "lifted", None), NOW), (false, 9));
    assert_eq!(at(killed(plain(), 3, "killed", None), NOW), (true, 5));
}

#[test]
fn a_killed_flag_stays_so_until_its_time_is_up() {
    use crate::Cacheability;
    let cacheability = |state: &str, expires_at: Option<&str>, now_ms: i64| {
        let random = json!({"name": "f", "enabled": true, "strategies": [{"name": "flexibleRollout",
            "parameters": {"rollout": "50", "stickiness": "random", "groupId": "g"}}]});
        let flag = CompiledFlag::compile("production", 5, &random.to_string()).unwrap();
        let flag = Arc::new(killed(flag, 9, state, expires_at));
        let snapshot = Snapshot::default().with([FlagChange::Set(Arc::clone(&flag))]);
        snapshot.environment("production").unwrap().cacheability(&flag, &user("u"), now_ms)
    };
    let until = "2026-01-15T10:30:05Z";
    let at = DateTime::parse_from_rfc3339(until).unwrap().timestamp_millis();
    assert_eq!(cacheability("killed", None, at), Cacheability::UntilChanged);
    assert_eq!(cacheability("killed", Some(until), at - 1_000), Cacheability::UntilTime(at));
    assert_eq!(cacheability("killed", Some(until), at - 1), Cacheability::Never("clock"));
    assert_eq!(cacheability("killed", Some(until), at + 1_000), Cacheability::Never("random"));
    assert_eq!(cacheability("lifted", None, at), Cacheability::Never("random"));
}
