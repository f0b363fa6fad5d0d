//! How long an outcome stays what it is while no definition changes: what a cache has to know.

use std::sync::Arc;

use chrono::DateTime;
use unleash_types::client_features::{ClientFeature, Constraint, Operator, Strategy};

use super::compile::{ContextField, Phase, Stickiness, VariantSet, parameter};
use super::definition::local::Private;
use super::{CompiledFlag, EnvironmentFlags, EvaluationContext, Snapshot};

/// So near to a date the outcome is anybody's guess: it may lie on either side.
pub(super) const NEAR_MS: i64 = 2;
/// More than evaluation asks; beyond, there is no answer that could be kept.
const ANCESTORS_MAX: usize = 500;

/// For how long a context's outcome holds, as far as the definitions in force say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steady {
    /// Until a definition changes.
    Always,
    /// Until this moment, in milliseconds since 1970.
    Until(i64),
    /// The next evaluation may differ, or another machine's: why.
    No(&'static str),
}

/// What a flag's outcome depends on beside its definition and the context.
#[derive(Debug, Default)]
pub(super) struct Dependence {
    /// Draws that are random for a context without the value they are made for.
    draws: Box<[Draw]>,
    clock: Clock,
    on_host: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Draw {
    Random,
    For(Stickiness),
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Clock {
    #[default]
    None,
    /// At these moments the outcome may change, in milliseconds since 1970, ascending.
    At(Box<[i64]>),
    /// The time is compared as a text.
    Always,
}

impl Snapshot {
    /// The highest version that an outcome of this flag is based on: its own, or that of a flag it depends on.
    ///
    /// Of a parent that is not there it is unknown since when: then any change counts. So it grows whenever the
    /// outcome may change, and whoever compares it never takes an outcome for newer than it is.
    pub fn basis(&self, environment: &EnvironmentFlags, flag: &CompiledFlag) -> u64 {
        let mut basis = flag.version;
        environment.each_ancestor(flag, |_, parent| {
            basis = basis.max(parent.map_or(self.version(), |parent| parent.version));
        });
        basis
    }
}

impl EnvironmentFlags {
    /// How long the outcome of `flag` for `context`, evaluated at `now_ms`, holds.
    pub fn steady(&self, flag: &CompiledFlag, context: &EvaluationContext<'_>, now_ms: i64) -> Steady {
        if let Some(steady) = flag.steadily_killed(now_ms) {
            return steady;
        }
        if !flag.is_switched_on() && flag.phases.is_empty() {
            return Steady::Always;
        }
        let mut steady = flag.dependence.steady(context, now_ms);
        self.each_ancestor(flag, |_, parent| {
            let parent = parent.map(|parent| {
                let killed = parent.steadily_killed(now_ms);
                killed.unwrap_or_else(|| parent.dependence.steady(context, now_ms))
            });
            steady = steady.and(parent.unwrap_or(Steady::Always));
        });
        steady
    }

    /// Why the same evaluation at the same moment may come to something else; `None` if it may not.
    pub fn unrepeatable(
        &self,
        flag: &CompiledFlag,
        context: &EvaluationContext<'_>,
        now_ms: i64,
    ) -> Option<&'static str> {
        let of = |flag: &CompiledFlag| {
            (!flag.is_killed(now_ms)).then(|| flag.dependence.unrepeatable(context)).flatten()
        };
        if flag.is_killed(now_ms) || (!flag.is_switched_on() && flag.phases.is_empty()) {
            return None;
        }
        let mut why = of(flag);
        self.each_ancestor(flag, |_, parent| why = why.or_else(|| parent.and_then(of)));
        why
    }

    /// Whether what `flag` says to a context without a user and a session depends on what stands in for them.
    pub fn draws_for_nobody(&self, flag: &CompiledFlag, context: &EvaluationContext<'_>) -> bool {
        if !context.is_anonymous() {
            return false;
        }
        let mut draws = flag.dependence.draws_by_default();
        self.each_ancestor(flag, |_, parent| {
            draws |= parent.is_some_and(|parent| parent.dependence.draws_by_default());
        });
        draws
    }

    /// Whether what `flag` says depends on the flag of this name, directly or not.
    pub fn depends_on(&self, flag: &CompiledFlag, name: &str) -> bool {
        let mut depends = false;
        self.each_ancestor(flag, |ancestor, _| depends |= ancestor == name);
        depends
    }

    /// Every flag that this one depends on, and those that they depend on, each once; `None` for one that isn't there.
    pub(super) fn each_ancestor<'s>(
        &'s self,
        flag: &'s CompiledFlag,
        mut visit: impl FnMut(&str, Option<&'s CompiledFlag>),
    ) {
        if flag.dependencies.is_empty() {
            return;
        }
        let mut names: Vec<&str> = flag.parents().collect();
        let mut next = 0;
        while let Some(name) = names.get(next).copied() {
            next += 1;
            let parent = self.get(name).map(Arc::as_ref);
            visit(name, parent);
            for above in parent.into_iter().flat_map(CompiledFlag::parents) {
                if !names.contains(&above) && names.len() < ANCESTORS_MAX {
                    names.push(above);
                }
            }
        }
    }
}

impl Steady {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No(why), _) | (_, Self::No(why)) => Self::No(why),
            (Self::Until(a), Self::Until(b)) => Self::Until(a.min(b)),
            (Self::Until(moment), Self::Always) | (Self::Always, Self::Until(moment)) => Self::Until(moment),
            (Self::Always, Self::Always) => Self::Always,
        }
    }
}

impl Dependence {
    pub(super) fn of<'v>(
        feature: &ClientFeature,
        private: &Private,
        sets: impl Iterator<Item = &'v VariantSet>,
        phases: &[Phase],
    ) -> Self {
        let strategies = feature.strategies.as_deref().unwrap_or_default();
        // Who has no user and no session is off there, which is no draw.
        let identified = |index: usize| private.strategies.get(index).is_some_and(|said| said.identified);
        let drawn = strategies.iter().enumerate().filter(|(index, _)| !identified(*index));
        let rollouts = drawn.filter_map(|(_, strategy)| rollout_draw(strategy));
        let variants =
            sets.filter(|set| set.count > 1 || set.has_rest).map(|set| Draw::For(set.stickiness.clone()));
        let mut draws: Vec<Draw> = Vec::new();
        for draw in rollouts.chain(variants) {
            if !draws.contains(&draw) {
                draws.push(draw);
            }
        }
        Self {
            draws: draws.into(),
            clock: Clock::of(feature, strategies, phases),
            on_host: strategies.iter().any(|strategy| strategy.name == "applicationHostname"),
        }
    }

    fn unrepeatable(&self, context: &EvaluationContext<'_>) -> Option<&'static str> {
        if self.on_host {
            return Some("host");
        }
        self.draws.iter().any(|draw| draw.is_random_for(context)).then_some("random")
    }

    fn draws_by_default(&self) -> bool {
        self.draws.contains(&Draw::For(Stickiness::UserOrSession))
    }

    fn steady(&self, context: &EvaluationContext<'_>, now_ms: i64) -> Steady {
        if let Some(why) = self.unrepeatable(context) {
            return Steady::No(why);
        }
        // What stands in for a user and a session is another one in the next call.
        if context.is_anonymous() && self.draws_by_default() {
            return Steady::No("random");
        }
        // A context that brings its own time does not see the clock.
        if context.current_time.is_some() {
            return Steady::Always;
        }
        match &self.clock {
            Clock::None => Steady::Always,
            Clock::Always => Steady::No("clock"),
            Clock::At(moments) if moments.iter().any(|at| (at - now_ms).abs() <= NEAR_MS) => {
                Steady::No("clock")
            }
            Clock::At(moments) => {
                let next = moments.iter().find(|at| **at > now_ms);
                next.map_or(Steady::Always, |at| Steady::Until(*at))
            }
        }
    }
}

impl Draw {
    fn is_random_for(&self, context: &EvaluationContext<'_>) -> bool {
        match self {
            Self::Random => true,
            Self::For(Stickiness::UserOrSession) => context.is_anonymous() && context.anonymous_id.is_none(),
            Self::For(Stickiness::Field(field)) => match field {
                ContextField::UserId => context.user_id.is_none(),
                ContextField::SessionId => context.session_id.is_none(),
                ContextField::RemoteAddress => context.remote_address.is_none(),
                ContextField::Property(name) => context.property(name).is_none(),
                // Always there.
                ContextField::Environment | ContextField::AppName | ContextField::CurrentTime => false,
            },
        }
    }
}

/// Only the default stickiness falls back to chance; everybody's and nobody's rollout need no draw.
fn rollout_draw(strategy: &Strategy) -> Option<Draw> {
    let partial = |name: &str| {
        let percentage = parameter(strategy, name).and_then(|text| text.parse::<f64>().ok());
        percentage.is_none_or(|percentage| percentage > 0.0 && percentage < 100.0)
    };
    match strategy.name.as_str() {
        "gradualRolloutRandom" => partial("percentage").then_some(Draw::Random),
        "gradualRollout" => partial("percentage").then_some(Draw::For(Stickiness::UserOrSession)),
        "flexibleRollout" if partial("rollout") => match parameter(strategy, "stickiness") {
            Some("random") => Some(Draw::Random),
            None | Some("default") => Some(Draw::For(Stickiness::UserOrSession)),
            Some(_) => None,
        },
        _ => None,
    }
}

impl Clock {
    fn of(feature: &ClientFeature, strategies: &[Strategy], phases: &[Phase]) -> Self {
        let by_name = |name: &str| name == "currentTime";
        let sticky = strategies.iter().any(|strategy| parameter(strategy, "stickiness").is_some_and(by_name));
        let overrides =
            feature.variants.iter().flatten().flat_map(|variant| variant.overrides.iter().flatten());
        let constraints = strategies.iter().flat_map(|strategy| strategy.constraints.iter().flatten());
        let constraints: Vec<_> = constraints.filter(|it| by_name(&it.context_name)).collect();
        let custom = strategies.iter().any(|strategy| parameter(strategy, "property").is_some_and(by_name));
        if sticky || custom || overrides.into_iter().any(|it| by_name(&it.context_name)) {
            return Self::Always;
        }
        let steps = phases.iter().skip(1).map(|phase| Some(phase.from_ms));
        let moments: Option<Vec<i64>> = constraints.into_iter().map(moment).chain(steps).collect();
        match moments {
            None => Self::Always,
            Some(moments) if moments.is_empty() => Self::None,
            Some(mut moments) => {
                moments.sort_unstable();
                moments.dedup();
                Self::At(moments.into())
            }
        }
    }
}

/// When the constraint changes its mind; `None` if it does not compare dates.
fn moment(constraint: &Constraint) -> Option<i64> {
    let dates = matches!(constraint.operator, Operator::DateAfter | Operator::DateBefore);
    let value = constraint.value.as_deref().filter(|_| dates)?;
    Some(DateTime::parse_from_rfc3339(value).ok()?.timestamp_millis())
}

#[cfg(test)]
#[path = "steady/tests.rs"]
mod tests;
