//! JSON Schema of local flags. Violations are reported in flagstream's own wording, with the path of the
//! field.

use std::sync::LazyLock;

use chrono::DateTime;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{PatternOptions, ValidationError, Validator};
use regex::RegexBuilder;
use serde_json::Value;

use super::Invalid;

/// JSON Schema of a local flag.
pub const SCHEMA: &str = include_str!("../../schemas/local-flag.schema.json");

/// Maximum number of problems that are reported at once.
pub const MAX_PROBLEMS: usize = 100;
pub const VERSION: &str = "expected a semantic version such as 1.2.3";
/// Message for all whole numbers of a local flag, which are percentages.
const PERCENTAGE: &str = "expected a whole number from 0 to 100";
/// Largest `value_schema`, in bytes.
const MAX_SCHEMA_BYTES: usize = 8_192;
/// Maximum number of regular expressions in a `value_schema`.
const MAX_SCHEMA_PATTERNS: usize = 20;
/// Largest compiled regular expression of a `value_schema`, in bytes.
const MAX_SCHEMA_PATTERN_BYTES: usize = 256 << 10;
/// Keywords that a `value_schema` must not contain. Without references, the cost of validation is bounded by
/// the size of the schema and of the value.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

static WHOLE: LazyLock<Result<Validator, String>> = LazyLock::new(|| ours(true));
static PARTIAL: LazyLock<Result<Validator, String>> = LazyLock::new(|| ours(false));

/// All violations in a body. `whole`: the body is a new flag; otherwise it contains the fields of an update.
pub fn problems(body: &Value, whole: bool) -> Vec<Invalid> {
    let validator = if whole { &*WHOLE } else { &*PARTIAL };
    match validator {
        Ok(validator) => {
            validator.iter_errors(body).flat_map(|error| told(&error)).take(MAX_PROBLEMS).collect()
        }
        // Cannot happen: a test compiles the schema.
        Err(message) => vec![Invalid::new("body", message.clone())],
    }
}

/// Compiles the schema of a flag's values. References are refused, and regular expressions take linear time.
pub fn of_values(schema: &Value) -> Result<Validator, String> {
    if schema.to_string().len() > MAX_SCHEMA_BYTES {
        return Err(format!("expected at most {MAX_SCHEMA_BYTES} bytes"));
    }
    if has_reference(schema) {
        return Err("must not contain references ($ref)".to_owned());
    }
    if patterns(schema) > MAX_SCHEMA_PATTERNS {
        return Err(format!("expected at most {MAX_SCHEMA_PATTERNS} regular expressions"));
    }
    let patterns = PatternOptions::regex().size_limit(MAX_SCHEMA_PATTERN_BYTES);
    let options = jsonschema::options().with_pattern_options(patterns);
    options.build(schema).map_err(|error| format!("expected a JSON Schema: {error}"))
}

/// First violation of the schema by a value, with its path; `None` if the value is valid.
pub fn first_problem(validator: &Validator, value: &Value) -> Option<String> {
    let error = validator.iter_errors(value).next()?;
    let place = path(&error);
    let place = if place.is_empty() { place } else { format!("{place}: ") };
    Some(format!("does not match value_schema: {place}{}", message(&error).0))
}

fn ours(whole: bool) -> Result<Validator, String> {
    let mut schema: Value = serde_json::from_str(SCHEMA).map_err(|error| error.to_string())?;
    if let Some(members) = schema.as_object_mut().filter(|_| !whole) {
        members.remove("required");
    }
    let options = jsonschema::options()
        .with_pattern_options(PatternOptions::regex())
        .should_validate_formats(true)
        .with_format("date-time", |text: &str| DateTime::parse_from_rfc3339(text).is_ok())
        .with_format("regex", is_regex);
    options.build(&schema).map_err(|error| error.to_string())
}

/// Whether a regular expression is well-formed. Compiling it could take megabytes, so the size limit is 0:
/// parsing comes first, and reports syntax errors before the limit is exceeded. The limits of compiled
/// expressions are checked for the flag as a whole.
fn is_regex(text: &str) -> bool {
    let compiled = RegexBuilder::new(text).size_limit(0).build();
    matches!(compiled, Ok(_) | Err(regex::Error::CompiledTooBig(_)))
}

/// Number of regular expressions anywhere in a schema.
fn patterns(schema: &Value) -> usize {
    match schema {
        Value::Array(items) => items.iter().map(patterns).sum(),
        Value::Object(members) => {
            let of = |(name, member): (&String, &Value)| match (name.as_str(), member) {
                ("pattern", Value::String(_)) => 1,
                ("patternProperties", Value::Object(properties)) => properties.len() + patterns(member),
                _ => patterns(member),
            };
            members.iter().map(of).sum()
        }
        _ => 0,
    }
}

/// Whether a reference keyword occurs anywhere. A property with such a name is refused too, which keeps the
/// check simple.
fn has_reference(schema: &Value) -> bool {
    match schema {
        Value::Array(items) => items.iter().any(has_reference),
        Value::Object(members) => {
            members.iter().any(|(name, member)| REFERENCES.contains(&name.as_str()) || has_reference(member))
        }
        _ => false,
    }
}

fn told(error: &ValidationError<'_>) -> Vec<Invalid> {
    let above = path(error);
    let member = |name: &str| if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|name| Invalid::new(&member(name), "unknown field")).collect()
        }
        ValidationErrorKind::Required { property } => {
            vec![Invalid::new(&member(property.as_str().unwrap_or_default()), "is required")]
        }
        // A `null` counts as absent.
        ValidationErrorKind::Type { .. } if error.instance().is_null() => {
            vec![Invalid::new(&above, "is required")]
        }
        _ => {
            let (message, malformed) = message(error);
            let field = if above.is_empty() { "body".to_owned() } else { above };
            vec![Invalid { field, message, malformed }]
        }
    }
}

/// The message for a violation, and whether the value cannot be read at all.
fn message(error: &ValidationError<'_>) -> (String, bool) {
    let text = match error.kind() {
        ValidationErrorKind::Type { kind } => return type_message(kind, error.instance()),
        ValidationErrorKind::Enum { options } => format!("expected one of {}", listed(options)),
        ValidationErrorKind::MaxItems { limit } => format!("expected at most {limit} items"),
        ValidationErrorKind::MinItems { limit } => format!("expected at least {limit} items"),
        ValidationErrorKind::MaxLength { limit } => format!("expected at most {limit} characters"),
        ValidationErrorKind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        ValidationErrorKind::MinLength { limit } => format!("expected at least {limit} characters"),
        ValidationErrorKind::MaxProperties { limit } => format!("expected at most {limit} members"),
        ValidationErrorKind::MinProperties { limit } => format!("expected at least {limit} members"),
        ValidationErrorKind::Minimum { .. } | ValidationErrorKind::Maximum { .. } if is_percentage(error) => {
            PERCENTAGE.to_owned()
        }
        ValidationErrorKind::Minimum { limit } => format!("expected at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("expected at most {limit}"),
        ValidationErrorKind::PropertyNames { .. } => "expected names of 1 to 255 characters".to_owned(),
        ValidationErrorKind::Format { format } => match format.as_str() {
            "date-time" => {
                "expected a time in RFC 3339 format with a time zone, such as 2026-01-15T10:30:00Z".to_owned()
            }
            "regex" => "expected a valid regular expression".to_owned(),
            format => format!("expected {format}"),
        },
        ValidationErrorKind::Pattern { pattern } if pattern.starts_with("^https") => {
            "expected a URL that begins with http:// or https://".to_owned()
        }
        ValidationErrorKind::Pattern { pattern } if pattern.starts_with("^(0|") => VERSION.to_owned(),
        ValidationErrorKind::Pattern { pattern } if pattern.contains("100|") => PERCENTAGE.to_owned(),
        ValidationErrorKind::Pattern { pattern } => format!("expected a string that matches {pattern}"),
        _ => error.masked().to_string(),
    };
    (text, false)
}

fn is_percentage(error: &ValidationError<'_>) -> bool {
    error.instance_path().as_str().ends_with("percentage")
}

fn type_message(kind: &TypeKind, instance: &Value) -> (String, bool) {
    let mut names: Vec<String> = match kind {
        TypeKind::Single(one) => vec![one.to_string()],
        TypeKind::Multiple(many) => many.iter().map(|one| one.to_string()).collect(),
    };
    names.retain(|name| name != "null");
    let number = names.iter().any(|name| name == "integer");
    let words: Vec<&str> = names
        .iter()
        .map(|name| match name.as_str() {
            "string" => "text",
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "true or false",
            "array" => "a list",
            "object" => "an object",
            other => other,
        })
        .collect();
    if number && instance.is_number() {
        return (PERCENTAGE.to_owned(), false);
    }
    (format!("expected {}", words.join(" or ")), true)
}

fn listed(options: &Value) -> String {
    let names = options.as_array().into_iter().flatten().filter_map(Value::as_str);
    names.collect::<Vec<_>>().join(", ")
}

/// Path of the violation, such as `rules[0].attributes[1].value`.
fn path(error: &ValidationError<'_>) -> String {
    let mut path = String::new();
    for step in error.instance_path().as_str().split('/').skip(1) {
        match step.parse::<usize>() {
            Ok(index) => path.push_str(&format!("[{index}]")),
            Err(_) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&step.replace("~1", "/").replace("~0", "~"));
            }
        }
    }
    path
}
