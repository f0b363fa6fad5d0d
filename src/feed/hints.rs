//! Sends hints: what was changed here, or told by Unleash's webhook.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;

use crate::config::Config;
use crate::kafka::client::{self, Logged};
use crate::message::change::ChangeKind;
use crate::message::definition::Source;

use super::hint::{self, Hint, Reading};

/// For Kafka to take a hint.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// The producer of hints, made when the first one comes.
pub struct Hints {
    config: Arc<Config>,
    producer: OnceLock<FutureProducer<Logged>>,
}

impl std::fmt::Debug for Hints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hints")
    }
}

impl Hints {
    pub fn new(config: Arc<Config>) -> Self {
        Self { config, producer: OnceLock::new() }
    }

    /// Passes on what somebody else wrote.
    pub async fn pass_on(&self, body: &[u8]) -> Result<(), KafkaError> {
        self.send(&key(body), body).await
    }

    /// A local flag was changed.
    pub async fn local(&self, kind: ChangeKind, environment: &str, flag: &str) -> Result<(), KafkaError> {
        let source = Source::Local;
        let body =
            json!({"event_type": kind, "flag_name": flag, "environment": environment, "source": source});
        self.send(&format!("{environment}/{flag}"), body.to_string().as_bytes()).await
    }

    /// Look at everything in an environment.
    pub async fn everything(&self, environment: &str) -> Result<(), KafkaError> {
        let body = json!({"event_type": ChangeKind::Updated, "environment": environment});
        self.send(&format!("{environment}/"), body.to_string().as_bytes()).await
    }

    async fn send(&self, key: &str, body: &[u8]) -> Result<(), KafkaError> {
        let record = FutureRecord::to(&self.config.topics.changes).key(key).payload(body);
        let sent = self.producer()?.send(record, SEND_PATIENCE).await;
        sent.map(drop).map_err(|(error, _)| error)
    }

    fn producer(&self) -> Result<&FutureProducer<Logged>, KafkaError> {
        if let Some(producer) = self.producer.get() {
            return Ok(producer);
        }
        let mut config = client::base(&self.config.kafka, &self.config.instance, "hints");
        config.set("linger.ms", "0").set("message.timeout.ms", SEND_PATIENCE.as_millis().to_string());
        let producer = config.create_with_context(Logged)?;
        Ok(self.producer.get_or_init(|| producer))
    }
}

/// As change events are keyed; what is not understood is about everything.
fn key(body: &[u8]) -> String {
    match hint::read(Some(body)) {
        Reading::Understood(Hint { environment, flag, .. }) => {
            format!("{}/{}", environment.unwrap_or_default(), flag.unwrap_or_default())
        }
        _ => "/".to_owned(),
    }
}
