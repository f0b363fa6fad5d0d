//! Looks up which topics exist: one background request for all names, which creates none of them.

use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use super::arrivals::{Arrivals, Notification};
use super::describe::{Collection, Event, Options, Queue};
use super::member::Forwarding;

/// Timeout of the lookup on the broker, in milliseconds.
const REQUEST_TIMEOUT_MS: i32 = 2_000;
/// Timeout for finding the broker to send the request to.
const BROKER_TIMEOUT: Duration = Duration::from_millis(500);
/// Minimum interval between two attempts.
const BROKER_INTERVAL: Duration = Duration::from_secs(1);

const NO_ERROR: sys::rd_kafka_resp_err_t = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

/// The broker's answer about one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicAnswer {
    pub name: String,
    pub exists: bool,
}

/// Looks up topics through a consumer. At most one request is in flight.
pub struct TopicQuestions {
    // Both are dropped before the consumer that they belong to.
    _notification: Notification,
    queue: Queue,
    consumer: Arc<BaseConsumer<Forwarding>>,
    /// The name of an existing topic.
    topic: String,
    /// The broker that receives the request: the one that answered last. The client may not know the cluster's
    /// controller.
    broker: Option<i32>,
    /// Time of the last attempt to find it.
    sought: Option<Instant>,
    is_open: bool,
}

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl Send for TopicQuestions {}

impl fmt::Debug for TopicQuestions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicQuestions").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

impl TopicQuestions {
    /// Answers are reported to `arrivals`.
    pub(super) fn new(
        consumer: Arc<BaseConsumer<Forwarding>>,
        topic: &str,
        arrivals: &Arc<Arrivals>,
    ) -> Self {
        // SAFETY: the consumer is alive, and outlives the queue, which outlives its notification.
        unsafe {
            let queue = Queue(sys::rd_kafka_queue_new(consumer.client().native_ptr()));
            let _notification = Notification::enable(queue.0, arrivals);
            Self {
                _notification,
                queue,
                consumer,
                topic: topic.to_owned(),
                broker: None,
                sought: None,
                is_open: false,
            }
        }
    }

    /// Whether a request is in flight.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Finds the broker for the next request. Blocks up to `BROKER_TIMEOUT` if none is known, so no batch may be open.
    /// Does nothing for `BROKER_INTERVAL` after an attempt.
    pub fn find_broker(&mut self) {
        let is_due = self.sought.is_none_or(|sought| sought.elapsed() >= BROKER_INTERVAL);
        if self.broker.is_none() && is_due {
            self.sought = Some(Instant::now());
            let metadata = self.consumer.client().fetch_metadata(Some(&self.topic), BROKER_TIMEOUT);
            self.broker = metadata.ok().map(|metadata| metadata.orig_broker_id());
        }
    }

    /// Whether a request can be sent now: a broker is known and no request is in flight.
    pub fn is_ready(&self) -> bool {
        self.broker.is_some() && !self.is_open
    }

    /// Sends a lookup of these topics, each named once. Does nothing unless [`is_ready`](Self::is_ready).
    pub fn ask(&mut self, names: &[String]) {
        let names: Vec<_> = names.iter().filter_map(|name| CString::new(name.as_str()).ok()).collect();
        if self.is_open || names.is_empty() {
            return;
        }
        let Some(broker) = self.broker else { return };
        let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: librdkafka copies names and options before it returns; the queue outlives the request, as the consumer
        // that serves it does.
        unsafe {
            let handle = self.consumer.client().native_ptr();
            let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
            let options = Options(sys::rd_kafka_AdminOptions_new(handle, kind));
            sys::rd_kafka_AdminOptions_set_request_timeout(options.0, REQUEST_TIMEOUT_MS, ptr::null_mut(), 0);
            sys::rd_kafka_AdminOptions_set_broker(options.0, broker, ptr::null_mut(), 0);
            let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), names.len());
            let collection = Collection(collection);
            sys::rd_kafka_DescribeTopics(handle, collection.0, options.0, self.queue.0);
        }
        self.is_open = true;
    }

    /// The answer to the request in flight. `None` if there is none yet. Topics with an inconclusive answer are left out;
    /// after a failed request the answer is empty.
    pub fn answer(&mut self) -> Option<Vec<TopicAnswer>> {
        if !self.is_open {
            return None;
        }
        // SAFETY: the event owns all that is read here, and lives until the end of this function.
        unsafe {
            let event = Event(sys::rd_kafka_queue_poll(self.queue.0, 0));
            if event.0.is_null() {
                return None;
            }
            self.is_open = false;
            let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
            if result.is_null() || sys::rd_kafka_event_error(event.0) != NO_ERROR {
                tracing::debug!(broker = self.broker, "the broker did not return which topics exist");
                self.broker = None;
                return Some(Vec::new());
            }
            let mut count = 0;
            let described = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
            if described.is_null() {
                return Some(Vec::new());
            }
            let described = std::slice::from_raw_parts(described, count);
            Some(described.iter().filter_map(|topic| read(*topic)).collect())
        }
    }
}

/// Converts one description; `None` if it is inconclusive.
///
/// # Safety
/// `topic` is null, or lives as long as this call.
unsafe fn read(topic: *const sys::rd_kafka_TopicDescription_t) -> Option<TopicAnswer> {
    use RDKafkaErrorCode as Code;
    if topic.is_null() {
        return None;
    }
    // SAFETY: the caller keeps the description alive, and with it its name and its error.
    let (name, code) = unsafe {
        let name = sys::rd_kafka_TopicDescription_name(topic);
        (!name.is_null()).then(|| {
            let error = sys::rd_kafka_TopicDescription_error(topic);
            (CStr::from_ptr(name).to_string_lossy().into_owned(), sys::rd_kafka_error_code(error))
        })?
    };
    let exists = match Code::from(code) {
        // After a broker restart, the topic exists but its leader is not elected yet.
        Code::NoError | Code::LeaderNotAvailable => true,
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed => false,
        _ => return None,
    };
    Some(TopicAnswer { name, exists })
}
