//! `context_hash`: the same in every language.
//!
//! The first 16 hex digits of SHA-256 over the context as Python's `json.dumps(context, sort_keys=True)` writes it,
//! with the member `session_id` in it where a session is given. `tests/vectors/context_hash.json` has examples, made
//! by Python.

use std::borrow::Cow;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::message::json::{JsonError, Kind, Scanner, Span};
use crate::message::request::MAX_DEPTH_LEVELS;

const HASH_BYTES: usize = 8;

/// The hash of a context, given as the JSON text of an object.
pub fn context_hash(context: &str, session: Option<&str>) -> Result<String, JsonError> {
    let text = python_form(context, session)?;
    let digest = Sha256::digest(text);
    Ok(hex::encode(digest.get(..HASH_BYTES).unwrap_or_default()))
}

fn python_form(context: &str, session: Option<&str>) -> Result<String, JsonError> {
    let mut scanner = Scanner::new(context, MAX_DEPTH_LEVELS);
    let mut members = members(&mut scanner)?;
    scanner.end()?;
    if let Some(session) = session {
        let mut text = String::with_capacity(session.len() + 2);
        write_text(&mut text, session);
        members.push((Cow::Borrowed("session_id"), text));
    }
    let mut out = String::with_capacity(context.len() + 32);
    write_members(&mut out, members);
    Ok(out)
}

type Members<'a> = Vec<(Cow<'a, str>, String)>;

/// The members of the object that stands here, their values in Python's form.
fn members<'a>(scanner: &mut Scanner<'a>) -> Result<Members<'a>, JsonError> {
    let (mut members, mut first) = (Vec::new(), true);
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key(&mut first)? {
        let mut text = String::new();
        write_value(&mut text, scanner)?;
        members.push((key, text));
    }
    Ok(members)
}

/// Python sorts by code point, which is the order of UTF-8 too. Of a key that is repeated the last one counts.
fn write_members(out: &mut String, mut members: Members<'_>) {
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    out.push('{');
    let mut separator = "";
    for (index, (key, value)) in members.iter().enumerate() {
        if members.get(index + 1).is_some_and(|(next, _)| next == key) {
            continue;
        }
        out.push_str(separator);
        write_text(out, key);
        out.push_str(": ");
        out.push_str(value);
        separator = ", ";
    }
    out.push('}');
}

fn write_value(out: &mut String, scanner: &mut Scanner<'_>) -> Result<(), JsonError> {
    match scanner.peek()? {
        Kind::Object => write_members(out, members(scanner)?),
        Kind::Array => {
            scanner.begin_array()?;
            let (mut first, mut separator) = (true, "");
            out.push('[');
            while scanner.next_element(&mut first)? {
                out.push_str(separator);
                write_value(out, scanner)?;
                separator = ", ";
            }
            out.push(']');
        }
        Kind::String => {
            let span = scanner.value()?;
            write_text(out, &span.as_string().unwrap_or_default());
        }
        Kind::Number => write_number(out, scanner.value()?),
        Kind::Null | Kind::Boolean => out.push_str(scanner.value()?.text),
    }
    Ok(())
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
