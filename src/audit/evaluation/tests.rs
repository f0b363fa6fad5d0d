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
        Event::Other | Event::Switched(_) | Event::Together(_) => panic!("not an evaluation"),
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

#[test]
fn absent_members_mean_null() {
    let nulls = [r#""session_id":null,"#, r#""error_code":null,"#, r#""error_message":null,"#];
    let squeezed = EVENT.split_whitespace().collect::<String>();
    let without = nulls.iter().fold(squeezed.clone(), |event, null| {
        assert!(event.contains(null), "{null}");
        event.replace(null, "")
    });
    assert_eq!(read(&without).unwrap(), read(&squeezed).unwrap());
}

#[test]
fn a_bulk_event_becomes_the_rows_of_its_results() {
    let bulk = r#"{"event_type":"FEATURE_FLAGS_EVALUATED","event_id":"019bc134-7845-8008-896e-300000018330",
        "request_id":"r-1","user_id":"user-456","environment":"production","flags_version":1768473000124,
        "context":{"region":"us-west"},"evaluated_at":"2026-01-15T10:30:00.212345Z",
        "source":{"topic":"requests","partition":3,"offset":99120,"index":2},"results":[
        {"flag_name":"theme","value":"dark","typed_value":"dark","enabled":true,"variant":"dark",
            "reason":"TARGETING_MATCH","flag_version":1768473000123,"default_value":"light","value_type":"string"},
        {"flag_name":"on","typed_value":false,"enabled":false,"reason":"DEFAULT"}]}"#;
    let Event::Together(rows) = Event::read(bulk.as_bytes()).unwrap() else { panic!("not a bulk event") };
    let single = EVENT.replace("019bc134-7845-8002", "019bc134-7845-8008");
    assert_eq!(rows[0], read(&single).unwrap());
    assert_eq!(rows[1].event_id.to_string(), "019bc134-7845-800c-896e-300000018330");
    assert!(matches!(rows[1].source, Source::Kafka { offset: 99_120, index: 3, .. }));
    assert_eq!((rows[1].result, &*rows[1].context), (Some(false), r#"{"region":"us-west"}"#));
    let error = Event::read(bulk.replace(r#""enabled":false"#, r#""enabled":5"#).as_bytes()).unwrap_err();
    assert_eq!(error.0, "results[1]: enabled: expected true or false, got `5`");
}
