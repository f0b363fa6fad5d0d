//! Detects that a topic was deleted and created again under the same name.
//!
//! Offsets do not reveal it: a consumer whose position lies inside the new log continues in the middle and skips the
//! records before. Kafka assigns an id to each topic, so the ids are compared.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use tokio::sync::watch;

use crate::log_limit::limited;

use super::describe::{DescribeError, current_log_id, log_id};

/// The ids of topics by name, as of the last check; empty before the first one. A topic that was created again has a
/// different id.
pub type TopicIds = watch::Receiver<Arc<BTreeMap<String, String>>>;

/// Timeout of one request to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How many former ids are remembered.
const FORMER_IDS_MAX: usize = 16;
/// Answer of brokers that do not support topic ids: 16 zero bytes in base64.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The id of one topic, shared by everything in the process that reads the topic.
#[derive(Debug)]
pub struct TopicIdentity {
    topic: String,
    /// Whether the broker assigns ids to topics; the embedded broker of `dev` does not.
    has_ids: bool,
    known: Mutex<Known>,
    /// Held while a request is in flight whose answer others may use.
    asking: Mutex<()>,
    /// Counts how often the topic was found to be created again.
    recreated: Counter,
}

/// The topic's identity at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Number that increases whenever the topic is found to be created again.
    pub generation: u64,
    /// The topic's id. `None` before Kafka's first answer, and if Kafka assigns no ids to topics.
    pub id: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Known {
    confirmed: Confirmed,
    /// Ids of deleted topics of this name. A broker that has not learned of the new topic yet may still return one.
    former: VecDeque<Arc<str>>,
    /// Start of the latest request to Kafka.
    asked: Option<Instant>,
}

impl TopicIdentity {
    /// Creates the state without a request to Kafka.
    pub fn new(topic: &str, has_ids: bool, recreated: Counter) -> Self {
        Self {
            topic: topic.to_owned(),
            has_ids,
            known: Mutex::default(),
            asking: Mutex::default(),
            recreated,
        }
    }

    /// Returns the topic's generation and id. Kafka is asked if the last answer is older than `max_age`. A failed request
    /// changes nothing: a reader cannot read while Kafka is unreachable, and the next answer decides.
    pub fn confirm<C: ClientContext>(&self, client: &Client<C>, max_age: Duration) -> Confirmed {
        // Held during the request: concurrent callers wait for the same answer.
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.lock();
        if known.asked.is_some_and(|asked| asked.elapsed() < max_age) {
            return known.confirmed.clone();
        }
        drop(known);
        self.confirm_with(|| log_id(client, &self.topic, CALL_TIMEOUT))
    }

    /// Like [`confirm`](Self::confirm), but with an answer to a request that is sent after this call began. If that
    /// returns the known id, every record that was fetched before is one of this topic. `client` must have used the
    /// cluster.
    pub fn confirm_now<C: ClientContext>(&self, client: &Client<C>) -> Confirmed {
        self.confirm_with(|| current_log_id(client, &self.topic, CALL_TIMEOUT))
    }

    /// Asks without holding the lock of the state, so that no commit waits for the request of another thread.
    fn confirm_with(&self, ask: impl FnOnce() -> Result<String, DescribeError>) -> Confirmed {
        if !self.has_ids {
            return self.lock().confirmed.clone();
        }
        let begun = Instant::now();
        let answer = ask();
        let mut known = self.lock();
        match answer {
            // Answers may arrive in another order than their requests: a former id is then recognised as such.
            Ok(id) => self.found(&mut known, &id),
            Err(error) => tracing::debug!(%error, "the topic's id cannot be read"),
        }
        known.asked = known.asked.max(Some(begun));
        known.confirmed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, known: &mut Known, id: &str) {
        let is_former = known.former.iter().any(|former| **former == *id);
        if id == NO_ID || is_former || known.confirmed.id.as_deref() == Some(id) {
            return;
        }
        let Some(before) = known.confirmed.id.replace(id.into()) else { return };
        if known.former.len() == FORMER_IDS_MAX {
            known.former.pop_front();
        }
        known.former.push_back(Arc::clone(&before));
        known.confirmed.generation += 1;
        self.recreated.inc();
        limited!(
            error,
            key = &self.topic,
            topic = self.topic,
            before = &*before,
            id,
            "the topic was deleted and recreated; it is read from its beginning",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_id_is_another_topic() {
        let identity = TopicIdentity::new("requests", true, Counter::default());
        let mut known = Known::default();
        // The last but one answer comes from a broker that does not know the new topic yet.
        for (id, generation, is) in
            [("a", 0, "a"), ("a", 0, "a"), ("b", 1, "b"), ("a", 1, "b"), ("c", 2, "c")]
        {
            identity.found(&mut known, id);
            assert_eq!((known.confirmed.generation, known.confirmed.id.as_deref()), (generation, Some(is)));
        }
        assert_eq!(identity.recreated.get(), 2);
        (0..100).for_each(|number| identity.found(&mut known, &number.to_string()));
        assert_eq!(known.former.len(), FORMER_IDS_MAX);
    }

    #[test]
    fn an_answer_that_arrives_after_a_later_one_changes_nothing() {
        let identity = TopicIdentity::new("requests", true, Counter::default());
        let answer = |id: &str| Ok(id.to_owned());
        assert_eq!(identity.confirm_with(|| answer("a")).generation, 0);
        // While this request is in flight, another thread asks and learns of the new topic.
        let confirmed = identity.confirm_with(|| {
            assert_eq!(identity.confirm_with(|| answer("b")).generation, 1);
            answer("a")
        });
        assert_eq!((confirmed.generation, confirmed.id.as_deref()), (1, Some("b")));
        let failed = identity.confirm_with(|| Err(DescribeError::Silent { topic: "requests".to_owned() }));
        assert_eq!(failed, confirmed);
    }

    #[test]
    fn a_broker_that_assigns_no_ids_reports_none() {
        let identity = TopicIdentity::new("requests", true, Counter::default());
        let mut known = Known::default();
        identity.found(&mut known, NO_ID);
        assert_eq!(known.confirmed, Confirmed::default());
    }
}
