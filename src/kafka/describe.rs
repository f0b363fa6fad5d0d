//! What Kafka says of a topic beside its partitions: the id that it gave it when it was made (a topic made anew under an
//! old name has another one), and what this user may do there.

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    #[error("topic {topic}: {code}")]
    Refused { topic: String, code: RDKafkaErrorCode },
    #[error("topic {topic}: Kafka does not describe it")]
    Silent { topic: String },
}

/// What a user may do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    pub read: bool,
    pub write: bool,
}

struct Options(*mut sys::rd_kafka_AdminOptions_t);
struct Collection(*mut sys::rd_kafka_TopicCollection_t);
struct Queue(*mut sys::rd_kafka_queue_t);
struct Event(*mut sys::rd_kafka_event_t);

/// Asks for the id of `topic`, as base64. Brokers from before ids existed answer the same for every topic.
pub fn log_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    patience: Duration,
) -> Result<String, DescribeError> {
    describe(client, topic, patience, false, |topic| {
        // The text lives as long as the description.
        unsafe {
            let id = sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(topic));
            (!id.is_null()).then(|| CStr::from_ptr(id).to_string_lossy().into_owned())
        }
    })
}

/// Asks what this user may do with `topic`. A broker that checks nobody's rights answers: everything.
pub fn rights<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    patience: Duration,
) -> Result<Rights, DescribeError> {
    use sys::rd_kafka_AclOperation_t::{RD_KAFKA_ACL_OPERATION_READ, RD_KAFKA_ACL_OPERATION_WRITE};
    describe(client, topic, patience, true, |topic| {
        let mut count = 0;
        // The list lives as long as the description.
        let operations = unsafe {
            let first = sys::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
            if first.is_null() { &[] } else { std::slice::from_raw_parts(first, count) }
        };
        let may = |operation| operations.contains(&operation);
        Some(Rights { read: may(RD_KAFKA_ACL_OPERATION_READ), write: may(RD_KAFKA_ACL_OPERATION_WRITE) })
    })
}

/// Asks about `topic`, and reads the answer with `read`.
fn describe<C: ClientContext, T>(
    client: &Client<C>,
    topic: &str,
    patience: Duration,
    with_rights: bool,
    read: impl FnOnce(*const sys::rd_kafka_TopicDescription_t) -> Option<T>,
) -> Result<T, DescribeError> {
    let silent = || DescribeError::Silent { topic: topic.to_owned() };
    let name = CString::new(topic).map_err(|_| silent())?;
    // A client knows no controller, and waits for one in vain, until it has asked for metadata.
    client.fetch_metadata(Some(topic), patience).map_err(|error| {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        DescribeError::Refused { topic: topic.to_owned(), code }
    })?;
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // Everything that is made here is given back by its own type, in whatever order the question ends.
    unsafe {
        let handle = client.native_ptr();
        let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Options(sys::rd_kafka_AdminOptions_new(handle, kind));
        sys::rd_kafka_AdminOptions_set_request_timeout(options.0, millis, ptr::null_mut(), 0);
        if with_rights {
            let refused = sys::rd_kafka_AdminOptions_set_include_authorized_operations(options.0, 1);
            if !refused.is_null() {
                sys::rd_kafka_error_destroy(refused);
                return Err(silent());
            }
        }
        let mut names = [name.as_ptr()];
        let topics =
            Collection(sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()));
        let queue = Queue(sys::rd_kafka_queue_new(handle));
        sys::rd_kafka_DescribeTopics(handle, topics.0, options.0, queue.0);
        // A little longer than the request, so that its own timeout is what is heard.
        let event = Event(sys::rd_kafka_queue_poll(queue.0, millis.saturating_add(500)));
        if event.0.is_null() {
            return Err(silent());
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(silent());
        }
        let mut count = 0;
        let described = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if described.is_null() || count == 0 {
            return Err(silent());
        }
        let described = *described;
        let error = sys::rd_kafka_TopicDescription_error(described);
        let code = sys::rd_kafka_error_code(error);
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(DescribeError::Refused { topic: topic.to_owned(), code: code.into() });
        }
        read(described).ok_or_else(silent)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0) };
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        unsafe { sys::rd_kafka_TopicCollection_destroy(self.0) };
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        unsafe { sys::rd_kafka_queue_destroy(self.0) };
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.0.is_null() {
            unsafe { sys::rd_kafka_event_destroy(self.0) };
        }
    }
}
