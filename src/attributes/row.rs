//! Rows: their validation, and their form on disk.

use crate::message::json::{JsonError, Kind, Scanner, Span};
use crate::message::request::{MAX_DEPTH_LEVELS, MAX_ID_BYTES, Refusal, RefusalCode};

/// Longest key of a row, in bytes: that of a user id.
pub const MAX_KEY_BYTES: usize = MAX_ID_BYTES;
/// Version of the form on disk, its first byte.
const FORM: u8 = 1;
/// Bytes in front of the JSON text: form, epoch, partition, offset.
const HEAD_BYTES: usize = 1 + 4 + 4 + 8;

/// The attributes of one key, with the position of their record in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub partition: i32,
    pub offset: i64,
    /// JSON text of an object.
    pub json: Box<str>,
}

impl Row {
    /// The value of an attribute; `None` if the row does not have it, or has `null`. If a name is repeated, the last
    /// value counts.
    pub fn get(&self, name: &str) -> Option<Span<'_>> {
        let mut scanner = Scanner::new(&self.json, MAX_DEPTH_LEVELS);
        scanner.begin_object().ok()?;
        let (mut first, mut found) = (true, None);
        while let Some(key) = scanner.next_key(&mut first).ok()? {
            let value = scanner.value().ok()?;
            if key == name {
                found = Some(value);
            }
        }
        found.filter(|value| value.kind != Kind::Null)
    }

    /// The form on disk, as part of the table's `epoch`.
    pub(super) fn encode(&self, epoch: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.json.len());
        bytes.push(FORM);
        bytes.extend_from_slice(&epoch.to_be_bytes());
        bytes.extend_from_slice(&self.partition.to_be_bytes());
        bytes.extend_from_slice(&self.offset.to_be_bytes());
        bytes.extend_from_slice(self.json.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, json) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [FORM, _, _, _, _, p0, p1, p2, p3, offset @ ..] = head else { return None };
        Some(Self {
            partition: i32::from_be_bytes([*p0, *p1, *p2, *p3]),
            offset: i64::from_be_bytes(*offset),
            json: std::str::from_utf8(json).ok()?.into(),
        })
    }

    /// The epoch of a row on disk.
    pub(super) fn epoch(bytes: &[u8]) -> Option<u32> {
        let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [FORM, e0, e1, e2, e3, ..] = head else { return None };
        Some(u32::from_be_bytes([*e0, *e1, *e2, *e3]))
    }
}

/// Checks the key of a record.
pub fn check_key(key: Option<&[u8]>) -> Result<&str, Refusal> {
    let key = key.filter(|key| !key.is_empty());
    let key =
        key.ok_or_else(|| refuse(RefusalCode::MissingField, "key", "expected the id that the row is for"))?;
    if key.len() > MAX_KEY_BYTES {
        let message = format!("expected at most {MAX_KEY_BYTES} bytes, got {}", key.len());
        return Err(refuse(RefusalCode::InvalidField, "key", message));
    }
    std::str::from_utf8(key).map_err(|_| refuse(RefusalCode::NotUtf8, "key", "expected UTF-8"))
}

/// Checks the value of a record, and returns its text: a JSON object of at most `max_bytes`.
pub fn check_row(value: &[u8], max_bytes: usize) -> Result<&str, Refusal> {
    if value.len() > max_bytes {
        let message = format!("expected a row of at most {max_bytes} bytes, got {}", value.len());
        return Err(refuse(RefusalCode::TooLarge, "", message));
    }
    let text = std::str::from_utf8(value).map_err(|error| {
        let message = format!("expected UTF-8, got an invalid byte at {}", error.valid_up_to());
        refuse(RefusalCode::NotUtf8, "", message)
    })?;
    let broken = |error: JsonError| match error {
        JsonError::TooDeep { .. } => refuse(RefusalCode::TooDeep, "", error.to_string()),
        JsonError::Syntax { .. } => refuse(RefusalCode::NotJson, "", error.to_string()),
    };
    let span = Span::parse(text, MAX_DEPTH_LEVELS).map_err(broken)?;
    if span.kind != Kind::Object {
        let message = "expected an object with an attribute for each member";
        return Err(Refusal { wrong_type: true, ..refuse(RefusalCode::InvalidField, "row", message) });
    }
    Ok(text.trim())
}

fn refuse(code: RefusalCode, field: &str, message: impl Into<String>) -> Refusal {
    Refusal { code, field: field.to_owned(), message: message.into(), wrong_type: false }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_its_position_and_text_on_disk() {
        let row = Row { partition: 7, offset: 1 << 40, json: r#"{"plan":"gold"}"#.into() };
        let bytes = row.encode(3);
        assert_eq!((Row::decode(&bytes), Row::epoch(&bytes)), (Some(row), Some(3)));
        assert_eq!((Row::decode(&bytes[..5]), Row::decode(b"")), (None, None));
        let other_form = [&[2], &bytes[1..]].concat();
        assert_eq!((Row::decode(&other_form), Row::epoch(&other_form)), (None, None));
    }

    #[test]
    fn the_last_value_of_a_name_counts_and_null_is_absent() {
        let json = r#"{"a":1,"b":null,"a":"x","c":[1, 2],"d":"e"}"#;
        let row = Row { partition: 0, offset: 0, json: json.into() };
        let text = |name: &str| row.get(name).map(|span| span.text);
        assert_eq!((text("a"), text("b"), text("c"), text("e")), (Some("\"x\""), None, Some("[1, 2]"), None));
    }

    #[test]
    fn a_row_that_is_no_object_of_the_allowed_size_is_refused_with_the_reason() {
        let code = |value: &[u8]| check_row(value, 64).unwrap_err().code;
        assert_eq!(check_row(b" {\"plan\":\"gold\"} ", 64).unwrap(), r#"{"plan":"gold"}"#);
        assert_eq!(code(b"[1]"), RefusalCode::InvalidField);
        assert_eq!(code(b"gold"), RefusalCode::NotJson);
        assert_eq!(code(b"{\"plan\":"), RefusalCode::NotJson);
        assert_eq!(code(b""), RefusalCode::NotJson);
        assert_eq!(code(b"{\"a\":\"\xff\"}"), RefusalCode::NotUtf8);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
        assert_eq!(check_row(deep.as_bytes(), 1_000).unwrap_err().code, RefusalCode::TooDeep);
        let large = check_row(&[b' '; 65], 64).unwrap_err();
        assert_eq!((large.code, large.text().contains("64 bytes, got 65")), (RefusalCode::TooLarge, true));
    }

    #[test]
    fn a_key_is_required_and_limited() {
        assert_eq!(check_key(Some(b"u-1")).unwrap(), "u-1");
        for (key, code) in [
            (None, RefusalCode::MissingField),
            (Some(&b""[..]), RefusalCode::MissingField),
            (Some(b"\xff"), RefusalCode::NotUtf8),
        ] {
            let refused = check_key(key).unwrap_err();
            assert_eq!((refused.code, refused.field.as_str()), (code, "key"));
        }
        assert_eq!(check_key(Some(&[b'k'; MAX_KEY_BYTES + 1])).unwrap_err().code, RefusalCode::InvalidField);
    }
}
