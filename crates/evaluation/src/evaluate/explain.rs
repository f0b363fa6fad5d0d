//! Explanation of an evaluation: which strategy decided, and for each strategy that did not match, which constraint
//! failed.
//!
//! An evaluation runs compiled rules, which do not say why they do not hold. An explanation reads the definition again
//! and compiles each strategy, and each constraint of a strategy that does not match, by itself. It takes about a
//! millisecond and is separate from [`EnvironmentFlags::evaluate`], which it calls for the result.

mod failure;

use std::cell::Cell;
use std::sync::Arc;

use serde::Serialize;
use unleash_types::client_features::{ClientFeature, Strategy};

use super::{EvaluationInputs, Match, Outcome};
use crate::definition::local::{LocalExtension, LocalStrategyExtension};
use crate::{CompileError, CompiledFlag, EnvironmentFlags, EvaluationContext, Moment, definition};

pub use failure::Failure;

/// Maximum values that are compiled for one explanation, so that it takes milliseconds whatever the definition. A
/// strategy or a constraint counts as one more value.
const MAX_COMPILED_VALUES: usize = 100_000;

/// Explanation of one evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// One sentence that says what decided.
    pub summary: String,
    pub enabled: bool,
    pub decision: Decision,
    /// Parent flag that does not have the required state. `None`: all parents have it, or none was asked.
    pub parent: Option<UnmetParent>,
    /// Strategies in the order in which they were tried, up to the one that matched.
    pub strategies: Vec<TriedStrategy>,
    /// Whether the definition is too large to be explained completely, so that strategies are missing in the list.
    pub truncated: bool,
    pub variant: Option<ChosenVariant>,
    /// Whether a part of the result was drawn at random, so that another evaluation may differ.
    pub random: bool,
}

/// Part of the flag that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The kill switch turned the flag off.
    Killed,
    /// The definition cannot be evaluated, or the parents do not exist or form a cycle.
    Unusable,
    SwitchedOff,
    /// A parent flag does not have the required state.
    Parent,
    /// The flag has no strategies and is on for every context.
    Everyone,
    /// The last of the tried strategies matched.
    Strategy,
    NoStrategyMatched,
}

/// Parent flag and the state that the flag requires of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnmetParent {
    pub flag: String,
    /// Whether the parent must be on.
    pub required_enabled: bool,
    /// Variants of which the parent must have one. Empty: any.
    pub required_variants: Vec<String>,
}

/// A strategy that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TriedStrategy {
    /// Position among the strategies in force, from 0.
    pub index: usize,
    pub name: String,
    pub matched: bool,
    /// Whether the flag is off for contexts that the strategy matches.
    pub off: bool,
    /// Reason why the strategy did not match.
    pub failure: Option<Failure>,
}

/// The variant of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChosenVariant {
    pub name: String,
    /// Whether it is a variant of the strategy that matched, and not of the flag.
    pub of_strategy: bool,
}

impl EnvironmentFlags {
    /// Explains the evaluation of the flag with this definition. The flag in force must have been compiled from it.
    /// `Ok(None)`: there is no flag of this name.
    pub fn explain(
        &self,
        definition: &str,
        context: &EvaluationContext<'_>,
        moment: &Moment<'_>,
    ) -> Result<Option<Explanation>, CompileError> {
        let (feature, private) = definition::read(definition)?;
        let Some(outcome) = self.evaluate(&feature.name, context, moment) else { return Ok(None) };
        let asked = EvaluationInputs { context, moment, environment: self.name() };
        let flag = Arc::clone(outcome.flag);
        let parent = outcome.unmet.map(|parent| unmet(&feature, parent));
        let (switched_on, offset, count) = in_force(&flag, &private, asked);
        let mut explanation = Explanation {
            summary: String::new(),
            enabled: outcome.enabled,
            decision: first_decision(&outcome, switched_on, count),
            parent,
            strategies: Vec::new(),
            truncated: false,
            variant: None,
            random: self.unrepeatable(&flag, context, moment.now_ms().unwrap_or(0)) == Some("random"),
        };
        if explanation.decision == Decision::NoStrategyMatched {
            let (environment, left) = (self.name(), Cell::new(MAX_COMPILED_VALUES));
            let parts = Parts { feature: &feature, private: &private, environment, left };
            (explanation.strategies, explanation.truncated) = parts.tried(offset, count, asked)?;
            let last = explanation.strategies.last();
            if last.is_some_and(|last| last.matched) || (explanation.truncated && outcome.enabled) {
                explanation.decision = Decision::Strategy;
            }
        }
        explanation.variant = outcome.variant.map(|(position, variant)| ChosenVariant {
            name: variant.name.to_string(),
            of_strategy: position >= feature.variants.as_ref().map_or(0, Vec::len),
        });
        explanation.summary = explanation.summarize(outcome.failure);
        Ok(Some(explanation))
    }
}

/// The decision, as far as it does not depend on the strategies.
fn first_decision(outcome: &Outcome<'_>, switched_on: bool, strategies: usize) -> Decision {
    if outcome.killed {
        Decision::Killed
    } else if outcome.failure.is_some() {
        Decision::Unusable
    } else if outcome.unmet.is_some() {
        Decision::Parent
    } else if !switched_on {
        Decision::SwitchedOff
    } else if strategies == 0 {
        Decision::Everyone
    } else {
        Decision::NoStrategyMatched
    }
}

fn unmet(feature: &ClientFeature, parent: &str) -> UnmetParent {
    let dependency = feature.dependencies.iter().flatten().find(|dependency| dependency.feature == parent);
    UnmetParent {
        flag: parent.to_owned(),
        required_enabled: dependency.and_then(|dependency| dependency.enabled).unwrap_or(true),
        required_variants: dependency.and_then(|dependency| dependency.variants.clone()).unwrap_or_default(),
    }
}

/// Whether the flag is switched on, and the range of the strategies that are in force: its start and its length.
fn in_force(
    flag: &CompiledFlag,
    private: &LocalExtension,
    asked: EvaluationInputs<'_>,
) -> (bool, usize, usize) {
    let (switched_on, strategies) = flag.at(|| asked.current_ms());
    let now = asked.current_ms().unwrap_or(i64::MIN);
    let phase = private.phases.iter().rposition(|phase| phase.from_ms <= now).unwrap_or(0);
    let offset = private.phases.iter().take(phase).map(|phase| phase.strategies).sum();
    (switched_on, offset, strategies.len())
}

/// Definition of the explained flag.
struct Parts<'d> {
    feature: &'d ClientFeature,
    private: &'d LocalExtension,
    environment: &'d str,
    /// Values that may still be compiled.
    left: Cell<usize>,
}

impl Parts<'_> {
    /// Tries the strategies in their order, up to the first that matches. The second value is whether the limit of
    /// compiled values was reached before.
    fn tried(
        &self,
        offset: usize,
        count: usize,
        asked: EvaluationInputs<'_>,
    ) -> Result<(Vec<TriedStrategy>, bool), CompileError> {
        let strategies = self.feature.strategies.as_deref().unwrap_or_default();
        let mut tried = Vec::new();
        for (index, strategy) in strategies.iter().skip(offset).take(count).enumerate() {
            let own = self.private.strategies.get(offset + index);
            let Some(matched) = self.matches(strategy, own, asked)? else { return Ok((tried, true)) };
            let failure = if matched { None } else { Some(self.failure(strategy, own, asked)?) };
            tried.push(TriedStrategy {
                index,
                name: strategy.name.clone(),
                matched,
                off: own.is_some_and(|own| own.off),
                failure,
            });
            if matched {
                break;
            }
        }
        Ok((tried, false))
    }

    /// Whether a strategy alone matches. `None`: the limit of compiled values is reached.
    fn matches(
        &self,
        strategy: &Strategy,
        own: Option<&LocalStrategyExtension>,
        asked: EvaluationInputs<'_>,
    ) -> Result<Option<bool>, CompileError> {
        let Some(left) = self.left.get().checked_sub(size(strategy)) else { return Ok(None) };
        self.left.set(left);
        let feature = ClientFeature {
            name: self.feature.name.clone(),
            enabled: true,
            strategies: Some(vec![Strategy { variants: None, ..strategy.clone() }]),
            ..ClientFeature::default()
        };
        let own = own.map(|own| LocalStrategyExtension {
            off: false,
            identified: own.identified,
            total_weight: 0,
            conditions: own.conditions.clone(),
        });
        let private = LocalExtension { strategies: own.into_iter().collect(), ..LocalExtension::default() };
        let flag = CompiledFlag::from_feature(self.environment, 0, &feature, &private)?;
        Ok(Some(matches!(flag.matching(&flag.strategies, asked, &flag.name), Match::Strategy(_))))
    }
}

/// Number of values of a strategy, counting itself and each constraint as one.
fn size(strategy: &Strategy) -> usize {
    let constraints = strategy.constraints.iter().flatten();
    let values = constraints.map(|constraint| 1 + constraint.values.as_ref().map_or(0, Vec::len));
    let listed = strategy.parameters.iter().flat_map(|parameters| parameters.values());
    1 + values.sum::<usize>() + listed.map(|text| text.split(',').count()).sum::<usize>()
}

impl Explanation {
    /// Names of the members of an explanation as JSON.
    pub fn members() -> [&'static str; 8] {
        ["summary", "enabled", "decision", "parent", "strategies", "truncated", "variant", "random"]
    }

    fn summarize(&self, failure: Option<&str>) -> String {
        let state = if self.enabled { "on" } else { "off" };
        match self.decision {
            Decision::Killed => "The flag is off because it is killed.".to_owned(),
            Decision::Unusable => {
                let why = failure.unwrap_or("its definition cannot be evaluated");
                format!("The flag is off because of an error: {why}.")
            }
            Decision::SwitchedOff => "The flag is off because it is switched off.".to_owned(),
            Decision::Parent => match &self.parent {
                Some(parent) => format!("The flag is off because {parent}."),
                None => "The flag is off because of a parent flag.".to_owned(),
            },
            Decision::Everyone => {
                "The flag is on because it is switched on and has no strategies.".to_owned()
            }
            Decision::Strategy => match self.strategies.last() {
                Some(last) if last.matched => {
                    format!(
                        "The flag is {state} because strategy {} ({}) matches.",
                        last.index + 1,
                        last.name
                    )
                }
                _ => format!("The flag is {state} because one of its strategies matches."),
            },
            Decision::NoStrategyMatched => {
                let first = self.strategies.first();
                let why = first.and_then(|first| Some((first, first.failure.as_ref()?)));
                let why = why.map(|(first, failure)| {
                    format!(": strategy {} ({}): {failure}", first.index + 1, first.name)
                });
                let more = match self.strategies.len() {
                    0 | 1 => String::new(),
                    count => format!(" ({} more do not match either)", count - 1),
                };
                format!("The flag is off because no strategy matches{}{more}.", why.unwrap_or_default())
            }
        }
    }
}

impl std::fmt::Display for UnmetParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = if self.required_enabled { "on" } else { "off" };
        write!(f, "its parent flag {} is not {state}", self.flag)?;
        if !self.required_variants.is_empty() {
            write!(f, " with the variant {}", self.required_variants.join(" or "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
