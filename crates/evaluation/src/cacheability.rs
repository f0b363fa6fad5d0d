//! Cacheability: how long the outcome of a flag stays valid while no definition changes.

use std::sync::Arc;

use chrono::DateTime;
use unleash_types::client_features::{ClientFeature, Constraint, Operator, Strategy};

use super::compile::{ContextField, Phase, Stickiness, VariantSet, parameter};
use super::definition::local::LocalExtension;
use super::{CompiledFlag, EnvironmentFlags, EvaluationContext, Snapshot};

/// Outcomes within this distance of a date are not cached, because clocks may disagree on which side of the
/// date they are.
pub(super) const NEAR_MS: i64 = 2;
/// Maximum number of ancestors that are visited. Evaluation visits fewer and fails beyond its limit, so no
/// outcome with more ancestors is ever cached.
const ANCESTORS_MAX: usize = 500;

/// How long the outcome for a context is valid, as far as the definitions in force determine it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cacheability {
    /// Valid until a definition changes.
    UntilChanged,
    /// Valid until this time, in milliseconds since 1970.
    UntilTime(i64),
    /// The outcome is not cacheable, because the next evaluation may differ. The text is the reason.
    Never(&'static str),
}

/// Inputs of a flag's outcome other than its definition and the context.
#[derive(Debug, Default)]
pub(super) struct Dependence {
    /// Draws that are random for a context without the value that they are based on.
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
    /// The outcome may change at these times, in milliseconds since 1970, ascending.
    At(Box<[i64]>),
    /// The outcome may change at any time, because the time is compared as text.
    UntilChanged,
}

impl Snapshot {
    /// The highest version that an outcome of this flag is based on: its own, or that of an ancestor.
    ///
    /// If an ancestor does not exist, the snapshot's version is used, because it is unknown when it was
    /// removed. The basis therefore grows whenever the outcome may change, and comparing it never makes an
    /// outcome look newer than it is.
    pub fn basis(&self, environment: &EnvironmentFlags, flag: &CompiledFlag) -> u64 {
        let mut basis = flag.version;
        environment.each_ancestor(flag, |_, parent| {
            basis = basis.max(parent.map_or(self.version(), |parent| parent.version));
        });
        basis
    }
}

impl EnvironmentFlags {
    /// How long the outcome of `flag` for `context`, evaluated at `now_ms`, is valid.
    pub fn cacheability(
        &self,
        flag: &CompiledFlag,
        context: &EvaluationContext<'_>,
        now_ms: i64,
    ) -> Cacheability {
        if let Some(cacheability) = flag.steadily_killed(now_ms) {
            return cacheability;
        }
        if !flag.is_switched_on() && flag.phases.is_empty() {
            return Cacheability::UntilChanged;
        }
        let mut cacheability = flag.dependence.cacheability(context, now_ms);
        self.each_ancestor(flag, |_, parent| {
            let parent = parent.map(|parent| {
                let killed = parent.steadily_killed(now_ms);
                killed.unwrap_or_else(|| parent.dependence.cacheability(context, now_ms))
            });
            cacheability = cacheability.and(parent.unwrap_or(Cacheability::UntilChanged));
        });
        cacheability
    }

    /// Reason why a repeated evaluation at the same time may differ; `None` if it cannot.
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

    /// Whether the outcome of `flag` for an anonymous context depends on its anonymous id.
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

    /// Whether the outcome of `flag` depends on the flag of this name, directly or indirectly.
    pub fn depends_on(&self, flag: &CompiledFlag, name: &str) -> bool {
        let mut depends = false;
        self.each_ancestor(flag, |ancestor, _| depends |= ancestor == name);
        depends
    }

    /// Visits the names of the properties that the outcome of `flag` depends on: those that its own rules and draws
    /// read, and those of the flags that it depends on. A name may be visited more than once.
    pub fn each_property_read<'s>(&'s self, flag: &'s CompiledFlag, mut visit: impl FnMut(&'s str)) {
        flag.reads.iter().for_each(|name| visit(name));
        self.each_ancestor(flag, |_, parent| {
            parent.into_iter().flat_map(|parent| &parent.reads).for_each(|name| visit(name));
        });
    }

    /// Visits every ancestor of the flag once: its parents, their parents, and so on. The argument is `None`
    /// for a flag that does not exist.
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

impl Cacheability {
    /// Cacheability of a value that contains both outcomes.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never(why), _) | (_, Self::Never(why)) => Self::Never(why),
            (Self::UntilTime(a), Self::UntilTime(b)) => Self::UntilTime(a.min(b)),
            (Self::UntilTime(moment), Self::UntilChanged) | (Self::UntilChanged, Self::UntilTime(moment)) => {
                Self::UntilTime(moment)
            }
            (Self::UntilChanged, Self::UntilChanged) => Self::UntilChanged,
        }
    }
}

impl Dependence {
    pub(super) fn of<'v>(
        feature: &ClientFeature,
        private: &LocalExtension,
        sets: impl Iterator<Item = &'v VariantSet>,
        phases: &[Phase],
    ) -> Self {
        let strategies = feature.strategies.as_deref().unwrap_or_default();
        // Such a strategy does not match a context with neither a user nor a session, so it makes no random
        // draw.
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

    fn cacheability(&self, context: &EvaluationContext<'_>, now_ms: i64) -> Cacheability {
        if let Some(why) = self.unrepeatable(context) {
            return Cacheability::Never(why);
        }
        // The anonymous id differs in the next call.
        if context.is_anonymous() && self.draws_by_default() {
            return Cacheability::Never("random");
        }
        // A context with its own time is independent of the clock.
        if context.current_time.is_some() {
            return Cacheability::UntilChanged;
        }
        match &self.clock {
            Clock::None => Cacheability::UntilChanged,
            Clock::UntilChanged => Cacheability::Never("clock"),
            Clock::At(moments) if moments.iter().any(|at| (at - now_ms).abs() <= NEAR_MS) => {
                Cacheability::Never("clock")
            }
            Clock::At(moments) => {
                let next = moments.iter().find(|at| **at > now_ms);
                next.map_or(Cacheability::UntilChanged, |at| Cacheability::UntilTime(*at))
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
                // These fields always have a value.
                ContextField::Environment | ContextField::AppName | ContextField::CurrentTime => false,
            },
        }
    }
}

/// The draw of a strategy's rollout that may be random; `None` if it cannot be. Only the default stickiness
/// falls back to a random draw, and a rollout of 0 or 100 percent needs no draw.
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
            return Self::UntilChanged;
        }
        let steps = phases.iter().skip(1).map(|phase| Some(phase.from_ms));
        let moments: Option<Vec<i64>> = constraints.into_iter().map(moment).chain(steps).collect();
        match moments {
            None => Self::UntilChanged,
            Some(moments) if moments.is_empty() => Self::None,
            Some(mut moments) => {
                moments.sort_unstable();
                moments.dedup();
                Self::At(moments.into())
            }
        }
    }
}

/// Time at which the result of the constraint changes; `None` if it does not compare dates.
fn moment(constraint: &Constraint) -> Option<i64> {
    let dates = matches!(constraint.operator, Operator::DateAfter | Operator::DateBefore);
    let value = constraint.value.as_deref().filter(|_| dates)?;
    Some(DateTime::parse_from_rfc3339(value).ok()?.timestamp_millis())
}

#[cfg(test)]
#[path = "cacheability/tests.rs"]
mod tests;
