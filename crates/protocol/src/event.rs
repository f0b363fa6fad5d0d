//! Writes `FEATURE_FLAG_EVALUATED` events as JSON directly into a reusable buffer.

use flagstream_evaluation::{Answer, Reason, Value, ValueType};

use super::json::write_string;
use super::request::Ask;

pub use super::event_id::{call_event_id, stream_event_id};

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

/// Form of a member without a value in an event. Readers take an absent member for null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Nulls {
    /// `null`.
    #[default]
    Write,
    /// The member is left out.
    Omit,
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

/// Appends the event for one flag as JSON, with all nulls.
pub fn write_event(out: &mut Vec<u8>, frame: &EventFrame<'_>, ask: &Ask<'_>, answer: &Answer<'_>) {
    write_event_as(out, Nulls::Write, frame, ask, answer);
}

/// Appends the event for one flag as JSON.
pub fn write_event_as(
    out: &mut Vec<u8>,
    nulls: Nulls,
    frame: &EventFrame<'_>,
    ask: &Ask<'_>,
    answer: &Answer<'_>,
) {
    out.extend_from_slice(br#"{"event_type":"FEATURE_FLAG_EVALUATED","event_id":""#);
    out.extend_from_slice(frame.event_id.as_bytes());
    out.push(b'"');
    optional(out, nulls, "request_id", frame.request_id);
    member(out, "flag_name", Some(&ask.flag));
    optional(out, nulls, "user_id", frame.user_id);
    optional(out, nulls, "session_id", frame.session_id);
    member(out, "environment", Some(frame.environment));
    write_result_as(out, nulls, answer);
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
    write_asked(out, nulls, frame, ask);
    out.extend_from_slice(br#","evaluated_at":""#);
    out.extend_from_slice(frame.evaluated_at.text.as_bytes());
    out.push(b'"');
    write_duration(out, frame);
    out.extend_from_slice(br#","source":"#);
    write_source(out, frame.source);
    out.push(b'}');
}

/// Appends what results of one request or call share, up to the list of results, whose beginning is included.
/// `event_id` and the index of the source are those of the first result.
pub(crate) fn write_bulk_head(out: &mut Vec<u8>, frame: &EventFrame<'_>) {
    out.extend_from_slice(br#"{"event_type":"FEATURE_FLAGS_EVALUATED","event_id":""#);
    out.extend_from_slice(frame.event_id.as_bytes());
    out.push(b'"');
    optional(out, Nulls::Omit, "request_id", frame.request_id);
    optional(out, Nulls::Omit, "user_id", frame.user_id);
    optional(out, Nulls::Omit, "session_id", frame.session_id);
    member(out, "environment", Some(frame.environment));
    out.extend_from_slice(br#","flags_version":"#);
    write_integer(out, frame.flags_version);
    out.extend_from_slice(br#","context":"#);
    out.extend_from_slice(frame.context.as_bytes());
    out.extend_from_slice(br#","evaluated_at":""#);
    out.extend_from_slice(frame.evaluated_at.text.as_bytes());
    out.extend_from_slice(br#"","source":"#);
    write_source(out, frame.source);
    out.extend_from_slice(br#","results":["#);
}

/// Appends one result of a bulk event. `own` has what differs from the other results.
pub(crate) fn write_bulk_result(
    out: &mut Vec<u8>,
    frame: &EventFrame<'_>,
    own: Own<'_>,
    ask: &Ask<'_>,
    answer: &Answer<'_>,
) {
    out.extend_from_slice(br#"{"flag_name":"#);
    write_string(out, &ask.flag);
    write_result_as(out, Nulls::Omit, answer);
    for (name, json) in
        [("assignment", answer.assignment), ("context", own.context), ("attributes", frame.attributes)]
    {
        if let Some(json) = json {
            begin_member(out, name);
            out.extend_from_slice(json.as_bytes());
        }
    }
    optional(out, Nulls::Omit, "session_id", own.session_id);
    write_asked(out, Nulls::Omit, frame, ask);
    write_duration(out, frame);
    out.push(b'}');
}

/// Members of one result that differ from those of its bulk event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own<'a> {
    pub(crate) session_id: Option<&'a str>,
    pub(crate) context: Option<&'a str>,
}

/// Appends the requested default and type.
fn write_asked(out: &mut Vec<u8>, nulls: Nulls, frame: &EventFrame<'_>, ask: &Ask<'_>) {
    let default = ask.default_json.unwrap_or("null");
    if nulls == Nulls::Write || default != "null" {
        out.extend_from_slice(br#","default_value":"#);
        out.extend_from_slice(default.as_bytes());
    }
    plain_member(out, nulls, "value_type", frame.value_type.map(ValueType::as_str));
}

fn write_duration(out: &mut Vec<u8>, frame: &EventFrame<'_>) {
    if let Some(nanoseconds) = frame.evaluation_ns {
        out.extend_from_slice(br#","evaluation_ns":"#);
        write_integer(out, nanoseconds);
    }
}

/// Appends the members of the result, from `value` to `flag_version`.
pub fn write_result(out: &mut Vec<u8>, answer: &Answer<'_>) {
    write_result_as(out, Nulls::Write, answer);
}

fn write_result_as(out: &mut Vec<u8>, nulls: Nulls, answer: &Answer<'_>) {
    if nulls == Nulls::Write || !matches!(answer.value, Value::Null) {
        out.extend_from_slice(br#","value":"#);
        write_value_text(out, &answer.value);
        out.extend_from_slice(br#","typed_value":"#);
        answer.value.write_json(out);
    }
    write_answer_as(out, nulls, answer);
}

/// Appends the members that events and replies share, from `enabled` to `flag_version`.
pub fn write_answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    write_answer_as(out, Nulls::Write, answer);
}

fn write_answer_as(out: &mut Vec<u8>, nulls: Nulls, answer: &Answer<'_>) {
    let enabled: &[u8] = if answer.enabled { br#","enabled":true"# } else { br#","enabled":false"# };
    out.extend_from_slice(enabled);
    optional(out, nulls, "variant", answer.variant);
    plain_member(out, nulls, "reason", Some(answer.reason.as_str()));
    // Omitted unless the flag is killed, so that it costs nothing otherwise.
    if answer.reason == Reason::Disabled {
        out.extend_from_slice(br#","killed":true"#);
    }
    plain_member(out, nulls, "error_code", answer.error_code.map(|code| code.as_str()));
    optional(out, nulls, "error_message", answer.error_message.as_deref());
    match (answer.flag_version, nulls) {
        (Some(version), _) => {
            out.extend_from_slice(br#","flag_version":"#);
            write_integer(out, version);
        }
        (None, Nulls::Write) => out.extend_from_slice(br#","flag_version":null"#),
        (None, Nulls::Omit) => {}
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

/// Like [`member`]; `nulls` decides what is written for `None`.
fn optional(out: &mut Vec<u8>, nulls: Nulls, name: &str, text: Option<&str>) {
    if nulls == Nulls::Write || text.is_some() {
        member(out, name, text);
    }
}

/// Like [`optional`], for constant texts that need no escaping.
fn plain_member(out: &mut Vec<u8>, nulls: Nulls, name: &str, text: Option<&'static str>) {
    match text {
        Some(text) => {
            begin_member(out, name);
            out.push(b'"');
            out.extend_from_slice(text.as_bytes());
            out.push(b'"');
        }
        None => optional(out, nulls, name, None),
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
