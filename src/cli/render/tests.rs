#![allow(clippy::unwrap_used)]

use rdkafka::message::{Header, OwnedHeaders, OwnedMessage, Timestamp};

use super::*;

fn record(key: Option<&str>, payload: Option<&[u8]>, headers: &[(&str, &str)]) -> OwnedMessage {
    let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(*value) })
    });
    OwnedMessage::new(
        payload.map(<[u8]>::to_vec),
        key.map(|key| key.as_bytes().to_vec()),
        "topic".to_owned(),
        Timestamp::CreateTime(1_768_473_000_123),
        3,
        99,
        Some(headers),
    )
}

fn content_of(payload: &str) -> String {
    content(&record(Some("k"), Some(payload.as_bytes()), &[]))
}

#[test]
fn every_kind_has_its_line() {
    let evaluated = r#"{"event_type":"FEATURE_FLAG_EVALUATED","flag_name":"theme","user_id":"u-1","typed_value":"dark",
        "variant":"dark","reason":"TARGETING_MATCH","error_code":null}"#;
    assert_eq!(content_of(evaluated), "theme = dark for u-1  TARGETING_MATCH, variant dark");
    let failed = r#"{"event_type":"FEATURE_FLAG_EVALUATED","flag_name":"n","user_id":null,"typed_value":5,
        "reason":"ERROR","error_code":"TYPE_MISMATCH","error_message":"no"}"#;
    assert_eq!(content_of(failed), "n = 5  ERROR, TYPE_MISMATCH: no");
    let updated = r#"{"event_type":"FEATURE_FLAG_UPDATED","flag_name":"a","environment":"e","version":7}"#;
    assert_eq!(content_of(updated), "e/a updated, version 7");
    let definition =
        r#"{"environment":"e","flag_name":"a","source":"file","version":7,"checksum":"c","definition":{}}"#;
    assert_eq!(content_of(definition), "version 7 from file: {}");
    assert_eq!(content_of(r#"{"flag_name":"a","user_id":"u"}"#), "a? for u");
    assert_eq!(content_of(r#"{"flag_names":["a","b"],"user_id":5}"#), "a, b? for 5");
    assert_eq!(content_of("no json"), "no json");
    assert_eq!(content(&record(None, None, &[("version", "8")])), "deleted (version 8)");
}

#[test]
fn a_dead_letter_says_why_and_from_where() {
    let headers = [
        (dead::ERROR_CODE, "NOT_JSON"),
        (dead::ERROR_MESSAGE, "expected a value"),
        (dead::SOURCE_TOPIC, "requests"),
        (dead::SOURCE_PARTITION, "2"),
        (dead::SOURCE_OFFSET, "17"),
    ];
    let line = line(&record(Some("k"), Some(b"{"), &headers));
    assert!(line.ends_with("NOT_JSON from requests 2/17: expected a value: {"), "{line}");
    assert!(line.contains("3/99 k"), "{line}");
}

#[test]
fn nothing_reaches_the_terminal_but_text() {
    let line = line(&record(Some("k\n"), Some(b"\x1b[31m\xff red\r\n"), &[]));
    assert!(!line.chars().any(char::is_control));
    assert_eq!(printable(&"x".repeat(3_000)).chars().count(), MAX_LINE_CHARS + 1);
}

#[test]
fn json_lines_are_lossless() {
    let read = |record: &OwnedMessage| -> (String, Value) {
        let line = json_line(record).unwrap();
        let value = serde_json::from_str(&line).unwrap();
        (line, value)
    };
    let (text, line) = read(&record(None, Some(b"{ \"b\": 1.50,\n \"a\": 2 }"), &[("h", "v")]));
    assert!(text.contains(r#""value":{"b":1.50,"a":2}"#) && !text.contains('\n'), "{text}");
    assert_eq!((&line["key"], &line["headers"]["h"]), (&Value::Null, &"v".into()));
    assert_eq!((&line["partition"], &line["timestamp"]), (&3.into(), &1_768_473_000_123_i64.into()));
    let (_, line) = read(&record(Some("k"), Some(b"\xff\x00"), &[]));
    assert_eq!((&line["key"], &line["value_hex"]), (&"k".into(), &"ff00".into()));
    let (_, line) = read(&record(Some("k"), None, &[]));
    assert!(line["value"].is_null());
    let (_, line) = read(&record(Some("k"), Some(b"no json"), &[]));
    assert_eq!(line["value"], "no json");
}
