//! Position in a definition: a JSON value and the path to it, so that a refusal can name the path.

use std::fmt::Write;

use serde_json::Value;

use crate::CompileError;

/// Reason why a definition was refused, before the flag's name is added.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) field: String,
    pub(super) message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

#[derive(Clone, Copy)]
pub(super) struct JsonNode<'p> {
    pub(super) value: &'p Value,
    above: Option<&'p JsonNode<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Member(&'p str),
    Item(usize),
}

impl Refusal {
    pub(super) fn of(self, feature: &Value) -> CompileError {
        let name = feature.get("name").and_then(Value::as_str).unwrap_or("?");
        CompileError {
            flag: shorten(name, super::MAX_NAME_BYTES).to_owned(),
            field: self.field,
            message: self.message,
        }
    }
}

impl<'p> JsonNode<'p> {
    pub(super) fn root(value: &'p Value) -> Self {
        Self { value, above: None, step: Step::Root }
    }

    /// The member of this name; `None` if it is absent or `null`.
    pub(super) fn member<'c>(&'c self, name: &'c str) -> Option<JsonNode<'c>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(JsonNode { value, above: Some(self), step: Step::Member(name) })
    }

    pub(super) fn refuse(&self, message: impl Into<String>) -> Refusal {
        let mut field = String::new();
        self.write_path(&mut field);
        Refusal { field, message: message.into() }
    }

    pub(super) fn refuse_member(&self, name: &str, message: impl Into<String>) -> Refusal {
        let place = JsonNode { value: &Value::Null, above: Some(self), step: Step::Member(name) };
        place.refuse(message)
    }

    /// The value as text. A number or boolean is converted to its JSON text.
    pub(super) fn text(&self) -> Result<String, Refusal> {
        lenient_text(self.value).ok_or_else(|| self.refuse("expected a string"))
    }

    pub(super) fn optional_text(&self, name: &str) -> Result<Option<String>, Refusal> {
        self.member(name).map(|place| place.text()).transpose()
    }

    pub(super) fn required_text(&self, name: &str) -> Result<String, Refusal> {
        self.optional_text(name)?.ok_or_else(|| self.refuse_member(name, "is required"))
    }

    /// A required name: neither empty nor longer than [`super::MAX_NAME_BYTES`].
    pub(super) fn required_name(&self, name: &str) -> Result<String, Refusal> {
        let text = self.required_text(name)?;
        match text.len() {
            0 => Err(self.refuse_member(name, "must not be empty")),
            1..=super::MAX_NAME_BYTES => Ok(text),
            bytes => Err(self.refuse_member(
                name,
                format!("expected at most {} bytes, got {bytes}", super::MAX_NAME_BYTES),
            )),
        }
    }

    pub(super) fn optional_boolean(&self, name: &str) -> Result<Option<bool>, Refusal> {
        self.member(name)
            .map(|place| place.value.as_bool().ok_or_else(|| place.refuse("expected true or false")))
            .transpose()
    }

    /// Reads every item of the list of this name; `None` if the list is absent. More than `limit` items are
    /// refused.
    pub(super) fn list<T>(
        &self,
        name: &str,
        limit: usize,
        read: impl Fn(&JsonNode<'_>) -> Result<T, Refusal>,
    ) -> Result<Option<Vec<T>>, Refusal> {
        let Some(list) = self.member(name) else {
            return Ok(None);
        };
        let items = list.value.as_array().ok_or_else(|| list.refuse("expected a list"))?;
        if items.len() > limit {
            return Err(list.refuse(format!("expected at most {limit} items, got {}", items.len())));
        }
        let item = |(index, value)| JsonNode { value, above: Some(&list), step: Step::Item(index) };
        items
            .iter()
            .enumerate()
            .map(|indexed| read(&item(indexed)))
            .collect::<Result<Vec<T>, Refusal>>()
            .map(Some)
    }

    /// The list of texts of this name; `None` if it is absent.
    pub(super) fn texts(&self, name: &str, limit: usize) -> Result<Option<Vec<String>>, Refusal> {
        self.list(name, limit, |place| place.text())
    }

    /// Appends the path of this position. The nesting limit bounds the recursion.
    fn write_path(&self, path: &mut String) {
        if let Some(above) = self.above {
            above.write_path(path);
        }
        match self.step {
            Step::Root => {}
            Step::Member(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(shorten(name, 100));
            }
            // Writing to a String cannot fail.
            Step::Item(index) => drop(write!(path, "[{index}]")),
        }
    }
}

/// Reads a text as evaluation does everywhere in a definition: a number or boolean becomes its JSON text.
/// `None` for null, a list or an object.
pub fn lenient_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(boolean) => Some(boolean.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The text shortened to at most `bytes` bytes, at a character boundary.
pub fn shorten(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}
