//! Canonical text of a definition, used for comparison, checksums and publication: equal definitions have
//! equal texts.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::parse;
use crate::CompileError;

/// Members of a feature that change even if the flag was not changed.
const VOLATILE: [&str; 4] = ["lastSeenAt", "lastSeenAtForEnvironments", "last_seen_at", "createdAt"];

/// The definition as compact JSON with sorted members, without the volatile ones (`lastSeenAt`, `createdAt`).
/// All other members are kept, because readers of the definitions topic may use them even if evaluation does
/// not.
pub fn canonical(definition: &str) -> Result<String, CompileError> {
    Ok(write(parse(definition)?))
}

/// SHA-256 of a [`canonical`] text, in hex.
pub fn checksum(canonical: &str) -> String {
    hex::encode(Sha256::digest(canonical.as_bytes()))
}

pub(super) fn write(mut feature: Value) -> String {
    if let Some(members) = feature.as_object_mut() {
        members.retain(|name, _| !VOLATILE.contains(&name.as_str()));
    }
    let mut text = String::new();
    write_sorted(&feature, &mut text);
    text
}

/// Writes JSON with sorted members. It sorts explicitly because the order of serde_json's maps depends on
/// features that other crates enable. The nesting limit bounds the recursion.
fn write_sorted(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_sorted(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| name.as_str());
            text.push('{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write_sorted(member, text);
            }
            text.push('}');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}
