//! Evaluation request, decoded in one pass and borrowed from the record.
//!
//! Every mistake in a request becomes a [`Refusal`] that names the field and what was expected; it provides
//! the `error-code` and `error-message` of a dead letter. An unknown flag or environment is not a mistake.

mod context;
mod fields;
mod limits;
mod query;
mod read;
mod refusal;

use std::borrow::Cow;

use flagstream_evaluation::{DefaultValue, EvaluationContext, ValueType};

use super::json::{Kind, Span};

use self::fields::Fields;
use self::refusal::{Problems, refuse};

pub use self::context::PROPERTIES;
pub use self::context::{context, generated_session, is_generated_session, recorded_context, text_of};
pub use self::limits::{
    MAX_CORRELATION_ID_BYTES, MAX_ENVIRONMENT_BYTES, MAX_ID_BYTES, MAX_KEY_BYTES, check_length, check_record,
};
pub use self::query::{AllFlags, Asked, MAX_CONTEXTS_COUNT, Query, Subject, Subjects, flag_names};
pub use self::refusal::{Refusal, RefusalCode};

/// Maximum size of a request in bytes.
pub const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// Maximum nesting of objects and lists, including the request itself.
pub const MAX_DEPTH_LEVELS: usize = 32;
/// Maximum number of flags in one request.
pub const MAX_FLAGS_COUNT: usize = 1_000;
/// Maximum length of a flag name in bytes of UTF-8.
pub const MAX_FLAG_NAME_BYTES: usize = 255;

/// Evaluation request of a client.
#[derive(Debug)]
pub struct Request<'a> {
    pub request_id: Option<Cow<'a, str>>,
    pub environment: Option<Cow<'a, str>>,
    pub asks: Asks<'a>,
    pub context: EvaluationContext<'a>,
    /// JSON text of the context, as it is repeated in events.
    pub context_json: Cow<'a, str>,
}

/// One requested flag.
#[derive(Debug)]
pub struct Ask<'a> {
    pub flag: Cow<'a, str>,
    pub default: Option<DefaultValue<'a>>,
    /// JSON text of the default, as it is repeated in events.
    pub default_json: Option<&'a str>,
    pub value_type: ValueType,
}

/// Requested flags in the order of the request. A request for one flag needs no allocation here.
#[derive(Debug)]
pub enum Asks<'a> {
    One(Ask<'a>),
    Many(Vec<Ask<'a>>),
}

impl<'a> Asks<'a> {
    pub fn as_slice(&self) -> &[Ask<'a>] {
        match self {
            Self::One(ask) => std::slice::from_ref(ask),
            Self::Many(asks) => asks,
        }
    }
}

impl<'a> Request<'a> {
    /// Decodes the value of a Kafka record.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Refusal> {
        if payload.is_empty() {
            return Err(refuse(RefusalCode::Empty, "", "expected a JSON object, got an empty value".into()));
        }
        if payload.len() > MAX_REQUEST_BYTES {
            let message = format!("expected at most {MAX_REQUEST_BYTES} bytes, got {}", payload.len());
            return Err(refuse(RefusalCode::TooLarge, "", message));
        }
        let mut problems = Problems::first();
        Fields::read(text(payload)?, &mut |_, _| None, &mut problems)?.into_request()
    }
}

fn text(payload: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(payload).map_err(|error| {
        let message = format!("expected UTF-8, got an invalid byte at {}", error.valid_up_to());
        refuse(RefusalCode::NotUtf8, "", message)
    })
}

impl<'a> Ask<'a> {
    pub fn new(flag: Cow<'a, str>, default: Option<Span<'a>>, value_type: Option<ValueType>) -> Self {
        let parsed = default.and_then(default_of);
        let value_type = value_type.unwrap_or_else(|| ValueType::of_default(parsed.as_ref()));
        Self { flag, default: parsed, default_json: default.map(|span| span.text), value_type }
    }
}

fn default_of(span: Span<'_>) -> Option<DefaultValue<'_>> {
    match span.kind {
        Kind::Null => None,
        Kind::Boolean => Some(DefaultValue::Boolean(span.text == "true")),
        Kind::Number => Some(DefaultValue::Number(span.text)),
        Kind::String => span.as_string().map(DefaultValue::String),
        Kind::Object | Kind::Array => Some(DefaultValue::Json(span.text)),
    }
}
