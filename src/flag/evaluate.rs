//! Evaluation: enabled and variant in one pass.
//!
//! The first strategy that matches decides: that the flag is on, and whose variants are drawn from. The semantics
//! are those of Unleash's client specification and of its engine, Yggdrasil, which has the same in two passes.

mod draw;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use unleash_yggdrasil::state::{EnrichedContext, PropertiesRef};

use super::compile::{Condition, Dependency, StrategyRule};
use super::{CompiledFlag, EnvironmentFlags, EvaluationContext, Moment, Variant};

/// What a flag says for a context, before any type is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'s> {
    pub flag: &'s Arc<CompiledFlag>,
    /// Whether the flag is on for this context.
    pub enabled: bool,
    /// The variant chosen, with its position in [`CompiledFlag::variants`] (for counting).
    pub variant: Option<(usize, &'s Variant)>,
    /// It is off because somebody killed it.
    pub killed: bool,
    /// The engine could not answer. Nothing does this today: what could fail is refused at compile time, and a
    /// cycle of dependencies is off.
    pub failure: Option<&'static str>,
}

/// Everything evaluation asks, for one flag of one environment.
#[derive(Clone, Copy)]
struct Asked<'q> {
    context: &'q EvaluationContext<'q>,
    moment: &'q Moment<'q>,
    environment: &'q str,
}

/// Which strategy matched.
enum Match<'f> {
    None,
    /// The flag has no strategies: on for everyone.
    Everyone,
    Strategy(&'f StrategyRule),
}

impl EnvironmentFlags {
    /// Evaluates one flag; `None` if there is no flag of this name.
    pub fn evaluate<'s>(
        &'s self,
        flag: &str,
        context: &EvaluationContext<'_>,
        moment: &Moment<'_>,
    ) -> Option<Outcome<'s>> {
        let flag = self.get(flag)?;
        if flag.is_killed_at(moment) {
            return Some(Outcome { flag, enabled: false, variant: None, killed: true, failure: None });
        }
        let asked = Asked { context, moment, environment: self.name() };
        let matched = if flag.switched_on && self.parents_allow(flag, asked) {
            flag.matching(asked, &flag.name)
        } else {
            Match::None
        };
        let enabled = !matches!(matched, Match::None);
        Some(Outcome {
            flag,
            enabled,
            variant: if enabled { flag.draw(&matched, asked) } else { None },
            killed: false,
            failure: None,
        })
    }

    fn parents_allow(&self, flag: &CompiledFlag, asked: Asked<'_>) -> bool {
        let mut dependencies = flag.dependencies.iter();
        dependencies.all(|dependency| self.parent_allows(dependency, flag, asked))
    }

    /// Parents have no parents themselves: one that names some (a cycle always does) allows nothing.
    fn parent_allows(&self, dependency: &Dependency, child: &CompiledFlag, asked: Asked<'_>) -> bool {
        let Some(parent) = self.get(&dependency.parent).filter(|flag| flag.dependencies.is_empty()) else {
            return false;
        };
        // A rollout without a group is drawn for the flag that was asked for, the child: the engine has it so.
        let matched = parent.matching(asked, &child.name);
        let enabled =
            parent.switched_on && !parent.is_killed_at(asked.moment) && !matches!(matched, Match::None);
        if enabled != dependency.enabled {
            return false;
        }
        if dependency.variants.is_empty() {
            return true;
        }
        // Asked of a parent that is off, too; and a parent without any variant satisfies every list.
        parent.draw(&matched, asked).is_none_or(|(_, variant)| {
            let mut expected = dependency.variants.iter();
            expected.any(|name| **name == *variant.name)
        })
    }
}

impl CompiledFlag {
    /// The first strategy that matches, whether or not the flag is switched on.
    fn matching(&self, asked: Asked<'_>, group: &str) -> Match<'_> {
        if self.strategies.is_empty() {
            return Match::Everyone;
        }
        let properties = self.properties_for(asked.context);
        // Fields that the rules don't read hold properties that they do (`compile::properties`).
        let [in_environment, in_app_name, in_address] = self.properties.in_fields();
        let field = |property: Option<&str>, own| match property {
            Some(name) => asked.context.property(name),
            None => own,
        };
        let context = &mut EnrichedContext {
            user_id: asked.context.user_id.as_deref(),
            session_id: asked.context.session_id.as_deref(),
            environment: field(in_environment, Some(asked.environment)),
            app_name: field(in_app_name, Some(asked.app_name())),
            current_time: Some(asked.current_time()),
            remote_address: field(in_address, asked.context.remote_address.as_deref()),
            properties: properties.as_ref().map(PropertiesRef::Cows),
            external_results: None,
            toggle_name: group,
            runtime_hostname: Some(asked.moment.hostname),
        };
        let matched = self.strategies.iter().find(|strategy| match &strategy.condition {
            Condition::Always => true,
            Condition::Never => false,
            Condition::Rule(rule) => {
                // To the engine, the flag's name is the group of a rollout that names none (`compile::rule`).
                context.toggle_name = strategy.group.as_deref().unwrap_or(group);
                rule(context)
            }
        });
        matched.map_or(Match::None, Match::Strategy)
    }

    /// The properties that the rules read, under the names that they have there; most flags need none.
    fn properties_for<'c>(
        &'c self,
        context: &'c EvaluationContext<'_>,
    ) -> Option<HashMap<Cow<'c, str>, Cow<'c, str>>> {
        let names = self.properties.in_map();
        if names.len() == 0 || context.properties.is_empty() {
            return None;
        }
        let mut properties = HashMap::with_capacity(names.len());
        for (name, in_rule) in names {
            if let Some(value) = context.property(name) {
                properties.insert(Cow::Borrowed(in_rule), Cow::Borrowed(value));
            }
        }
        Some(properties)
    }
}

impl<'q> Asked<'q> {
    fn app_name(&self) -> &'q str {
        self.context.app_name.as_deref().unwrap_or(self.moment.app_name)
    }

    fn current_time(&self) -> &'q str {
        self.context.current_time.as_deref().unwrap_or(self.moment.now)
    }
}

#[cfg(test)]
#[path = "evaluate/tests.rs"]
mod tests;
