//! Forwarding consumed records to other topics.

use std::ffi::CStr;

use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka_sys as sys;

use crate::record::Record;

use super::{TopicHandle, TrackedProducer};

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
        use sys::rd_kafka_vtype_t as Field;
        let (key, key_length) = record.raw_key();
        let (value, length) = match changes.value {
            Some(value) => (value.as_ptr().cast_mut().cast(), value.len()),
            None => record.raw_value(),
        };
        // SAFETY: key, value and headers live as long as the record and the changes, and librdkafka copies them before
        // the call returns. The variadic arguments are pairs of a tag and its value, in C types. librdkafka owns the
        // headers only if the call succeeds.
        unsafe {
            let list = match record.raw_headers() {
                Some(headers) => sys::rd_kafka_headers_copy(headers),
                None => sys::rd_kafka_headers_new(changes.headers.len()),
            };
            for (name, _) in changes.headers {
                // Fails if there is none of this name.
                let _ = sys::rd_kafka_header_remove(list, name.as_ptr());
            }
            for (name, header) in changes.headers {
                let (length, bytes) = (header.len().cast_signed(), header.as_ptr().cast());
                sys::rd_kafka_header_add(list, name.as_ptr(), -1, bytes, length);
            }
            let sent = sys::rd_kafka_producev(
                self.client,
                Field::RD_KAFKA_VTYPE_RKT,
                self.topic,
                Field::RD_KAFKA_VTYPE_PARTITION,
                partition,
                Field::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                Field::RD_KAFKA_VTYPE_VALUE,
                value,
                length,
                Field::RD_KAFKA_VTYPE_KEY,
                key,
                key_length,
                Field::RD_KAFKA_VTYPE_TIMESTAMP,
                changes.timestamp_ms,
                Field::RD_KAFKA_VTYPE_OPAQUE,
                delivery_id as *mut std::ffi::c_void,
                Field::RD_KAFKA_VTYPE_HEADERS,
                list,
                Field::RD_KAFKA_VTYPE_END,
            );
            if sent == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Ok(());
            }
            sys::rd_kafka_headers_destroy(list);
            Err(sent.into())
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
