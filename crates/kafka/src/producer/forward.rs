//! Forwarding consumed records to other topics.

use std::ffi::CStr;

use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka_sys as sys;

use crate::record::Record;

use super::{RawParts, TopicHandle, TrackedProducer, add_headers};

/// Differences between a consumed record and the copy that is sent to another topic.
#[derive(Debug, Default, Clone, Copy)]
pub struct Changes<'c> {
    /// The new value; `None` keeps the record's own, also a null value.
    pub value: Option<&'c [u8]>,
    /// Headers to add. Headers of the record with one of these names are removed.
    pub headers: &'c [(&'c CStr, &'c [u8])],
    /// Timestamp in milliseconds since 1970; 0 means now.
    pub timestamp_ms: i64,
}

impl TopicHandle {
    /// Queues a copy of a consumed record for one partition. Key, value and headers are copied as bytes, except for the
    /// changes.
    pub fn forward(
        &self,
        record: &Record<'_>,
        changes: &Changes<'_>,
        partition: i32,
        delivery_id: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        let (key, key_length) = record.raw_key();
        let (value, value_length) = match changes.value {
            Some(value) => (value.as_ptr().cast_mut().cast(), value.len()),
            None => record.raw_value(),
        };
        let timestamp_ms = changes.timestamp_ms;
        let parts = RawParts { key, key_length, value, value_length, timestamp_ms };
        // SAFETY: key, value and headers live as long as the record and the changes, and the list is given away.
        unsafe {
            let list = match record.raw_headers() {
                Some(headers) => sys::rd_kafka_headers_copy(headers),
                None => sys::rd_kafka_headers_new(changes.headers.len()),
            };
            for (name, _) in changes.headers {
                // Fails if there is none of this name.
                let _ = sys::rd_kafka_header_remove(list, name.as_ptr());
            }
            add_headers(list, changes.headers);
            self.produce(partition, &parts, list, delivery_id)
        }
    }
}

impl TrackedProducer {
    /// Sends a copy of a consumed record to the record's partition, through the topic handle with this index; waits while
    /// the queue is full.
    pub fn forward(
        &self,
        lane: usize,
        record: &Record<'_>,
        changes: &Changes<'_>,
        delivery_id: usize,
    ) -> KafkaResult<()> {
        let lane = self.lane(lane)?;
        self.when_there_is_room(|| lane.forward(record, changes, record.partition(), delivery_id))
    }
}
