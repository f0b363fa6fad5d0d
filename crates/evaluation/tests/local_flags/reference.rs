//! Compares the translation and the engine with a naive interpreter of local flags.
//!
//! The interpreter knows nothing of strategies and constraints: it evaluates the JSON of a flag for the JSON
//! of a context. `FLAGSTREAM_TEST_LONG=1` compares ten times as many flags.

#[path = "generators.rs"]
mod generators;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use flagstream_evaluation::local::{created, feature};
use flagstream_evaluation::value::{Lookup, Value as Answered, answer};
use flagstream_evaluation::{
    CompiledFlag, DefaultValue, EnvironmentFlags, FlagChange, Moment, Snapshot, ValueType,
};
use flagstream_protocol::request;
use generators::Generators;

const SETS_OF_FLAGS: u64 = 1_200;
const CONTEXTS_PER_SET: usize = 30;
const NAMES: [&str; 3] = ["f0", "f1", "f2"];

/// Outcome of a flag: whether it is on, the variant's name, and the variant's value.
type Said = (bool, Option<String>, Option<Value>);

/// Input of the interpreter: the flags of a set, a context and the time.
struct World<'w> {
    flags: &'w BTreeMap<String, Value>,
    context: &'w Map<String, Value>,
    now: DateTime<Utc>,
}

impl World<'_> {
    /// Evaluates a flag. `Err`: the evaluation fails, and the flag is off.
    fn ask(&self, name: &str, below: &[&str]) -> Result<Said, ()> {
        let flag = &self.flags[name];
        let off = Ok((false, None, None));
        let (enabled, percentage, rules) = self.in_force(flag);
        if !enabled {
            return off;
        }
        let mut path = below.to_vec();
        path.push(name);
        for dependency in list(&flag["depends_on"]) {
            let parent = dependency.as_str().or(dependency["flag"].as_str()).unwrap();
            if !self.flags.contains_key(parent) || path.contains(&parent) {
                return Err(());
            }
            let (on, variant, _) = self.ask(parent, &path)?;
            let wanted = list(&dependency["variants"]);
            let named = || variant.as_ref().is_some_and(|it| wanted.iter().any(|name| *name == it));
            if on == (dependency["state"] == "off") || (!wanted.is_empty() && !named()) {
                return off;
            }
        }
        Ok(self.targeted(name, flag, percentage, rules))
    }

    fn in_force<'f>(&self, flag: &'f Value) -> (bool, Option<u64>, Vec<&'f Value>) {
        let status = flag["status"].as_str().unwrap_or("active");
        let (mut enabled, mut percentage) = (status == "active", None);
        let mut rules: Vec<&Value> = list(&flag["rules"]);
        let mut steps = list(&flag["rollout_schedule"]);
        steps.sort_by_key(|step| time(&step["date"]));
        for (index, step) in
            steps.iter().enumerate().filter(|(_, step)| time(&step["date"]) <= Some(self.now))
        {
            enabled = match step["enabled"].as_bool() {
                Some(said) => said,
                None => enabled || (status == "scheduled" && index == 0),
            };
            percentage = step["percentage"].as_u64().or(percentage);
            if step["rules"].is_array() {
                rules = list(&step["rules"]);
            }
        }
        let live = matches!(status, "active" | "scheduled") && flag["is_enabled"] == true;
        (live && enabled, percentage, rules)
    }

    fn targeted(&self, name: &str, flag: &Value, percentage: Option<u64>, rules: Vec<&Value>) -> Said {
        if rules.is_empty() {
            if self.shorthand(name, flag, percentage) {
                return self.served(name, flag, &json!({}), 0);
            }
        } else if let Some((index, rule)) =
            rules.iter().enumerate().find(|(_, rule)| self.rule_holds(name, rule))
        {
            return self.served(name, flag, rule, index);
        }
        if let Some(variant) = flag["default_variant"].as_str() {
            let all = list(&flag["variants"]);
            let value = all.iter().find(|it| it["name"] == variant).map(|it| it["value"].clone());
            return (false, Some(variant.to_owned()), value.filter(|value| !value.is_null()));
        }
        match &flag["default_value"] {
            Value::Null => (false, None, None),
            Value::Bool(true) if is_boolean(flag) => self.served(name, flag, &json!({}), 0),
            _ if is_boolean(flag) => (false, None, None),
            value => (false, Some("default".to_owned()), Some(value.clone())),
        }
    }

    fn shorthand(&self, name: &str, flag: &Value, percentage: Option<u64>) -> bool {
        let user = self.context.get("userId").and_then(Value::as_str);
        let listed =
            |field: &str| list(&flag[field]).into_iter().any(|it| it.as_str() == user && user.is_some());
        let drawn = |share: u64| self.in_share(name, "default", share);
        match flag["strategy"].as_str() {
            Some("user_list") => listed("user_list"),
            Some("user_attribute") => {
                flag["attribute_rules"].as_object().unwrap().iter().all(|(name, value)| {
                    self.attribute_holds(&json!({"attribute": name, "operator": "equals", "value": value}))
                })
            }
            Some("all") => percentage.is_none_or(drawn),
            Some("none") => percentage.is_some_and(drawn),
            Some(_) => drawn(percentage.or(flag["percentage"].as_u64()).unwrap()),
            None => {
                let targets = !list(&flag["target_users"]).is_empty();
                let share = percentage.or(flag["rollout_percentage"].as_u64());
                listed("target_users") || share.map_or(!targets, drawn)
            }
        }
    }

    fn rule_holds(&self, name: &str, rule: &Value) -> bool {
        let user = self.context.get("userId").and_then(Value::as_str);
        let users = list(&rule["users"]);
        let groups = list(&rule["groups"]);
        let of_group = |value: &Value| groups.contains(&value);
        let in_groups = self.context.get("group_id").is_some_and(of_group)
            || self
                .context
                .get("groups")
                .is_some_and(|it| of_group(it) || list(it).into_iter().any(of_group));
        (users.is_empty() || users.iter().any(|it| it.as_str() == user && user.is_some()))
            && (groups.is_empty() || in_groups)
            && list(&rule["attributes"]).into_iter().all(|attribute| self.attribute_holds(attribute))
            && rule["percentage"].as_u64().is_none_or(|share| {
                self.in_share(name, rule["stickiness"].as_str().unwrap_or("default"), share)
            })
    }

    fn attribute_holds(&self, attribute: &Value) -> bool {
        let name = match attribute["attribute"].as_str().unwrap() {
            "user_id" => "userId",
            "session_id" => "sessionId",
            name => name,
        };
        let operator = attribute["operator"].as_str().unwrap();
        let (operator, negated) = match operator.strip_prefix("not_") {
            Some("equals") => ("equals", true),
            Some(_) => ("in", true),
            None => (operator, false),
        };
        let value = &attribute["value"];
        let there = self.context.get(name).filter(|value| !value.is_null());
        let holds =
            there.is_some_and(|there| compare(there, operator, value, attribute["ignore_case"] == true));
        let absent_wanted = operator == "exists" && *value == false;
        let inverted = negated ^ (attribute["negate"] == true) ^ absent_wanted;
        holds ^ inverted
    }

    fn in_share(&self, name: &str, stickiness: &str, share: u64) -> bool {
        let value = self.stuck_to(stickiness);
        if share == 100 && value.is_none() && stickiness == "default" {
            return true;
        }
        value.is_some_and(|value| u64::from(hash(name, &value, 0) % 100 + 1) <= share)
    }

    fn stuck_to(&self, stickiness: &str) -> Option<String> {
        let get = |name: &str| self.context.get(name).filter(|it| !it.is_null()).map(text);
        match stickiness {
            "default" => get("userId").or_else(|| get("sessionId")),
            "user_id" => get("userId"),
            "session_id" => get("sessionId"),
            name => get(name),
        }
    }

    /// Result for a context that a rule or shorthand matches.
    fn served(&self, name: &str, flag: &Value, rule: &Value, index: usize) -> Said {
        let on = rule["enabled"] != false && !(is_boolean(flag) && rule["value"] == false);
        if !rule["value"].is_null() && !is_boolean(flag) {
            let title = rule["name"].as_str().map_or_else(|| format!("rule-{}", index + 1), str::to_owned);
            return (on, Some(title), Some(rule["value"].clone()));
        }
        let stickiness = rule["stickiness"].as_str().unwrap_or("default");
        let drawn = if !list(&rule["variants"]).is_empty() {
            self.draw(name, flag, &list(&rule["variants"]), &Value::Null, stickiness)
        } else if !on {
            None
        } else if !list(&flag["variants"]).is_empty() {
            self.draw(name, flag, &list(&flag["variants"]), &flag["distribution"], "default")
        } else if !flag["default_value"].is_null() && !is_boolean(flag) {
            Some(("default".to_owned(), flag["default_value"].clone()))
        } else {
            None
        };
        match drawn {
            None => (on, None, None),
            Some((variant, value)) => (on, Some(variant), Some(value).filter(|value| !value.is_null())),
        }
    }

    fn draw(
        &self,
        name: &str,
        flag: &Value,
        variants: &[&Value],
        distribution: &Value,
        stickiness: &str,
    ) -> Option<(String, Value)> {
        let weight = |variant: &Value| {
            let given = distribution.get(variant["name"].as_str().unwrap()).unwrap_or(&variant["weight"]);
            given.as_f64().unwrap_or(1.0)
        };
        let given: f64 = variants.iter().map(|variant| weight(variant)).sum();
        let absolute = flag["weights"] == "absolute";
        let sum = if absolute { 100.0 } else { given };
        let weight = |variant: &Value| {
            let rest = if absolute && variant["name"] == "control" { 100.0 - given } else { 0.0 };
            weight(variant) + rest
        };
        let ticket = f64::from(hash(name, &self.stuck_to(stickiness)?, 86_028_157) % 1_000 + 1);
        let mut upto = 0.0;
        let drawn = variants.iter().find(|variant| {
            upto += weight(variant) * 1_000.0 / sum;
            ticket <= upto + 0.000_001
        })?;
        Some((drawn["name"].as_str().unwrap().to_owned(), drawn["value"].clone()))
    }
}

fn compare(there: &Value, operator: &str, wanted: &Value, ignore_case: bool) -> bool {
    let fold = |text: String| if ignore_case { text.to_lowercase() } else { text };
    let number = || text(there).parse::<f64>().ok();
    let any = |holds: &dyn Fn(&str) -> bool| match wanted {
        Value::Array(items) => items.iter().any(|item| holds(&fold(text(item)))),
        one => holds(&fold(text(one))),
    };
    let whole = fold(text(there));
    let at = |value: &Value| value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
    match operator {
        "exists" => true,
        "equals" => same(there, wanted),
        "in" => list(wanted).iter().any(|value| same(there, value)),
        "contains" => match there {
            Value::Array(members) => members.iter().any(|member| {
                let alike = |wanted: &Value| match (member, wanted) {
                    (Value::String(a), Value::String(b)) => fold(a.clone()) == fold(b.clone()),
                    (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
                    (a, b) => a.is_boolean() && a == b,
                };
                if wanted.is_array() { list(wanted).into_iter().any(alike) } else { alike(wanted) }
            }),
            _ => {
                let part = |wanted: &Value| match wanted {
                    Value::String(wanted) => whole.contains(&fold(wanted.clone())),
                    wanted => same(there, wanted),
                };
                if wanted.is_array() { list(wanted).into_iter().any(part) } else { part(wanted) }
            }
        },
        "starts_with" => any(&|start| whole.starts_with(start)),
        "ends_with" => any(&|end| whole.ends_with(end)),
        "greater_than" => number().is_some_and(|number| number > wanted.as_f64().unwrap()),
        "greater_or_equal" => number().is_some_and(|number| number >= wanted.as_f64().unwrap()),
        "less_than" => number().is_some_and(|number| number < wanted.as_f64().unwrap()),
        "less_or_equal" => number().is_some_and(|number| number <= wanted.as_f64().unwrap()),
        "before" => at(there).is_some_and(|there| there < at(wanted).unwrap()),
        "after" => at(there).is_some_and(|there| there > at(wanted).unwrap()),
        "matches" => {
            let expression =
                regex::RegexBuilder::new(wanted.as_str().unwrap()).case_insensitive(ignore_case).build();
            expression.unwrap().is_match(&text(there))
        }
        semver => {
            let Ok(version) = semver::Version::parse(&text(there)) else { return false };
            let order = version.cmp_precedence(&semver::Version::parse(wanted.as_str().unwrap()).unwrap());
            match semver {
                "semver_equals" => order.is_eq(),
                "semver_greater_than" => order.is_gt(),
                "semver_greater_or_equal" => order.is_ge(),
                "semver_less_than" => order.is_lt(),
                "semver_less_or_equal" => order.is_le(),
                other => panic!("{other}"),
            }
        }
    }
}

/// Whether a context value equals a wanted value. Numbers are compared as numbers; everything else as text.
fn same(there: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Number(wanted) => text(there).parse::<f64>().is_ok_and(|it| Some(it) == wanted.as_f64()),
        wanted => text(there) == text(wanted),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(value.as_str()?).unwrap().to_utc())
}

fn is_boolean(flag: &Value) -> bool {
    flag["value_type"].as_str().is_none_or(|kind| kind == "boolean")
}

fn hash(group: &str, value: &str, seed: u32) -> u32 {
    murmur3::murmur3_32(&mut format!("{group}:{value}").as_bytes(), seed).unwrap()
}

/// Snapshot of the flags, translated at `translated_at`. Evaluation may use another time.
fn snapshot(flags: &BTreeMap<String, Value>, translated_at: DateTime<Utc>) -> Snapshot {
    let compiled = flags.values().map(|flag| {
        let (name, environment, local) =
            created(flag.to_string().as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}: {flag}"));
        let definition = feature(&name, &local, 1, translated_at).to_string();
        let compiled = CompiledFlag::compile(&environment, 1, &definition);
        FlagChange::Set(compiled.unwrap_or_else(|error| panic!("{error}: {flag}")).into())
    });
    Snapshot::default().with(compiled)
}

fn engine(
    flags: &EnvironmentFlags,
    name: &str,
    kind: &str,
    context: &Map<String, Value>,
    now: DateTime<Utc>,
) -> Result<Said, ()> {
    let text = Value::Object(context.clone()).to_string();
    let context = request::context(&text).unwrap();
    let now = now.to_rfc3339();
    let outcome = flags.evaluate(name, &context, &Moment { now: &now, hostname: "", app_name: "" }).unwrap();
    if outcome.failure.is_some() {
        assert!(!outcome.enabled && outcome.variant.is_none());
        return Err(());
    }
    let (enabled, variant) = (outcome.enabled, outcome.variant.map(|(_, it)| it.name.to_string()));
    let asked: ValueType = if kind == "boolean" { "string" } else { kind }.parse().unwrap();
    let default = DefaultValue::String("the caller's".into());
    let answered = answer(name, Lookup::Found(outcome), asked, Some(&default));
    assert_eq!(answered.error_code, None, "{name} {answered:?}");
    let mut json = Vec::new();
    answered.value.write_json(&mut json);
    let value: Value = serde_json::from_slice(&json).unwrap();
    let none = variant.is_none();
    assert_eq!(none, answered.value == Answered::String("the caller's".into()));
    Ok((enabled, variant, (!none).then_some(value)))
}

/// Adds the value of a variant without one: its name.
fn with_name((enabled, variant, value): Said) -> Said {
    let value = value.or_else(|| variant.clone().map(Value::from));
    (enabled, variant, value)
}

fn alike(ours: &Result<Said, ()>, theirs: &Result<Said, ()>) -> bool {
    let number = |said: &Result<Said, ()>| said.as_ref().ok().and_then(|it| it.2.as_ref()?.as_f64());
    ours == theirs
        || (number(ours).is_some()
            && number(ours) == number(theirs)
            && ours.as_ref().map(|it| (it.0, &it.1)) == theirs.as_ref().map(|it| (it.0, &it.1)))
}

#[test]
fn the_translation_means_what_the_flag_says() {
    let factor = if std::env::var_os("FLAGSTREAM_TEST_LONG").is_some() { 10 } else { 1 };
    let (mut pairs, mut on, mut values, mut failures) = (0_u64, 0_u64, 0_u64, 0_u64);
    for seed in 0..SETS_OF_FLAGS * factor {
        let mut generators = Generators(StdRng::seed_from_u64(seed));
        let flags: BTreeMap<String, Value> =
            (0..NAMES.len()).map(|index| (NAMES[index].to_owned(), generators.flag(index))).collect();
        let translated_at = time(&json!("2026-01-01T00:00:00Z")).unwrap();
        let early = snapshot(&flags, translated_at);
        for _ in 0..CONTEXTS_PER_SET {
            let context = generators.context();
            let now = time(&generators.date()).unwrap();
            let world = World { flags: &flags, context: &context, now };
            for (name, flag) in &flags {
                let expected = world.ask(name, &[]).map(with_name);
                let kind = flag["value_type"].as_str().unwrap();
                let said = engine(early.environment("e").unwrap(), name, kind, &context, now);
                assert!(
                    alike(&said, &expected),
                    "seed {seed}: {name} at {now}: {said:?}, expected {expected:?}\n{flags:#?}\n{context:#?}"
                );
                pairs += 1;
                on += u64::from(said.as_ref().is_ok_and(|it| it.0));
                values += u64::from(said.as_ref().is_ok_and(|it| it.1.is_some()));
                failures += u64::from(said.is_err());
            }
        }
        // Translating at a later time merges the steps that are due; the outcome must not change.
        let context = generators.context();
        let now = time(&generators.date()).unwrap();
        let late = snapshot(&flags, now);
        for (name, flag) in &flags {
            let kind = flag["value_type"].as_str().unwrap();
            let ask = |of: &Snapshot| engine(of.environment("e").unwrap(), name, kind, &context, now);
            assert!(alike(&ask(&late), &ask(&early)), "seed {seed}: {name} at {now}\n{flags:#?}");
        }
    }
    println!("{pairs} pairs: {on} on, {values} with a variant, {failures} without an answer");
    assert!(
        pairs >= 100_000 && on > pairs / 5 && values > pairs / 5 && failures > 0,
        "{pairs} {on} {values} {failures}"
    );
}
