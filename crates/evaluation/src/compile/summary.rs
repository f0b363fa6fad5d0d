//! Descriptive data of a flag for people and dashboards. Evaluation does not read it.

use unleash_types::client_features::{ClientFeature, Strategy};

use super::parameter;
use crate::definition::local::{LocalExtension, LocalStrategyExtension};

/// Short description of a flag.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub kind: Option<Box<str>>,
    pub description: Option<Box<str>>,
    pub project: Option<Box<str>>,
    /// Owner of a local flag; flags of other sources have none.
    pub owner: Option<Box<str>>,
    pub stale: bool,
    /// Largest rollout percentage of any strategy without targeting. If all strategies have constraints, the
    /// largest among those; it then applies to the contexts that fit the constraints.
    pub rollout_percentage: f64,
    /// Whether some strategy can match, apart from its constraints. True for a flag without strategies, which
    /// is on for every context.
    pub lets_through: bool,
}

impl Summary {
    /// Summary of a flag whose definition cannot be read.
    pub(super) fn nothing() -> Self {
        Self {
            kind: None,
            description: None,
            project: None,
            owner: None,
            stale: false,
            rollout_percentage: 0.0,
            lets_through: false,
        }
    }

    pub(super) fn of(feature: &ClientFeature, private: &LocalExtension) -> Self {
        let text = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Into::into);
        Self {
            kind: text(&feature.feature_type),
            description: text(&feature.description),
            project: text(&feature.project),
            owner: text(&private.owner),
            stale: feature.stale.unwrap_or(false),
            rollout_percentage: rollout(feature.strategies.as_deref().unwrap_or_default(), private),
            lets_through: lets_through(feature.strategies.as_deref().unwrap_or_default(), private),
        }
    }
}

/// Rollout percentage of the first phase.
fn rollout(strategies: &[Strategy], private: &LocalExtension) -> f64 {
    if strategies.is_empty() {
        return 100.0;
    }
    let now = private.phases.first().map_or(usize::MAX, |phase| phase.strategies);
    let on = strategies.iter().zip(&private.strategies).take(now).filter(|(_, private)| !private.off);
    let largest = |strategies: &mut dyn Iterator<Item = &Strategy>| strategies.map(share).reduce(f64::max);
    let untargeted = |(strategy, private): &(&Strategy, &LocalStrategyExtension)| {
        !is_targeted(strategy) && private.conditions.is_empty()
    };
    largest(&mut on.clone().filter(untargeted).map(|(strategy, _)| strategy))
        .or_else(|| largest(&mut on.map(|(strategy, _)| strategy)))
        .unwrap_or(0.0)
}

fn lets_through(strategies: &[Strategy], private: &LocalExtension) -> bool {
    let now = private.phases.first().map_or(usize::MAX, |phase| phase.strategies);
    let mut on = strategies.iter().zip(&private.strategies).take(now).filter(|(_, private)| !private.off);
    let names_nobody = |strategy: &Strategy| {
        strategy.name == "userWithId"
            && parameter(strategy, "userIds").is_none_or(|users| users.trim().is_empty())
    };
    strategies.is_empty() || on.any(|(strategy, _)| share(strategy) > 0.0 && !names_nobody(strategy))
}

/// Whether the strategy applies to selected contexts only, whatever its percentage.
fn is_targeted(strategy: &Strategy) -> bool {
    let lists = ["userWithId", "remoteAddress", "applicationHostname", "customProperty"];
    let some = |list: Option<usize>| list.is_some_and(|length| length > 0);
    some(strategy.constraints.as_ref().map(Vec::len))
        || some(strategy.segments.as_ref().map(Vec::len))
        || lists.contains(&strategy.name.as_str())
}

fn share(strategy: &Strategy) -> f64 {
    let percentage = match strategy.name.as_str() {
        "flexibleRollout" => "rollout",
        name if name.starts_with("gradualRollout") => "percentage",
        _ => return 100.0,
    };
    parameter(strategy, percentage).and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::CompiledFlag;

    #[test]
    fn a_flag_whose_strategies_let_nobody_through_is_told_from_others() {
        let lets = |strategies: serde_json::Value| {
            let text = json!({"name": "f", "enabled": true, "strategies": strategies}).to_string();
            CompiledFlag::compile("e", 1, &text).unwrap().summary().lets_through
        };
        let rollout = |share: &str| json!({"name": "flexibleRollout", "parameters": {"rollout": share, "groupId": "f"}});
        let users = |ids: &str| json!({"name": "userWithId", "parameters": {"userIds": ids}});
        assert!(lets(json!([])) && lets(json!([{"name": "default"}])));
        assert!(!lets(json!([rollout("0")])) && !lets(json!([rollout("0"), users(" ")])));
        assert!(lets(json!([rollout("1")])) && lets(json!([rollout("0"), users("u")])));
    }

    fn percentage(strategies: serde_json::Value) -> f64 {
        let definition = json!({"name": "f", "enabled": true, "strategies": strategies}).to_string();
        CompiledFlag::compile("e", 1, &definition).unwrap().summary().rollout_percentage
    }

    #[test]
    fn the_percentage_is_the_largest_that_everybody_has() {
        let rollout =
            |percentage: &str| json!({"name": "flexibleRollout", "parameters": {"rollout": percentage}});
        let mut some = rollout("80");
        some["constraints"] = json!([{"contextName": "plan", "operator": "IN", "values": ["a"]}]);
        let users = json!({"name": "userWithId", "parameters": {"userIds": "a,b"}});
        assert_eq!(percentage(json!([])), 100.0);
        assert_eq!(percentage(json!([{"name": "default"}])), 100.0);
        assert_eq!(percentage(json!([rollout("25"), rollout("50")])), 50.0);
        assert_eq!(percentage(json!([users, rollout("25"), some])), 25.0);
        assert_eq!(percentage(json!([some])), 80.0);
        assert_eq!(percentage(json!([{"name": "gradualRollout", "parameters": {"percentage": "10"}}])), 10.0);
    }
}
