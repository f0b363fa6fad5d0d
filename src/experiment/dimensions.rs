//! Values of attributes by which results are broken down.

use serde_json::{Map, Value};

use crate::message::json::{Kind, Scanner};
use crate::message::request::{MAX_DEPTH_LEVELS, PROPERTIES};

/// Longest value of an attribute that is a level of its own, in bytes. Longer ones are no value.
pub(super) const MAX_LEVEL_BYTES: usize = 100;

/// Reads the values of attributes from a context. Returns them as the JSON text of an object, or `None` if there are none.
pub(crate) fn attributes(context: &str, names: &[String]) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let mut found = Map::new();
    collect(context, names, &mut found);
    (!found.is_empty()).then(|| Value::Object(found).to_string())
}

/// Adds the values of a context, and of its member `properties`. The first value of a name counts.
fn collect(context: &str, names: &[String], found: &mut Map<String, Value>) -> Option<()> {
    let mut scanner = Scanner::new(context, MAX_DEPTH_LEVELS);
    let (mut first, mut properties) = (true, None);
    scanner.begin_object().ok()?;
    while let Some(name) = scanner.next_key(&mut first).ok()? {
        let value = scanner.value().ok()?;
        if name == PROPERTIES && value.kind == Kind::Object {
            properties = Some(value.text);
        }
        if !names.iter().any(|wanted| *wanted == name) || found.contains_key(name.as_ref()) {
            continue;
        }
        let text = match value.kind {
            Kind::String => value.as_string(),
            Kind::Number | Kind::Boolean => Some(value.compact()),
            _ => None,
        };
        if let Some(text) = text.filter(|text| !text.is_empty() && text.len() <= MAX_LEVEL_BYTES) {
            found.insert(name.into_owned(), Value::String(text.into_owned()));
        }
    }
    collect(properties?, names, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_the_named_attributes_are_kept_as_texts() {
        let names = ["plan", "age", "beta"].map(str::to_owned);
        let found = |context: &str| attributes(context, &names);
        let rich = r#"{"plan": "gold", "age": 41, "beta": true, "country": "NL"}"#;
        assert_eq!(found(rich).as_deref(), Some(r#"{"age":"41","beta":"true","plan":"gold"}"#));
        let nested = r#"{"plan": "gold", "properties": {"plan": "free", "age": "41"}}"#;
        assert_eq!(found(nested).as_deref(), Some(r#"{"age":"41","plan":"gold"}"#));
        assert_eq!(attributes(rich, &[]), None);
    }

    #[test]
    fn what_is_no_short_text_is_no_value() {
        let names = ["plan".to_owned()];
        let long = format!(r#"{{"plan": "{}"}}"#, "x".repeat(MAX_LEVEL_BYTES + 1));
        for context in ["{}", r#"{"plan": null}"#, r#"{"plan": ""}"#, r#"{"plan": ["a"]}"#, "broken", &long] {
            assert_eq!(attributes(context, &names), None, "{context}");
        }
    }
}
