//! Typed values, reasons and error codes: from an outcome to the answer for the type that was asked for.

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

/// How much of an environment's name an error message repeats.
const MAX_NAMED_BYTES: usize = 100;

/// The type asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    Boolean,
    String,
    /// `5` and `5.0`; `5.5` is a mismatch.
    Integer,
    Float,
    /// Any number.
    Number,
    /// Any JSON object or list.
    Object,
}

/// The caller's default. JSON texts are kept as they were written.
#[derive(Debug, Clone, PartialEq)]
pub enum DefaultValue<'a> {
    Boolean(bool),
    String(Cow<'a, str>),
    /// JSON text of a number.
    Number(&'a str),
    /// JSON text of an object or a list.
    Json(&'a str),
}

/// A value in the answer.
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

/// Why the value is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    TargetingMatch,
    Default,
    /// Somebody killed the flag.
    Disabled,
    Error,
}

/// OpenFeature's error codes, as far as evaluation has a use for them.
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
    /// What is wrong; without an error code, which flag that this one depends on is not what it must be.
    pub error_message: Option<Cow<'a, str>>,
    /// Version of the definition that answered; `None` for an unknown flag or environment.
    pub flag_version: Option<u64>,
}

/// What was looked up, and found or not.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// No flags loaded yet, or an environment that this deployment does not serve: the answer's error message.
    NotReady(Cow<'a, str>),
    /// The environment is served, the flag is not there.
    NotFound,
    Found(Outcome<'a>),
    /// Not looked up in a snapshot, but kept from an earlier look.
    Kept(Kept<'a>),
}

/// An outcome without its flag: all that an answer is made from.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    pub enabled: bool,
    pub killed: bool,
    /// The variant's name and payload.
    pub variant: Option<(&'a str, Option<&'a Payload>)>,
    /// The flag that it depends on and that is not what it must be.
    pub unmet: Option<&'a str>,
    pub flag_version: u64,
}

impl<'a> Lookup<'a> {
    /// Looks a flag up in the flags of an environment; `None`: this deployment does not serve it.
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

    /// This deployment has no environment of this name.
    pub fn unserved(environment: &str) -> Self {
        // Every answer repeats it: a stranger's name is cut.
        let name = shorten(environment, MAX_NAMED_BYTES);
        Self::NotReady(Cow::Owned(format!("the environment {name} is not served here")))
    }
}

/// A type that isn't one of those that can be asked for.
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

    /// The type implied by a default; boolean without one.
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
    /// The value as text, as events have it: `true`, `dark`, `5`, compact JSON; `null` for no value.
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

    /// The same value, borrowed from this one.
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
