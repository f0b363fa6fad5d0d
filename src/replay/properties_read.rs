//! Finds the context attributes that a flag's rules read.

use unleash_types::client_features::{ClientFeature, Strategy};

use crate::flag::definition;

/// Whether the definition's rules may read an attribute for which `is_meant` returns true. In doubt it counts as read.
pub fn any(definition: &str, is_meant: impl Fn(&str) -> bool) -> bool {
    let Ok((feature, private)) = definition::read(definition) else { return false };
    let conditions = private.strategies.iter().flat_map(|strategy| &strategy.conditions);
    let strategies = feature.strategies.iter().flatten();
    strategies.flat_map(of_strategy).chain(of_variants(&feature)).any(&is_meant)
        || conditions.flat_map(|condition| &condition.context_names).any(|name| is_meant(name))
}

fn of_strategy(strategy: &Strategy) -> Vec<&str> {
    let constraints = strategy.constraints.iter().flatten().map(|it| it.context_name.as_str());
    // A parameter may name an attribute, such as a stickiness.
    let named = strategy.parameters.iter().flatten().map(|(_, value)| value.as_str());
    let mut names: Vec<&str> = constraints.chain(named).collect();
    names.extend(match strategy.name.as_str() {
        "default" | "gradualRolloutRandom" | "applicationHostname" => [].as_slice(),
        "remoteAddress" => &["remoteAddress"],
        "userWithId" | "gradualRolloutUserId" => &["userId"],
        "gradualRolloutSessionId" => &["sessionId"],
        // The default stickiness is the user, or else the session.
        _ => &["userId", "sessionId"],
    });
    if strategy.variants.as_ref().is_some_and(|variants| variants.len() > 1) {
        names.extend(["userId", "sessionId"]);
    }
    names
}

fn of_variants(feature: &ClientFeature) -> Vec<&str> {
    let variants = feature.variants.as_deref().unwrap_or_default();
    let overrides = variants.iter().flat_map(|variant| variant.overrides.iter().flatten());
    let mut names: Vec<&str> = overrides.map(|it| it.context_name.as_str()).collect();
    if variants.len() > 1 {
        names.extend(variants.iter().filter_map(|variant| variant.stickiness.as_deref()));
        names.extend(["userId", "sessionId"]);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_and_draws_read() {
        let reads = |definition: &str, name: &str| any(definition, |read| read == name);
        let plain = r#"{"name":"f","enabled":true,"strategies":[{"name":"default","constraints":[
            {"contextName":"plan","operator":"IN","values":["a"]}]}]}"#;
        assert!(reads(plain, "plan") && !reads(plain, "userId"));
        let rollout = r#"{"name":"f","enabled":true,"strategies":[{"name":"flexibleRollout",
            "parameters":{"rollout":"50","stickiness":"company","groupId":"g"}}]}"#;
        assert!(reads(rollout, "company") && reads(rollout, "userId"));
        let variants = r#"{"name":"f","enabled":true,"strategies":[{"name":"default"}],"variants":[
            {"name":"a","weight":1,"overrides":[{"contextName":"tier","values":["x"]}]},{"name":"b","weight":1}]}"#;
        assert!(reads(variants, "tier") && reads(variants, "sessionId") && !reads(variants, "plan"));
        let local = r#"{"name":"f","enabled":true,"strategies":[{"name":"default","local":{"conditions":[
            {"contextNames":["groups"],"operator":"HAS","values":["b"]}]}}]}"#;
        assert!(reads(local, "groups"));
    }
}
