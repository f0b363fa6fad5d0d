//! The id that Kafka gives to a topic when it is made: a topic made anew under an old name has another one.

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

/// Why the id is not known.
#[derive(Debug, thiserror::Error)]
pub enum LogIdError {
    #[error("topic {topic}: {code}")]
    Refused { topic: String, code: RDKafkaErrorCode },
    #[error("topic {topic}: Kafka does not say its id")]
    Silent { topic: String },
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
) -> Result<String, LogIdError> {
    let silent = || LogIdError::Silent { topic: topic.to_owned() };
    let name = CString::new(topic).map_err(|_| silent())?;
    // A client knows no controller, and waits for one in vain, until it has asked for metadata.
    client.fetch_metadata(Some(topic), patience).map_err(|error| {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        LogIdError::Refused { topic: topic.to_owned(), code }
    })?;
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // Everything that is made here is given back by its own type, in whatever order the question ends.
    unsafe {
        let handle = client.native_ptr();
        let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Options(sys::rd_kafka_AdminOptions_new(handle, kind));
        sys::rd_kafka_AdminOptions_set_request_timeout(options.0, millis, ptr::null_mut(), 0);
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
            return Err(LogIdError::Refused { topic: topic.to_owned(), code: code.into() });
        }
        let id = sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(described));
        if id.is_null() {
            return Err(silent());
        }
        Ok(CStr::from_ptr(id).to_string_lossy().into_owned())
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
