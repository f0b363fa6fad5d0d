//! Renders records as one readable line each, whatever their content.

use std::borrow::Cow;
use std::str::Utf8Error;

use chrono::{DateTime, Local};
use rdkafka::Message;
use rdkafka::message::Headers;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::message::dead_letter::header as dead;
use crate::message::json::Span;

/// Maximum length of a line in characters; longer ones are cut off.
const MAX_LINE_CHARS: usize = 2_000;
/// JSON with more levels is printed as text.
const MAX_DEPTH_LEVELS: usize = 128;

#[derive(Serialize)]
struct JsonLine<'r> {
    topic: &'r str,
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    key: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    headers: Map<String, Value>,
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

/// The record as one line: time, position, key and content.
pub fn line(record: &impl Message) -> String {
    let place = format!("{}/{}", record.partition(), record.offset());
    let key = record.key().map_or(Cow::Borrowed("-"), String::from_utf8_lossy);
    let line = format!("{} {place:>8} {key}  {}", time(record), content(record));
    printable(&line)
}

/// The record as one JSON object with its value unchanged. Bytes that are not UTF-8 are written in hex.
pub fn json_line(record: &impl Message) -> serde_json::Result<String> {
    let key = record.key().map(std::str::from_utf8);
    let hex = |text: Option<&Result<&str, Utf8Error>>, bytes: Option<&[u8]>| {
        text.is_some_and(|text| text.is_err()).then(|| bytes.map(hex::encode)).flatten()
    };
    let value = record.payload().map(std::str::from_utf8);
    serde_json::to_string(&JsonLine {
        topic: record.topic(),
        partition: record.partition(),
        offset: record.offset(),
        timestamp: record.timestamp().to_millis(),
        key_hex: hex(key.as_ref(), record.key()),
        key: key.and_then(Result::ok),
        headers: headers(record),
        value_hex: hex(value.as_ref(), record.payload()),
        value: value.and_then(Result::ok).map(raw).transpose()?,
    })
}

/// A summary of the record's content, depending on its kind.
pub fn content(record: &impl Message) -> String {
    let headers = headers(record);
    let header = |name: &str| headers.get(name).and_then(Value::as_str);
    let Some(payload) = record.payload() else {
        let version = header("version").map(|version| format!(" (version {version})"));
        return format!("deleted{}", version.unwrap_or_default());
    };
    let body = serde_json::from_slice::<Value>(payload).ok().filter(Value::is_object);
    if let Some(code) = header(dead::ERROR_CODE) {
        return dead_letter(code, &header, payload);
    }
    match body {
        Some(body) if body.get("event_type").is_some() => event(&body),
        Some(body) if body.get("checksum").is_some() => definition(&body),
        Some(body) if body.get("flag_name").or(body.get("flag_names")).is_some() => request(&body, &header),
        _ => String::from_utf8_lossy(payload).into_owned(),
    }
}

/// Time of day in the local time zone.
pub fn time(record: &impl Message) -> String {
    let millis = record.timestamp().to_millis();
    let time = millis.and_then(DateTime::from_timestamp_millis);
    time.map_or_else(
        || "--:--:--.---".to_owned(),
        |time| time.with_timezone(&Local).format("%H:%M:%S%.3f").to_string(),
    )
}

/// Replaces control characters, so that a record cannot move the cursor or change colours of a terminal, and limits the
/// length.
pub fn printable(text: &str) -> String {
    let mut printable = harmless(
        text.char_indices().nth(MAX_LINE_CHARS).map_or(text, |(end, _)| text.get(..end).unwrap_or_default()),
    );
    if text.chars().nth(MAX_LINE_CHARS).is_some() {
        printable.push('…');
    }
    printable
}

/// Replaces control characters, without a length limit.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn event(body: &Value) -> String {
    let flag = text(body, "flag_name");
    if text(body, "event_type") != "FEATURE_FLAG_EVALUATED" {
        let kind = text(body, "event_type").replace("FEATURE_FLAG_", "").to_lowercase();
        let (environment, version) = (text(body, "environment"), text(body, "version"));
        return format!("{environment}/{flag} {kind}, version {version}");
    }
    let user = body.get("user_id").and_then(Value::as_str);
    let user = user.map(|user| format!(" for {user}")).unwrap_or_default();
    format!("{flag} = {}{user}  {}", text(body, "typed_value"), outcome(body))
}

/// The text after `flag = `: the value, whether it is the default, and the reason.
pub fn answered(value: &str, answer: &Value) -> String {
    match answer.get("error_code").and_then(Value::as_str) {
        None => format!("{value}  {}", outcome(answer)),
        Some(code) => {
            let message = answer.get("error_message").and_then(Value::as_str);
            let message = message.map(|message| format!(": {message}")).unwrap_or_default();
            format!("{value} (default)  {code}{message}")
        }
    }
}

/// Reason, variant and error of a result, as shown for events and replies.
pub fn outcome(answer: &Value) -> String {
    let mut outcome = text(answer, "reason").into_owned();
    for (name, label) in [("variant", "variant "), ("error_code", ""), ("error_message", "")] {
        if let Some(text) = answer.get(name).and_then(Value::as_str) {
            outcome.push_str(if name == "error_message" { ": " } else { ", " });
            outcome.push_str(label);
            outcome.push_str(text);
        }
    }
    outcome
}

fn definition(body: &Value) -> String {
    let inner = body.get("definition").map(Value::to_string).unwrap_or_default();
    format!("version {} from {}: {inner}", text(body, "version"), text(body, "source"))
}

fn request<'h>(body: &Value, header: &impl Fn(&str) -> Option<&'h str>) -> String {
    let flags = body.get("flag_names").or(body.get("flag_name"));
    let flags = match flags {
        Some(Value::Array(flags)) => flags.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        flags => flags.map(plain).unwrap_or_default().into_owned(),
    };
    let context = body.get("context").map(|context| format!(" {context}")).unwrap_or_default();
    let reply = header("reply-to").map(|topic| format!(" -> {topic}")).unwrap_or_default();
    format!("{flags}? for {}{context}{reply}", text(body, "user_id"))
}

fn dead_letter<'h>(code: &str, header: &impl Fn(&str) -> Option<&'h str>, payload: &[u8]) -> String {
    let part = |name| header(name).unwrap_or("?");
    let (topic, partition, offset) =
        (part(dead::SOURCE_TOPIC), part(dead::SOURCE_PARTITION), part(dead::SOURCE_OFFSET));
    let (message, body) = (part(dead::ERROR_MESSAGE), String::from_utf8_lossy(payload));
    format!("{code} from {topic} {partition}/{offset}: {message}: {body}")
}

fn text<'v>(body: &'v Value, name: &str) -> Cow<'v, str> {
    body.get(name).map_or(Cow::Borrowed("-"), plain)
}

fn plain(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// The headers by name. For a repeated name, the last value is used.
fn headers(record: &impl Message) -> Map<String, Value> {
    let headers = record.headers().into_iter().flat_map(Headers::iter);
    let read = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
    headers.map(|header| (header.key.to_owned(), read(header.value).into())).collect()
}

/// JSON unchanged on one line; any other text as a JSON string.
fn raw(text: &str) -> serde_json::Result<Box<RawValue>> {
    match Span::parse(text, MAX_DEPTH_LEVELS) {
        Ok(span) => RawValue::from_string(span.compact().into_owned()),
        Err(_) => serde_json::value::to_raw_value(text),
    }
}

#[cfg(test)]
mod tests;
