//! Names of the properties that the rules and draws of a flag read.

use unleash_types::client_features::{ClientFeature, Strategy};

use super::parameter;
use super::properties::ContextField;
use crate::definition::local::LocalExtension;

/// The names of all properties that the outcome depends on, sorted. Fields of Unleash's own context, such as the
/// user id, are left out.
pub(super) fn properties(feature: &ClientFeature, private: &LocalExtension) -> Box<[Box<str>]> {
    let strategies = feature.strategies.iter().flatten().flat_map(of_strategy);
    let conditions = private.strategies.iter().flat_map(|strategy| &strategy.conditions);
    let conditions = conditions.flat_map(|condition| &condition.context_names).map(String::as_str);
    let variants = feature.variants.iter().flatten();
    let overrides = variants.clone().flat_map(|variant| variant.overrides.iter().flatten());
    let overrides = overrides.map(|it| it.context_name.as_str());
    let stickiness =
        variants.filter_map(|variant| variant.stickiness.as_deref()).filter(|name| is_field(name));
    let all = strategies.chain(conditions).chain(overrides).chain(stickiness);
    let mut names: Vec<Box<str>> = all
        .filter(|name| matches!(ContextField::of(name), ContextField::Property(_)))
        .map(Into::into)
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into()
}

fn of_strategy(strategy: &Strategy) -> impl Iterator<Item = &str> {
    let constraints = strategy.constraints.iter().flatten().map(|it| it.context_name.as_str());
    let stickiness = parameter(strategy, "stickiness").filter(|name| is_field(name));
    constraints.chain(stickiness).chain(parameter(strategy, "property"))
}

/// Whether a stickiness names a field of the context.
fn is_field(stickiness: &str) -> bool {
    !matches!(stickiness, "default" | "random")
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use crate::CompiledFlag;

    fn reads(definition: &str) -> Vec<String> {
        let flag = CompiledFlag::compile("production", 1, definition).unwrap();
        flag.reads.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn properties_of_constraints_draws_and_overrides_are_read() {
        let rules = r#"{"name":"f","enabled":true,"strategies":[
            {"name":"flexibleRollout","parameters":{"rollout":"50","stickiness":"company","groupId":"g"},
             "constraints":[{"contextName":"plan","operator":"IN","values":["a"]},
                {"contextName":"userId","operator":"IN","values":["u"]},
                {"contextName":"plan","operator":"NOT_IN","values":["b"]}]},
            {"name":"customProperty","parameters":{"property":"region","values":"eu"}}],
            "variants":[{"name":"a","weight":1,"stickiness":"tier","overrides":[{"contextName":"cohort","values":["x"]}]},
                {"name":"b","weight":1,"stickiness":"tier"}]}"#;
        assert_eq!(reads(rules), ["cohort", "company", "plan", "region", "tier"]);
    }

    #[test]
    fn fields_of_the_context_and_words_are_no_properties() {
        let rules = r#"{"name":"f","enabled":true,"strategies":[
            {"name":"flexibleRollout","parameters":{"rollout":"50","stickiness":"default","groupId":"plan"},
             "constraints":[{"contextName":"sessionId","operator":"IN","values":["a"]},
                {"contextName":"currentTime","operator":"DATE_AFTER","value":"2026-01-01T00:00:00Z"}]}],
            "variants":[{"name":"a","weight":1,"stickiness":"random"},{"name":"b","weight":1,"stickiness":"random"}]}"#;
        assert!(reads(rules).is_empty());
        let local = r#"{"name":"f","enabled":true,"strategies":[{"name":"default","local":{"conditions":[
            {"contextNames":["groups","userId"],"operator":"HAS","values":["b"]}]}}]}"#;
        assert_eq!(reads(local), ["groups"]);
    }
}
