//! Writes `FEATURE_FLAG_EVALUATED` events as JSON directly into a reusable buffer.

use flagstream_evaluation::{Answer, Reason, Value, ValueType};

use super::json::write_string;
use super::request::Ask;

/// Source of the request for an evaluation.
#[derive(Debug, Clone, Copy)]
pub enum EventSource<'a> {
    Kafka {
        topic: &'a str,
        /// Kafka's topic id, if it is known. A topic that is deleted and created again has a new id.
        topic_id: Option<&'a str>,
        partition: i32,
        offset: i64,
        index: u32,
        /// Name of the tap that read the record; `None` for a request.
        tap: Option<&'a str>,
    },
    Api(&'a str),
    /// Call of an SDK of Unleash.
    Sdk {
        /// Application that the SDK named.
        app: Option<&'a str>,
        /// Connection id of the SDK, which identifies one of its processes or pages.
        connection: Option<&'a str>,
    },
}

/// Name of the API for Unleash's SDKs in events.
pub const SDK_API: &str = "unleash";

/// Time in the two forms in which it is written.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp<'a> {
    /// RFC 3339, UTC, microseconds.
    pub text: &'a str,
    /// Microseconds since 1970.
    pub micros: i64,
}

/// Data of an event other than the answer.
#[derive(Debug)]
pub struct EventFrame<'a> {
    /// UUID as text.
    pub event_id: &'a str,
    pub request_id: Option<&'a str>,
    pub user_id: Option<&'a str>,
    pub session_id: Option<&'a str>,
    pub environment: &'a str,
    /// Context as JSON text.
    pub context: &'a str,
    /// JSON text of an object that names the attributes that tables added to the context; `None` if there are none.
    pub attributes: Option<&'a str>,
    pub evaluated_at: Timestamp<'a>,
    /// Highest version in the snapshot that answered.
    pub flags_version: u64,
    /// Requested type; `None` if the payload determined the type.
    pub value_type: Option<ValueType>,
    /// Duration of the evaluation in nanoseconds; `None` if it was not measured.
    pub evaluation_ns: Option<u64>,
    pub source: EventSource<'a>,
}

/// Appends the event for one flag as JSON.
pub fn write_event(out: &mut Vec<u8>, frame: &EventFrame<'_>, ask: &Ask<'_>, answer: &Answer<'_>) {
    out.extend_from_slice(br#"{"event_type":"FEATURE_FLAG_EVALUATED","event_id":""#);
    out.extend_from_slice(frame.event_id.as_bytes());
    out.push(b'"');
    member(out, "request_id", frame.request_id);
    member(out, "flag_name", Some(&ask.flag));
    member(out, "user_id", frame.user_id);
    member(out, "session_id", frame.session_id);
    member(out, "environment", Some(frame.environment));
    write_result(out, answer);
    out.extend_from_slice(br#","flags_version":"#);
    write_integer(out, frame.flags_version);
    // Only events of experiments have it, so that it costs nothing otherwise.
    if let Some(assignment) = answer.assignment {
        out.extend_from_slice(br#","assignment":"#);
        out.extend_from_slice(assignment.as_bytes());
    }
    out.extend_from_slice(br#","context":"#);
    out.extend_from_slice(frame.context.as_bytes());
    // Omitted unless tables completed the context, so that it costs nothing otherwise.
    if let Some(attributes) = frame.attributes {
        out.extend_from_slice(br#","attributes":"#);
        out.extend_from_slice(attributes.as_bytes());
    }
    out.extend_from_slice(br#","default_value":"#);
    out.extend_from_slice(ask.default_json.unwrap_or("null").as_bytes());
    plain_member(out, "value_type", frame.value_type.map(ValueType::as_str));
    out.extend_from_slice(br#","evaluated_at":""#);
    out.extend_from_slice(frame.evaluated_at.text.as_bytes());
    out.push(b'"');
    if let Some(nanoseconds) = frame.evaluation_ns {
        out.extend_from_slice(br#","evaluation_ns":"#);
        write_integer(out, nanoseconds);
    }
    out.extend_from_slice(br#","source":"#);
    write_source(out, frame.source);
    out.push(b'}');
}

/// Appends the members of the result, from `value` to `flag_version`.
pub fn write_result(out: &mut Vec<u8>, answer: &Answer<'_>) {
    out.extend_from_slice(br#","value":"#);
    write_value_text(out, &answer.value);
    out.extend_from_slice(br#","typed_value":"#);
    answer.value.write_json(out);
    write_answer(out, answer);
}

/// Appends the members that events and replies share, from `enabled` to `flag_version`.
pub fn write_answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let enabled: &[u8] = if answer.enabled { br#","enabled":true"# } else { br#","enabled":false"# };
    out.extend_from_slice(enabled);
    member(out, "variant", answer.variant);
    plain_member(out, "reason", Some(answer.reason.as_str()));
    // Omitted unless the flag is killed, so that it costs nothing otherwise.
    if answer.reason == Reason::Disabled {
        out.extend_from_slice(br#","killed":true"#);
    }
    plain_member(out, "error_code", answer.error_code.map(|code| code.as_str()));
    member(out, "error_message", answer.error_message.as_deref());
    out.extend_from_slice(br#","flag_version":"#);
    match answer.flag_version {
        Some(version) => write_integer(out, version),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends the member `value`, which is text in events whatever its type: `"true"`, `"dark"`, `"5"`, compact
/// JSON.
fn write_value_text(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Boolean(true) => out.extend_from_slice(br#""true""#),
        Value::Boolean(false) => out.extend_from_slice(br#""false""#),
        Value::String(text) | Value::Number(text) => write_string(out, text),
        Value::Json(_) => write_string(out, value.as_text()),
    }
}

fn write_source(out: &mut Vec<u8>, source: EventSource<'_>) {
    match source {
        EventSource::Kafka { topic, topic_id, partition, offset, index, tap } => {
            // Kafka's topic names need no escaping.
            out.extend_from_slice(br#"{"topic":""#);
            out.extend_from_slice(topic.as_bytes());
            out.extend_from_slice(br#"","partition":"#);
            write_integer(out, partition);
            out.extend_from_slice(br#","offset":"#);
            write_integer(out, offset);
            out.extend_from_slice(br#","index":"#);
            write_integer(out, index);
            if let Some(topic_id) = topic_id {
                member(out, "topic_id", Some(topic_id));
            }
            if tap.is_some() {
                member(out, "tap", tap);
            }
            out.push(b'}');
        }
        EventSource::Api(api) => {
            out.extend_from_slice(br#"{"api":""#);
            out.extend_from_slice(api.as_bytes());
            out.extend_from_slice(br#""}"#);
        }
        EventSource::Sdk { app, connection } => {
            out.extend_from_slice(br#"{"api":""#);
            out.extend_from_slice(SDK_API.as_bytes());
            out.push(b'"');
            for (name, text) in [("app", app), ("connection", connection)] {
                if text.is_some() {
                    member(out, name, text);
                }
            }
            out.push(b'}');
        }
    }
}

/// Appends `,"name":"text"`, with `null` for `None`.
pub fn member(out: &mut Vec<u8>, name: &str, text: Option<&str>) {
    begin_member(out, name);
    match text {
        Some(text) => write_string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Like [`member`], for constant texts that need no escaping.
fn plain_member(out: &mut Vec<u8>, name: &str, text: Option<&'static str>) {
    begin_member(out, name);
    match text {
        Some(text) => {
            out.push(b'"');
            out.extend_from_slice(text.as_bytes());
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

fn begin_member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

pub fn write_integer(out: &mut Vec<u8>, integer: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
}

/// Id of an event for a request from Kafka. It depends only on the request's coordinates, so that processing
/// the request again produces the same id.
///
/// The id is a UUID of version 8 (RFC 9562): 48 bits of the record's timestamp in milliseconds (ids sort by
/// time), then 10 bits of the index, 20 bits of topic and partition and 44 bits of the offset. Within a
/// partition, (offset, index) is unique; 2^44 offsets suffice for 500 years at a thousand requests per
/// second.
pub fn stream_event_id(
    topic_hash: u32,
    partition: i32,
    offset: i64,
    index: u32,
    timestamp_ms: i64,
) -> [u8; 36] {
    let place = (topic_hash.wrapping_mul(0x9E37_79B1) ^ partition.cast_unsigned()) & 0xF_FFFF;
    let high =
        (timestamp_ms.cast_unsigned() & 0xFFFF_FFFF_FFFF) << 16 | 0x8000 | u64::from(index & 0x3FF) << 2;
    let low =
        0x8000_0000_0000_0000 | u64::from(place & 0x3_FFFF) << 44 | offset.cast_unsigned() & 0xFFF_FFFF_FFFF;
    let id = uuid::Uuid::from_u64_pair(high | u64::from(place >> 18), low);
    let mut text = [0; 36];
    id.hyphenated().encode_lower(&mut text);
    text
}

/// Id of an event for a call over HTTP: a UUID of version 7 (RFC 9562). The ids of one call sort in the order
/// of its answers.
///
/// It contains 48 bits of the call's time, 20 bits of the answer's index, and 54 random bits that all answers
/// of a call share.
pub fn call_event_id(time_ms: u64, random: u64, index: u32) -> [u8; 36] {
    let index = u64::from(index);
    let high = (time_ms & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | index >> 8 & 0xFFF;
    let low = 0x8000_0000_0000_0000 | (index & 0xFF) << 54 | random >> 10;
    let mut text = [0; 36];
    uuid::Uuid::from_u64_pair(high, low).hyphenated().encode_lower(&mut text);
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn stream_ids_are_uuids_of_version_8_that_sort_by_time_and_repeat() {
        let id =
            |offset, index, ms| String::from_utf8(stream_event_id(7, 3, offset, index, ms).to_vec()).unwrap();
        let parsed = uuid::Uuid::parse_str(&id(99_120, 0, 1_768_473_000_123)).unwrap();
        assert_eq!(parsed.get_version_num(), 8);
        assert_eq!(parsed.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(id(1, 2, 3), id(1, 2, 3));
        assert!(id(9, 999, 1_768_473_000_123) < id(1, 0, 1_768_473_000_124));
    }

    #[test]
    fn call_ids_are_uuids_of_version_7_in_the_order_of_their_call() {
        let ids: Vec<_> = (0..5_000)
            .map(|index| {
                String::from_utf8(call_event_id(1_768_473_000_123, u64::MAX, index).to_vec()).unwrap()
            })
            .collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        for id in &ids {
            let id = uuid::Uuid::parse_str(id).unwrap();
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            assert_eq!(id.get_timestamp().map(|at| at.to_unix().0), Some(1_768_473_000));
        }
        let next = String::from_utf8(call_event_id(1_768_473_000_124, 0, 0).to_vec()).unwrap();
        assert!(ids.iter().all(|id| *id < next));
    }

    #[test]
    fn stream_ids_differ_for_every_place() {
        let mut seen = HashSet::new();
        for partition in 0..12 {
            for offset in 0..50 {
                for index in [0, 1, 999] {
                    assert!(seen.insert(stream_event_id(7, partition, offset, index, 5)));
                }
            }
        }
    }
}
