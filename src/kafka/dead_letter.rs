//! Dead letters, read back from their topic.

use rdkafka::Message;
use rdkafka::message::{Headers, OwnedHeaders};

use crate::message::dead_letter::header;

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

    use crate::message::dead_letter::DeadLetter;

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
