//! Sends hints: what was changed here, or told by Unleash's webhook.

use std::sync::Arc;

use rdkafka::error::KafkaError;
use serde_json::json;

use crate::config::Config;
use crate::kafka::sender::Sender;
use crate::message::change::ChangeKind;
use crate::message::definition::Source;

use super::hint::{self, Hint, Reading};

#[derive(Debug)]
pub struct Hints {
    sender: Sender,
    topic: String,
}

impl Hints {
    pub fn new(config: Arc<Config>) -> Self {
        let topic = config.topics.changes.clone();
        Self { sender: Sender::new(config, "hints"), topic }
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
        self.sender.send(&self.topic, key, body, None).await
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
