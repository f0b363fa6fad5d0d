//! A local flag from the body of a call: everything that is wrong with it, at once.

use std::collections::HashSet;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    FlagType, LocalFlag, MAX_DESCRIPTION_BYTES, MAX_LABEL_BYTES, MAX_TAGS, MAX_TARGET_USERS, MAX_USER_BYTES,
};
use crate::flag::definition::MAX_NAME_BYTES;

/// Longest name of an environment, as in the configuration.
const MAX_ENVIRONMENT_BYTES: usize = 100;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub field: String,
    /// What was expected.
    pub message: String,
    /// It cannot be read at all, as opposed to what makes no sense.
    pub malformed: bool,
}

/// The fields of a body that a flag may take over, one by one.
#[derive(Debug, Default)]
pub struct Change {
    members: Vec<(String, Value)>,
    problems: Vec<Invalid>,
}

/// A flag to be made: its name, its environment, and what it says.
pub fn created(body: &[u8]) -> Result<(String, String, LocalFlag), Vec<Invalid>> {
    let mut change = Change::read(body)?;
    let name = change.required("name");
    if let Some(name) = &name {
        change.check("name", check_name(name));
    }
    let environment = change.required("environment");
    if let Some(environment) = &environment {
        change.check("environment", check_environment(environment));
    }
    let mut flag = LocalFlag::default();
    change.apply(&mut flag);
    match (name, environment) {
        (Some(name), Some(environment)) if change.problems.is_empty() => Ok((name, environment, flag)),
        _ => Err(change.problems),
    }
}

/// What is to change about the flag `name` of `environment`; applied to what it says by [`Change::apply_to`].
pub fn updated(body: &[u8], name: &str, environment: &str) -> Result<Change, Vec<Invalid>> {
    let mut change = Change::read(body)?;
    for (field, expected) in [("name", name), ("environment", environment)] {
        if let Some(given) = change.text(field).flatten()
            && given != expected
        {
            change.refuse(field, format!("expected {expected:?}, as in the call's address; a flag keeps it"));
        }
    }
    // Whatever it says now: what is wrong with the fields does not depend on it.
    let mut trial = Change { members: change.members.clone(), problems: change.problems };
    trial.apply(&mut LocalFlag::default());
    if trial.problems.is_empty() {
        Ok(Change { members: change.members, problems: Vec::new() })
    } else {
        Err(trial.problems)
    }
}

/// A name that can be stored, and asked for in the path of a URL.
pub fn check_name(name: &str) -> Result<(), String> {
    match name {
        // In the path of a URL these mean something else, encoded or not.
        "." | ".." => Err("expected another name than `.` and `..`, which no URL can hold".to_owned()),
        _ if name.chars().any(char::is_control) => Err("expected no control characters".to_owned()),
        _ if name.trim() != name => Err("expected no white space at its beginning or end".to_owned()),
        _ if (1..=MAX_NAME_BYTES).contains(&name.len()) => Ok(()),
        _ => Err(format!("expected 1 to {MAX_NAME_BYTES} bytes, got {}", name.len())),
    }
}

pub fn check_environment(name: &str) -> Result<(), String> {
    let fine = |c: char| !c.is_control() && !c.is_whitespace() && c != '/';
    if name == "*" {
        return Err("expected the name of one environment".to_owned());
    }
    if (1..=MAX_ENVIRONMENT_BYTES).contains(&name.len()) && name.chars().all(fine) {
        return Ok(());
    }
    Err(format!(
        "expected an environment's name of 1 to {MAX_ENVIRONMENT_BYTES} bytes, without spaces and `/`"
    ))
}

impl Change {
    /// Takes over what was given; all of it was checked before.
    pub fn apply_to(&self, flag: &mut LocalFlag) {
        Self { members: self.members.clone(), problems: Vec::new() }.apply(flag);
    }

    fn read(body: &[u8]) -> Result<Self, Vec<Invalid>> {
        let whole = |message: String| Invalid { field: "body".to_owned(), message, malformed: true };
        let Members(members) = serde_json::from_slice(body)
            .map_err(|error| vec![whole(format!("expected a JSON object: {error}"))])?;
        let mut change = Self { members: Vec::with_capacity(members.len()), problems: Vec::new() };
        let mut seen = HashSet::new();
        for (field, value) in members {
            if seen.insert(field.clone()) {
                change.members.push((field, value));
            } else {
                change.refuse(&field, "expected once".to_owned());
            }
        }
        Ok(change)
    }

    fn apply(&mut self, flag: &mut LocalFlag) {
        if let Some(description) = self.text("description") {
            let checked = description.as_deref().map_or(Ok(()), |text| within(text, MAX_DESCRIPTION_BYTES));
            self.check("description", checked);
            flag.description = description;
        }
        if let Some(name) = self.text("type") {
            self.set_type(name.as_deref(), flag);
        }
        match self.take("is_enabled") {
            Some(Value::Bool(enabled)) => flag.is_enabled = enabled,
            Some(Value::Null) => flag.is_enabled = false,
            Some(_) => self.malformed("is_enabled", "expected true or false"),
            None => {}
        }
        if let Some(value) = self.take("rollout_percentage") {
            match percentage(&value) {
                Ok(percentage) => flag.rollout_percentage = percentage,
                Err((message, malformed)) => self.problem("rollout_percentage", message, malformed),
            }
        }
        if let Some(users) = self.texts("target_users", MAX_TARGET_USERS, MAX_USER_BYTES) {
            flag.target_users = users;
        }
        if let Some(owner) = self.text("owner") {
            self.check("owner", owner.as_deref().map_or(Ok(()), |text| within(text, MAX_LABEL_BYTES)));
            flag.owner = owner;
        }
        if let Some(tags) = self.texts("tags", MAX_TAGS, MAX_LABEL_BYTES) {
            flag.tags = tags;
        }
        for (field, _) in std::mem::take(&mut self.members) {
            self.refuse(&field, "is not known here".to_owned());
        }
    }

    fn set_type(&mut self, name: Option<&str>, flag: &mut LocalFlag) {
        let Some(name) = name else {
            return flag.r#type = FlagType::default();
        };
        match FlagType::NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, kind)) => flag.r#type = *kind,
            None => {
                let names: Vec<_> = FlagType::NAMES.iter().map(|(name, _)| *name).collect();
                self.refuse("type", format!("expected one of {}", names.join(", ")));
            }
        }
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        let place = self.members.iter().position(|(name, _)| name == field)?;
        Some(self.members.swap_remove(place).1)
    }

    fn required(&mut self, field: &str) -> Option<String> {
        let text = self.text(field);
        if matches!(text, Some(None)) || (text.is_none() && !self.problems.iter().any(|p| p.field == field)) {
            self.refuse(field, "is required".to_owned());
        }
        text.flatten()
    }

    /// `None`: not given, or no text; `Some(None)`: `null`.
    fn text(&mut self, field: &str) -> Option<Option<String>> {
        match self.take(field)? {
            Value::Null => Some(None),
            Value::String(text) => Some(Some(text)),
            _ => {
                self.malformed(field, "expected text");
                None
            }
        }
    }

    /// A list of texts, each once, in the order given.
    fn texts(&mut self, field: &str, max_items: usize, max_bytes: usize) -> Option<Vec<String>> {
        let items = match self.take(field)? {
            Value::Null => return Some(Vec::new()),
            Value::Array(items) => items,
            _ => {
                self.malformed(field, "expected a list of texts");
                return None;
            }
        };
        if items.len() > max_items {
            self.refuse(field, format!("expected at most {max_items} items, got {}", items.len()));
            return None;
        }
        let (mut texts, mut seen) = (Vec::with_capacity(items.len()), HashSet::new());
        for (index, item) in items.into_iter().enumerate() {
            let place = format!("{field}[{index}]");
            match item {
                Value::String(text) if text.is_empty() => self.refuse(&place, "must not be empty".to_owned()),
                Value::String(text) => {
                    self.check(&place, within(&text, max_bytes));
                    if seen.insert(text.clone()) {
                        texts.push(text);
                    }
                }
                _ => self.malformed(&place, "expected text"),
            }
        }
        Some(texts)
    }

    fn check(&mut self, field: &str, checked: Result<(), String>) {
        if let Err(message) = checked {
            self.refuse(field, message);
        }
    }

    fn refuse(&mut self, field: &str, message: String) {
        self.problem(field, message, false);
    }

    fn malformed(&mut self, field: &str, message: &str) {
        self.problem(field, message.to_owned(), true);
    }

    fn problem(&mut self, field: &str, message: String, malformed: bool) {
        self.problems.push(Invalid { field: field.to_owned(), message, malformed });
    }
}

/// NUL is what Postgres cannot hold.
fn within(text: &str, max_bytes: usize) -> Result<(), String> {
    if text.contains('\0') {
        return Err("expected no NUL character".to_owned());
    }
    if text.len() > max_bytes {
        return Err(format!("expected at most {max_bytes} bytes, got {}", text.len()));
    }
    Ok(())
}

/// `25`, `25.0` or `"25"`.
fn percentage(value: &Value) -> Result<Option<u8>, (String, bool)> {
    let expected = "expected a whole number from 0 to 100";
    let number = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok().filter(|_| text.trim().len() <= 8),
        _ => return Err((format!("{expected}, or one as text"), true)),
    };
    let whole = number.filter(|number| number.fract() == 0.0 && (0.0..=100.0).contains(number));
    // In bounds, so that nothing is cut off.
    whole.map(|number| Some(number as u8)).ok_or_else(|| (expected.to_owned(), false))
}

/// The members of an object in their order, repeated ones too.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
