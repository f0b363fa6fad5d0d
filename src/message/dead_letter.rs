//! Dead letter: the original bytes, key and headers unchanged, with added headers for the reason and the
//! source record.

use rdkafka::Message;
use rdkafka::message::{Headers, OwnedHeaders};

/// Headers that a dead letter adds after the original ones.
pub mod header {
    pub const ERROR_CODE: &str = "error-code";
    pub const ERROR_MESSAGE: &str = "error-message";
    pub const SOURCE_TOPIC: &str = "source-topic";
    pub const SOURCE_PARTITION: &str = "source-partition";
    pub const SOURCE_OFFSET: &str = "source-offset";
    /// Index of the flag in the request; only present if a single result was refused.
    pub const SOURCE_INDEX: &str = "source-index";
    /// `true` if the original was too large for the dead-letter topic, so that only its coordinates are kept.
    pub const BODY_OMITTED: &str = "body-omitted";

    /// `true` if the original's key was omitted too.
    pub const KEY_OMITTED: &str = "key-omitted";
    /// Number of headers of the original that were omitted.
    pub const HEADERS_OMITTED: &str = "headers-omitted";

    pub(super) const ALL: [&str; 9] = [
        ERROR_CODE,
        ERROR_MESSAGE,
        SOURCE_TOPIC,
        SOURCE_PARTITION,
        SOURCE_OFFSET,
        SOURCE_INDEX,
        BODY_OMITTED,
        KEY_OMITTED,
        HEADERS_OMITTED,
    ];
}

/// Reason for a dead letter, and the position of the source record.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    pub code: &'a str,
    pub message: &'a str,
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub index: Option<u32>,
    pub body_omitted: bool,
}

impl DeadLetter<'_> {
    /// The added headers, in order.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            (header::ERROR_CODE, self.code.to_owned()),
            (header::ERROR_MESSAGE, self.message.to_owned()),
            (header::SOURCE_TOPIC, self.topic.to_owned()),
            (header::SOURCE_PARTITION, self.partition.to_string()),
            (header::SOURCE_OFFSET, self.offset.to_string()),
        ];
        headers.extend(self.index.map(|index| (header::SOURCE_INDEX, index.to_string())));
        headers.extend(self.body_omitted.then(|| (header::BODY_OMITTED, "true".to_owned())));
        headers
    }
}

/// Dead letter that was read back from its topic.
#[derive(Debug, Clone)]
pub struct DeadLetterRecord {
    /// Partition of the dead letter itself.
    pub partition: i32,
    pub offset: i64,
    /// Time of writing in milliseconds since 1970.
    pub written_ms: i64,
    pub code: String,
    pub message: String,
    pub source_topic: String,
    pub source_partition: i32,
    pub source_offset: i64,
    pub index: Option<u32>,
    pub body_omitted: bool,
    pub key: Option<Vec<u8>>,
    pub body: Option<Vec<u8>>,
    /// Headers of the original record.
    pub headers: OwnedHeaders,
}

impl DeadLetterRecord {
    /// Reads a dead letter. `None` if the record is not one, because its reason or source position is
    /// missing.
    pub fn read(record: &impl Message) -> Option<Self> {
        let all: Vec<_> = record.headers().into_iter().flat_map(Headers::iter).collect();
        // The last header of each name was added by flagstream; the original may have headers of the same
        // name.
        let position = |name: &str| all.iter().rposition(|header| header.key == name);
        let text = |name: &str| {
            let value = all.get(position(name)?)?.value?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let ours: Vec<usize> = header::ALL.iter().filter_map(|name| position(name)).collect();
        let original = all.iter().enumerate().filter(|(at, _)| !ours.contains(at));
        Some(Self {
            partition: record.partition(),
            offset: record.offset(),
            written_ms: record.timestamp().to_millis().unwrap_or_default(),
            code: text(header::ERROR_CODE)?,
            message: text(header::ERROR_MESSAGE).unwrap_or_default(),
            source_topic: text(header::SOURCE_TOPIC)?,
            source_partition: text(header::SOURCE_PARTITION)?.parse().ok()?,
            source_offset: text(header::SOURCE_OFFSET)?.parse().ok()?,
            index: text(header::SOURCE_INDEX).and_then(|index| index.parse().ok()),
            body_omitted: text(header::BODY_OMITTED).is_some_and(|omitted| omitted == "true"),
            key: record.key().map(<[u8]>::to_vec),
            body: record.payload().map(<[u8]>::to_vec),
            headers: original
                .fold(OwnedHeaders::new(), |headers, (_, header)| headers.insert(header.clone())),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedMessage};

    use super::*;

    #[test]
    fn a_letter_is_read_back_without_what_it_added() {
        let written = DeadLetter {
            code: "NOT_JSON",
            message: "at 5",
            topic: "requests",
            partition: 2,
            offset: 41,
            index: Some(3),
            body_omitted: false,
        };
        let original = [("correlation-id", "c"), ("error-code", "their own")];
        let added = written.headers();
        let added = added.iter().map(|(name, value)| (*name, value.as_str()));
        let headers = original.into_iter().chain(added).fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let record = |headers| {
            let (body, key) = (Some(b"{".to_vec()), Some(b"k".to_vec()));
            OwnedMessage::new(body, key, "dead".into(), Timestamp::CreateTime(7), 1, 9, headers)
        };
        let letter = DeadLetterRecord::read(&record(Some(headers))).unwrap();
        assert_eq!((letter.partition, letter.offset, letter.written_ms), (1, 9, 7));
        assert_eq!((letter.code.as_str(), letter.message.as_str()), ("NOT_JSON", "at 5"));
        assert_eq!((letter.source_topic.as_str(), letter.source_partition), ("requests", 2));
        assert_eq!((letter.source_offset, letter.index), (41, Some(3)));
        let kept: Vec<_> = letter.headers.iter().map(|header| (header.key, header.value.unwrap())).collect();
        assert_eq!(kept, [("correlation-id", b"c".as_slice()), ("error-code", b"their own")]);
        assert!(DeadLetterRecord::read(&record(None)).is_none());
    }
}
