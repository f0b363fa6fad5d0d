//! Detects that a topic was deleted and created again under the same name.
//!
//! Offsets do not reveal it: a consumer whose position lies inside the new log continues in the middle and skips the
//! records before. Kafka assigns an id to each topic, so the ids are compared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use tokio::sync::watch;

use super::describe::log_id;

/// The ids of topics by name, as of the last check; empty before the first one. A topic that was created again has a
/// different id.
pub type TopicIds = watch::Receiver<Arc<BTreeMap<String, String>>>;

/// Timeout of one request to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Answer of brokers that do not support topic ids: 16 zero bytes in base64.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The id of one topic, shared by everything in the process that reads the topic.
#[derive(Debug)]
pub struct TopicIdentity {
    topic: String,
    /// Whether the broker assigns ids to topics; the embedded broker of `dev` does not.
    has_ids: bool,
    known: Mutex<Known>,
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
    asked: Option<Instant>,
}

impl TopicIdentity {
    /// Creates the state without a request to Kafka.
    pub fn new(topic: &str, has_ids: bool, recreated: Counter) -> Self {
        Self { topic: topic.to_owned(), has_ids, known: Mutex::default(), recreated }
    }

    /// Returns the topic's generation and id. Kafka is asked if the last answer is older than `max_age`. A failed request
    /// changes nothing: a reader cannot read while Kafka is unreachable, and the next answer decides.
    pub fn confirm<C: ClientContext>(&self, client: &Client<C>, max_age: Duration) -> Confirmed {
        // The lock is held during the request: concurrent callers wait for the same answer.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.has_ids || known.asked.is_some_and(|asked| asked.elapsed() < max_age) {
            return known.confirmed.clone();
        }
        let found = log_id(client, &self.topic, CALL_TIMEOUT);
        known.asked = Some(Instant::now());
        match found {
            Ok(id) => self.found(&mut known.confirmed, &id),
            Err(error) => tracing::debug!(%error, "the topic's id cannot be read"),
        }
        known.confirmed.clone()
    }

    fn found(&self, known: &mut Confirmed, id: &str) {
        if id == NO_ID || known.id.as_deref() == Some(id) {
            return;
        }
        let Some(before) = known.id.replace(id.into()) else { return };
        known.generation += 1;
        self.recreated.inc();
        tracing::error!(
            topic = self.topic,
            before = &*before,
            id,
            "the topic was deleted and recreated; it is read from its beginning"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_id_is_another_topic() {
        let identity = TopicIdentity::new("requests", true, Counter::default());
        let mut known = Confirmed::default();
        for (id, generation) in [("a", 0), ("a", 0), ("b", 1), ("b", 1), ("a", 2)] {
            identity.found(&mut known, id);
            assert_eq!((known.generation, known.id.as_deref()), (generation, Some(id)));
        }
        assert_eq!(identity.recreated.get(), 2);
    }

    #[test]
    fn a_broker_that_assigns_no_ids_reports_none() {
        let identity = TopicIdentity::new("requests", true, Counter::default());
        let mut known = Confirmed::default();
        identity.found(&mut known, NO_ID);
        assert_eq!(known, Confirmed::default());
    }
}
