//! Segments, put into the strategies that name them.

use std::collections::HashMap;

use serde_json::Value;

use super::place::{Place, Refusal};
use super::{canonical, feature, parse, within_size};
use crate::flag::CompileError;

/// The constraints of each segment, by its id.
#[derive(Debug, Default, Clone)]
pub struct Segments {
    constraints: HashMap<i64, Vec<Value>>,
}

impl Segments {
    /// Reads the `segments` of Unleash's answer: a list of objects with `id` and `constraints`.
    pub fn read(segments: &Value) -> Result<Self, CompileError> {
        let holder = serde_json::json!({ "segments": segments });
        Self::read_list(&Place::root(&holder)).map_err(|refusal| CompileError {
            flag: "?".to_owned(),
            field: refusal.field,
            message: refusal.message,
        })
    }

    fn read_list(holder: &Place<'_>) -> Result<Self, Refusal> {
        let read = |segment: &Place<'_>| {
            let id = segment.member("id").ok_or_else(|| segment.refuse_member("id", "is required"))?;
            let constraints = segment.list("constraints", usize::MAX, |place| Ok(place.value.clone()))?;
            Ok((feature::segment_id(&id)?, constraints.unwrap_or_default()))
        };
        let segments = holder.list("segments", usize::MAX, read)?.unwrap_or_default();
        Ok(Self { constraints: segments.into_iter().collect() })
    }
}

/// The definition in canonical form, with the constraints of its segments in its strategies.
///
/// A segment that isn't there stays in the strategy's `segments`: [`CompiledFlag::compile`] takes a strategy that
/// still names a segment as one that never matches, and the other strategies are as good as ever.
///
/// [`CompiledFlag::compile`]: crate::flag::CompiledFlag::compile
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

/// Leaves alone what has not the expected type: compiling refuses that by its path.
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
            feature::segment_id(&Place::root(id)).ok().and_then(|id| segments.constraints.get(&id));
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
