//! Records in librdkafka's own memory, which are released when the fetch is dropped.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka_sys as sys;

use super::reading::FetchFault;

/// The records of one fetch. Dropping it releases them to librdkafka.
#[derive(Debug)]
pub struct Fetched<'c> {
    pub(super) messages: &'c [*mut sys::rd_kafka_message_t],
}

/// Records that stay in the consumer until they are released explicitly.
#[derive(Debug, Clone, Copy)]
pub struct Records<'c> {
    pub(super) messages: &'c [*mut sys::rd_kafka_message_t],
}

/// One record, in librdkafka's memory.
#[derive(Debug, Clone, Copy)]
pub struct Record<'c> {
    raw: &'c sys::rd_kafka_message_t,
    _owner: PhantomData<&'c ()>,
}

impl<'c> Fetched<'c> {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'c>> + use<'c> {
        let records = self.messages.iter().map(|message| unsafe { &**message }).filter(|raw| !is_end(raw));
        records.map(|raw| Record { raw, _owner: PhantomData })
    }
}

impl<'c> Records<'c> {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'c>> + use<'c> {
        // SAFETY: the messages live as long as the borrow of the consumer that keeps them.
        let records = self.messages.iter().map(|message| unsafe { &**message });
        records.map(|raw| Record { raw, _owner: PhantomData })
    }
}

impl Fetched<'_> {
    /// Partitions whose end was reached, each with the offset after its last record. Reported only to consumers with
    /// `enable.partition.eof`.
    pub fn ends(&self) -> impl Iterator<Item = (i32, i64)> {
        self.messages.iter().filter_map(|message| {
            // SAFETY: librdkafka's messages live until this fetch is dropped.
            let raw = unsafe { &**message };
            let is_end = raw.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF;
            is_end.then_some((raw.partition, raw.offset))
        })
    }
}

/// The error that librdkafka reports in place of a record; `None` for a record and for the end of a partition.
pub(super) fn fault(message: &sys::rd_kafka_message_t) -> Option<FetchFault> {
    if message.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || is_end(message) {
        return None;
    }
    // The error's text lives as long as the message.
    let text = unsafe { CStr::from_ptr(sys::rd_kafka_message_errstr(message)) };
    Some(FetchFault::new(RDKafkaErrorCode::from(message.err), &text.to_string_lossy()))
}

/// Whether this is an end-of-partition marker, which consumers with `enable.partition.eof` receive.
pub(super) fn is_end(message: &sys::rd_kafka_message_t) -> bool {
    message.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF
}

impl Drop for Fetched<'_> {
    fn drop(&mut self) {
        for message in self.messages {
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

impl<'c> Record<'c> {
    pub fn partition(&self) -> i32 {
        self.raw.partition
    }

    pub fn offset(&self) -> i64 {
        self.raw.offset
    }

    /// Milliseconds since 1970; 0 if the record has no timestamp.
    pub fn timestamp_ms(&self) -> i64 {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        unsafe { sys::rd_kafka_message_timestamp(self.raw, &mut kind) }.max(0)
    }

    pub fn payload(&self) -> &'c [u8] {
        slice(self.raw.payload, self.raw.len)
    }

    /// `None` for a null key, which differs from an empty one.
    pub fn key(&self) -> Option<&'c [u8]> {
        (!self.raw.key.is_null()).then(|| slice(self.raw.key, self.raw.key_len))
    }

    /// Whether the value is null, which makes the record a tombstone.
    pub fn is_null(&self) -> bool {
        self.raw.payload.is_null()
    }

    pub fn has_headers(&self) -> bool {
        self.raw_headers().is_some()
    }

    /// Bytes of key, value and headers together, uncompressed. Copies nothing.
    pub fn size_bytes(&self) -> usize {
        self.payload().len() + self.raw.key_len + self.headers_bytes()
    }

    /// Bytes of all header names and values.
    pub fn headers_bytes(&self) -> usize {
        let Some(headers) = self.raw_headers() else { return 0 };
        let mut bytes = 0;
        for index in 0.. {
            let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
            // SAFETY: the headers live as long as the record, and librdkafka writes the three outputs only if it finds one.
            let found =
                unsafe { sys::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size) };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            // SAFETY: a header's name is a C string in librdkafka's memory.
            bytes += size + unsafe { CStr::from_ptr(name) }.count_bytes();
        }
        bytes
    }

    /// The last header of this name, if it is UTF-8.
    pub fn header(&self, name: &CStr) -> Option<&'c str> {
        std::str::from_utf8(self.header_bytes(name)?).ok()
    }

    /// The bytes of the last header of this name.
    pub fn header_bytes(&self, name: &CStr) -> Option<&'c [u8]> {
        let headers = self.raw_headers()?;
        let (mut value, mut size) = (std::ptr::null(), 0);
        let found = unsafe { sys::rd_kafka_header_get_last(headers, name.as_ptr(), &mut value, &mut size) };
        (found == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| slice(value, size))
    }

    /// All headers, copied.
    pub fn headers(&self) -> OwnedHeaders {
        let mut owned = OwnedHeaders::new();
        let Some(headers) = self.raw_headers() else {
            return owned;
        };
        for index in 0.. {
            let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
            let found =
                unsafe { sys::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size) };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            let key = unsafe { CStr::from_ptr(name) }.to_string_lossy();
            let value = (!value.is_null()).then(|| slice(value, size));
            owned = owned.insert(Header { key: &key, value });
        }
        owned
    }

    /// Pointer and length of the key; null for a null key.
    pub(crate) fn raw_key(&self) -> (*mut c_void, usize) {
        (self.raw.key, self.raw.key_len)
    }

    /// Pointer and length of the value; null for a null value.
    pub(crate) fn raw_value(&self) -> (*mut c_void, usize) {
        (self.raw.payload, self.raw.len)
    }

    pub(crate) fn raw_headers(&self) -> Option<*mut sys::rd_kafka_headers_t> {
        let mut headers = std::ptr::null_mut();
        let found = unsafe { sys::rd_kafka_message_headers(self.raw, &mut headers) };
        (found == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(headers)
    }
}

/// A slice of librdkafka's memory, which lives as long as the fetch it belongs to.
fn slice<'c, T>(start: *const T, length: usize) -> &'c [u8] {
    if start.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(start.cast(), length) } }
}
