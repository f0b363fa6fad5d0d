//! Typed values, reasons and error codes: converts an outcome into the answer for the requested type.

mod answer;
mod json;
mod payload;

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use super::definition::shorten;
use super::{EnvironmentFlags, EvaluationContext, Moment, Outcome};

pub use answer::{answer, natural_answer};
pub use payload::Payload;

/// Maximum length in bytes of an environment's name in an error message.
const MAX_NAMED_BYTES: usize = 100;

/// Type of value that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    Boolean,
    String,
    /// A number without a fraction, such as `5` and `5.0`; `5.5` is a mismatch.
    Integer,
    Float,
    /// Any number.
    Number,
    /// Any JSON object or list.
    Object,
}

/// Default value of the request. JSON texts are kept as they were written.
#[derive(Debug, Clone, PartialEq)]
pub enum DefaultValue<'a> {
    Boolean(bool),
    String(Cow<'a, str>),
    /// JSON text of a number.
    Number(&'a str),
    /// JSON text of an object or a list.
    Json(&'a str),
}

/// Value of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Boolean(bool),
    String(Cow<'a, str>),
    /// JSON text of a number.
    Number(Cow<'a, str>),
    /// JSON text of an object or a list.
    Json(Cow<'a, str>),
}

/// Reason for the value of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    TargetingMatch,
    Default,
    /// The flag is killed by a kill switch.
    Disabled,
    Error,
}

/// OpenFeature's error codes that evaluation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    FlagNotFound,
    TypeMismatch,
    ProviderNotReady,
    General,
}

/// The complete answer for one flag.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer<'a> {
    pub value: Value<'a>,
    pub enabled: bool,
    pub variant: Option<&'a str>,
    pub reason: Reason,
    pub error_code: Option<ErrorCode>,
    /// Description of the error. Without an error code, it names a parent flag that does not have the
    /// required state.
    pub error_message: Option<Cow<'a, str>>,
    /// Version of the definition that answered; `None` for an unknown flag or environment.
    pub flag_version: Option<u64>,
    /// Choice of the variant, as a JSON object; `None` without a variant, and for flags that are not experiments.
    pub assignment: Option<&'a str>,
}

/// Result of looking up a flag.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// No flags are loaded yet, or this deployment does not serve the environment. The text becomes the
    /// answer's error message.
    NotReady(Cow<'a, str>),
    /// The environment is served but has no flag of this name.
    NotFound,
    /// The caller may not evaluate this flag. The text becomes the answer's error message.
    Forbidden(Cow<'a, str>),
    Found(Outcome<'a>),
    /// Outcome from a cache instead of a snapshot.
    OutcomeParts(OutcomeParts<'a>),
}

/// Outcome without its flag: everything that an answer is built from.
#[derive(Debug, Clone, Copy)]
pub struct OutcomeParts<'a> {
    pub enabled: bool,
    pub killed: bool,
    /// The variant's name and payload.
    pub variant: Option<(&'a str, Option<&'a Payload>)>,
    /// The parent flag that does not have the required state, if any.
    pub unmet: Option<&'a str>,
    pub flag_version: u64,
    /// Choice of the variant, as a JSON object.
    pub assignment: Option<&'a str>,
}

impl<'a> Lookup<'a> {
    /// Looks up and evaluates a flag. `flags` is `None` if this deployment does not serve the environment.
    pub fn evaluate(
        flags: Option<&'a Arc<EnvironmentFlags>>,
        environment: &str,
        flag: &str,
        context: &EvaluationContext<'_>,
        moment: &Moment<'_>,
    ) -> Self {
        match flags {
            None => Self::unserved(environment),
            Some(flags) => flags.evaluate(flag, context, moment).map_or(Self::NotFound, Self::Found),
        }
    }

    /// Lookup in an environment that this deployment does not serve.
    pub fn unserved(environment: &str) -> Self {
        // The name comes from the caller and is repeated in every answer, so it is shortened.
        let name = shorten(environment, MAX_NAMED_BYTES);
        Self::NotReady(Cow::Owned(format!("the environment {name} is not served")))
    }
}

/// Error: the name is not one of the types that can be requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of boolean, string, integer, float, number, object")]
pub struct UnknownValueType;

impl FromStr for ValueType {
    type Err = UnknownValueType;

    fn from_str(name: &str) -> Result<Self, UnknownValueType> {
        match name {
            "boolean" => Ok(Self::Boolean),
            "string" => Ok(Self::String),
            "integer" => Ok(Self::Integer),
            "float" => Ok(Self::Float),
            "number" => Ok(Self::Number),
            "object" => Ok(Self::Object),
            _ => Err(UnknownValueType),
        }
    }
}

impl ValueType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Number => "number",
            Self::Object => "object",
        }
    }

    /// The type implied by a default; boolean if there is none.
    pub fn of_default(default: Option<&DefaultValue<'_>>) -> Self {
        match default {
            None | Some(DefaultValue::Boolean(_)) => Self::Boolean,
            Some(DefaultValue::String(_)) => Self::String,
            Some(DefaultValue::Number(_)) => Self::Number,
            Some(DefaultValue::Json(_)) => Self::Object,
        }
    }
}

impl<'a> Value<'a> {
    /// The value as text, in the form used in events: `true`, `dark`, `5`, compact JSON; `null` for no value.
    pub fn as_text(&self) -> &str {
        match self {
            Self::Null => "null",
            Self::Boolean(true) => "true",
            Self::Boolean(false) => "false",
            Self::String(text) | Self::Number(text) | Self::Json(text) => text,
        }
    }

    /// Appends the value as JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::String(text) => json::write_string(text, out),
            _ => out.extend_from_slice(self.as_text().as_bytes()),
        }
    }

    /// A copy of the value that borrows its text.
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Boolean(boolean) => Value::Boolean(*boolean),
            Self::String(text) => Value::String(Cow::Borrowed(text)),
            Self::Number(text) => Value::Number(Cow::Borrowed(text)),
            Self::Json(text) => Value::Json(Cow::Borrowed(text)),
        }
    }
}

impl<'a> From<&DefaultValue<'a>> for Value<'a> {
    fn from(default: &DefaultValue<'a>) -> Self {
        match default {
            DefaultValue::Boolean(boolean) => Self::Boolean(*boolean),
            DefaultValue::String(text) => Self::String(text.clone()),
            DefaultValue::Number(text) => Self::Number(Cow::Borrowed(text)),
            DefaultValue::Json(text) => Self::Json(Cow::Borrowed(text)),
        }
    }
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::Default => "DEFAULT",
            Self::Disabled => "DISABLED",
            Self::Error => "ERROR",
        }
    }
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FlagNotFound => "FLAG_NOT_FOUND",
            Self::TypeMismatch => "TYPE_MISMATCH",
            Self::ProviderNotReady => "PROVIDER_NOT_READY",
            Self::General => "GENERAL",
        }
    }
}

#[cfg(test)]
mod tests;
