//! A dead letter: the original bytes, key and headers untouched, and beside them why and from where.

/// Headers that a dead letter adds; the original ones stand before them.
pub mod header {
    pub const ERROR_CODE: &str = "error-code";
    pub const ERROR_MESSAGE: &str = "error-message";
    pub const SOURCE_TOPIC: &str = "source-topic";
    pub const SOURCE_PARTITION: &str = "source-partition";
    pub const SOURCE_OFFSET: &str = "source-offset";
    /// Which flag of the request, where only one result was refused.
    pub const SOURCE_INDEX: &str = "source-index";
    /// `true` where the original was too large for the dead-letter topic and only its coordinates are kept.
    pub const BODY_OMITTED: &str = "body-omitted";
}

/// Why, and from where.
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
    /// The added headers, by name, in order.
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
