#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::FlagChange;

const NOON: &str = "2026-01-15T12:00:00Z";

fn noon_ms() -> i64 {
    DateTime::parse_from_rfc3339(NOON).unwrap().timestamp_millis()
}

fn snapshot(flags: &[(&str, u64, Value)]) -> Snapshot {
    Snapshot::default().with(flags.iter().map(|(name, version, more)| {
        let mut body = json!({"name": name, "enabled": true, "strategies": [{"name": "default"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        FlagChange::Set(Arc::new(CompiledFlag::compile("e", *version, &body.to_string()).unwrap()))
    }))
}

fn cacheability(more: Value, context: &EvaluationContext<'_>, now_ms: i64) -> Cacheability {
    let snapshot = snapshot(&[("f", 1, more)]);
    let flags = snapshot.environment("e").unwrap();
    flags.cacheability(flags.get("f").unwrap(), context, now_ms)
}

fn rollout(percentage: &str, stickiness: &str) -> Value {
    json!({"strategies": [{"name": "flexibleRollout",
        "parameters": {"rollout": percentage, "stickiness": stickiness, "groupId": "g"}}]})
}

fn user() -> EvaluationContext<'static> {
    EvaluationContext { user_id: Some("u".into()), ..EvaluationContext::default() }
}

#[test]
fn chance_is_told_from_hashing() {
    let nobody = EvaluationContext::default();
    assert_eq!(cacheability(rollout("50", "random"), &user(), 0), Cacheability::Never("random"));
    assert_eq!(cacheability(rollout("50", "default"), &user(), 0), Cacheability::UntilChanged);
    assert_eq!(cacheability(rollout("50", "default"), &nobody, 0), Cacheability::Never("random"));
    assert_eq!(cacheability(rollout("100", "default"), &nobody, 0), Cacheability::UntilChanged);
    assert_eq!(
        cacheability(rollout("50", "region"), &nobody, 0),
        Cacheability::UntilChanged,
        "without the property it is off"
    );
    let variant = |name: &str| json!({"name": name, "weight": 500, "stickiness": "region"});
    let variants = json!({"variants": [variant("a"), variant("b")]});
    assert_eq!(cacheability(variants.clone(), &user(), 0), Cacheability::Never("random"));
    let mut west = user();
    west.properties.push(("region".into(), "us-west".into()));
    assert_eq!(cacheability(variants, &west, 0), Cacheability::UntilChanged);
    assert_eq!(
        cacheability(json!({"variants": [variant("a")]}), &user(), 0),
        Cacheability::UntilChanged,
        "one for all"
    );
    let host = json!({"strategies": [{"name": "applicationHostname", "parameters": {"hostNames": "a"}}]});
    assert_eq!(cacheability(host, &user(), 0), Cacheability::Never("host"));
}

#[test]
fn the_clock_counts_up_to_its_next_date() {
    let timed = |operator: &str, name: &str| {
        json!({"strategies": [{"name": "default", "constraints": [
            {"contextName": name, "operator": operator, "value": NOON}]}]})
    };
    let noon = noon_ms();
    assert_eq!(
        cacheability(timed("DATE_AFTER", "currentTime"), &user(), noon - 1_000),
        Cacheability::UntilTime(noon)
    );
    assert_eq!(
        cacheability(timed("DATE_BEFORE", "currentTime"), &user(), noon + 1_000),
        Cacheability::UntilChanged
    );
    assert_eq!(
        cacheability(timed("DATE_BEFORE", "currentTime"), &user(), noon - 1),
        Cacheability::Never("clock")
    );
    assert_eq!(
        cacheability(timed("DATE_AFTER", "birthday"), &user(), noon - 1_000),
        Cacheability::UntilChanged
    );
    let own = EvaluationContext { current_time: Some(NOON.into()), ..user() };
    assert_eq!(
        cacheability(timed("DATE_AFTER", "currentTime"), &own, noon - 1_000),
        Cacheability::UntilChanged
    );
    let text = json!({"strategies": [{"name": "default", "constraints": [
        {"contextName": "currentTime", "operator": "STR_STARTS_WITH", "values": ["2026"]}]}]});
    assert_eq!(cacheability(text, &user(), 0), Cacheability::Never("clock"));
}

#[test]
fn parents_count() {
    let child = json!({"dependencies": [{"feature": "parent"}]});
    let both = snapshot(&[("child", 5, child.clone()), ("parent", 9, rollout("50", "random"))]);
    let flags = both.environment("e").unwrap();
    let flag = flags.get("child").unwrap();
    assert_eq!(flags.cacheability(flag, &user(), 0), Cacheability::Never("random"));
    assert_eq!(both.basis(flags, flag), 9);
    let orphan = snapshot(&[("other", 20, json!({})), ("child", 5, child)]);
    let flags = orphan.environment("e").unwrap();
    assert_eq!(orphan.basis(flags, flags.get("child").unwrap()), 20, "anything may have changed");
    assert_eq!(orphan.basis(flags, flags.get("other").unwrap()), 20);
}
