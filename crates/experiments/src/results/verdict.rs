//! Verdict on a metric, derived from the interval of its difference.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::statistics::Interval;
use crate::{Goal, Metric, Role};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Better,
    Worse,
    /// The interval excludes any difference as large as the metric's `minimum_effect`.
    NoEffect,
    /// A guardrail became worse.
    Harmed,
    /// A guardrail did not become worse by `minimum_effect` or more.
    SafeSoFar,
    NotKnownYet,
}

impl Verdict {
    /// Derives the verdict from the intervals of the absolute and the relative difference.
    pub fn of(metric: &Metric, absolute: Interval, relative: Option<Interval>) -> Self {
        let (gain, loss) = match metric.goal {
            Goal::Increase => (absolute.is_above(0.0), absolute.is_below(0.0)),
            Goal::Decrease => (absolute.is_below(0.0), absolute.is_above(0.0)),
        };
        let small = metric.minimum_effect;
        let no_less = relative.is_some_and(|relative| relative.is_above(-small));
        let no_more = relative.is_some_and(|relative| relative.is_below(small));
        let no_loss = match metric.goal {
            Goal::Increase => no_less,
            Goal::Decrease => no_more,
        };
        match metric.role {
            Role::Guardrail if loss => Self::Harmed,
            Role::Guardrail if gain || no_loss => Self::SafeSoFar,
            Role::Guardrail => Self::NotKnownYet,
            _ if gain => Self::Better,
            _ if loss => Self::Worse,
            _ if no_less && no_more => Self::NoEffect,
            _ => Self::NotKnownYet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn verdict(goal: Goal, role: Role, low: f64, high: f64) -> Verdict {
        let metric = Metric { kind: Kind::Mean, goal, role, ..Metric::default() };
        let interval = Interval { low, high };
        Verdict::of(&metric, interval, Some(interval))
    }

    #[test]
    fn the_goal_says_what_is_better() {
        for role in [Role::Primary, Role::Secondary] {
            assert_eq!(verdict(Goal::Increase, role, 0.01, 0.1), Verdict::Better);
            assert_eq!(verdict(Goal::Decrease, role, 0.01, 0.1), Verdict::Worse);
            assert_eq!(verdict(Goal::Increase, role, -0.1, -0.01), Verdict::Worse);
            assert_eq!(verdict(Goal::Decrease, role, -0.1, -0.01), Verdict::Better);
            assert_eq!(verdict(Goal::Increase, role, -0.04, 0.04), Verdict::NoEffect);
            assert_eq!(verdict(Goal::Increase, role, -0.04, 0.06), Verdict::NotKnownYet);
        }
    }

    #[test]
    fn a_guardrail_is_safe_when_a_loss_that_matters_is_excluded() {
        let verdict = |goal, low, high| verdict(goal, Role::Guardrail, low, high);
        assert_eq!(verdict(Goal::Increase, -0.04, 0.2), Verdict::SafeSoFar);
        assert_eq!(verdict(Goal::Increase, -0.06, 0.2), Verdict::NotKnownYet);
        assert_eq!(verdict(Goal::Increase, -0.04, -0.01), Verdict::Harmed);
        assert_eq!(verdict(Goal::Decrease, -0.2, 0.04), Verdict::SafeSoFar);
        assert_eq!(verdict(Goal::Decrease, 0.01, 0.2), Verdict::Harmed);
    }

    #[test]
    fn without_a_relative_difference_small_effects_cannot_be_excluded() {
        let metric = |role| Metric { kind: Kind::Mean, role, ..Metric::default() };
        let around_zero = Interval { low: -1e-9, high: 1e-9 };
        assert_eq!(Verdict::of(&metric(Role::Primary), around_zero, None), Verdict::NotKnownYet);
        let above = Interval { low: 1e-9, high: 1e-8 };
        assert_eq!(Verdict::of(&metric(Role::Guardrail), above, None), Verdict::SafeSoFar);
    }
}
