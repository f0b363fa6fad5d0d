//! Dead letter: the original bytes, key and headers unchanged, with added headers for the reason and the
//! source record.

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

    /// All headers that a dead letter may add.
    pub const ALL: [&str; 9] = [
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
