//! Checks that Kafka is reachable before a command begins. With an unreachable broker every later call would wait for
//! its own timeout and report only "transport failure".

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaConfig;
use super::client;

/// How long a command waits for the first answer.
pub const REACH_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of one request, so that a refused connection is noticed before the whole timeout has passed.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(250);

/// Kafka does not answer.
#[derive(Debug, thiserror::Error)]
#[error("Kafka at {servers} is not reachable ({why}): is it running there? (KAFKA_BOOTSTRAP_SERVERS)")]
pub struct Unreachable {
    servers: String,
    why: String,
}

/// Stores the last error instead of logging it.
#[derive(Debug, Default)]
struct Watched {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reason: Option<String>,
    all_down: bool,
}

impl ClientContext for Watched {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => state.all_down = true,
            _ => state.reason = Some(shortened(reason)),
        }
    }
}

impl ConsumerContext for Watched {}

/// Returns when a broker answers, and an error when no broker accepts a connection, at the latest after `timeout`.
/// `topic` is the topic that the broker is asked for; it need not exist. Blocks.
pub fn reach(kafka: &KafkaConfig, topic: &str, timeout: Duration) -> Result<(), Unreachable> {
    let failed = |why: String| Unreachable { servers: kafka.bootstrap_servers.clone(), why };
    let consumer: BaseConsumer<Watched> = client::base(kafka, "reach")
        .create_with_context(Watched::default())
        .map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Any answer shows a reachable broker. Asking for all topics could return a long answer.
        let asked = consumer.fetch_metadata(Some(topic), left.min(QUESTION_TIMEOUT));
        if asked.is_ok() {
            return Ok(());
        }
        // Errors are reported when the consumer is polled.
        let _ = consumer.poll(Duration::ZERO);
        let state = consumer.context().state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.all_down || Instant::now() >= deadline {
            let none = || format!("no answer within {} s", timeout.as_secs_f32());
            return Err(failed(state.reason.clone().unwrap_or_else(none)));
        }
    }
}

/// The cause in a librdkafka error: `127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused
/// (after 0ms in state CONNECT)` becomes `connection refused`.
fn shortened(reason: &str) -> String {
    let reason = reason.split(" (after ").next().unwrap_or_default();
    match reason.rsplit_once(" failed: ") {
        Some((_, why)) => why.to_lowercase(),
        None => reason.split_once(": ").map_or(reason, |(_, rest)| rest).to_owned(),
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    fn at(servers: &str) -> KafkaConfig {
        KafkaConfig { bootstrap_servers: servers.to_owned(), ..KafkaConfig::default() }
    }

    #[test]
    fn a_refused_connection_is_reported_in_words_and_before_the_timeout() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = reach(&at(&free.to_string()), "any", Duration::from_secs(600)).unwrap_err().to_string();
        assert!(error.contains(&format!("{free} is not reachable (connection refused)")), "{error}");
        assert!(error.contains("KAFKA_BOOTSTRAP_SERVERS"), "{error}");
    }

    #[test]
    fn a_silent_port_is_given_up_after_the_timeout() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let error = reach(&at(&address), "any", Duration::from_millis(300)).unwrap_err().to_string();
        assert!(error.contains("no answer within 0.3 s"), "{error}");
    }

    #[test]
    fn a_broker_that_answers_is_reachable() {
        let cluster = MockCluster::new(1).unwrap();
        reach(&at(&cluster.bootstrap_servers()), "any", Duration::from_secs(20)).unwrap();
    }
}
