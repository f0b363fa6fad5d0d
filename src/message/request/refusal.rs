//! Why a request is refused: a code that is stable, and a sentence that names the field and what was expected.

use crate::flag::ValueType;
use crate::message::json::{JsonError, Kind};

use super::MAX_FLAG_NAME_BYTES;

/// Why a request is refused; the code is stable, the message is for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}", code = code.as_str())]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

/// The `error-code` of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    Empty,
    NotUtf8,
    NotJson,
    TooLarge,
    TooDeep,
    TooManyFlags,
    MissingField,
    InvalidField,
    DuplicateField,
    ConflictingFields,
    /// The broker refused the result for a reason other than its size.
    Refused,
}

impl RefusalCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::NotUtf8 => "NOT_UTF8",
            Self::NotJson => "NOT_JSON",
            Self::TooLarge => "TOO_LARGE",
            Self::TooDeep => "TOO_DEEP",
            Self::TooManyFlags => "TOO_MANY_FLAGS",
            Self::MissingField => "MISSING_FIELD",
            Self::InvalidField => "INVALID_FIELD",
            Self::DuplicateField => "DUPLICATE_FIELD",
            Self::ConflictingFields => "CONFLICTING_FIELDS",
            Self::Refused => "REFUSED",
        }
    }
}

pub(super) fn value_type(field: &str, text: &str) -> Result<ValueType, Refusal> {
    text.parse().map_err(|_| {
        let expected = "boolean, string, integer, float, number or object";
        refuse(RefusalCode::InvalidField, format!("{field}: expected {expected}, got \"{}\"", shorten(text)))
    })
}

pub(super) fn check_flag_name(field: &str, flag: &str) -> Result<(), Refusal> {
    if (1..=MAX_FLAG_NAME_BYTES).contains(&flag.len()) {
        return Ok(());
    }
    let message = format!("{field}: expected 1 to {MAX_FLAG_NAME_BYTES} bytes, got {}", flag.len());
    Err(refuse(RefusalCode::InvalidField, message))
}

pub(super) fn not_json(error: JsonError) -> Refusal {
    let code = match error {
        JsonError::Syntax { .. } => RefusalCode::NotJson,
        JsonError::TooDeep { .. } => RefusalCode::TooDeep,
    };
    refuse(code, error.to_string())
}

pub(super) fn expected(field: &str, expected: &str, got: Kind) -> Refusal {
    refuse(RefusalCode::InvalidField, format!("{field}: expected {expected}, got {}", kind_name(got)))
}

pub(super) fn conflict(one: &str, other: &str) -> Refusal {
    refuse(RefusalCode::ConflictingFields, format!("{one}: expected without {other}, got both"))
}

pub(super) fn refuse(code: RefusalCode, message: String) -> Refusal {
    Refusal { code, message }
}

pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "null",
        Kind::Boolean => "a boolean",
        Kind::Number => "a number",
        Kind::String => "a text",
        Kind::Object => "an object",
        Kind::Array => "a list",
    }
}

/// At most 60 characters of a stranger's text, for messages.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
