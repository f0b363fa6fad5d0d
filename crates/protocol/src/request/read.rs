//! Readers of single fields: each checks the type and returns a refusal that names the field.

use std::borrow::Cow;

use crate::json::{Kind, Scanner, Span};

use super::refusal::{expected, not_json, refuse};
use super::{MAX_FLAGS_COUNT, Refusal, RefusalCode};

pub(super) fn present<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Span<'a>>, Refusal> {
    let span = scanner.value().map_err(not_json)?;
    Ok(Some(span).filter(|span| span.kind != Kind::Null))
}

pub(super) fn string<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    match scanner.peek().map_err(not_json)? {
        Kind::String => scanner.string().map(Some).map_err(not_json),
        Kind::Null => scanner.value().map(|_| None).map_err(not_json),
        other => Err(expected(field, "a string", other)),
    }
}

/// Reads a text. A number or boolean is converted to its JSON text.
pub(super) fn scalar<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    match scanner.peek().map_err(not_json)? {
        Kind::Number | Kind::Boolean => {
            scanner.value().map(|span| Some(Cow::Borrowed(span.text))).map_err(not_json)
        }
        _ => string(scanner, field),
    }
}

/// Reads a non-negative whole number.
pub(super) fn version<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Option<u64>, Refusal> {
    let span = scanner.value().map_err(not_json)?;
    match (span.kind, span.text.parse()) {
        (Kind::Null, _) => Ok(None),
        (Kind::Number, Ok(number)) => Ok(Some(number)),
        (kind, _) => Err(expected(field, "a whole number from 0", kind)),
    }
}

pub(super) fn strings<'a>(
    scanner: &mut Scanner<'a>,
    field: &str,
) -> Result<Option<Vec<Cow<'a, str>>>, Refusal> {
    if scanner.peek().map_err(not_json)? == Kind::Null {
        return scanner.value().map(|_| None).map_err(not_json);
    }
    string_list(scanner, field).map(Some)
}

pub(super) fn string_list<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Vec<Cow<'a, str>>, Refusal> {
    let kind = scanner.peek().map_err(not_json)?;
    if kind != Kind::Array {
        return Err(expected(field, "a list of strings", kind));
    }
    scanner.begin_array().map_err(not_json)?;
    let (mut texts, mut first) = (Vec::new(), true);
    while scanner.next_element(&mut first).map_err(not_json)? {
        if texts.len() == MAX_FLAGS_COUNT {
            let message = format!("expected at most {MAX_FLAGS_COUNT} flags, got more");
            return Err(refuse(RefusalCode::TooManyFlags, field, message));
        }
        match scanner.peek().map_err(not_json)? {
            Kind::String => texts.push(scanner.string().map_err(not_json)?),
            other => return Err(expected(&format!("{field}[{}]", texts.len()), "a string", other)),
        }
    }
    Ok(texts)
}

pub(super) type Members<'a> = Vec<(Cow<'a, str>, Span<'a>)>;

pub(super) fn members<'a>(scanner: &mut Scanner<'a>, field: &str) -> Result<Option<Members<'a>>, Refusal> {
    match scanner.peek().map_err(not_json)? {
        Kind::Object => {}
        Kind::Null => return scanner.value().map(|_| None).map_err(not_json),
        other => return Err(expected(field, "an object with one member per flag", other)),
    }
    scanner.begin_object().map_err(not_json)?;
    let (mut members, mut first) = (Vec::new(), true);
    while let Some(key) = scanner.next_key(&mut first).map_err(not_json)? {
        members.push((key, scanner.value().map_err(not_json)?));
    }
    Ok(Some(members))
}
