//! Inlines the constraints of segments into the strategies that reference them.

use std::collections::HashMap;

use serde_json::Value;

use super::place::{JsonNode, Refusal};
use super::{canonical, feature, parse, within_size};
use crate::CompileError;

/// Constraints of each segment, by its id.
#[derive(Debug, Default, Clone)]
pub struct Segments {
    constraints: HashMap<i64, Vec<Value>>,
}

impl Segments {
    /// Reads the member `segments` of Unleash's response: a list of objects with `id` and `constraints`.
    pub fn read(segments: &Value) -> Result<Self, CompileError> {
        let holder = serde_json::json!({ "segments": segments });
        Self::read_list(&JsonNode::root(&holder)).map_err(|refusal| CompileError {
            flag: "?".to_owned(),
            field: refusal.field,
            message: refusal.message,
        })
    }

    fn read_list(holder: &JsonNode<'_>) -> Result<Self, Refusal> {
        let read = |segment: &JsonNode<'_>| {
            let id = segment.member("id").ok_or_else(|| segment.refuse_member("id", "is required"))?;
            let constraints = segment.list("constraints", usize::MAX, |place| Ok(place.value.clone()))?;
            Ok((feature::segment_id(&id)?, constraints.unwrap_or_default()))
        };
        let segments = holder.list("segments", usize::MAX, read)?.unwrap_or_default();
        Ok(Self { constraints: segments.into_iter().collect() })
    }
}

/// The definition in canonical form, with the constraints of its segments added to its strategies.
///
/// An unknown segment stays in the strategy's `segments`: [`CompiledFlag::compile`] treats a strategy that
/// still references a segment as one that never matches. The other strategies are not affected.
///
/// [`CompiledFlag::compile`]: crate::CompiledFlag::compile
pub fn inline_segments(definition: &str, segments: &Segments) -> Result<String, CompileError> {
    let mut feature = parse(definition)?;
    let strategies = feature.get_mut("strategies").and_then(Value::as_array_mut);
    for strategy in strategies.into_iter().flatten() {
        inline(strategy, segments);
    }
    let text = canonical::write(feature);
    within_size(&text)?;
    Ok(text)
}

/// Inlines the segments of one strategy. Values of an unexpected type are left unchanged; compiling refuses
/// them with their path.
fn inline(strategy: &mut Value, segments: &Segments) {
    let Some(members) = strategy.as_object_mut() else {
        return;
    };
    let Some(Value::Array(ids)) = members.get_mut("segments") else {
        return;
    };
    let mut found = Vec::new();
    ids.retain(|id| {
        let constraints =
            feature::segment_id(&JsonNode::root(id)).ok().and_then(|id| segments.constraints.get(&id));
        found.extend(constraints.into_iter().flatten().cloned());
        constraints.is_none()
    });
    if ids.is_empty() {
        members.remove("segments");
    }
    if found.is_empty() {
        return;
    }
    match members.get_mut("constraints") {
        Some(Value::Array(constraints)) => constraints.append(&mut found),
        None | Some(Value::Null) => drop(members.insert("constraints".to_owned(), found.into())),
        Some(_) => {}
    }
}
