//! Compiles a strategy to one closure of Unleash's engine.
//!
//! The engine builds the text of a rule and parses it, and copies most parts of a definition into that text
//! unescaped: a quote in a `groupId` or a context name would end its string and change the rule. So a
//! strategy is first rewritten into an equivalent one in which
//!
//! - names of properties are replaced by generated names, under which evaluation passes the values
//!   (`properties`);
//! - the group is not in the text but passed as the flag's name, which the engine uses when there is no
//!   group;
//! - values are only in constraints, whose quotes the engine escapes. No value ends with a backslash, because
//!   the engine's grammar cannot express it (`"a\"` is an unfinished string): such values and regular
//!   expressions are matched outside the rule (`expression`);
//! - numbers, dates and versions, which are not quoted, have been normalized (`definition::constraint`).

use std::collections::HashMap;

use unleash_types::client_features::{Constraint, Operator, Strategy};
use unleash_yggdrasil::strategy_parsing::{RuleFragment, compile_rule};
use unleash_yggdrasil::strategy_upgrade::upgrade;

use super::expression::{Expressions, Pattern};
use super::properties::PropertyNames;
use super::{CompiledConstraint, VariantSet};

/// Compiled strategy: the contexts that it matches, and the result for them.
pub(crate) struct StrategyRule {
    pub(crate) condition: Condition,
    /// Conditions that must hold in addition to `condition`; only local flags have them.
    pub(crate) clauses: Box<[CompiledConstraint]>,
    /// Regular expressions that must match in addition to `condition`.
    pub(crate) patterns: Box<[Pattern]>,
    /// If true, the flag is off for contexts that match this strategy (local flags only).
    pub(crate) off: bool,
    /// If true, a context with neither a user nor a session does not match.
    pub(crate) identified: bool,
    /// Group of the rollout; `None` means the flag's name.
    pub(crate) group: Option<Box<str>>,
    /// Whether the rollout has default stickiness: it is drawn by the user, else the session, else the
    /// anonymous id.
    pub(crate) drawn_by_default: bool,
    pub(crate) variants: VariantSet,
}

pub(crate) enum Condition {
    Always,
    /// Never matches: an unknown strategy, a missing segment, a missing required parameter, or a constraint
    /// that never holds.
    Never,
    Rule(RuleFragment),
}

/// Compiles one strategy; `Err` holds the reason why it cannot be compiled.
pub(super) fn compile(
    strategy: &Strategy,
    names: &mut PropertyNames,
    expressions: &mut Expressions,
) -> Result<(Condition, Vec<Pattern>), String> {
    let never = Ok((Condition::Never, Vec::new()));
    if strategy.segments.as_ref().is_some_and(|missing| !missing.is_empty()) {
        return never;
    }
    let never_holds = |constraint: &Constraint| matches!(constraint.operator, Operator::Unknown(_));
    if strategy.constraints.iter().flatten().any(never_holds) {
        return never;
    }
    let Some(mut plain) = translate(strategy, names) else {
        return never;
    };
    let drawn = is_drawn_by_default(strategy);
    let (mut constraints, mut patterns) = (Vec::new(), Vec::new());
    for mut constraint in plain.constraints.take().unwrap_or_default() {
        if let Some(pattern) = pattern(&mut constraint, expressions)? {
            patterns.push(pattern);
            continue;
        }
        let name = &constraint.context_name;
        constraint.context_name = if drawn { names.beside_draw(name) } else { names.in_rule(name) };
        make_literal(&mut constraint);
        constraints.push(constraint);
    }
    plain.constraints = Some(constraints);
    let text = upgrade(&[plain], &HashMap::new())
        .map_err(|error| format!("the strategy cannot be converted into a rule: {error:?}"))?;
    if text == "true" {
        return Ok((Condition::Always, patterns));
    }
    // The engine's message contains the whole rule, possibly megabytes of user ids, so it is not repeated
    // here.
    let rule = compile_rule(&text).map_err(|_| "the rule of the strategy cannot be parsed".to_owned())?;
    Ok((Condition::Rule(rule), patterns))
}

/// Group that the strategy's rollout is drawn for; `None` means the flag's name.
pub(super) fn group(strategy: &Strategy) -> Option<Box<str>> {
    parameter(strategy, "groupId").map(Into::into)
}

/// Whether the strategy has a rollout with default stickiness.
pub(super) fn is_drawn_by_default(strategy: &Strategy) -> bool {
    match strategy.name.as_str() {
        "gradualRollout" => true,
        "flexibleRollout" => matches!(parameter(strategy, "stickiness"), None | Some("default")),
        _ => false,
    }
}

/// Rewrites the strategy into one that the engine supports; `None` if it never matches.
fn translate(strategy: &Strategy, names: &mut PropertyNames) -> Option<Strategy> {
    let constraints = strategy.constraints.clone().unwrap_or_default();
    let among = |context_name: &str, operator, values: &str| {
        let mut all = vec![one_of(context_name, operator, values)];
        all.extend_from_slice(&constraints);
        engine_strategy("default", [], all)
    };
    let rollout = |percentage: &str, stickiness: &str| {
        let parameters = [("rollout", percentage), ("stickiness", stickiness)];
        engine_strategy("flexibleRollout", parameters, constraints.clone())
    };
    let given = |name: &str| parameter(strategy, name);
    let percentage = |name: &str| given(name).filter(|text| !text.is_empty());
    match strategy.name.as_str() {
        "default" => Some(engine_strategy("default", [], constraints)),
        "userWithId" => Some(among("userId", Operator::In, given("userIds")?)),
        "remoteAddress" => Some(among("remoteAddress", Operator::InCidr, given("IPs")?)),
        "customProperty" => Some(among(given("property")?, Operator::In, given("values")?)),
        "flexibleRollout" => {
            let stickiness = match given("stickiness").unwrap_or("default") {
                word @ ("default" | "random") => word.to_owned(),
                name => names.in_rule(name),
            };
            Some(rollout(percentage("rollout")?, &stickiness))
        }
        "gradualRollout" => Some(rollout(percentage("percentage")?, "default")),
        "gradualRolloutUserId" => given("groupId").and(Some(rollout(percentage("percentage")?, "userId"))),
        "gradualRolloutSessionId" => {
            given("groupId").and(Some(rollout(percentage("percentage")?, "sessionId")))
        }
        "gradualRolloutRandom" => {
            let parameters = [("percentage", percentage("percentage")?)];
            Some(engine_strategy("gradualRolloutRandom", parameters, constraints))
        }
        "applicationHostname" => {
            let hosts = host_names(given("hostNames").unwrap_or_default());
            let parameters = [("hostNames", hosts.as_str())];
            Some(engine_strategy("applicationHostname", parameters, constraints))
        }
        _ => None,
    }
}

pub(crate) fn parameter<'s>(strategy: &'s Strategy, name: &str) -> Option<&'s str> {
    strategy.parameters.as_ref()?.get(name).map(String::as_str)
}

fn engine_strategy<const N: usize>(
    name: &str,
    parameters: [(&str, &str); N],
    constraints: Vec<Constraint>,
) -> Strategy {
    let owned = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Strategy {
        name: name.to_owned(),
        sort_order: None,
        segments: None,
        constraints: Some(constraints),
        parameters: Some(owned.into()),
        variants: None,
    }
}

fn one_of(context_name: &str, operator: Operator, values: &str) -> Constraint {
    Constraint {
        context_name: context_name.to_owned(),
        operator,
        case_insensitive: false,
        inverted: false,
        values: Some(values.split(',').map(|value| value.trim().to_owned()).collect()),
        value: None,
    }
}

/// Host names as a list for the engine, which puts them into the rule unescaped. A name that ends with a
/// backslash is dropped: no host has such a name, so it could never match.
fn host_names(names: &str) -> String {
    let names = names.split(',').map(str::trim).filter(|name| !name.ends_with('\\'));
    names.map(|name| name.replace('"', "\\\"")).collect::<Vec<_>>().join(",")
}

/// Rewrites a constraint so that the text of the rule contains its values literally.
fn make_literal(constraint: &mut Constraint) {
    let values = constraint.values.get_or_insert_default();
    match constraint.operator {
        Operator::StrContains | Operator::StrStartsWith | Operator::StrEndsWith if values.is_empty() => {
            // The grammar accepts an empty list only for this operator; it never matches.
            constraint.operator = Operator::In;
        }
        Operator::InCidr => {
            // The engine ignores values that are not addresses, so dropping them changes nothing.
            values.retain(|value| !value.ends_with('\\'));
            if values.is_empty() {
                constraint.operator = Operator::In;
            }
        }
        _ => {}
    }
}

/// Builds the pattern of a constraint that the engine cannot evaluate: a regular expression, or a list with a
/// text that ends with a backslash, which its grammar cannot express. `None` if the engine can evaluate it.
fn pattern(constraint: &mut Constraint, expressions: &mut Expressions) -> Result<Option<Pattern>, String> {
    let ends_with_backslash = || constraint.values.iter().flatten().any(|value| value.ends_with('\\'));
    match constraint.operator {
        Operator::RegexMatch => expressions.pattern(constraint).map(Some),
        Operator::StrContains
        | Operator::StrStartsWith
        | Operator::StrEndsWith
        | Operator::In
        | Operator::NotIn
            if ends_with_backslash() =>
        {
            let text = as_expression(constraint);
            expressions.literal(constraint, &text).map(Some)
        }
        _ => Ok(None),
    }
}

/// Rewrites the constraint as an equivalent regular expression.
fn as_expression(constraint: &mut Constraint) -> String {
    let (start, end) = match constraint.operator {
        Operator::StrContains => ("", ""),
        Operator::StrStartsWith => (r"\A", ""),
        Operator::StrEndsWith => ("", r"\z"),
        _ => (r"\A", r"\z"),
    };
    if matches!(constraint.operator, Operator::In | Operator::NotIn) {
        constraint.case_insensitive = false;
        constraint.inverted ^= constraint.operator == Operator::NotIn;
    }
    let values = constraint.values.take().unwrap_or_default();
    let literals: Vec<String> = values.iter().map(|value| regex::escape(value)).collect();
    format!("{start}(?:{}){end}", literals.join("|"))
}
