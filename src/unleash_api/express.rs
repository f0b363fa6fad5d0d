//! Expresses a flag in the format of Unleash's client API, as SDKs evaluate it.
//!
//! A flag of Unleash is served as it came, with the constraints of its segments inlined. A killed flag is served
//! disabled. A local flag has extensions that SDKs do not know (members named `local`): those that Unleash's format can
//! express are translated, and a flag with any other is left out, because SDKs would evaluate it differently.

use chrono::DateTime;
use serde_json::{Map, Value, json};

/// Moment that never comes, as the end of validity.
pub const FOR_EVER: i64 = i64::MAX;

/// Flag in Unleash's format.
#[derive(Debug, Clone, PartialEq)]
pub struct Expressed {
    pub feature: Value,
    /// Time from which the flag must be expressed again, in milliseconds since 1970.
    pub valid_until_ms: i64,
}

/// State of a parent flag, as SDKs can evaluate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// Served, and without parents of its own.
    Simple,
    /// A flag that is not served, or with parents of its own, which SDKs do not follow.
    Other,
}

/// Expresses a flag that is killed: it is off for everyone.
pub fn killed(mut feature: Value) -> Value {
    if let Some(members) = feature.as_object_mut() {
        members.insert("enabled".to_owned(), Value::Bool(false));
        // Extensions of local flags do not matter for a flag that is off.
        if members.remove("local").is_some() {
            members.insert("strategies".to_owned(), json!([]));
            members.remove("dependencies");
        }
    }
    feature
}

/// Expresses a flag as it is at `now_ms`. The error is the reason why Unleash's format cannot express it.
pub fn feature(
    mut feature: Value,
    now_ms: i64,
    parent: impl Fn(&str) -> Parent,
) -> Result<Expressed, &'static str> {
    let Some(members) = feature.as_object_mut() else { return Err("the definition is not an object") };
    let Some(mut local) = members.remove("local") else {
        return Ok(Expressed { feature, valid_until_ms: FOR_EVER });
    };
    if !local["unusable"].is_null() {
        return Err("its definition cannot be evaluated");
    }
    let valid_until_ms = enter_phase(members, local["schedule"].take(), now_ms)?;
    if has_rest(&local, members.get("variants")) {
        return Err("the weights of its variants leave a rest without a variant");
    }
    let strategies = match members.get_mut("strategies").map(Value::take) {
        Some(Value::Array(strategies)) => strategies,
        _ => Vec::new(),
    };
    let was_empty = strategies.is_empty();
    let strategies = express_strategies(strategies)?;
    // A feature without strategies is on for everyone, so one whose rules all turn it off is disabled instead.
    if strategies.is_empty() && !was_empty {
        members.insert("enabled".to_owned(), Value::Bool(false));
    }
    members.insert("strategies".to_owned(), Value::Array(strategies));
    let dependencies = members.get("dependencies").and_then(Value::as_array).into_iter().flatten();
    let mut parents = dependencies.filter_map(|dependency| dependency["feature"].as_str());
    if parents.any(|name| parent(name) != Parent::Simple) {
        return Err("it depends on a flag that has parents itself, or is not served");
    }
    Ok(Expressed { feature, valid_until_ms })
}

/// Replaces the strategies by those of the schedule's step in force. Returns the time of the next step.
fn enter_phase(members: &mut Map<String, Value>, schedule: Value, now_ms: i64) -> Result<i64, &'static str> {
    let Value::Array(steps) = schedule else { return Ok(FOR_EVER) };
    for mut step in steps {
        let from = step["from"].as_str().and_then(|from| DateTime::parse_from_rfc3339(from).ok());
        let from = from.ok_or("its schedule has a time that cannot be read")?.timestamp_millis();
        if from > now_ms {
            return Ok(from);
        }
        members.insert("enabled".to_owned(), step["enabled"].take());
        members.insert("strategies".to_owned(), step["strategies"].take());
    }
    Ok(FOR_EVER)
}

fn express_strategies(mut strategies: Vec<Value>) -> Result<Vec<Value>, &'static str> {
    // The last rules may turn the flag off: that is what SDKs do for a context that no strategy matches.
    while strategies.last().is_some_and(|strategy| strategy["local"]["off"] == true) {
        strategies.pop();
    }
    let mut expressed = Vec::with_capacity(strategies.len());
    for mut strategy in strategies {
        let Some(local) = strategy.as_object_mut().and_then(|members| members.remove("local")) else {
            expressed.push(strategy);
            continue;
        };
        if local["off"] == true {
            return Err("a rule turns it off before others turn it on");
        }
        if local["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty()) {
            return Err("a condition uses an operator that Unleash does not have");
        }
        if has_rest(&local, strategy.get("variants")) {
            return Err("the weights of a rule's variants leave a rest without a variant");
        }
        match local["identified"] == true {
            true => expressed.extend(identified(&strategy)),
            false => expressed.push(strategy),
        }
    }
    Ok(expressed)
}

/// A rollout by user, or by session for contexts without a user: a context with neither does not match. The draws are
/// those of `default` stickiness, which would match such a context at random.
fn identified(strategy: &Value) -> [Value; 2] {
    let with = |stickiness: &str| {
        let mut strategy = strategy.clone();
        strategy["parameters"]["stickiness"] = stickiness.into();
        strategy
    };
    let mut by_session = with("sessionId");
    // No user: every text begins with the empty text.
    let no_user =
        json!({"contextName": "userId", "operator": "STR_STARTS_WITH", "values": [""], "inverted": true});
    match by_session["constraints"].as_array_mut() {
        Some(constraints) => constraints.push(no_user),
        None => by_session["constraints"] = json!([no_user]),
    }
    [with("userId"), by_session]
}

/// Whether a draw among these variants may select none.
fn has_rest(local: &Value, variants: Option<&Value>) -> bool {
    let total = local["totalWeight"].as_u64().unwrap_or_default();
    let variants = variants.and_then(Value::as_array).into_iter().flatten();
    let mut weights = variants.map(|variant| variant["weight"].as_u64().unwrap_or_default()).peekable();
    weights.peek().is_some() && weights.sum::<u64>() < total
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_768_473_000_000;

    fn express(local: Value) -> Result<Expressed, &'static str> {
        feature(local, NOW_MS, |name| if name == "simple" { Parent::Simple } else { Parent::Other })
    }

    fn on() -> Value {
        json!({"name": "default", "constraints": [], "parameters": {}})
    }

    fn with(mut strategy: Value, local: Value) -> Value {
        strategy["local"] = local;
        strategy
    }

    fn flag(strategies: Value, local: Value) -> Value {
        json!({"name": "f", "enabled": true, "strategies": strategies, "variants": [], "local": local})
    }

    #[test]
    fn a_flag_of_unleash_is_not_changed() {
        let flag = json!({"name": "f", "enabled": true, "strategies": [on()], "project": "p"});
        assert_eq!(express(flag.clone()), Ok(Expressed { feature: flag, valid_until_ms: FOR_EVER }));
    }

    #[test]
    fn rules_at_the_end_that_turn_it_off_are_what_sdks_do_anyway() {
        let off = with(on(), json!({"off": true}));
        let expressed = express(flag(json!([on(), off, off]), json!({"revision": 1}))).unwrap().feature;
        assert_eq!(expressed, json!({"name": "f", "enabled": true, "strategies": [on()], "variants": []}));
        let never = express(flag(json!([off]), json!({}))).unwrap().feature;
        assert_eq!((&never["enabled"], &never["strategies"]), (&json!(false), &json!([])));
        let everyone = express(flag(json!([]), json!({}))).unwrap().feature;
        assert_eq!(everyone["enabled"], true);
        assert!(express(flag(json!([off, on()]), json!({}))).is_err());
    }

    #[test]
    fn what_unleash_does_not_have_is_refused_with_the_reason() {
        let conditions = with(on(), json!({"conditions": [{"operator": "HAS"}]}));
        let rest = json!({"name": "default", "variants": [{"name": "a", "weight": 300}], "local": {"totalWeight": 1000}});
        for strategies in [json!([conditions]), json!([rest])] {
            assert!(express(flag(strategies, json!({}))).is_err());
        }
        assert!(express(flag(json!([on()]), json!({"unusable": "why"}))).is_err());
        let mut weighted = flag(json!([on()]), json!({"totalWeight": 1000}));
        assert!(express(weighted.clone()).is_ok(), "without variants nothing is drawn");
        weighted["variants"] = json!([{"name": "a", "weight": 999}]);
        assert!(express(weighted.clone()).is_err());
        weighted["variants"] = json!([{"name": "a", "weight": 1000}]);
        assert!(express(weighted).is_ok());
    }

    #[test]
    fn parents_must_be_served_and_have_no_parents() {
        let child = |parent: &str| {
            let mut child = flag(json!([on()]), json!({"chained": true}));
            child["dependencies"] = json!([{"feature": parent, "enabled": true}]);
            child
        };
        assert!(express(child("simple")).is_ok() && express(child("other")).is_err());
        let dead = killed(child("other"));
        assert_eq!(dead, json!({"name": "f", "enabled": false, "strategies": [], "variants": []}));
    }

    #[test]
    fn the_step_of_the_schedule_in_force_is_served_until_the_next() {
        let step =
            |from: &str, enabled: bool| json!({"from": from, "enabled": enabled, "strategies": [on()]});
        let (past, next) = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00.000Z");
        let schedule = json!({"schedule": [step(past, false), step(next, true)]});
        let expressed = express(flag(json!([]), schedule)).unwrap();
        assert_eq!(
            (&expressed.feature["enabled"], &expressed.feature["strategies"]),
            (&json!(false), &json!([on()]))
        );
        let next = DateTime::parse_from_rfc3339(next).unwrap().timestamp_millis();
        assert_eq!(expressed.valid_until_ms, next);
        assert!(express(flag(json!([]), json!({"schedule": [{"from": "soon"}]}))).is_err());
    }

    /// Compared with this service's own engine, which evaluates the extension.
    #[test]
    fn a_rollout_for_identified_contexts_draws_the_same_and_leaves_anonymous_ones_out() {
        use crate::flag::{CompiledFlag, FlagChange, Moment, Snapshot};
        let rollout = json!({"name": "flexibleRollout", "constraints": [],
            "parameters": {"rollout": "50", "stickiness": "default", "groupId": "f"}});
        let original = flag(json!([with(rollout, json!({"identified": true}))]), json!({}));
        let expressed = express(original.clone()).unwrap().feature;
        assert_eq!(expressed["strategies"].as_array().unwrap().len(), 2);
        let snapshot = |environment: &str, definition: &Value| {
            let flag = CompiledFlag::compile(environment, 1, &definition.to_string()).unwrap();
            Snapshot::default().with([FlagChange::Set(flag.into())])
        };
        let (ours, theirs) = (snapshot("e", &original), snapshot("e", &expressed));
        let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
        let mut on = 0;
        for number in 0..400 {
            let context = match number % 4 {
                0 => json!({}),
                1 => json!({"sessionId": format!("s{number}")}),
                2 => json!({"userId": format!("u{number}")}),
                _ => json!({"userId": format!("u{number}"), "sessionId": format!("s{number}")}),
            };
            let text = context.to_string();
            let context = crate::message::request::context(&text).unwrap();
            let enabled = |snapshot: &Snapshot| {
                snapshot.environment("e").unwrap().evaluate("f", &context, &moment).unwrap().enabled
            };
            assert_eq!(enabled(&ours), enabled(&theirs), "{text}");
            on += u32::from(enabled(&theirs));
        }
        assert!((100..200).contains(&on), "{on} of 300 identified contexts");
    }
}
