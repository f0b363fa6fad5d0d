//! Reads Unleash's client feature JSON leniently and validates it.
//!
//! Accepted: unknown and repeated fields, `null` for any list or optional field, numbers and booleans where
//! Unleash has text. A constraint that cannot be evaluated never holds, as in Unleash's SDKs (`constraint`).
//! Refused: anything else that would change the meaning of the flag. A refusal names the path of the refused
//! value, such as `strategies[2].constraints[0].contextName`.
//!
//! Definitions are published as [`canonical`] text with their segments inlined ([`inline_segments`]), so one
//! flag's text is sufficient to compile it.

mod canonical;
mod constraint;
mod feature;
pub mod local;
mod place;
mod segments;

use serde_json::Value;
use unleash_types::client_features::ClientFeature;

pub use canonical::{canonical, checksum};
pub use segments::{Segments, inline_segments};

/// Longest reason for an unusable definition that is reported to callers, in bytes.
pub const MAX_REASON_BYTES: usize = 500;

/// Substitute for a definition that cannot be evaluated: the flag is off, and every answer carries the
/// reason.
pub fn unusable(name: &str, reason: &str) -> String {
    let reason = shorten(reason, MAX_REASON_BYTES);
    let feature = serde_json::json!({"name": name, "enabled": false, "strategies": [],
        "local": {"unusable": reason}});
    canonical::write(feature)
}

use local::LocalExtension;

use super::CompileError;
use place::{JsonNode, Refusal};
pub use place::{lenient_text, shorten};

/// Maximum size of a definition. Leaves room for the envelope in a Kafka message of the default limit of 1
/// MiB.
pub const MAX_DEFINITION_BYTES: usize = 1_000_000;
/// Deepest nesting of a definition.
pub const MAX_NESTING_LEVELS: usize = 32;
/// Longest name of a flag, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Maximum number of strategies of a flag.
pub const MAX_STRATEGIES: usize = 256;
/// Maximum number of steps of a local flag's schedule.
pub const MAX_STEPS: usize = 64;
/// Maximum number of constraints per strategy. The engine nests one closure per constraint, called and
/// dropped recursively: 512 need less than 256 KiB of stack in a debug build (see the test in `compile`).
pub const MAX_CONSTRAINTS_PER_STRATEGY: usize = 512;
/// Maximum number of values of a constraint.
pub const MAX_VALUES_PER_CONSTRAINT: usize = 65_536;
/// Maximum number of variants of the flag, and of each of its strategies.
pub const MAX_VARIANTS: usize = 1_000;
/// Maximum weight of a variant. Unleash's own weights add up to 1000. With [`MAX_VARIANTS`] the sum stays
/// within `u32`.
pub const MAX_WEIGHT: i32 = 1_000_000;
/// Maximum number of overrides of a variant.
pub const MAX_OVERRIDES_PER_VARIANT: usize = 1_000;
/// Maximum number of direct dependencies of a flag.
pub const MAX_DEPENDENCIES: usize = 100;

/// Reads and validates one flag. The result can be compiled: operators are known; numbers, dates and versions
/// are well-formed and in the engine's notation. Strategies of later phases follow those of the first.
pub fn read(definition: &str) -> Result<(ClientFeature, LocalExtension), CompileError> {
    let value = parse(definition)?;
    let place = JsonNode::root(&value);
    let read = |place| {
        let mut feature = feature::read(place)?;
        let private = local::read(place, &mut feature)?;
        Ok((feature, private))
    };
    read(&place).map_err(|refusal: Refusal| refusal.of(&value))
}

/// Parses the definition as JSON, within the limits of size and nesting.
fn parse(definition: &str) -> Result<Value, CompileError> {
    within_size(definition)?;
    let value: Value =
        serde_json::from_str(definition).map_err(|error| nameless(format!("not JSON: {error}")))?;
    if !value.is_object() {
        return Err(nameless("expected an object".to_owned()));
    }
    if levels(&value) > MAX_NESTING_LEVELS {
        let refusal = Refusal {
            field: "definition".to_owned(),
            message: format!("nested deeper than {MAX_NESTING_LEVELS} levels"),
        };
        return Err(refusal.of(&value));
    }
    Ok(value)
}

fn within_size(definition: &str) -> Result<(), CompileError> {
    match definition.len() {
        0..=MAX_DEFINITION_BYTES => Ok(()),
        bytes => Err(nameless(format!("expected at most {MAX_DEFINITION_BYTES} bytes, got {bytes}"))),
    }
}

/// Refusal of a definition whose flag name is not known yet.
fn nameless(message: String) -> CompileError {
    CompileError { flag: "?".to_owned(), field: "definition".to_owned(), message }
}

/// Levels of nesting. The JSON parser's own limit of 128 bounds the recursion.
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
#[path = "definition/tests.rs"]
mod tests;
