//! Translation of a local flag into the format of Unleash's client API.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::condition::{Conditions, context_name, users};
use super::labels::{Strategy, ValueKind, Weights};
use super::model::{LocalFlag, Rule, Variant};
use super::schedule::{Phase, phases};
use super::value::payload;
use super::weights::{TOTAL_WEIGHT, absolute_shares, shares, weights};

/// Name of the variant that carries a flag's only value.
const DEFAULT_VARIANT: &str = "default";

/// The feature definition in force from `now` on: steps that are due are merged into it, later steps are in
/// `local.schedule`. The definition contains the revision, so each change produces a distinct definition even
/// if nothing else differs.
pub fn feature(name: &str, flag: &LocalFlag, revision: i64, now: DateTime<Utc>) -> Value {
    let (base, later) = phases(flag, now);
    let mut local = json!({"revision": revision, "owner": flag.owner, "tags": flag.tags});
    if !flag.variants.is_empty() {
        add_total_weight(&mut local, flag.weights);
    }
    let mut feature = json!({
        "name": name,
        "type": flag.r#type,
        "enabled": base.enabled,
        "strategies": strategies(name, flag, base),
        "variants": own_variants(flag),
    });
    if let Some(local) = local.as_object_mut() {
        if !later.is_empty() {
            let step = |(from, phase): &(DateTime<Utc>, Phase<'_>)| {
                json!({"from": from.to_rfc3339_opts(SecondsFormat::Millis, true), "enabled": phase.enabled,
                    "strategies": strategies(name, flag, *phase)})
            };
            local.insert("schedule".to_owned(), later.iter().map(step).collect());
        }
        if !flag.depends_on.is_empty() {
            // Parents are evaluated exactly as on their own, and may have parents themselves.
            local.insert("chained".to_owned(), true.into());
        }
    }
    if let Some(members) = feature.as_object_mut() {
        members.insert("local".to_owned(), local);
        if let Some(description) = &flag.description {
            members.insert("description".to_owned(), description.as_str().into());
        }
        if !flag.depends_on.is_empty() {
            members.insert("dependencies".to_owned(), dependencies(flag));
        }
    }
    feature
}

fn dependencies(flag: &LocalFlag) -> Value {
    let dependencies = flag.depends_on.iter();
    dependencies
        .map(|parent| json!({"feature": parent.flag, "enabled": parent.on, "variants": parent.variants}))
        .collect()
}

/// Strategies of a phase. The first match decides; the last ones apply to contexts that no other matches.
fn strategies(name: &str, flag: &LocalFlag, phase: Phase<'_>) -> Vec<Value> {
    let mut strategies = if phase.rules.is_empty() {
        shorthand(name, flag, phase.percentage)
    } else {
        let rules = phase.rules.iter().enumerate();
        rules.map(|(index, rule)| self::rule(name, flag, index, rule)).collect()
    };
    strategies.extend(rest(flag));
    if strategies.is_empty() {
        // A feature without any strategies would be on for everyone.
        strategies.push(off(Vec::new()));
    }
    strategies
}

/// Strategies of the shorthand fields. `percentage` replaces the flag's own.
fn shorthand(name: &str, flag: &LocalFlag, percentage: Option<u8>) -> Vec<Value> {
    let users = match flag.strategy {
        Some(Strategy::UserList) => return vec![targeted(&flag.user_list)],
        Some(Strategy::UserAttribute) => {
            return vec![strategy("default", Map::new(), Conditions::equal(&flag.attribute_rules))];
        }
        Some(_) => &[],
        None => flag.target_users.as_slice(),
    };
    let own = if flag.strategy.is_some() { flag.percentage } else { flag.rollout_percentage };
    let others = match (percentage.or(own), flag.strategy) {
        (Some(percentage), _) => {
            let rollout = rollout(name, percentage, "default");
            let mut strategy = strategy("flexibleRollout", rollout, Conditions::default());
            mark_identified(&mut strategy, percentage, "default");
            Some(strategy)
        }
        (None, Some(Strategy::None)) => None,
        (None, None) if !users.is_empty() => None,
        (None, _) => Some(json!({"name": "default", "constraints": [], "parameters": {}})),
    };
    let targeted = (!users.is_empty()).then(|| targeted(users));
    targeted.into_iter().chain(others).collect()
}

fn targeted(list: &[String]) -> Value {
    json!({"name": "default", "constraints": [users(list)], "parameters": {}})
}

fn rule(name: &str, flag: &LocalFlag, index: usize, rule: &Rule) -> Value {
    let stickiness = context_name(rule.stickiness.as_deref().unwrap_or("default"));
    let (kind, parameters) = match rule.percentage {
        Some(percentage) => ("flexibleRollout", rollout(name, percentage, stickiness)),
        None => ("default", drawn(name, stickiness)),
    };
    let mut strategy = strategy(kind, parameters, Conditions::of(rule));
    let is_boolean = flag.value_type == ValueKind::Boolean;
    let variants = match &rule.value {
        Some(value) if !is_boolean => {
            let title = rule.name.clone().unwrap_or_else(|| format!("rule-{}", index + 1));
            vec![sole(&title, Some(value))]
        }
        _ => weighted(&rule.variants, &weights(&rule.variants, None), flag.weights),
    };
    if !rule.variants.is_empty() {
        add_total_weight(own_members(&mut strategy), flag.weights);
    }
    if let Some(percentage) = rule.percentage {
        mark_identified(&mut strategy, percentage, stickiness);
    }
    if let Some(members) = strategy.as_object_mut() {
        members.insert("variants".to_owned(), variants.into());
    }
    if !rule.enabled || (is_boolean && rule.value == Some(Value::Bool(false))) {
        add(own_members(&mut strategy), "off", true);
    }
    tidy(&mut strategy);
    strategy
}

/// The strategy's member `local`, created if it is absent.
fn own_members(strategy: &mut Value) -> &mut Value {
    if strategy.get("local").is_none() {
        add(strategy, "local", json!({}));
    }
    &mut strategy["local"]
}

fn add(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value.into());
    }
}

/// Removes an empty member `local`.
fn tidy(strategy: &mut Value) {
    let is_empty = strategy.get("local").and_then(Value::as_object).is_some_and(Map::is_empty);
    if let Some(members) = strategy.as_object_mut().filter(|_| is_empty) {
        members.remove("local");
    }
}

/// Excludes contexts with neither a user nor a session from a percentage. At 0 and 100 percent no draw is
/// needed.
fn mark_identified(strategy: &mut Value, percentage: u8, stickiness: &str) {
    if stickiness == "default" && (1..100).contains(&percentage) {
        add(own_members(strategy), "identified", true);
    }
}

fn add_total_weight(own: &mut Value, weights: Weights) {
    if weights == Weights::Absolute {
        add(own, "totalWeight", TOTAL_WEIGHT);
    }
}

/// Strategy for contexts that no other strategy matches; `None` if the flag has neither a default variant nor
/// a default value that requires one.
fn rest(flag: &LocalFlag) -> Option<Value> {
    if let Some(name) = &flag.default_variant {
        let variant = flag.variants.iter().find(|variant| variant.name == *name)?;
        return Some(off(vec![sole(name, variant.value.as_ref())]));
    }
    match (&flag.default_value, flag.value_type) {
        (Some(Value::Bool(true)), ValueKind::Boolean) => {
            Some(json!({"name": "default", "constraints": [], "parameters": {}}))
        }
        (None, _) | (_, ValueKind::Boolean) => None,
        (Some(value), _) => Some(off(vec![sole(DEFAULT_VARIANT, Some(value))])),
    }
}

/// Strategy that matches every context and turns the flag off; it may carry a value in its variants.
fn off(variants: Vec<Value>) -> Value {
    json!({"name": "default", "constraints": [], "parameters": {}, "variants": variants, "local": {"off": true}})
}

fn strategy(kind: &str, parameters: Map<String, Value>, conditions: Conditions) -> Value {
    let Conditions { constraints, own } = conditions;
    let mut strategy = json!({"name": kind, "constraints": constraints, "parameters": parameters});
    if let Some(members) = strategy.as_object_mut().filter(|_| !own.is_empty()) {
        members.insert("local".to_owned(), json!({"conditions": own}));
    }
    strategy
}

fn rollout(name: &str, percentage: u8, stickiness: &str) -> Map<String, Value> {
    let mut parameters = drawn(name, stickiness);
    parameters.insert("rollout".to_owned(), percentage.to_string().into());
    parameters
}

/// Parameters of a draw: its stickiness, and the flag's name as its group.
fn drawn(name: &str, stickiness: &str) -> Map<String, Value> {
    let mut parameters = Map::new();
    parameters.insert("stickiness".to_owned(), stickiness.into());
    parameters.insert("groupId".to_owned(), name.into());
    parameters
}

/// The flag's own variants. A flag without variants has its default value as the only one.
fn own_variants(flag: &LocalFlag) -> Vec<Value> {
    if !flag.variants.is_empty() {
        let distribution = (!flag.distribution.is_empty()).then_some(&flag.distribution);
        return weighted(&flag.variants, &weights(&flag.variants, distribution), flag.weights);
    }
    match &flag.default_value {
        Some(value) if flag.value_type != ValueKind::Boolean => vec![sole(DEFAULT_VARIANT, Some(value))],
        _ => Vec::new(),
    }
}

fn weighted(variants: &[Variant], weights: &[f64], of: Weights) -> Vec<Value> {
    let shares = match of {
        Weights::Relative => shares(weights).unwrap_or_default(),
        Weights::Absolute => absolute_shares(variants, weights),
    };
    let weighted = variants.iter().zip(shares);
    weighted.map(|(Variant { name, value, .. }, weight)| variant(name, weight, value.as_ref())).collect()
}

fn sole(name: &str, value: Option<&Value>) -> Value {
    variant(name, TOTAL_WEIGHT, value)
}

fn variant(name: &str, weight: u32, value: Option<&Value>) -> Value {
    let mut variant = json!({"name": name, "weight": weight});
    if let (Some(value), Some(members)) = (value, variant.as_object_mut()) {
        members.insert("payload".to_owned(), payload(value));
    }
    variant
}
