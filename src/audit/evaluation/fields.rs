//! Typed access to the members of an event, with an error that names the field.

use std::borrow::Cow;

use crate::message::json::{JsonError, Kind, Scanner, Span};

use super::{Source, Unreadable};

/// Longest topic id that is kept, in bytes.
const MAX_TOPIC_ID_BYTES: usize = 64;

pub(super) fn present(span: Span<'_>) -> Option<Span<'_>> {
    (span.kind != Kind::Null).then_some(span)
}

pub(super) fn text<'a>(field: &str, span: Span<'a>) -> Result<Option<Cow<'a, str>>, Unreadable> {
    match span.kind {
        Kind::Null => Ok(None),
        Kind::String => Ok(span.as_string()),
        _ => Err(Unreadable(format!("{field}: expected a string, got {}", short(span.text)))),
    }
}

pub(super) fn boolean(field: &str, span: Span<'_>) -> Result<Option<bool>, Unreadable> {
    match span.kind {
        Kind::Null => Ok(None),
        Kind::Boolean => Ok(Some(span.text == "true")),
        _ => Err(Unreadable(format!("{field}: expected true or false, got {}", short(span.text)))),
    }
}

pub(super) fn number<N: std::str::FromStr>(field: &str, span: Span<'_>) -> Result<Option<N>, Unreadable> {
    if span.kind == Kind::Null {
        return Ok(None);
    }
    let number = span.text.parse().ok().filter(|_| span.kind == Kind::Number);
    number
        .map(Some)
        .ok_or_else(|| Unreadable(format!("{field}: expected a whole number, got {}", short(span.text))))
}

pub(super) fn source(span: Span<'_>) -> Result<Source<'_>, Unreadable> {
    let broken = |error: JsonError| Unreadable(format!("source: {error}"));
    if span.kind == Kind::Null {
        return Ok(Source::Unknown);
    }
    let mut scanner = Scanner::new(span.text, 2);
    let (mut topic, mut topic_id, mut api, mut tap) = (None, None, None, None);
    let (mut partition, mut offset, mut index) = (None, None, None);
    let mut first = true;
    scanner.begin_object().map_err(broken)?;
    while let Some(key) = scanner.next_key(&mut first).map_err(broken)? {
        let span = scanner.value().map_err(broken)?;
        match key.as_ref() {
            "topic" => topic = text("source.topic", span)?,
            "topic_id" => topic_id = text("source.topic_id", span)?.filter(|id| is_id(id)),
            "api" => api = text("source.api", span)?,
            "tap" => tap = text("source.tap", span)?.filter(|tap| is_id(tap)),
            "partition" => partition = number("source.partition", span)?,
            "offset" => offset = number("source.offset", span)?,
            "index" => index = number("source.index", span)?,
            _ => {}
        }
    }
    match (topic, api, partition, offset, index) {
        (Some(topic), None, Some(partition), Some(offset), Some(index)) => {
            Ok(Source::Kafka { topic, topic_id, partition, offset, index, tap })
        }
        (None, Some(api), None, None, None) => Ok(Source::Api(api)),
        _ => Err(Unreadable("source: expected either topic, partition, offset and index, or api".to_owned())),
    }
}

/// Whether a text can be a topic id: Kafka's are 22 characters of base64, and longer ones are allowed up to the limit.
fn is_id(text: &str) -> bool {
    (1..=MAX_TOPIC_ID_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

pub(super) fn missing(field: &str) -> Unreadable {
    Unreadable(format!("{field}: a required value is missing"))
}

/// Shortens a text for an error message.
pub(super) fn short(text: &str) -> String {
    let text: String = text.chars().take(40).collect();
    format!("`{text}`")
}
