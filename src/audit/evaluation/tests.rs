#![allow(clippy::unwrap_used)]

use super::*;

const EVENT: &str = r#"{"event_type":"FEATURE_FLAG_EVALUATED","event_id":"019bc134-7845-8002-896e-300000018330",
    "request_id":"r-1","flag_name":"theme","user_id":"user-456","session_id":null,"environment":"production",
    "value":"dark","typed_value":"dark","enabled":true,"variant":"dark","reason":"TARGETING_MATCH","error_code":null,
    "error_message":null,"flag_version":1768473000123,"flags_version":1768473000124,"value_type":"string","context":{"region":"us-west"},"default_value":"light",
    "evaluated_at":"2026-01-15T10:30:00.212345Z","later":[1],
    "source":{"topic":"requests","partition":3,"offset":99120,"index":2}}"#;

fn read(event: &str) -> Result<Evaluation<'_>, Unreadable> {
    match Event::read(event.as_bytes())? {
        Event::Evaluated(evaluation) => Ok(*evaluation),
        Event::Other | Event::Switched(_) => panic!("not an evaluation"),
    }
}

#[test]
fn an_event_becomes_a_row() {
    let row = read(EVENT).unwrap();
    assert_eq!(row.flag_name, "theme");
    assert_eq!(row.user_id.as_deref(), Some("user-456"));
    assert_eq!(row.session_id, None);
    assert_eq!((row.result, row.evaluated_value.as_deref()), (None, Some("\"dark\"")));
    assert_eq!(row.evaluated_at, 1_768_473_000_212_345);
    assert_eq!(row.requested_ms(), 1_768_473_000_005);
    assert_eq!(row.context, r#"{"region":"us-west"}"#);
    assert!(matches!(row.source, Source::Kafka { partition: 3, offset: 99_120, index: 2, .. }));
    assert_eq!((row.flags_version, row.value_type.as_deref()), (Some(1_768_473_000_124), Some("string")));
    assert!(row.counts() && !row.amended);
}

#[test]
fn booleans_have_a_result_and_no_value() {
    let event = EVENT.replace(r#""typed_value":"dark""#, r#""typed_value":false"#);
    let row = read(&event).unwrap();
    assert_eq!((row.result, row.evaluated_value), (Some(false), None));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let cases = [
        (r#""flag_name":"theme","#, "", "flag_name: a required value is missing"),
        (r#""enabled":true"#, r#""enabled":"yes""#, "enabled: expected true or false, got `\"yes\"`"),
        ("2026-01-15T", "2026-13-15T", "evaluated_at: expected a time"),
        ("019bc134-7845", "nonsense", "event_id: expected a UUID"),
        (r#""offset":99120,"#, "", "source: expected either topic"),
        ("1768473000123", "1.5", "flag_version: expected a whole number"),
    ];
    for (from, to, expected) in cases {
        assert!(EVENT.contains(from), "{from}");
        let error = read(&EVENT.replace(from, to)).unwrap_err();
        assert!(error.0.starts_with(expected), "{error}");
    }
    assert!(Event::read(b"\xff").is_err());
    assert!(Event::read(b"not json").is_err());
    assert!(read(&EVENT.replace("us-west", r"\ud800")).is_err(), "half of a pair");
}

#[test]
fn other_events_are_left_to_others() {
    let change = br#"{"event_type":"FEATURE_FLAG_UPDATED","flag_name":"a","environment":"e"}"#;
    assert!(matches!(Event::read(change), Ok(Event::Other)));
}

#[test]
fn what_no_database_holds_is_amended() {
    let event = EVENT
        .replace("user-456", r"user\u0000")
        .replace("us-west", r"\u0000")
        .replace(r#""production""#, &format!("\"{}\"", "e".repeat(300)));
    let row = read(&event).unwrap();
    assert!(row.amended);
    assert_eq!(row.user_id.as_deref(), Some("user\u{FFFD}"));
    assert_eq!(row.context, r#"{"region":"\ufffd"}"#);
    assert_eq!(row.environment.len(), MAX_NAME_BYTES);
}
