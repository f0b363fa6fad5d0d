//! Checks that the JSON schema cannot express: combinations of fields, and values that do not fit their type.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::labels::{Operator, Status, Strategy, ValueKind, Weights};
use super::model::{Attribute, Dependency, LocalFlag, Rule, Step, Variant};
use super::value::Values;
use super::weights::{self, TOTAL_WEIGHT, WHOLE};
use super::{Invalid, schedule, schema};
use crate::MAX_FLAG_EXPRESSIONS;

/// Maximum number of strategies that a flag is translated to, in all its steps together.
const MAX_STRATEGIES: usize = 1_000;
/// Maximum number of warnings about one flag.
const MAX_WARNINGS: usize = 10;
/// Attribute name of the evaluation time. It supports the operators `before` and `after`, and no stickiness.
const OWN_TIME: &str = "currentTime";

/// Removes duplicates from lists and sorts the steps by date. Returns the problems of the steps.
pub fn tidy(flag: &mut LocalFlag) -> Vec<Invalid> {
    let lists = [&mut flag.target_users, &mut flag.user_list, &mut flag.tags];
    lists.into_iter().for_each(each_once);
    for rule in &mut flag.rules {
        each_once(&mut rule.users);
        each_once(&mut rule.groups);
    }
    schedule::tidy(&mut flag.rollout_schedule)
}

/// All problems of the flag as a whole.
pub fn problems(flag: &LocalFlag) -> Vec<Invalid> {
    let (kind, of) = (flag.value_type, flag.weights);
    let mut found = Found { values: Values::default(), kind, of, problems: Vec::new() };
    match Values::of(flag) {
        Ok(values) => found.values = values,
        Err(problems) => found.problems.extend(problems),
    }
    if let Some(value) = &flag.default_value {
        found.value("default_value", value);
    }
    found.shorthands(flag);
    found.rules("rules", &flag.rules);
    found.flag_variants(flag);
    found.schedule(flag);
    found.expressions(flag);
    found.dependencies(&flag.depends_on);
    found.problems
}

/// Warnings about settings that are valid but probably not intended.
pub fn warnings(flag: &LocalFlag) -> Vec<String> {
    if flag.weights == Weights::Absolute {
        return Vec::new();
    }
    let distribution = (!flag.distribution.is_empty()).then_some(&flag.distribution);
    let own = ("variants".to_owned(), flag.variants.as_slice(), distribution);
    let steps = flag.rollout_schedule.iter().enumerate().filter_map(|(index, step)| {
        Some((format!("rollout_schedule[{index}].rules"), step.rules.as_ref()?.as_slice()))
    });
    let rules = std::iter::once(("rules".to_owned(), flag.rules.as_slice())).chain(steps);
    let of_rules = rules.flat_map(|(place, rules)| {
        let of = move |(index, _): (usize, &Rule)| format!("{place}[{index}].variants");
        rules.iter().enumerate().map(move |it| (of(it), it.1.variants.as_slice(), None))
    });
    let sets = std::iter::once(own).chain(of_rules);
    let short = sets.filter_map(|(place, variants, distribution)| {
        let given = distribution.is_some() || variants.iter().any(|variant| variant.weight.is_some());
        let sum: f64 = weights::weights(variants, distribution).iter().sum();
        // Fractions that add up to 1 are as unambiguous as percentages.
        let is_whole = (sum - 1.0).abs() < 1e-9;
        (given && sum < WHOLE && !is_whole).then(|| {
            format!(
                "{place}: the weights add up to {sum} and are relative, so that every user gets a variant; with \
                 \"weights\": \"absolute\" they are percentages, and the other users get `control` or no variant"
            )
        })
    });
    short.take(MAX_WARNINGS).collect()
}

struct Found {
    values: Values,
    kind: ValueKind,
    /// Interpretation of weights.
    of: Weights,
    problems: Vec<Invalid>,
}

impl Found {
    fn refuse(&mut self, field: impl AsRef<str>, message: impl Into<String>) {
        self.problems.push(Invalid::new(field.as_ref(), message));
    }

    fn value(&mut self, field: impl AsRef<str>, value: &Value) {
        if let Err(message) = self.values.check(value) {
            self.refuse(field, message);
        }
    }

    /// Checks that only one way of targeting is used: `rules`, `strategy` or the shorthand fields.
    fn shorthands(&mut self, flag: &LocalFlag) {
        let seed = [
            ("rollout_percentage", flag.rollout_percentage.is_some()),
            ("target_users", !flag.target_users.is_empty()),
        ];
        let mut given: Vec<&str> = seed.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if flag.strategy.is_some() {
            for name in given.drain(..) {
                self.refuse(name, "cannot be mixed with strategy");
            }
            given.push("strategy");
        }
        if !flag.rules.is_empty() {
            for name in given {
                self.refuse(name, "cannot be mixed with rules");
            }
        }
        let fields = [
            ("percentage", Strategy::Percentage, flag.percentage.is_some()),
            ("user_list", Strategy::UserList, !flag.user_list.is_empty()),
            ("attribute_rules", Strategy::UserAttribute, !flag.attribute_rules.is_empty()),
        ];
        for (name, strategy, given) in fields {
            let word = match strategy {
                Strategy::Percentage => "percentage",
                Strategy::UserList => "user_list",
                _ => "user_attribute",
            };
            match (flag.strategy == Some(strategy), given) {
                (true, false) => self.refuse(name, format!("is required by the strategy {word}")),
                (false, true) => self.refuse(name, format!("is only allowed with the strategy {word}")),
                _ => {}
            }
        }
        if flag.attribute_rules.contains_key(OWN_TIME) {
            self.refuse(
                "attribute_rules.currentTime",
                "currentTime supports only the operators before and after",
            );
        }
    }

    fn rules(&mut self, place: &str, rules: &[Rule]) {
        for (index, rule) in rules.iter().enumerate() {
            self.rule(&format!("{place}[{index}]"), rule);
        }
    }

    fn rule(&mut self, place: &str, rule: &Rule) {
        for (index, attribute) in rule.attributes.iter().enumerate() {
            self.attribute(&format!("{place}.attributes[{index}]"), attribute);
        }
        if let Some(value) = &rule.value {
            let field = format!("{place}.value");
            if !rule.variants.is_empty() {
                self.refuse(&field, "cannot be mixed with variants");
            }
            if self.kind == ValueKind::Boolean && *value == Value::Bool(true) && !rule.enabled {
                self.refuse(&field, "must not be true in a rule with enabled: false");
            }
            self.value(field, value);
        }
        if rule.stickiness.as_deref() == Some(OWN_TIME) {
            self.refuse(format!("{place}.stickiness"), "currentTime cannot be used for stickiness");
        }
        self.variants(&format!("{place}.variants"), &rule.variants, None);
    }

    fn attribute(&mut self, place: &str, attribute: &Attribute) {
        use Operator::{After, Before, Contains, EndsWith, Exists, Matches, StartsWith};
        let Attribute { attribute: name, operator, ignore_case, value, .. } = attribute;
        if name == OWN_TIME && !matches!(operator, Before | After) {
            self.refuse(
                format!("{place}.operator"),
                "currentTime supports only the operators before and after",
            );
        }
        if *ignore_case && !matches!(operator, Contains | StartsWith | EndsWith | Matches) {
            let message = "is only allowed with the operators contains, starts_with, ends_with and matches";
            self.refuse(format!("{place}.ignore_case"), message);
        }
        let version = value.as_ref().and_then(Value::as_str).filter(|_| operator.is_of_versions());
        if version.is_some_and(|version| semver::Version::parse(version).is_err()) {
            self.refuse(format!("{place}.value"), schema::VERSION);
        }
        if value.is_none() && *operator != Exists {
            self.refuse(format!("{place}.value"), "is required");
        }
    }

    fn flag_variants(&mut self, flag: &LocalFlag) {
        let names: HashSet<&str> = flag.variants.iter().map(|variant| variant.name.as_str()).collect();
        for name in flag.distribution.keys().filter(|name| !names.contains(name.as_str())) {
            self.refuse(format!("distribution.{name}"), "the flag has no variant of this name");
        }
        let distribution = (!flag.distribution.is_empty()).then_some(flag);
        self.variants("variants", &flag.variants, distribution);
        if let Some(name) = flag.default_variant.as_deref().filter(|name| !names.contains(name)) {
            self.refuse("default_variant", format!("the flag has no variant {name:?}"));
        }
    }

    /// Checks variants and their weights. `distributed` is the flag if its `distribution` holds the weights.
    fn variants(&mut self, place: &str, variants: &[Variant], distributed: Option<&LocalFlag>) {
        let mut seen = HashSet::new();
        let given = variants.iter().filter(|variant| variant.weight.is_some()).count();
        for (index, variant) in variants.iter().enumerate() {
            let place = format!("{place}[{index}]");
            if !seen.insert(variant.name.as_str()) {
                self.refuse(
                    format!("{place}.name"),
                    format!("duplicate name: another variant is named {:?}, too", variant.name),
                );
            }
            match (&variant.weight, distributed) {
                (Some(_), Some(_)) => {
                    self.refuse(format!("{place}.weight"), "cannot be mixed with distribution");
                }
                (None, Some(flag)) if !flag.distribution.contains_key(&variant.name) => {
                    self.refuse(
                        format!("distribution.{}", variant.name),
                        "is required: the distribution must contain every variant",
                    );
                }
                (None, None) if self.of == Weights::Absolute => {
                    self.refuse(
                        format!("{place}.weight"),
                        "is required, because the flag's weights are absolute",
                    );
                }
                (None, None) if given > 0 => {
                    self.refuse(
                        format!("{place}.weight"),
                        "is required, because other variants have a weight",
                    );
                }
                _ => {}
            }
            let field = format!("{place}.value");
            match (&variant.value, self.kind) {
                (Some(value), ValueKind::Boolean) => {
                    if let Err(message) = super::value::bounded(value) {
                        self.refuse(field, message);
                    }
                }
                (Some(value), _) => self.value(field, value),
                // A variant without a value has its name as the value.
                (None, ValueKind::Boolean | ValueKind::String) => {}
                (None, kind) => {
                    self.refuse(field, format!("is required: the flag's values are {}", kind.name()))
                }
            }
        }
        self.weights(place, variants, distributed);
    }

    fn weights(&mut self, place: &str, variants: &[Variant], distributed: Option<&LocalFlag>) {
        if variants.is_empty() {
            return;
        }
        let weights = weights::weights(variants, distributed.map(|flag| &flag.distribution));
        let field = |index: usize| match (distributed, variants.get(index)) {
            (Some(_), Some(variant)) => format!("distribution.{}", variant.name),
            _ => format!("{place}[{index}].weight"),
        };
        let sum: f64 = weights.iter().sum();
        if self.of == Weights::Absolute && sum > WHOLE {
            let message = format!("absolute weights must add up to at most {WHOLE}, got {sum}");
            return self.refuse(place, message);
        }
        let shares = match self.of {
            Weights::Relative => weights::shares(&weights),
            Weights::Absolute if sum <= 0.0 => None,
            Weights::Absolute => Some(weights::absolute_shares(variants, &weights)),
        };
        match shares {
            None => self.refuse(place, "at least one weight must be greater than 0"),
            Some(shares) => {
                let lost =
                    weights.iter().zip(&shares).position(|(weight, share)| *weight > 0.0 && *share == 0);
                if let Some(index) = lost {
                    let message = format!(
                        "is less than 1/{TOTAL_WEIGHT} of all weights, so that no user would get the variant"
                    );
                    self.refuse(field(index), message);
                }
            }
        }
    }

    fn schedule(&mut self, flag: &LocalFlag) {
        if flag.status == Status::Scheduled && flag.rollout_schedule.is_empty() {
            self.refuse("rollout_schedule", "is required while the status is scheduled");
        }
        let with_rules =
            !flag.rules.is_empty() || flag.rollout_schedule.iter().any(|step| step.rules.is_some());
        let shorthand =
            flag.strategy.is_some() || flag.rollout_percentage.is_some() || !flag.target_users.is_empty();
        let fixed = matches!(flag.strategy, Some(Strategy::UserList | Strategy::UserAttribute));
        for (index, step) in flag.rollout_schedule.iter().enumerate() {
            let Step { percentage, enabled, rules, .. } = step;
            let place = format!("rollout_schedule[{index}]");
            if percentage.is_none() && enabled.is_none() && rules.is_none() {
                self.refuse(&place, "`percentage`, `enabled` or `rules` is required");
            }
            if percentage.is_some() && (with_rules || fixed) {
                let message = "replaces the flag's percentage, but this flag has rules, or a strategy without a \
                    percentage";
                self.refuse(format!("{place}.percentage"), message);
            }
            if let Some(rules) = rules {
                if shorthand && flag.rules.is_empty() {
                    let message = "cannot be mixed with strategy, rollout_percentage and target_users";
                    self.refuse(format!("{place}.rules"), message);
                }
                self.rules(&format!("{place}.rules"), rules);
            }
        }
        let phases = schedule::all_rules(flag);
        if phases > MAX_STRATEGIES {
            let message =
                format!("expected at most {MAX_STRATEGIES} rules in all steps together, got {phases}");
            self.refuse("rollout_schedule", message);
        }
    }

    /// Checks the number of regular expressions before any is compiled.
    fn expressions(&mut self, flag: &LocalFlag) {
        let steps = flag.rollout_schedule.iter().filter_map(|step| step.rules.as_ref());
        let rules = flag.rules.iter().chain(steps.flatten());
        let attributes = rules.flat_map(|rule| &rule.attributes);
        let count = attributes.filter(|attribute| attribute.operator == Operator::Matches).count();
        if count > MAX_FLAG_EXPRESSIONS {
            let message = format!(
                "expected at most {MAX_FLAG_EXPRESSIONS} attributes with the operator matches, got {count}"
            );
            self.refuse("rules", message);
        }
    }

    fn dependencies(&mut self, depends_on: &[Dependency]) {
        let mut seen = HashMap::new();
        for (index, dependency) in depends_on.iter().enumerate() {
            let place = format!("depends_on[{index}]");
            if let Some(first) = seen.insert(dependency.flag.as_str(), index) {
                self.refuse(&place, format!("names the same flag as depends_on[{first}]"));
            }
            if !dependency.on && !dependency.variants.is_empty() {
                self.refuse(
                    format!("{place}.variants"),
                    "must be empty, because a flag that must be off has no variant",
                );
            }
        }
    }
}

fn each_once(texts: &mut Vec<String>) {
    let mut seen = HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
}
