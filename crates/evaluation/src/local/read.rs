//! Reads a local flag from a request body and reports all of its problems at once.

use std::collections::HashSet;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::schema::{self, MAX_PROBLEMS};
use super::{LocalFlag, Status, check};
use crate::definition::MAX_NAME_BYTES;

/// Maximum length of an environment's name in bytes; the same limit as in the configuration.
const MAX_ENVIRONMENT_BYTES: usize = 100;
/// Fields that others depend on: if one is invalid, the flag is not checked as a whole.
const DECISIVE: [&str; 9] = [
    "value_type",
    "min_value",
    "max_value",
    "value_schema",
    "variants",
    "distribution",
    "rules",
    "strategy",
    "status",
];

/// Problem with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub field: String,
    /// Description of the problem, usually of what was expected.
    pub message: String,
    /// Whether the value cannot be read at all, as opposed to a readable value that is invalid.
    pub malformed: bool,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl Invalid {
    /// Problem with a value that can be read but is invalid.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into(), malformed: false }
    }

    /// Problem with a value that cannot be read at all.
    pub fn malformed(field: &str, message: impl Into<String>) -> Self {
        Self { malformed: true, ..Self::new(field, message) }
    }
}

/// Validated fields of an update, applied to a flag by [`Change::apply_to`].
#[derive(Debug, Default)]
pub struct Change {
    members: Map<String, Value>,
}

/// Reads a new flag: its name, its environment, and its fields.
pub fn created(body: &[u8]) -> Result<(String, String, LocalFlag), Vec<Invalid>> {
    let Checked { mut members, mut problems, order } = read(body, true)?;
    let name = take_checked(&mut members, &mut problems, "name", check_name);
    let environment = take_checked(&mut members, &mut problems, "environment", check_environment);
    let flag = judge(Map::new(), members, &mut problems);
    match (name, environment, flag) {
        (Some(name), Some(environment), Some(flag)) if problems.is_empty() => Ok((name, environment, flag)),
        _ => Err(in_order(problems, &order)),
    }
}

/// Reads an update of the flag `name` in `environment`; [`Change::apply_to`] applies it to the stored flag.
pub fn updated(body: &[u8], name: &str, environment: &str) -> Result<Change, Vec<Invalid>> {
    let Checked { mut members, mut problems, order } = read(body, false)?;
    for (field, expected) in [("name", name), ("environment", environment)] {
        if let Some(Value::String(given)) = members.remove(field)
            && given != expected
        {
            let message = format!(
                "expected {expected:?} as in the URL: the name and the environment of a flag cannot be changed"
            );
            problems.push(Invalid::new(field, message));
        }
    }
    if problems.is_empty() { Ok(Change { members }) } else { Err(in_order(problems, &order)) }
}

/// Checks that a name can be stored and used in the path of a URL.
pub fn check_name(name: &str) -> Result<(), String> {
    match name {
        // URL normalization removes these path segments, even if they are percent-encoded.
        "." | ".." => Err("must not be `.` or `..`, because a URL cannot contain these names".to_owned()),
        _ if name.chars().any(char::is_control) => Err("must not contain control characters".to_owned()),
        _ if name.trim() != name => Err("must not begin or end with white space".to_owned()),
        _ if (1..=MAX_NAME_BYTES).contains(&name.len()) => Ok(()),
        _ => Err(format!("expected 1 to {MAX_NAME_BYTES} bytes, got {}", name.len())),
    }
}

pub fn check_environment(name: &str) -> Result<(), String> {
    let fine = |c: char| !c.is_control() && !c.is_whitespace() && c != '/';
    if name == "*" {
        return Err("expected the name of one environment, not `*`".to_owned());
    }
    if (1..=MAX_ENVIRONMENT_BYTES).contains(&name.len()) && name.chars().all(fine) {
        return Ok(());
    }
    Err(format!(
        "expected an environment's name of 1 to {MAX_ENVIRONMENT_BYTES} bytes, without spaces and `/`"
    ))
}

impl Change {
    /// Whether the update contains this field.
    pub fn names(&self, field: &str) -> bool {
        self.members.contains_key(field)
    }

    /// The flag with the update applied. `Err`: the problems that it would then have.
    pub fn apply_to(&self, flag: &LocalFlag, now: DateTime<Utc>) -> Result<LocalFlag, Vec<Invalid>> {
        let mut problems = Vec::new();
        let before = match serde_json::to_value(flag) {
            Ok(Value::Object(members)) => members,
            _ => Map::new(),
        };
        let changed = judge(before, self.members.clone(), &mut problems);
        let Some(mut changed) = changed.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        if changed.status != flag.status {
            check_transition(flag.status, changed.status).map_err(|problem| vec![problem])?;
            changed.archived_at = (changed.status == Status::Archived).then_some(now);
        }
        Ok(changed)
    }
}

fn check_transition(from: Status, to: Status) -> Result<(), Invalid> {
    if from.next().contains(&to) {
        return Ok(());
    }
    let allowed: Vec<_> = from.next().iter().map(|status| status.name()).collect();
    let (from, to) = (from.name(), to.name());
    Err(Invalid::new(
        "status",
        format!("cannot go from {from} to {to}; from {from} it may go to {}", allowed.join(", ")),
    ))
}

/// Body after validation by the schema: the valid members, and the problems of the others.
struct Checked {
    members: Map<String, Value>,
    problems: Vec<Invalid>,
    /// Names of all members, in the order of the body.
    order: Vec<String>,
}

fn read(body: &[u8], whole: bool) -> Result<Checked, Vec<Invalid>> {
    let whole_body = |message: String| Invalid { field: "body".to_owned(), message, malformed: true };
    let Members(members) = serde_json::from_slice(body)
        .map_err(|error| vec![whole_body(format!("expected a JSON object: {error}"))])?;
    let (mut once, mut problems, mut seen) = (Map::new(), Vec::new(), HashSet::new());
    let order: Vec<String> = members.iter().map(|(field, _)| field.clone()).collect();
    for (field, value) in members {
        if !seen.insert(field.clone()) {
            once.remove(&field);
            problems.push(Invalid::new(&field, "expected the field once; it is given twice"));
        } else if has_nul(&value) {
            problems.push(Invalid::new(&field, "must not contain NUL characters"));
        } else {
            once.insert(field, value);
        }
    }
    let told: HashSet<String> = problems.iter().map(|problem| problem.field.clone()).collect();
    let body = Value::Object(once);
    let found = schema::problems(&body, whole);
    // A field that was given twice is not reported as missing as well.
    problems.extend(found.into_iter().filter(|problem| !told.contains(&problem.field)));
    let Value::Object(mut members) = body else {
        return Err(problems);
    };
    if members.contains_key("scheduled_steps") && members.contains_key("rollout_schedule") {
        problems.push(Invalid::new(
            "scheduled_steps",
            "is an alias of rollout_schedule: use only one of the two",
        ));
    } else if let Some(steps) = members.remove("scheduled_steps") {
        members.insert("rollout_schedule".to_owned(), steps);
    }
    for problem in &problems {
        members.remove(top(&problem.field));
    }
    Ok(Checked { members, problems, order })
}

/// Sorts problems by the position of their fields in the body; missing fields come last.
fn in_order(mut problems: Vec<Invalid>, order: &[String]) -> Vec<Invalid> {
    let place = |problem: &Invalid| order.iter().position(|field| *field == top(&problem.field));
    problems.sort_by_cached_key(|problem| place(problem).unwrap_or(usize::MAX));
    problems
}

fn take_checked(
    members: &mut Map<String, Value>,
    problems: &mut Vec<Invalid>,
    field: &str,
    check: fn(&str) -> Result<(), String>,
) -> Option<String> {
    let Some(Value::String(text)) = members.remove(field) else {
        return None;
    };
    if let Err(message) = check(&text) {
        problems.push(Invalid::new(field, message));
    }
    Some(text)
}

/// Merges `members` into `document` and reads the result as a flag. Problems of the flag as a whole are added
/// to `problems`.
fn judge(
    mut document: Map<String, Value>,
    members: Map<String, Value>,
    problems: &mut Vec<Invalid>,
) -> Option<LocalFlag> {
    for (field, value) in members {
        if value.is_null() {
            document.remove(&field);
        } else {
            document.insert(field, value);
        }
    }
    let mut flag: LocalFlag = match serde_json::from_value(Value::Object(document)) {
        Ok(flag) => flag,
        Err(error) => {
            problems.push(Invalid { field: "body".to_owned(), message: error.to_string(), malformed: true });
            return None;
        }
    };
    let decided = |problem: &Invalid| !DECISIVE.iter().any(|field| problem.field.starts_with(field));
    if problems.iter().all(decided) {
        let mut found = check::tidy(&mut flag);
        found.extend(check::problems(&flag));
        // A field that was already refused is missing here, so further problems with it are not reported.
        let told: HashSet<String> = problems.iter().map(|problem| top(&problem.field).to_owned()).collect();
        problems.extend(found.into_iter().filter(|problem| !told.contains(top(&problem.field))));
        problems.truncate(MAX_PROBLEMS);
    }
    Some(flag)
}

/// The flag's field at the beginning of a path.
fn top(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or_default()
}

/// Whether a value contains the character NUL, which Postgres cannot store. The JSON parser's own limit of
/// 128 bounds the recursion.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(name, member)| name.contains('\0') || has_nul(member)),
        _ => false,
    }
}

/// Members of a JSON object in their order, including repeated ones.
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
