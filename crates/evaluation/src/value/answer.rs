//! Implementation of the table "Values, types, reasons" of docs/api.md.

use std::borrow::Cow;

use super::payload::NotInteger;
use super::{Answer, DefaultValue, ErrorCode, Lookup, OutcomeParts, Payload, Reason, Value, ValueType};
use crate::definition::shorten;
use crate::{Outcome, Variant};

/// Maximum length in bytes of a part of a flag that an error message repeats.
const MAX_ECHO_BYTES: usize = 80;

/// The answer for `flag`, according to the table "Values, types, reasons" of docs/api.md.
///
/// If the flag has no value for the requested type, the answer is the default, whatever its type. Without a
/// default it is `false` for a boolean and `null` otherwise.
pub fn answer<'a>(
    flag: &'a str,
    lookup: Lookup<'a>,
    asked: ValueType,
    default: Option<&DefaultValue<'a>>,
) -> Answer<'a> {
    let fallback = Answer {
        value: fallback(asked, default),
        enabled: false,
        variant: None,
        reason: Reason::Default,
        error_code: None,
        error_message: None,
        flag_version: None,
        assignment: None,
    };
    match lookup {
        Lookup::NotReady(message) => fallback.error(ErrorCode::ProviderNotReady, message),
        Lookup::Forbidden(message) => fallback.error(ErrorCode::General, message),
        Lookup::NotFound => Answer {
            error_code: Some(ErrorCode::FlagNotFound),
            error_message: Some(Cow::Borrowed("the environment has no flag of this name")),
            ..fallback
        },
        Lookup::Found(outcome @ Outcome { failure: Some(failure), .. }) => {
            let off = match asked {
                ValueType::Boolean => Answer { value: Value::Boolean(false), ..fallback },
                _ => fallback,
            };
            off.of(&OutcomeParts::from(&outcome)).error(ErrorCode::General, Cow::Borrowed(failure))
        }
        Lookup::Found(outcome) => found(flag, &OutcomeParts::from(&outcome), asked, fallback),
        Lookup::OutcomeParts(kept) => found(flag, &kept, asked, fallback),
    }
}

/// The answer for `flag` if neither a type nor a default is given, as in OpenFeature's remote evaluation
/// protocol.
///
/// The payload of the selected variant determines the value (the variant's name if it has no payload). A flag
/// without variants is boolean. If a flag has variants but none is selected, the value is `null`, and the
/// client uses its own default.
pub fn natural_answer<'a>(flag: &'a str, lookup: Lookup<'a>) -> Answer<'a> {
    let named = |variant: &'a Variant| (variant.name.as_ref(), variant.payload.as_ref());
    let chosen = match &lookup {
        Lookup::Found(outcome) if !outcome.flag.variants().is_empty() => {
            Some(outcome.variant.map(|(_, variant)| named(variant)))
        }
        // A cached outcome does not record whether the flag has variants, so without one it is answered as a
        // boolean.
        Lookup::OutcomeParts(kept) if kept.variant.is_some() => Some(kept.variant),
        _ => None,
    };
    let as_boolean = answer(flag, lookup, ValueType::Boolean, None);
    match chosen {
        _ if as_boolean.error_code.is_some() => as_boolean,
        None => as_boolean,
        Some(None) => Answer { value: Value::Null, ..as_boolean },
        Some(Some((name, payload))) => {
            let value = match payload {
                Some(payload) => payload.natural(),
                None => Value::String(Cow::Borrowed(name)),
            };
            // A local flag may have a value even if it is off.
            let reason = if as_boolean.enabled { Reason::TargetingMatch } else { as_boolean.reason };
            Answer { value, reason, ..as_boolean }
        }
    }
}

fn fallback<'a>(asked: ValueType, default: Option<&DefaultValue<'a>>) -> Value<'a> {
    match (default, asked) {
        (Some(default), _) => Value::from(default),
        (None, ValueType::Boolean) => Value::Boolean(false),
        (None, _) => Value::Null,
    }
}

fn found<'a>(flag: &str, kept: &OutcomeParts<'a>, asked: ValueType, fallback: Answer<'a>) -> Answer<'a> {
    let reason = if kept.killed { Reason::Disabled } else { Reason::Default };
    let fallback = Answer { reason, ..fallback.of(kept) };
    let value = match (asked, kept.enabled, &kept.variant) {
        (ValueType::Boolean, true, _) => Some(Value::Boolean(true)),
        (ValueType::Boolean, false, _) => {
            return Answer { value: Value::Boolean(false), ..fallback };
        }
        (_, _, Some((name, payload))) => convert(name, *payload, asked),
        _ => return fallback,
    };
    match (value, &kept.variant) {
        (Some(value), _) if !kept.enabled => Answer { value, ..fallback },
        (Some(value), _) => Answer { value, reason: Reason::TargetingMatch, ..fallback },
        (None, Some((name, payload))) => {
            fallback.error(ErrorCode::TypeMismatch, Cow::Owned(mismatch(flag, name, *payload, asked)))
        }
        (None, None) => fallback,
    }
}

impl<'a> Answer<'a> {
    /// Adds the members that do not depend on the requested type.
    fn of(self, kept: &OutcomeParts<'a>) -> Self {
        Self {
            enabled: kept.enabled,
            variant: kept.variant.map(|(name, _)| name),
            error_message: kept.unmet.map(|parent| Cow::Owned(unmet(parent))).or(self.error_message),
            flag_version: Some(kept.flag_version),
            assignment: kept.assignment.filter(|_| kept.variant.is_some()),
            ..self
        }
    }

    fn error(self, code: ErrorCode, message: Cow<'a, str>) -> Self {
        Self { reason: Reason::Error, error_code: Some(code), error_message: Some(message), ..self }
    }
}

impl<'a> From<&Outcome<'a>> for OutcomeParts<'a> {
    fn from(outcome: &Outcome<'a>) -> Self {
        let variant = outcome.variant.map(|(_, variant)| (variant.name.as_ref(), variant.payload.as_ref()));
        Self {
            enabled: outcome.enabled,
            killed: outcome.killed,
            variant,
            unmet: outcome.unmet,
            flag_version: outcome.flag.version,
            assignment: outcome.assignment,
        }
    }
}

fn unmet(parent: &str) -> String {
    format!(
        "the flag is off, because its parent flag {} does not have the required state",
        shorten(parent, MAX_ECHO_BYTES)
    )
}

/// The variant's value in the requested type; `None` if it cannot be converted.
fn convert<'a>(name: &'a str, payload: Option<&'a Payload>, asked: ValueType) -> Option<Value<'a>> {
    let Some(payload) = payload else {
        return (asked == ValueType::String).then_some(Value::String(Cow::Borrowed(name)));
    };
    let number = |text| Value::Number(Cow::Borrowed(text));
    match asked {
        ValueType::Boolean => None,
        ValueType::String => Some(Value::String(Cow::Borrowed(payload.string()))),
        ValueType::Integer => payload.number()?.integer.as_deref().ok().map(number),
        ValueType::Float => payload.number().map(|found| number(&found.float)),
        ValueType::Number => payload.number().map(|found| number(&found.text)),
        ValueType::Object => payload.object().map(|text| Value::Json(Cow::Borrowed(text))),
    }
}

fn mismatch(flag: &str, variant: &str, payload: Option<&Payload>, asked: ValueType) -> String {
    let there = match payload {
        None => "no payload".to_owned(),
        Some(payload) => {
            let kind = shorten(&payload.kind, MAX_ECHO_BYTES);
            let text = shorten(&payload.text, MAX_ECHO_BYTES);
            let cut = if text.len() < payload.text.len() { "…" } else { "" };
            format!("a payload of type {kind}: {text}{cut}")
        }
    };
    let why = match payload.and_then(Payload::number) {
        Some(number) if asked == ValueType::Integer && number.integer == Err(NotInteger::TooLarge) => {
            " (the number does not fit into a 64-bit integer)"
        }
        _ => "",
    };
    format!(
        "{asked} was requested, but variant {name} of flag {flag} has {there}{why}",
        asked = asked.as_str(),
        flag = shorten(flag, MAX_ECHO_BYTES),
        name = shorten(variant, MAX_ECHO_BYTES),
    )
}
