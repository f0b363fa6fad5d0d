#![allow(clippy::unwrap_used, clippy::panic)]

use flagstream_evaluation::{Reason, Value, ValueType};
use serde_json::Value as Json;

use super::*;
use crate::avro::Kind;
use crate::evaluations::single_events;
use crate::event::{EventSource, Nulls, Timestamp, stream_event_id, write_event_as};
use crate::request::Request;

const CONTEXT: &str = r#"{"plan":"gold"}"#;

/// Writes bulk events of the flags `f0`, `f1`, … and returns them as JSON, with the events that each flag would have.
fn written(format: &Format, flags: u32, max_bytes: usize) -> (Vec<String>, Vec<Json>) {
    let body = format!(
        r#"{{"flag_names":[{}],"default_values":{{"f1":{{"a":1}}}}}}"#,
        (0..flags).map(|flag| format!(r#""f{flag}""#)).collect::<Vec<_>>().join(",")
    );
    let request = Request::decode(body.as_bytes()).unwrap();
    let (mut bulk, mut records, mut each) = (BulkEvent::default(), Vec::new(), Vec::new());
    let mut take = |bulk: &mut BulkEvent| {
        let mut record = Vec::new();
        bulk.take(format, &mut record);
        records.push(as_json(format, &record));
    };
    for (ask, index) in request.asks.as_slice().iter().zip(0u32..) {
        let id = stream_event_id(7, 3, 99_120, index, 1_768_473_000_123);
        let is_completed = index % 4 == 3;
        let frame = EventFrame {
            event_id: std::str::from_utf8(&id).unwrap(),
            request_id: Some("r-1"),
            user_id: None,
            session_id: (index % 3 == 2).then_some("generated"),
            environment: "production",
            context: if is_completed { r#"{"plan":"free","more":[1]}"# } else { CONTEXT },
            attributes: is_completed.then_some(r#"{"user":{"partition":0,"offset":17,"names":["plan"]}}"#),
            evaluated_at: Timestamp { text: "2026-01-15T10:30:00.012345Z", micros: 1_768_473_000_012_345 },
            flags_version: 9,
            value_type: (index % 2 == 0).then_some(ValueType::Boolean),
            evaluation_ns: (index == 1).then_some(700),
            source: EventSource::Kafka {
                topic: "requests",
                topic_id: Some("id"),
                partition: 3,
                offset: 99_120,
                index,
                tap: None,
            },
        };
        let answer = Answer {
            value: [Value::Boolean(true), Value::Null, Value::String("dark".into())][index as usize % 3]
                .clone(),
            enabled: index % 2 == 0,
            variant: (index % 3 == 2).then_some("dark"),
            reason: if index % 5 == 4 { Reason::Disabled } else { Reason::TargetingMatch },
            error_code: None,
            error_message: None,
            flag_version: (index % 7 != 6).then_some(8),
            assignment: (index == 2).then_some(r#"{"how":"drawn"}"#),
        };
        let shared = Shared { session_id: None, context: CONTEXT };
        while !bulk.add(format, shared, &frame, ask, &answer, max_bytes) {
            take(&mut bulk);
        }
        let mut event = Vec::new();
        write_event_as(&mut event, Nulls::Omit, &frame, ask, &answer);
        each.push(serde_json::from_slice(&event).unwrap());
    }
    take(&mut bulk);
    (records, each)
}

fn as_json(format: &Format, record: &[u8]) -> String {
    let mut json = Vec::new();
    match format {
        Format::Json => json.extend_from_slice(record),
        Format::Avro(prefix) => {
            let record = record.strip_prefix(prefix.as_slice()).unwrap();
            Kind::EvaluatedTogether.plan().to_json(record, &mut json, 1 << 20).unwrap();
        }
    }
    String::from_utf8(json).unwrap()
}

/// The event of each evaluation. Avro has no absent booleans.
fn expanded(records: &[String]) -> Vec<Json> {
    let singles = records.iter().flat_map(|record| single_events(record).unwrap());
    let parse = |single: Vec<u8>| {
        let mut event: Json = serde_json::from_slice(&single).unwrap();
        if event["killed"] == Json::Bool(false) {
            event.as_object_mut().unwrap().remove("killed");
        }
        let source = event["source"].as_object_mut().unwrap();
        source.retain(|_, value| !value.is_null());
        event
    };
    singles.map(parse).collect()
}

#[test]
fn bulk_events_contain_exactly_the_events_of_each_flag() {
    for format in [Format::Json, Format::Avro(vec![0, 0, 0, 0, 9, 4])] {
        for flags in [1, 2, 40] {
            let (records, each) = written(&format, flags, usize::MAX);
            assert_eq!(records.len(), 1);
            assert_eq!(expanded(&records), each, "{format:?}");
        }
    }
}

#[test]
fn a_record_that_would_be_too_large_continues_in_another() {
    for format in [Format::Json, Format::Avro(Vec::new())] {
        let (records, each) = written(&format, 40, 2_000);
        assert!(records.len() > 1, "{}", records.len());
        if format == Format::Json {
            assert!(records.iter().all(|record| record.len() <= 2_000));
        }
        assert_eq!(expanded(&records), each, "{format:?}");
        // Each record has at least one result, even if that is too large.
        let (records, each) = written(&format, 3, 1);
        assert_eq!((records.len(), expanded(&records)), (3, each));
    }
}

#[test]
fn nothing_is_written_without_results() {
    let (mut bulk, mut out) = (BulkEvent::default(), Vec::new());
    bulk.take(&Format::Json, &mut out);
    assert!(out.is_empty() && bulk.count() == 0);
}
