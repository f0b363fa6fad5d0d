//! Writes `FEATURE_FLAG_EVALUATED` and `FEATURE_FLAGS_EVALUATED` events in Avro directly into a reusable buffer, field by field in the
//! order of the schema.
//!
//! The tests read them with the Avro library, and compare them with the conversion of the JSON form.

use crate::event::{EventFrame, EventSource, Own, SDK_API};
use crate::json::write_string;
use crate::request::Ask;
use flagstream_evaluation::{Answer, Reason, Value, ValueType};

use super::wire::{write_long, write_text};

/// Branch of a union of null and another type, as an encoded index.
const NULL: u8 = 0;
const PRESENT: u8 = 2;

/// Appends the event for one flag.
pub fn write_event(out: &mut Vec<u8>, frame: &EventFrame<'_>, ask: &Ask<'_>, answer: &Answer<'_>) {
    // Index of the only symbol of `event_type`.
    out.push(0);
    write_text(out, frame.event_id);
    optional(out, frame.request_id);
    write_text(out, &ask.flag);
    optional(out, frame.user_id);
    optional(out, frame.session_id);
    write_text(out, frame.environment);
    write_answer(out, answer);
    optional_long(out, Some(frame.flags_version.cast_signed()));
    write_text(out, frame.context);
    optional(out, ask.default_json);
    optional(out, frame.value_type.map(ValueType::as_str));
    write_long(out, frame.evaluated_at.micros);
    optional_long(out, frame.evaluation_ns.map(u64::cast_signed));
    write_source(out, frame.source);
    optional(out, answer.assignment);
    optional(out, frame.attributes);
}

/// Appends what the results of one request or call share. The list of results follows.
pub(crate) fn write_bulk_head(out: &mut Vec<u8>, frame: &EventFrame<'_>) {
    // Index of the only symbol of `event_type`.
    out.push(0);
    write_text(out, frame.event_id);
    optional(out, frame.request_id);
    optional(out, frame.user_id);
    optional(out, frame.session_id);
    write_text(out, frame.environment);
    optional_long(out, Some(frame.flags_version.cast_signed()));
    write_text(out, frame.context);
    write_long(out, frame.evaluated_at.micros);
    write_source(out, frame.source);
}

/// Appends one result of a bulk event. `own` has what differs from the other results.
pub(crate) fn write_bulk_result(
    out: &mut Vec<u8>,
    frame: &EventFrame<'_>,
    own: Own<'_>,
    ask: &Ask<'_>,
    answer: &Answer<'_>,
) {
    write_text(out, &ask.flag);
    write_answer(out, answer);
    optional(out, ask.default_json);
    optional(out, frame.value_type.map(ValueType::as_str));
    optional_long(out, frame.evaluation_ns.map(u64::cast_signed));
    optional(out, answer.assignment);
    optional(out, own.session_id);
    optional(out, own.context);
    optional(out, frame.attributes);
}

/// Appends a list of `count` items that are encoded already.
pub(crate) fn write_list(out: &mut Vec<u8>, count: usize, items: &[u8]) {
    write_long(out, i64::try_from(count).unwrap_or(i64::MAX));
    out.extend_from_slice(items);
    // The end of the list: a block without items.
    out.push(0);
}

/// Appends the fields of the answer, from `value` to `flag_version`.
fn write_answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    write_value(out, &answer.value);
    out.push(u8::from(answer.enabled));
    optional(out, answer.variant);
    write_text(out, answer.reason.as_str());
    out.push(u8::from(answer.reason == Reason::Disabled));
    optional(out, answer.error_code.map(|code| code.as_str()));
    optional(out, answer.error_message.as_deref());
    optional_long(out, answer.flag_version.map(u64::cast_signed));
}

/// Appends the fields `value` and `typed_value`.
fn write_value(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Null => out.extend_from_slice(&[NULL, NULL]),
        Value::String(text) => {
            optional(out, Some(text));
            out.push(PRESENT);
            let mut quoted = Vec::with_capacity(text.len() + 2);
            write_string(&mut quoted, text);
            write_long(out, i64::try_from(quoted.len()).unwrap_or(i64::MAX));
            out.extend_from_slice(&quoted);
        }
        _ => {
            optional(out, Some(value.as_text()));
            optional(out, Some(value.as_text()));
        }
    }
}

fn write_source(out: &mut Vec<u8>, source: EventSource<'_>) {
    match source {
        EventSource::Kafka { topic, topic_id, partition, offset, index, tap } => {
            optional(out, Some(topic));
            optional_long(out, Some(partition.into()));
            optional_long(out, Some(offset));
            optional_long(out, Some(index.into()));
            out.push(NULL);
            optional(out, topic_id);
            out.extend_from_slice(&[NULL; 2]);
            optional(out, tap);
        }
        EventSource::Api(api) => {
            out.extend_from_slice(&[NULL; 4]);
            optional(out, Some(api));
            out.extend_from_slice(&[NULL; 4]);
        }
        EventSource::Sdk { app, connection } => {
            out.extend_from_slice(&[NULL; 4]);
            optional(out, Some(SDK_API));
            out.push(NULL);
            optional(out, app);
            optional(out, connection);
            out.push(NULL);
        }
    }
}

fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.push(NULL),
        Some(text) => {
            out.push(PRESENT);
            write_text(out, text);
        }
    }
}

fn optional_long(out: &mut Vec<u8>, long: Option<i64>) {
    match long {
        None => out.push(NULL),
        Some(long) => {
            out.push(PRESENT);
            write_long(out, long);
        }
    }
}
