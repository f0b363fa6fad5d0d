//! JSON form of a dead letter, for people and programs.

use chrono::{DateTime, SecondsFormat};
use rdkafka::message::Headers;
use serde_json::{Map, Value, json};

use crate::kafka::dead_letter::DeadLetterRecord;

/// Time at which the dead letter was written, in RFC 3339 format.
pub fn written_at(dead_letter: &DeadLetterRecord) -> String {
    let time = DateTime::from_timestamp_millis(dead_letter.written_ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The whole dead letter. Bytes that are not UTF-8 are shown in hex too.
pub fn json(dead_letter: &DeadLetterRecord) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut document = json!({
        "partition": dead_letter.partition, "offset": dead_letter.offset, "written_at": written_at(dead_letter),
        "code": dead_letter.code, "message": dead_letter.message,
        "source": {
            "topic": dead_letter.source_topic, "partition": dead_letter.source_partition, "offset": dead_letter.source_offset,
            "index": dead_letter.index,
        },
        "key": dead_letter.key.as_deref().map(text),
        "headers": Value::Object(headers(dead_letter)),
        "body": dead_letter.body.as_deref().map(text),
        "body_omitted": dead_letter.body_omitted,
    });
    let is_text = |bytes: &Vec<u8>| std::str::from_utf8(bytes).is_ok();
    for (name, bytes) in [("key_hex", &dead_letter.key), ("body_hex", &dead_letter.body)] {
        if let (Some(bytes), Some(members)) =
            (bytes.as_ref().filter(|it| !is_text(it)), document.as_object_mut())
        {
            members.insert(name.to_owned(), hex::encode(bytes).into());
        }
    }
    document
}

fn headers(dead_letter: &DeadLetterRecord) -> Map<String, Value> {
    let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
    dead_letter.headers.iter().map(|header| (header.key.to_owned(), text(header.value).into())).collect()
}
