#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::event::{call_event_id, stream_event_id};

fn id(index: u32) -> String {
    String::from_utf8(stream_event_id(7, 3, 99_120, index, 1_768_473_000_123).to_vec()).unwrap()
}

fn bulk(first: u32, results: Value) -> Value {
    json!({"event_type": "FEATURE_FLAGS_EVALUATED", "event_id": id(first), "user_id": "ann", "session_id": null,
        "environment": "production", "flags_version": 7, "context": {"plan": "gold"},
        "evaluated_at": "2026-01-15T10:30:00.012345Z",
        "source": {"topic": "requests", "partition": 3, "offset": 99120, "index": first},
        "results": results})
}

fn singles(event: &Value) -> Result<Vec<Value>, String> {
    let singles = single_events(&event.to_string()).map_err(|error| error.to_string())?;
    Ok(singles.iter().map(|single| serde_json::from_slice(single).unwrap()).collect())
}

#[test]
fn a_result_replaces_the_members_of_its_record() {
    let event = bulk(
        4,
        json!([
            {"flag_name": "a", "enabled": true, "variant": null, "user_id": null},
            {"flag_name": "b", "enabled": false, "session_id": "s-1", "context": {"plan": "free"},
                "source": {"api": "rest"}, "event_id": "x", "event_type": "y"},
        ]),
    );
    let expected = |index: u32, more: Value| {
        let mut event = json!({"event_type": "FEATURE_FLAG_EVALUATED", "event_id": id(index), "user_id": "ann",
            "environment": "production", "flags_version": 7, "context": {"plan": "gold"},
            "evaluated_at": "2026-01-15T10:30:00.012345Z",
            "source": {"topic": "requests", "partition": 3, "offset": 99120, "index": index}});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let a = expected(4, json!({"flag_name": "a", "enabled": true}));
    let b = json!({"flag_name": "b", "enabled": false, "session_id": "s-1", "context": {"plan": "free"}});
    assert_eq!(singles(&event).unwrap(), [a, expected(5, b)]);
}

#[test]
fn results_of_a_call_have_the_ids_of_its_answers() {
    let call = |index| String::from_utf8(call_event_id(1_768_473_000_123, 77, index).to_vec()).unwrap();
    let mut event = bulk(0, json!([{"flag_name": "a"}, {"flag_name": "b"}]));
    event["event_id"] = call(255).into();
    event["source"] = json!({"api": "rest"});
    let singles = singles(&event).unwrap();
    assert_eq!((&singles[0]["event_id"], &singles[1]["event_id"]), (&call(255).into(), &call(256).into()));
    assert_eq!(singles[1]["source"], json!({"api": "rest"}));
}

#[test]
fn other_events_are_not_expanded() {
    for text in
        [r#"{"event_type":"FEATURE_FLAG_EVALUATED"}"#, r#"{"event_type":"FEATURE_FLAG_UPDATED","results":1}"#]
    {
        assert_eq!(single_events(text), Ok(Vec::new()));
    }
    let record = EventRecord::read(r#"{"event_type":"FEATURE_FLAG_EVALUATED","user_id":null}"#).unwrap();
    let evaluations = record.evaluations().unwrap();
    let [one] = evaluations.as_slice() else { panic!() };
    assert_eq!((one.place, one.members().count()), (None, 2));
}

#[test]
fn a_malformed_bulk_event_is_refused_as_a_whole() {
    let one = json!([{"flag_name": "a"}]);
    let with = |field: &str, value: Value| {
        let mut event = bulk(4, one.clone());
        event[field] = value;
        event
    };
    let source = |index: Value| json!({"topic": "t", "partition": 0, "offset": 1, "index": index});
    let many = |count: usize| Value::Array(vec![json!({"flag_name": "a"}); count]);
    let mut of_call = bulk(0, many(RESULTS_MAX_COUNT + 1));
    of_call["event_id"] = String::from_utf8(call_event_id(5, 7, 0).to_vec()).unwrap().into();
    for (event, expected) in [
        (with("results", Value::Null), "results: a required value is missing"),
        (with("results", json!({"a": 1})), "results: expected a list, got `{\"a\":1}`"),
        (with("results", json!([])), "results: expected at least one result, got none"),
        (with("results", json!([{"flag_name": "a"}, "b"])), "results[1]: expected an object"),
        (with("event_id", Value::Null), "event_id: a required value is missing"),
        (
            with("event_id", "0190b5a0-0000-4000-8000-000000000001".into()),
            "event_id: expected a UUID of version 7 or 8, got `0190b5a0-0000-4000-8000-000000000001`",
        ),
        (with("source", source(3.into())), "source.index: expected 4, as in event_id, got `3`"),
        (with("source", source((-1).into())), "source.index: expected 4, as in event_id, got `-1`"),
        (with("source", source("4".into())), "source.index: expected 4, as in event_id, got `\"4\"`"),
        (bulk(1_000, many(25)), "results: no event id has the index 1024, of result 24"),
        (of_call, "results: expected at most 10000 results, got more"),
    ] {
        assert_eq!(singles(&event), Err(expected.to_owned()));
    }
    let cut = bulk(0, one).to_string();
    let error = single_events(&cut[..cut.len() - 1]).unwrap_err().to_string();
    assert!(error.starts_with("not an event: expected"), "{error}");
}
