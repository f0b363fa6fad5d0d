//! Random flags and contexts.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

use super::{NAMES, list};

/// Generator of random flags and contexts. Both use the same small vocabulary, so that conditions match often
/// enough.
pub(super) struct Generators(pub(super) StdRng);

impl Generators {
    fn one(&mut self, of: &[Value]) -> Value {
        of.choose(&mut self.0).unwrap().clone()
    }

    fn word(&mut self) -> Value {
        self.one(&["pro", "free", "Pro", "pro-plus", "5", "true", "é\"\\"].map(Value::from))
    }

    fn number(&mut self) -> Value {
        self.one(&[json!(5), json!(5.0), json!(-1.5), json!(17), json!(18), json!(0)])
    }

    fn scalar(&mut self) -> Value {
        match self.0.random_range(0..3) {
            0 => self.number(),
            1 => json!(self.0.random_bool(0.5)),
            _ => self.word(),
        }
    }

    pub(super) fn date(&mut self) -> Value {
        let day = self.0.random_range(1..=9);
        let zone = ["Z", "+02:00", "-11:30"].choose(&mut self.0).unwrap();
        json!(format!("2026-01-0{day}T1{}:00:00{zone}", self.0.random_range(0..3)))
    }

    fn version(&mut self) -> Value {
        self.one(&["1.2.3", "1.2.3-rc.1", "1.10.0", "2.0.0+build", "0.0.1"].map(Value::from))
    }

    fn some(&mut self, probability: f64, make: impl Fn(&mut Self) -> Value) -> Option<Value> {
        self.0.random_bool(probability).then(|| make(self))
    }

    fn many(&mut self, most: usize, make: impl Fn(&mut Self) -> Value) -> Vec<Value> {
        (0..self.0.random_range(1..=most)).map(|_| make(self)).collect()
    }

    fn users(&mut self, most: usize) -> Value {
        self.many(most, |generators| json!(format!("u{}", generators.0.random_range(0..12)))).into()
    }

    fn attribute(&mut self) -> Value {
        let operators = [
            "equals",
            "not_equals",
            "in",
            "not_in",
            "contains",
            "starts_with",
            "ends_with",
            "greater_than",
            "greater_or_equal",
            "less_than",
            "less_or_equal",
            "before",
            "after",
            "semver_equals",
            "semver_greater_than",
            "semver_greater_or_equal",
            "semver_less_than",
            "semver_less_or_equal",
            "exists",
            "matches",
        ];
        let operator = *operators.choose(&mut self.0).unwrap();
        let value = match operator {
            "equals" | "not_equals" => Some(self.scalar()),
            "in" | "not_in" => Some(self.many(3, Self::scalar).into()),
            "contains" => {
                Some(if self.0.random() { self.scalar() } else { self.many(3, Self::scalar).into() })
            }
            "starts_with" | "ends_with" => Some(self.many(2, Self::word).into()),
            "before" | "after" => Some(self.date()),
            "exists" => self.some(0.7, |generators| json!(generators.0.random_bool(0.5))),
            "matches" => Some(self.one(&["^p", "o$", "[0-9]+", "PRO", "^$|free"].map(Value::from))),
            semver if semver.starts_with("semver") => Some(self.version()),
            _ => Some(self.number()),
        };
        let name =
            self.one(&["plan", "age", "tags", "version", "born", "nothing", "user_id"].map(Value::from));
        let mut attribute = json!({"attribute": name, "operator": operator});
        let folds = matches!(operator, "contains" | "starts_with" | "ends_with" | "matches");
        let set = [
            ("value", value),
            ("negate", self.some(0.2, |generators| json!(generators.0.random_bool(0.8)))),
            ("ignore_case", self.some(0.3, |_| json!(true)).filter(|_| folds)),
        ];
        set.into_iter().for_each(|(name, value)| attribute[name] = value.unwrap_or_default());
        compact(attribute)
    }

    fn value(&mut self, kind: &str) -> Value {
        match kind {
            "boolean" => json!(self.0.random_bool(0.5)),
            "string" => self.word(),
            "integer" => json!(self.0.random_range(-5..50)),
            "float" => json!(f64::from(self.0.random_range(0..100)) / 8.0),
            _ => self.one(&[json!({"a": [1, "x"]}), json!({"value": {"b": 1}}), json!([1, 2]), json!({})]),
        }
    }

    fn variants(&mut self, kind: &str) -> Vec<Value> {
        let weights = [
            json!([50, 50]),
            json!([1, 1, 2]),
            json!([25, 25]),
            json!([7]),
            json!([0.25, 0.75]),
            json!([0, 3]),
            json!([]),
        ];
        let weights = self.one(&weights);
        let count = if list(&weights).is_empty() { 4 } else { list(&weights).len() };
        let named_control = self.0.random_bool(0.3);
        (0..count)
            .map(|index| {
                let value = match kind {
                    "boolean" | "string" => self.some(0.7, |generators| generators.value("string")),
                    kind => Some(self.value(kind)),
                };
                let name =
                    if index == 1 && named_control { "control".to_owned() } else { format!("v{index}") };
                compact(json!({"name": name, "weight": weights.get(index), "value": value}))
            })
            .collect()
    }

    fn rule(&mut self, kind: &str) -> Value {
        let value = self.some(0.3, |generators| generators.value(kind));
        let variants =
            value.is_none().then(|| self.some(0.3, |generators| generators.variants(kind).into())).flatten();
        let enabled =
            self.some(0.2, |_| json!(false)).filter(|_| kind != "boolean" || value != Some(json!(true)));
        compact(json!({
            "name": self.some(0.3, |_| json!("named")),
            "users": self.some(0.2, |generators| generators.users(4)),
            "groups": self.some(0.2, |generators| generators.many(2, |generators| generators.one(&["beta", "staff"].map(Value::from))).into()),
            "attributes": self.some(0.6, |generators| generators.many(2, Self::attribute).into()),
            "percentage": self.some(0.4, |generators| json!(generators.0.random_range(0..=100))),
            "stickiness": self.some(0.4, |generators| generators.one(&["default", "user_id", "session_id", "region"].map(Value::from))),
            "enabled": enabled, "value": value, "variants": variants,
        }))
    }

    fn step(&mut self, kind: &str, of_rules: bool, day: usize) -> Value {
        let hour = self.0.random_range(10..=19);
        let mut step = json!({"date": format!("2026-01-0{day}T{hour}:00:00+01:00")});
        match self.0.random_range(0..3) {
            0 => step["enabled"] = json!(self.0.random_bool(0.5)),
            _ if of_rules => step["rules"] = self.many(2, |generators| generators.rule(kind)).into(),
            _ => step["percentage"] = json!(self.0.random_range(0..=100)),
        }
        step
    }

    pub(super) fn flag(&mut self, index: usize) -> Value {
        let kind = *["boolean", "string", "integer", "float", "object"].choose(&mut self.0).unwrap();
        let status =
            *["active", "active", "active", "active", "scheduled", "paused"].choose(&mut self.0).unwrap();
        let mut flag = json!({"name": NAMES[index], "environment": "e", "status": status, "value_type": kind,
            "is_enabled": self.0.random_bool(0.95), "default_value": self.some(0.4, |generators| generators.value(kind))});
        let of_rules = self.0.random_bool(0.6);
        let mut stepped = true;
        match (of_rules, self.0.random_range(0..5)) {
            (true, _) => flag["rules"] = self.many(4, |generators| generators.rule(kind)).into(),
            (_, 0) => flag["strategy"] = self.one(&[json!("all"), json!("none")]),
            (_, 1) => {
                flag["strategy"] = json!("percentage");
                flag["percentage"] = json!(self.0.random_range(0..=100));
            }
            (_, 2) => {
                (flag["strategy"], flag["user_list"], stepped) = (json!("user_list"), self.users(6), false);
            }
            (_, 3) => {
                let wanted = json!({"plan": self.scalar()});
                (flag["strategy"], flag["attribute_rules"], stepped) =
                    (json!("user_attribute"), wanted, false);
            }
            _ => {
                flag["target_users"] = self.some(0.5, |generators| generators.users(3)).unwrap_or_default();
                let share = self.some(0.7, |generators| json!(generators.0.random_range(0..=100)));
                flag["rollout_percentage"] = share.unwrap_or_default();
            }
        }
        if self.0.random_bool(0.4) {
            flag["variants"] = self.variants(kind).into();
            if self.0.random_bool(0.5) {
                flag["default_variant"] = flag["variants"][0]["name"].clone();
            }
        }
        if status == "scheduled" || (stepped && self.0.random_bool(0.4)) {
            let mut steps: Vec<_> = (2..=self.0.random_range(2..6))
                .map(|day| {
                    if stepped {
                        self.step(kind, of_rules, day)
                    } else {
                        json!({"date": format!("2026-01-0{day}T00:00:00Z"), "enabled": day % 2 == 0})
                    }
                })
                .collect();
            steps.reverse();
            flag["rollout_schedule"] = steps.into();
        }
        if self.0.random_bool(0.4) && !lacks_weights(&flag) {
            flag["weights"] = json!("absolute");
        }
        if self.0.random_bool([0.1, 0.4, 0.5][index]) {
            let parent = *NAMES.choose(&mut self.0).unwrap();
            flag["depends_on"] = json!([match self.0.random_range(0..4) {
                0 => json!({"flag": parent, "state": "off"}),
                1 => json!({"flag": parent, "variants": ["v0", "default"]}),
                2 => json!(*[parent, "missing"].choose(&mut self.0).unwrap()),
                _ => json!(parent),
            }]);
        }
        compact(flag)
    }

    pub(super) fn context(&mut self) -> Map<String, Value> {
        let mut context = json!({"userId": format!("u{}", self.0.random_range(0..12)),
            "sessionId": format!("s{}", self.0.random_range(0..50)), "region": self.word()});
        let more = [
            ("plan", self.some(0.8, Self::scalar)),
            (
                "age",
                self.some(0.8, |generators| {
                    if generators.0.random_bool(0.9) { generators.number() } else { generators.word() }
                }),
            ),
            ("tags", self.some(0.8, |generators| generators.many(3, Self::scalar).into())),
            (
                "version",
                self.some(0.8, |generators| {
                    if generators.0.random_bool(0.9) { generators.version() } else { generators.word() }
                }),
            ),
            ("born", self.some(0.8, Self::date)),
            (
                "group_id",
                self.some(0.4, |generators| generators.one(&["beta", "staff", "none"].map(Value::from))),
            ),
            (
                "groups",
                self.some(0.4, |generators| {
                    generators.one(&[json!(["beta"]), json!(["x", "staff"]), json!("beta"), json!([])])
                }),
            ),
        ];
        more.into_iter().for_each(|(name, value)| context[name] = value.unwrap_or_default());
        compact(context).as_object().unwrap().clone()
    }
}

/// Whether a list of variants has no weights, or weights too small to be percentages.
fn lacks_weights(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(lacks_weights),
        Value::Object(members) => members.iter().any(|(name, member)| {
            let light = |variant: &Value| {
                variant["weight"].as_f64().is_none_or(|weight| weight > 0.0 && weight < 0.1)
            };
            (name == "variants" && list(member).into_iter().any(light)) || lacks_weights(member)
        }),
        _ => false,
    }
}

/// The object without members that are null.
fn compact(mut value: Value) -> Value {
    value.as_object_mut().unwrap().retain(|_, member| !member.is_null());
    value
}
