//! The reason why a strategy does not match.

use std::fmt;

use murmur3::murmur3_32;
use serde::Serialize;
use serde_json::Value;
use unleash_types::client_features::{Constraint, Operator, Strategy};

use super::Parts;
use crate::CompileError;
use crate::compile::{CompiledConstraint, ContextField, parameter};
use crate::definition::local::{LocalConditionExtension, LocalOperatorExtension, LocalStrategyExtension};
use crate::evaluate::EvaluationInputs;

/// Maximum values of a constraint that an explanation repeats.
const MAX_SHOWN_VALUES: usize = 20;
/// Maximum length in bytes of a value that an explanation repeats.
const MAX_SHOWN_BYTES: usize = 200;

/// Reason why a strategy does not match a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Failure {
    /// A constraint does not hold.
    Constraint {
        /// Position among the strategy's constraints, from 0. Conditions that only local flags have follow the others.
        index: usize,
        context_name: String,
        operator: String,
        values: Vec<String>,
        /// Number of values that are not listed.
        more_values: usize,
        inverted: bool,
        /// Value in the context. `None`: the context has no such attribute.
        actual: Option<String>,
    },
    /// The context is outside the rollout.
    Rollout {
        percentage: String,
        stickiness: String,
        /// Number from 1 to 100 that the context was assigned to. `None`: it was drawn at random.
        bucket: Option<u32>,
    },
    /// The strategy lists users, addresses or hosts, and the context is none of them.
    NotListed { parameter: &'static str },
    /// The rollout needs a user or a session, and the context has neither.
    Anonymous,
    /// A segment of the strategy does not exist.
    MissingSegment,
    /// The strategy is unknown, or lacks a parameter.
    Unsupported,
    /// The definition is too large to be explained completely.
    NotExamined,
}

impl Parts<'_> {
    /// Finds the first part of a strategy that does not hold.
    pub(super) fn failure(
        &self,
        strategy: &Strategy,
        own: Option<&LocalStrategyExtension>,
        asked: EvaluationInputs<'_>,
    ) -> Result<Failure, CompileError> {
        if strategy.segments.as_ref().is_some_and(|missing| !missing.is_empty()) {
            return Ok(Failure::MissingSegment);
        }
        let constraints = strategy.constraints.as_deref().unwrap_or_default();
        for (index, constraint) in constraints.iter().enumerate() {
            let alone = Strategy {
                name: "default".to_owned(),
                sort_order: None,
                segments: None,
                constraints: Some(vec![constraint.clone()]),
                parameters: None,
                variants: None,
            };
            match self.matches(&alone, None, asked)? {
                Some(true) => {}
                Some(false) => return Ok(of_constraint(index, constraint, asked)),
                None => return Ok(Failure::NotExamined),
            }
        }
        for (index, condition) in own.iter().flat_map(|own| &own.conditions).enumerate() {
            if !asked.holds(&CompiledConstraint::of(condition)) {
                return Ok(of_condition(constraints.len() + index, condition, asked));
            }
        }
        if own.is_some_and(|own| own.identified) && asked.context.is_anonymous() {
            return Ok(Failure::Anonymous);
        }
        Ok(self.of_parameters(strategy, asked))
    }

    fn of_parameters(&self, strategy: &Strategy, asked: EvaluationInputs<'_>) -> Failure {
        let given = |name: &str| parameter(strategy, name).filter(|text| !text.is_empty());
        let rollout = |name: &str, stickiness: &str| {
            let Some(percentage) = given(name) else { return Failure::Unsupported };
            let group = parameter(strategy, "groupId").unwrap_or(&self.feature.name);
            Failure::Rollout {
                percentage: percentage.to_owned(),
                stickiness: stickiness.to_owned(),
                bucket: bucket(group, stickiness, asked),
            }
        };
        match strategy.name.as_str() {
            "userWithId" => Failure::NotListed { parameter: "userIds" },
            "remoteAddress" => Failure::NotListed { parameter: "IPs" },
            "applicationHostname" => Failure::NotListed { parameter: "hostNames" },
            "customProperty" => Failure::NotListed { parameter: "values" },
            "flexibleRollout" => rollout("rollout", given("stickiness").unwrap_or("default")),
            "gradualRollout" => rollout("percentage", "default"),
            "gradualRolloutUserId" => rollout("percentage", "userId"),
            "gradualRolloutSessionId" => rollout("percentage", "sessionId"),
            "gradualRolloutRandom" => rollout("percentage", "random"),
            _ => Failure::Unsupported,
        }
    }
}

/// Number from 1 to 100 that decides whether the context is inside a rollout, as in Unleash's SDKs.
fn bucket(group: &str, stickiness: &str, asked: EvaluationInputs<'_>) -> Option<u32> {
    let context = asked.context;
    let value = match stickiness {
        "random" => None,
        "default" => {
            let known = context.user_id.as_deref().or(context.session_id.as_deref());
            known.or(context.anonymous_id.as_deref())
        }
        name => asked.field(&ContextField::of(name)),
    }?;
    let mut text = std::io::Cursor::new(format!("{group}:{value}"));
    murmur3_32(&mut text, 0).ok().map(|hash| hash % 100 + 1)
}

fn of_constraint(index: usize, constraint: &Constraint, asked: EvaluationInputs<'_>) -> Failure {
    let values: Vec<&str> = match (&constraint.values, &constraint.value) {
        (Some(values), _) if !values.is_empty() => values.iter().map(String::as_str).collect(),
        (_, Some(value)) => vec![value.as_str()],
        _ => Vec::new(),
    };
    Failure::Constraint {
        index,
        operator: operator_name(&constraint.operator),
        values: values.iter().take(MAX_SHOWN_VALUES).map(|value| shown(value)).collect(),
        more_values: values.len().saturating_sub(MAX_SHOWN_VALUES),
        inverted: constraint.inverted,
        actual: asked.field(&ContextField::of(&constraint.context_name)).map(shown),
        context_name: constraint.context_name.clone(),
    }
}

fn of_condition(index: usize, condition: &LocalConditionExtension, asked: EvaluationInputs<'_>) -> Failure {
    let operator = match condition.operator {
        LocalOperatorExtension::In => "IN",
        LocalOperatorExtension::Has => "HAS",
        LocalOperatorExtension::Contains => "CONTAINS",
    };
    let text = |value: &Value| match value {
        Value::String(text) => shown(text),
        other => shown(&other.to_string()),
    };
    let mut fields = condition.context_names.iter();
    Failure::Constraint {
        index,
        context_name: condition.context_names.join(" or "),
        operator: operator.to_owned(),
        values: condition.values.iter().take(MAX_SHOWN_VALUES).map(text).collect(),
        more_values: condition.values.len().saturating_sub(MAX_SHOWN_VALUES),
        inverted: condition.inverted,
        actual: fields.find_map(|name| asked.field(&ContextField::of(name))).map(shown),
    }
}

/// Name of the operator as in Unleash's definitions.
fn operator_name(operator: &Operator) -> String {
    match serde_json::to_value(operator) {
        Ok(Value::String(name)) => name,
        _ => "unknown".to_owned(),
    }
}

fn shown(text: &str) -> String {
    crate::definition::shorten(text, MAX_SHOWN_BYTES).to_owned()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constraint { context_name, operator, values, more_values, inverted, actual, .. } => {
                let not = if *inverted { "not " } else { "" };
                write!(f, "the constraint {not}{context_name} {operator} {}", values.join(", "))?;
                if *more_values > 0 {
                    write!(f, " and {more_values} more")?;
                }
                match actual {
                    Some(actual) => write!(f, " does not hold for the value {actual}"),
                    None => f.write_str(" does not hold, because the context has no value"),
                }
            }
            Self::Rollout { percentage, stickiness, bucket: Some(bucket) } => write!(
                f,
                "the context is outside the rollout of {percentage} % by {stickiness}: it is at {bucket} of 100"
            ),
            Self::Rollout { percentage, stickiness, bucket: None } => {
                write!(
                    f,
                    "the context is outside the rollout of {percentage} % by {stickiness}, drawn at random"
                )
            }
            Self::NotListed { parameter } => write!(f, "the context is not among {parameter}"),
            Self::Anonymous => f.write_str("the rollout needs a user or a session"),
            Self::MissingSegment => f.write_str("a segment does not exist"),
            Self::Unsupported => f.write_str("the strategy is unknown or lacks a parameter"),
            Self::NotExamined => f.write_str("it does not match (the definition is too large to say why)"),
        }
    }
}
