//! Refusals of requests: a stable code, and a message that names the field and what was expected.

use crate::json::{JsonError, Kind};
use flagstream_evaluation::ValueType;

use super::MAX_FLAG_NAME_BYTES;

/// Reason why a request is refused. The code is stable; the texts are meant for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}", code = code.as_str(), text = self.text())]
pub struct Refusal {
    pub code: RefusalCode,
    /// Name of the invalid field; empty if the request as a whole is invalid.
    pub field: String,
    /// Description of what was expected.
    pub message: String,
    /// Whether the value has the wrong type, as opposed to an invalid value of the right type.
    pub wrong_type: bool,
}

impl Refusal {
    /// Field and message in one text.
    pub fn text(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }

    /// Whether the text after the problem cannot be read.
    pub(super) fn is_final(&self) -> bool {
        !matches!(
            self.code,
            RefusalCode::TooManyFlags
                | RefusalCode::MissingField
                | RefusalCode::InvalidField
                | RefusalCode::DuplicateField
                | RefusalCode::ConflictingFields
        )
    }

    /// The refusal with its field qualified by an outer field.
    pub(super) fn within(self, outer: &str) -> Self {
        let field = if self.field.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.field) };
        Self { field, ..self }
    }
}

/// Value of the header `error-code` of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    Empty,
    NotUtf8,
    NotJson,
    NotAvro,
    /// The schema registry has no schema with this id.
    UnknownSchema,
    /// The schema is not compatible with requests.
    SchemaMismatch,
    TooLarge,
    TooDeep,
    TooManyFlags,
    MissingField,
    InvalidField,
    DuplicateField,
    ConflictingFields,
    /// The broker refused the result for a reason other than its size.
    Refused,
    /// The results could not be committed within the transaction timeout, alone and in several attempts,
    /// while the broker accepted others.
    ProcessingFailed,
}

impl RefusalCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::NotUtf8 => "NOT_UTF8",
            Self::NotJson => "NOT_JSON",
            Self::NotAvro => "NOT_AVRO",
            Self::UnknownSchema => "UNKNOWN_SCHEMA",
            Self::SchemaMismatch => "SCHEMA_MISMATCH",
            Self::TooLarge => "TOO_LARGE",
            Self::TooDeep => "TOO_DEEP",
            Self::TooManyFlags => "TOO_MANY_FLAGS",
            Self::MissingField => "MISSING_FIELD",
            Self::InvalidField => "INVALID_FIELD",
            Self::DuplicateField => "DUPLICATE_FIELD",
            Self::ConflictingFields => "CONFLICTING_FIELDS",
            Self::Refused => "REFUSED",
            Self::ProcessingFailed => "PROCESSING_FAILED",
        }
    }
}

/// Collector of a request's problems.
#[derive(Debug)]
pub(super) struct Problems {
    found: Vec<Refusal>,
    collect: bool,
}

impl Problems {
    /// Collector that stops at the first problem.
    pub(super) fn first() -> Self {
        Self { found: Vec::new(), collect: false }
    }

    /// Collector of all problems.
    pub(super) fn all() -> Self {
        Self { found: Vec::new(), collect: true }
    }

    /// Records a problem. Returns it as an error if reading cannot continue.
    pub(super) fn note(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        if !self.collect || refusal.is_final() {
            return Err(refusal);
        }
        self.found.push(refusal);
        Ok(())
    }

    /// The value; `None` if it is an error that was recorded.
    pub(super) fn take<T>(&mut self, value: Result<T, Refusal>) -> Result<Option<T>, Refusal> {
        match value {
            Ok(value) => Ok(Some(value)),
            Err(refusal) => self.note(refusal).map(|()| None),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether a problem with this field was recorded.
    pub(super) fn has(&self, field: &str) -> bool {
        self.found.iter().any(|refusal| {
            refusal.field.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        })
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.found.extend(other.found);
    }

    /// Adds the problems of a nested object, qualified by `place`.
    pub(super) fn extend_within(&mut self, other: Self, place: &str) {
        self.found.extend(other.found.into_iter().map(|refusal| refusal.within(place)));
    }

    pub(super) fn into_found(self) -> Vec<Refusal> {
        self.found
    }
}

pub(super) fn value_type(field: &str, text: &str) -> Result<ValueType, Refusal> {
    text.parse().map_err(|_| {
        let expected = "boolean, string, integer, float, number or object";
        refuse(RefusalCode::InvalidField, field, format!("expected {expected}, got \"{}\"", shorten(text)))
    })
}

pub(super) fn check_flag_name(field: &str, flag: &str) -> Result<(), Refusal> {
    if (1..=MAX_FLAG_NAME_BYTES).contains(&flag.len()) {
        return Ok(());
    }
    let message = format!("expected 1 to {MAX_FLAG_NAME_BYTES} bytes, got {}", flag.len());
    Err(refuse(RefusalCode::InvalidField, field, message))
}

pub(super) fn not_json(error: JsonError) -> Refusal {
    let code = match error {
        JsonError::Syntax { .. } => RefusalCode::NotJson,
        JsonError::TooDeep { .. } => RefusalCode::TooDeep,
    };
    refuse(code, "", error.to_string())
}

pub(super) fn expected(field: &str, expected: &str, got: Kind) -> Refusal {
    let message = format!("expected {expected}, got {}", kind_name(got));
    Refusal { wrong_type: true, ..refuse(RefusalCode::InvalidField, field, message) }
}

pub(super) fn conflict(one: &str, other: &str) -> Refusal {
    refuse(RefusalCode::ConflictingFields, one, format!("expected only one of {one} and {other}, got both"))
}

pub(super) fn refuse(code: RefusalCode, field: &str, message: String) -> Refusal {
    Refusal { code, field: field.to_owned(), message, wrong_type: false }
}

pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "null",
        Kind::Boolean => "a boolean",
        Kind::Number => "a number",
        Kind::String => "a string",
        Kind::Object => "an object",
        Kind::Array => "a list",
    }
}

/// At most 60 characters of a caller's text, for messages.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
