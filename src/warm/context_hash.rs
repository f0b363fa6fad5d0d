//! `context_hash`: the same in every language, and over all that evaluation sees of a context.
//!
//! The first 16 hex digits of SHA-256 over the context as Python's `json.dumps(context, sort_keys=True)` writes it,
//! with the member `session_id` in it where a session is given.
//!
//! Evaluation also sees how a number, a list or an object is written: `100.0` is another text than `1e2`. Members that
//! are not written as Python would write them are therefore hashed as well: a line feed follows, and a JSON object, in
//! the same form, of their names and their texts as evaluation sees them. Two contexts with one hash evaluate equally.
//! `tests/vectors/context_hash.json` has examples, made by Python.

use std::borrow::Cow;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::message::json::{JsonError, Kind, Scanner, Span};
use crate::message::request::MAX_DEPTH_LEVELS;

const HASH_BYTES: usize = 8;

/// What Python puts between the tokens of a text.
#[derive(Debug, Clone, Copy)]
struct Separators {
    item: &'static str,
    member: &'static str,
}

/// `json.dumps(value, sort_keys=True)`.
const SPACED: Separators = Separators { item: ", ", member: ": " };
/// `json.dumps(value, sort_keys=True, separators=(",", ":"))`: what evaluation sees of an ordinary list or object.
const COMPACT: Separators = Separators { item: ",", member: ":" };

/// The hash of a context, given as the JSON text of an object.
pub fn context_hash(context: &str, session: Option<&str>) -> Result<String, JsonError> {
    let digest = Sha256::digest(hashed_text(context, session)?);
    Ok(hex::encode(digest.get(..HASH_BYTES).unwrap_or_default()))
}

/// What is hashed: Python's form, and on a second line the members that are written otherwise.
fn hashed_text(context: &str, session: Option<&str>) -> Result<String, JsonError> {
    let mut scanner = Scanner::new(context, MAX_DEPTH_LEVELS);
    let (mut members, mut otherwise) = (Vec::new(), Vec::new());
    let mut first = true;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key(&mut first)? {
        let span = scanner.value()?;
        let text = text_of(&span, SPACED)?;
        otherwise.push((key.clone(), seen_otherwise(&span, &text)?));
        members.push((key, text));
    }
    scanner.end()?;
    if let Some(session) = session {
        let key = Cow::Borrowed("session_id");
        otherwise.push((key.clone(), None));
        members.push((key, quoted(session)));
    }
    let mut out = String::with_capacity(context.len() + 32);
    write_members(&mut out, last_of_each(members), SPACED);
    let otherwise = last_of_each(otherwise).into_iter();
    let otherwise: Vec<_> = otherwise.filter_map(|(key, text)| Some((key, quoted(&text?)))).collect();
    if !otherwise.is_empty() {
        out.push('\n');
        write_members(&mut out, otherwise, SPACED);
    }
    Ok(out)
}

/// What evaluation sees of a value, where Python's form of it does not tell.
fn seen_otherwise<'a>(span: &Span<'a>, python: &str) -> Result<Option<Cow<'a, str>>, JsonError> {
    Ok(match span.kind {
        Kind::Null | Kind::Boolean | Kind::String => None,
        Kind::Number => (span.text != python).then_some(Cow::Borrowed(span.text)),
        Kind::Object | Kind::Array => {
            let seen = span.compact();
            let ordinary = text_of(span, COMPACT)?;
            (seen != ordinary).then_some(seen)
        }
    })
}

/// A value in Python's form.
fn text_of(span: &Span<'_>, separators: Separators) -> Result<String, JsonError> {
    let mut text = String::with_capacity(span.text.len());
    write_value(&mut text, &mut Scanner::new(span.text, MAX_DEPTH_LEVELS), separators)?;
    Ok(text)
}

/// Sorted by name. Python sorts by code point, which is the order of UTF-8 too; of a name that is repeated the last one
/// counts.
fn last_of_each<'a, T>(mut members: Vec<(Cow<'a, str>, T)>) -> Vec<(Cow<'a, str>, T)> {
    members.reverse();
    members.sort_by(|(one, _), (other, _)| one.cmp(other));
    members.dedup_by(|(earlier, _), (later, _)| earlier == later);
    members
}

fn write_members(out: &mut String, members: Vec<(Cow<'_, str>, String)>, separators: Separators) {
    out.push('{');
    let mut separator = "";
    for (key, value) in members {
        out.push_str(separator);
        write_text(out, &key);
        out.push_str(separators.member);
        out.push_str(&value);
        separator = separators.item;
    }
    out.push('}');
}

fn write_value(out: &mut String, scanner: &mut Scanner<'_>, separators: Separators) -> Result<(), JsonError> {
    match scanner.peek()? {
        Kind::Object => {
            scanner.begin_object()?;
            let (mut members, mut first) = (Vec::new(), true);
            while let Some(key) = scanner.next_key(&mut first)? {
                let mut text = String::new();
                write_value(&mut text, scanner, separators)?;
                members.push((key, text));
            }
            write_members(out, last_of_each(members), separators);
        }
        Kind::Array => {
            scanner.begin_array()?;
            let (mut first, mut separator) = (true, "");
            out.push('[');
            while scanner.next_element(&mut first)? {
                out.push_str(separator);
                write_value(out, scanner, separators)?;
                separator = separators.item;
            }
            out.push(']');
        }
        Kind::String => write_text(out, &scanner.string()?),
        Kind::Number => write_number(out, scanner.value()?),
        Kind::Null | Kind::Boolean => out.push_str(scanner.value()?.text),
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    write_text(&mut quoted, text);
    quoted
}

/// ASCII alone, as `ensure_ascii` has it.
fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// Python's integers have any length; its other numbers are doubles, written as `repr` does.
fn write_number(out: &mut String, number: Span<'_>) {
    if !number.text.contains(['.', 'e', 'E']) {
        return out.push_str(if number.text == "-0" { "0" } else { number.text });
    }
    let double: f64 = number.text.parse().unwrap_or(f64::NAN);
    if double.is_infinite() {
        return out.push_str(if double > 0.0 { "Infinity" } else { "-Infinity" });
    }
    // Both write the fewest digits that read back as the same double. Where two texts of so many are equally near, Python
    // takes the even one: so does Rust if it is told how many.
    let shortest = format!("{double:e}");
    let digits = shortest.split('e').next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count();
    let scientific = format!("{double:.*e}", digits.saturating_sub(1));
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let decimals = i32::try_from(digits).unwrap_or(0) - 1 - exponent;
        let plain = format!("{double:.*}", usize::try_from(decimals).unwrap_or(0));
        out.push_str(&plain);
        if !plain.contains('.') {
            out.push_str(".0");
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    }
}

#[cfg(test)]
#[path = "context_hash/tests.rs"]
mod tests;
