//! JSON as text: kept as written except for whitespace, so that numbers keep all digits.

use std::collections::HashMap;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::Value;
use crate::definition::MAX_NESTING_LEVELS;

/// The text without whitespace between its tokens; `None` if it is not valid JSON or nested too deeply.
pub(super) fn compact(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut compact = String::with_capacity(text.len());
    let (mut level, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for character in text.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else {
            match character {
                ' ' | '\t' | '\r' | '\n' => continue,
                '"' => in_string = true,
                '[' | '{' => level += 1,
                ']' | '}' => level = level.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(level);
        }
        compact.push(character);
    }
    (deepest <= MAX_NESTING_LEVELS).then_some(compact)
}

/// The member `value` of a compact JSON object; `None` if there is no such member or it is `null`.
pub(super) fn value_member(compact: &str) -> Option<&str> {
    if !compact.starts_with('{') {
        return None;
    }
    let members: HashMap<String, &RawValue> = serde_json::from_str(compact).ok()?;
    let member = members.get("value")?.get();
    (member != "null").then_some(member)
}

pub(super) fn is_object_or_list(compact: &str) -> bool {
    compact.starts_with(['{', '['])
}

/// The content of a JSON string; `None` for any other JSON.
pub(super) fn string(compact: &str) -> Option<String> {
    if !compact.starts_with('"') {
        return None;
    }
    serde_json::from_str(compact).ok()
}

/// Converts compact JSON into a value.
pub(super) fn value(compact: &str) -> Value<'static> {
    match compact {
        "null" => Value::Null,
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        text if is_object_or_list(text) => Value::Json(text.to_owned().into()),
        text => match string(text) {
            Some(string) => Value::String(string.into()),
            None => Value::Number(text.to_owned().into()),
        },
    }
}

/// Appends a text as a JSON string.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    // Serializing a text into a `Vec` cannot fail.
    drop(serde_json::to_writer(out, text));
}
