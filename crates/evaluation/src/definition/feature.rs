//! Converts feature JSON to Unleash's types, field by field.

use std::collections::HashMap;

use serde_json::Value;
use unleash_types::client_features::{
    ClientFeature, FeatureDependency, Override, Payload, Strategy, StrategyVariant, Variant,
};

use super::place::{JsonNode, Refusal};
use super::{
    MAX_CONSTRAINTS_PER_STRATEGY, MAX_DEPENDENCIES, MAX_OVERRIDES_PER_VARIANT, MAX_STRATEGIES,
    MAX_VALUES_PER_CONSTRAINT, MAX_VARIANTS, MAX_WEIGHT, constraint,
};

pub(super) fn read(feature: &JsonNode<'_>) -> Result<ClientFeature, Refusal> {
    Ok(ClientFeature {
        name: feature.required_name("name")?,
        feature_type: feature.optional_text("type")?,
        description: feature.optional_text("description")?,
        created_at: None,
        last_seen_at: None,
        enabled: feature
            .optional_boolean("enabled")?
            .ok_or_else(|| feature.refuse_member("enabled", "is required"))?,
        stale: feature.optional_boolean("stale")?,
        impression_data: feature.optional_boolean("impressionData")?,
        project: feature.optional_text("project")?,
        strategies: feature.list("strategies", MAX_STRATEGIES, strategy)?,
        variants: feature.list("variants", MAX_VARIANTS, variant)?,
        dependencies: feature.list("dependencies", MAX_DEPENDENCIES, dependency)?,
    })
}

pub(super) fn strategy(place: &JsonNode<'_>) -> Result<Strategy, Refusal> {
    let name = place.required_name("name")?;
    let mut parameters = parameters(place)?;
    if let Some((parameter, text)) =
        percentage_of(&name).and_then(|parameter| parameters.get_mut(parameter).map(|text| (parameter, text)))
    {
        match percentage(text) {
            Ok(normal) => *text = normal,
            Err(message) => return Err(place.refuse_member(&format!("parameters.{parameter}"), message)),
        }
    }
    Ok(Strategy {
        name,
        sort_order: None,
        segments: place
            .list("segments", MAX_CONSTRAINTS_PER_STRATEGY, |id| segment_id(id).map(known_or_not))?,
        constraints: place.list("constraints", MAX_CONSTRAINTS_PER_STRATEGY, constraint::read)?,
        parameters: Some(parameters),
        variants: place.list("variants", MAX_VARIANTS, strategy_variant)?,
    })
}

/// Converts a segment id. The engine's ids are `i32`; a larger id becomes `i32::MAX`, because compiling only
/// needs to know that some segment is missing.
fn known_or_not(id: i64) -> i32 {
    i32::try_from(id).unwrap_or(i32::MAX)
}

pub(super) fn segment_id(place: &JsonNode<'_>) -> Result<i64, Refusal> {
    let id = place.value.as_i64();
    let id = id.or_else(|| place.value.as_str().and_then(|text| text.parse().ok()));
    id.ok_or_else(|| place.refuse("expected the number of a segment"))
}

/// Parameters of a strategy, as texts by name. A list of texts becomes one text separated by commas, as in
/// Unleash.
fn parameters(strategy: &JsonNode<'_>) -> Result<HashMap<String, String>, Refusal> {
    let Some(place) = strategy.member("parameters") else {
        return Ok(HashMap::new());
    };
    let members = match place.value {
        Value::Object(members) => members,
        // Unleash sometimes sends `[]` if there are no parameters.
        Value::Array(items) if items.is_empty() => return Ok(HashMap::new()),
        _ => return Err(place.refuse("expected an object")),
    };
    let mut parameters = HashMap::with_capacity(members.len());
    for (name, value) in members {
        let text = match value {
            Value::Null => continue,
            Value::Array(_) => place.texts(name, MAX_VALUES_PER_CONSTRAINT)?.unwrap_or_default().join(","),
            _ => place.required_text(name)?,
        };
        parameters.insert(name.clone(), text);
    }
    Ok(parameters)
}

/// Name of the strategy's parameter that is a percentage, if it has one.
fn percentage_of(strategy: &str) -> Option<&'static str> {
    match strategy {
        "flexibleRollout" => Some("rollout"),
        "gradualRollout" | "gradualRolloutUserId" | "gradualRolloutSessionId" | "gradualRolloutRandom" => {
            Some("percentage")
        }
        _ => None,
    }
}

/// Normalizes a percentage to a whole number in the engine's notation. An empty text is not an error: such a
/// strategy never matches.
fn percentage(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(String::new());
    }
    match text.parse::<f64>() {
        Ok(number) if number.fract() == 0.0 && (0.0..=100.0).contains(&number) => {
            Ok(format!("{}", number.abs()))
        }
        _ => Err("expected a whole number from 0 to 100"),
    }
}

fn variant(place: &JsonNode<'_>) -> Result<Variant, Refusal> {
    Ok(Variant {
        name: place.required_name("name")?,
        weight: weight(place)?,
        weight_type: None,
        stickiness: place.optional_text("stickiness")?,
        payload: payload(place)?,
        overrides: place.list("overrides", MAX_OVERRIDES_PER_VARIANT, |place| {
            Ok(Override {
                context_name: place.required_name("contextName")?,
                values: place.texts("values", MAX_VALUES_PER_CONSTRAINT)?.unwrap_or_default(),
            })
        })?,
    })
}

fn strategy_variant(place: &JsonNode<'_>) -> Result<StrategyVariant, Refusal> {
    Ok(StrategyVariant {
        name: place.required_name("name")?,
        weight: weight(place)?,
        payload: payload(place)?,
        stickiness: place.optional_text("stickiness")?,
    })
}

fn weight(variant: &JsonNode<'_>) -> Result<i32, Refusal> {
    let Some(place) = variant.member("weight") else {
        return Ok(0);
    };
    let weight = place.value.as_i64().and_then(|weight| i32::try_from(weight).ok());
    weight
        .filter(|weight| (0..=MAX_WEIGHT).contains(weight))
        .ok_or_else(|| place.refuse(format!("expected a whole number from 0 to {MAX_WEIGHT}")))
}

fn payload(variant: &JsonNode<'_>) -> Result<Option<Payload>, Refusal> {
    let Some(place) = variant.member("payload") else {
        return Ok(None);
    };
    if !place.value.is_object() {
        return Err(place.refuse("expected an object"));
    }
    let value = match place.value.get("value") {
        // A handwritten file may contain the JSON itself where Unleash has its text.
        Some(json @ (Value::Object(_) | Value::Array(_))) => json.to_string(),
        _ => place.optional_text("value")?.unwrap_or_default(),
    };
    Ok(Some(Payload { payload_type: place.required_name("type")?, value }))
}

fn dependency(place: &JsonNode<'_>) -> Result<FeatureDependency, Refusal> {
    Ok(FeatureDependency {
        feature: place.required_name("feature")?,
        enabled: place.optional_boolean("enabled")?,
        variants: place.texts("variants", MAX_VARIANTS)?,
    })
}
