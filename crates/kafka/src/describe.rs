//! Metadata of topics beyond their partitions: the id that Kafka assigned at creation (a topic created again under the
//! same name has a different id), and the rights of this user.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use super::client;

/// Reason why a topic's description is not known.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    #[error("topic {topic}: {code}")]
    Refused { topic: String, code: RDKafkaErrorCode },
    #[error("topic {topic}: Kafka did not return a description")]
    Silent { topic: String },
}

/// The operations on a topic that a user is authorized for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    pub read: bool,
    pub write: bool,
}

/// A topic that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub partitions: i32,
    /// Number of partitions without a leader at the moment.
    pub leaderless: usize,
    /// The partition with the fewest in-sync replicas: how many it has, and how many replicas are assigned to it. `None`
    /// without partitions.
    pub least_in_sync: Option<(usize, usize)>,
    /// The id that Kafka assigned to the topic at creation, as base64.
    pub id: String,
}

/// One broker's answer about the requested topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The number of brokers in the cluster.
    pub brokers: usize,
    /// Whether this is the embedded broker of `dev`.
    pub is_embedded: bool,
    /// The topics that exist, by name.
    pub topics: BTreeMap<String, Described>,
    /// Kafka's own topics, as far as they exist and this user may describe them.
    pub internal: BTreeMap<String, Described>,
}

pub(super) struct Options(pub(super) *mut sys::rd_kafka_AdminOptions_t);
pub(super) struct Collection(pub(super) *mut sys::rd_kafka_TopicCollection_t);
pub(super) struct Queue(pub(super) *mut sys::rd_kafka_queue_t);
pub(super) struct Event(pub(super) *mut sys::rd_kafka_event_t);

/// Returns the id of `topic`, as base64. Brokers without topic ids return the same value for every topic.
pub fn log_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<String, DescribeError> {
    describe(client, topic, timeout, false, read_id)
}

/// Like [`log_id`], in a single request. `client` must know the cluster, because it has used it.
pub fn current_log_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<String, DescribeError> {
    describe_known(client, topic, timeout, false, read_id)
}

fn read_id(topic: *const sys::rd_kafka_TopicDescription_t) -> Option<String> {
    // SAFETY: the text lives as long as the description.
    unsafe {
        let id = sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(topic));
        (!id.is_null()).then(|| CStr::from_ptr(id).to_string_lossy().into_owned())
    }
}

/// Returns the rights of this user on `topic`. A broker without authorization allows everything.
pub fn rights<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Rights, DescribeError> {
    use sys::rd_kafka_AclOperation_t::{RD_KAFKA_ACL_OPERATION_READ, RD_KAFKA_ACL_OPERATION_WRITE};
    describe(client, topic, timeout, true, |topic| {
        let mut count = 0;
        // SAFETY: the list lives as long as the description.
        let operations = unsafe {
            let first = sys::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
            if first.is_null() { &[] } else { std::slice::from_raw_parts(first, count) }
        };
        let may = |operation| operations.contains(&operation);
        Some(Rights { read: may(RD_KAFKA_ACL_OPERATION_READ), write: may(RD_KAFKA_ACL_OPERATION_WRITE) })
    })
}

/// Describes `topic`, and converts the answer with `read`.
fn describe<C: ClientContext, T>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
    with_rights: bool,
    read: impl Fn(*const sys::rd_kafka_TopicDescription_t) -> Option<T>,
) -> Result<T, DescribeError> {
    // A client does not know the controller, and would wait for it in vain, until it has requested metadata.
    client.fetch_metadata(Some(topic), timeout).map_err(|error| {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        DescribeError::Refused { topic: topic.to_owned(), code }
    })?;
    describe_known(client, topic, timeout, with_rights, read)
}

/// Like [`describe`], for a client that knows the cluster.
fn describe_known<C: ClientContext, T>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
    with_rights: bool,
    read: impl Fn(*const sys::rd_kafka_TopicDescription_t) -> Option<T>,
) -> Result<T, DescribeError> {
    let silent = || DescribeError::Silent { topic: topic.to_owned() };
    let read = |described| read(described).ok_or_else(silent);
    let described = describe_all(client, &[topic], timeout, with_rights, read).ok_or_else(silent)?;
    match described.into_iter().next() {
        Some((_, Ok(described))) => described,
        Some((_, Err(code))) => Err(DescribeError::Refused { topic: topic.to_owned(), code }),
        None => Err(silent()),
    }
}

/// Sends one DescribeTopics request for `topics` and converts each description with `read`. `None` if no answer
/// arrived.
fn describe_all<C: ClientContext, T>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
    with_rights: bool,
    read: impl Fn(*const sys::rd_kafka_TopicDescription_t) -> T,
) -> Option<Vec<(String, Result<T, RDKafkaErrorCode>)>> {
    let names: Vec<CString> = topics.iter().map(|topic| CString::new(*topic).ok()).collect::<Option<_>>()?;
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let millis = millis(timeout);
    // SAFETY: every handle that is created here is destroyed by its wrapper type on every path, and everything that is
    // read from the answer is copied before the answer is destroyed.
    unsafe {
        let handle = client.native_ptr();
        let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Options(sys::rd_kafka_AdminOptions_new(handle, kind));
        sys::rd_kafka_AdminOptions_set_request_timeout(options.0, millis, ptr::null_mut(), 0);
        if with_rights {
            let refused = sys::rd_kafka_AdminOptions_set_include_authorized_operations(options.0, 1);
            if !refused.is_null() {
                sys::rd_kafka_error_destroy(refused);
                return None;
            }
        }
        let asked = Collection(sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()));
        let queue = Queue(sys::rd_kafka_queue_new(handle));
        sys::rd_kafka_DescribeTopics(handle, asked.0, options.0, queue.0);
        // Slightly longer than the request, so that its own timeout is reported.
        let event = Event(sys::rd_kafka_queue_poll(queue.0, millis.saturating_add(500)));
        if event.0.is_null() {
            return None;
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return None;
        }
        let mut count = 0;
        let described = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if described.is_null() || count == 0 {
            return None;
        }
        let one = |described: *const sys::rd_kafka_TopicDescription_t| {
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(described));
            let name = name.to_string_lossy().into_owned();
            let code = sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(described));
            match code {
                sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => (name, Ok(read(described))),
                code => (name, Err(code.into())),
            }
        };
        Some(std::slice::from_raw_parts(described, count).iter().map(|described| one(*described)).collect())
    }
}

/// Describes `topics` in one request that names them. This creates no topics, and the answer does not grow with the
/// number of other topics in the cluster. Topics that do not exist are left out, and so are those of `internal` that this
/// user may not describe.
pub fn overview<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    internal: &[&str],
    timeout: Duration,
) -> Result<Overview, DescribeError> {
    if client::is_embedded(client, timeout) {
        return embedded_overview(client, topics, timeout);
    }
    let first = topics.first().copied().unwrap_or_default();
    let refused = |topic: &str, code| DescribeError::Refused { topic: topic.to_owned(), code };
    let brokers = brokers(client, timeout).map_err(|code| refused(first, code))?;
    let all = [topics, internal].concat();
    let described = describe_all(client, &all, timeout, false, read_partitions)
        .ok_or_else(|| DescribeError::Silent { topic: first.to_owned() })?;
    let (mut found, mut own) = (BTreeMap::new(), BTreeMap::new());
    for (name, described) in described {
        let is_internal = internal.contains(&name.as_str());
        match described {
            Ok(described) if is_internal => drop(own.insert(name, described)),
            Ok(described) => drop(found.insert(name, described)),
            Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
            Err(_) if is_internal => {}
            Err(code) => return Err(refused(&name, code)),
        }
    }
    Ok(Overview { brokers, is_embedded: false, topics: found, internal: own })
}

/// Copies what [`Described`] has of a description.
fn read_partitions(described: *const sys::rd_kafka_TopicDescription_t) -> Described {
    // SAFETY: texts and lists live as long as the description that is being read.
    unsafe {
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(described, &mut count);
        let partitions =
            if partitions.is_null() { &[] } else { std::slice::from_raw_parts(partitions, count) };
        let leaderless = partitions
            .iter()
            .filter(|partition| sys::rd_kafka_TopicPartitionInfo_leader(**partition).is_null())
            .count();
        let replicas = partitions.iter().map(|partition| {
            let (mut in_sync, mut assigned) = (0, 0);
            sys::rd_kafka_TopicPartitionInfo_isr(*partition, &mut in_sync);
            sys::rd_kafka_TopicPartitionInfo_replicas(*partition, &mut assigned);
            (in_sync, assigned)
        });
        let least_in_sync = replicas.min();
        let id = sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(described));
        let id = (!id.is_null()).then(|| CStr::from_ptr(id).to_string_lossy().into_owned());
        let partitions = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        Described { partitions, leaderless, least_in_sync, id: id.unwrap_or_default() }
    }
}

/// Describes topics on the broker of `dev`, which does not support DescribeTopics. It has few topics, so the metadata
/// of all of them is requested; that creates none.
fn embedded_overview<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Overview, DescribeError> {
    let metadata = client.fetch_metadata(None, timeout).map_err(|error| {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        DescribeError::Refused { topic: topics.first().copied().unwrap_or_default().to_owned(), code }
    })?;
    let ours =
        metadata.topics().iter().filter(|topic| topic.error().is_none() && topics.contains(&topic.name()));
    let described = ours.map(|topic| {
        let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
        let described = Described { partitions, leaderless: 0, least_in_sync: None, id: String::new() };
        (topic.name().to_owned(), described)
    });
    let topics = described.collect();
    Ok(Overview { brokers: metadata.brokers().len(), is_embedded: true, topics, internal: BTreeMap::new() })
}

/// Requests only the list of brokers and returns their number. A client knows no controller before such a request.
fn brokers<C: ClientContext>(client: &Client<C>, timeout: Duration) -> Result<usize, RDKafkaErrorCode> {
    let mut metadata = ptr::null();
    // SAFETY: a request for no topic returns only brokers; the answer is destroyed after they were counted.
    unsafe {
        let code =
            sys::rd_kafka_metadata(client.native_ptr(), 0, ptr::null_mut(), &mut metadata, millis(timeout));
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(code.into());
        }
        let brokers = usize::try_from((*metadata).broker_cnt).unwrap_or(0);
        sys::rd_kafka_metadata_destroy(metadata);
        Ok(brokers)
    }
}

fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
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

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;
