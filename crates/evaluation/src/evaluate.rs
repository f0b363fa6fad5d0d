//! Evaluation: decides in one pass whether a flag is on and which variant applies.
//!
//! The first strategy that matches decides whether the flag is on (or off, which only local flags support),
//! and from whose variants is drawn. The semantics are those of Unleash's client specification and of its
//! engine, Yggdrasil, which needs two passes for the same result.

mod draw;
pub mod explain;
mod parents;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use chrono::DateTime;
use unleash_yggdrasil::state::{EnrichedContext, PropertiesRef};

use super::compile::{CompiledConstraint, Condition, StrategyRule};
use super::{CompiledFlag, EnvironmentFlags, EvaluationContext, Moment, Variant};

/// Result of evaluating a flag for a context, before conversion to a type.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'s> {
    pub flag: &'s Arc<CompiledFlag>,
    /// Whether the flag is on for this context.
    pub enabled: bool,
    /// The chosen variant, with its position in [`CompiledFlag::variants`] (for counting). A local flag may
    /// have a variant even if it is off.
    pub variant: Option<(usize, &'s Variant)>,
    /// Choice of the variant, as a JSON object; `None` without a variant, and for flags that are not experiments.
    pub assignment: Option<&'s str>,
    /// Whether the flag is off because of its kill switch.
    pub killed: bool,
    /// Error that forces the flag off: its definition cannot be evaluated, or the flags that it depends
    /// on do not exist or form a cycle.
    pub failure: Option<&'s str>,
    /// Name of the parent flag that does not have the required state. The flag is off for that reason.
    pub unmet: Option<&'s str>,
}

/// Input of an evaluation in one environment.
#[derive(Clone, Copy)]
struct EvaluationInputs<'q> {
    context: &'q EvaluationContext<'q>,
    moment: &'q Moment<'q>,
    environment: &'q str,
}

/// The strategy that matched.
enum Match<'f> {
    None,
    /// No strategy was tried, because this parent flag does not have the required state.
    Unmet(&'f str),
    /// The flag has no strategies and is on for every context.
    Everyone,
    Strategy(&'f StrategyRule),
}

impl Match<'_> {
    fn is_on(&self) -> bool {
        match self {
            Self::None | Self::Unmet(_) => false,
            Self::Everyone => true,
            Self::Strategy(strategy) => !strategy.off,
        }
    }
}

impl EnvironmentFlags {
    /// Evaluates one flag; `None` if there is no flag of this name.
    pub fn evaluate<'s>(
        &'s self,
        flag: &str,
        context: &EvaluationContext<'_>,
        moment: &Moment<'_>,
    ) -> Option<Outcome<'s>> {
        Some(self.evaluate_flag(self.get(flag)?, context, moment))
    }

    /// Evaluates a flag of this environment, which the caller has already looked up.
    pub fn evaluate_flag<'s>(
        &'s self,
        flag: &'s Arc<CompiledFlag>,
        context: &EvaluationContext<'_>,
        moment: &Moment<'_>,
    ) -> Outcome<'s> {
        let off = Outcome {
            flag,
            enabled: false,
            variant: None,
            assignment: None,
            killed: false,
            failure: None,
            unmet: None,
        };
        if flag.is_killed_at(moment) {
            return Outcome { killed: true, ..off };
        }
        if let Some(reason) = &flag.unusable {
            return Outcome { failure: Some(reason), ..off };
        }
        let asked = EvaluationInputs { context, moment, environment: self.name() };
        let (matched, failure) = match self.decide(flag, asked, None) {
            Ok(matched) => (matched, None),
            Err(failure) => (Match::None, Some(failure)),
        };
        let drawn = flag.draw_for(&matched, asked);
        let variant = drawn.map(|drawn| (drawn.index, drawn.variant));
        let assignment = drawn.and_then(|drawn| drawn.assignment);
        let unmet = match matched {
            Match::Unmet(parent) => Some(parent),
            _ => None,
        };
        Outcome { flag, enabled: matched.is_on(), variant, assignment, killed: false, failure, unmet }
    }
}

impl CompiledFlag {
    /// The first strategy that matches, whether or not the flag is switched on.
    fn matching<'f>(
        &'f self,
        strategies: &'f [StrategyRule],
        asked: EvaluationInputs<'_>,
        group: &str,
    ) -> Match<'f> {
        if strategies.is_empty() {
            return Match::Everyone;
        }
        let properties = self.properties_for(asked.context);
        // Fields that the rules do not read hold properties that they do read (`compile::properties`).
        let [in_environment, in_app_name, in_address] = self.properties.in_fields();
        let field = |property: Option<&str>, own| match property {
            Some(name) => asked.context.property(name),
            None => own,
        };
        let context = &mut EnrichedContext {
            user_id: asked.context.user_id.as_deref(),
            session_id: None,
            environment: field(in_environment, Some(asked.environment)),
            app_name: field(in_app_name, Some(asked.app_name())),
            current_time: Some(asked.current_time()),
            remote_address: field(in_address, asked.context.remote_address.as_deref()),
            properties: properties.as_ref().map(PropertiesRef::Cows),
            external_results: None,
            toggle_name: group,
            runtime_hostname: Some(asked.moment.hostname),
        };
        let matched = strategies.iter().find(|strategy| {
            if strategy.identified && asked.context.is_anonymous() {
                return false;
            }
            let rule_holds = match &strategy.condition {
                Condition::Always => true,
                Condition::Never => false,
                Condition::Rule(rule) => {
                    // The engine uses the flag's name as the group of a rollout that has no group
                    // (`compile::rule`).
                    context.toggle_name = strategy.group.as_deref().unwrap_or(group);
                    context.session_id = asked.session_for(strategy);
                    rule(context)
                }
            };
            rule_holds
                && strategy.clauses.iter().all(|constraint| asked.holds(constraint))
                && strategy.patterns.iter().all(|pattern| pattern.holds(asked.field(&pattern.field)))
        });
        matched.map_or(Match::None, Match::Strategy)
    }

    /// The properties that the rules read and that are not stored in fields, keyed by their names in the
    /// rules. `None` for most flags, which need no such map.
    fn properties_for<'c>(
        &'c self,
        context: &'c EvaluationContext<'_>,
    ) -> Option<HashMap<Cow<'c, str>, Cow<'c, str>>> {
        let names = self.properties.in_map();
        if names.len() == 0 || (context.properties.is_empty() && context.session_id.is_none()) {
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

impl<'q> EvaluationInputs<'q> {
    fn app_name(&self) -> &'q str {
        self.context.app_name.as_deref().unwrap_or(self.moment.app_name)
    }

    /// The caller's session. For a draw with default stickiness, the anonymous id if there is no session.
    fn session_for(&self, strategy: &StrategyRule) -> Option<&'q str> {
        let stand_in = || self.context.anonymous_id.as_deref().filter(|_| strategy.drawn_by_default);
        self.context.session_id.as_deref().or_else(stand_in)
    }

    fn current_time(&self) -> &'q str {
        self.context.current_time.as_deref().unwrap_or(self.moment.now)
    }

    /// The time of the evaluation in milliseconds since 1970; `None` if the context's `current_time` is not a
    /// valid time.
    fn current_ms(&self) -> Option<i64> {
        Some(DateTime::parse_from_rfc3339(self.current_time()).ok()?.timestamp_millis())
    }

    fn holds(&self, constraint: &CompiledConstraint) -> bool {
        let mut fields = constraint.fields.iter();
        let holds = fields.any(|field| self.field(field).is_some_and(|text| constraint.holds(text)));
        holds != constraint.inverted
    }
}

#[cfg(test)]
#[path = "evaluate/tests.rs"]
mod tests;
