//! Sends hints about local changes and about changes reported by Unleash's webhook.

use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::kafka::sender::Sender;
use crate::message::avro::{Format, Kind};
use crate::message::change::ChangeKind;
use crate::message::definition::Source;
use crate::schema_registry::Formats;

use super::hint::{self, Hint, Reading};

#[derive(Debug)]
pub struct Hints {
    sender: Sender,
    topic: String,
    format: Format,
}

#[derive(Serialize)]
struct Body<'h> {
    event_type: ChangeKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    flag_name: Option<&'h str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'h str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
}

impl Hints {
    pub fn new(config: Arc<Config>, formats: &Formats) -> Self {
        let topic = config.topics.changes.clone();
        Self { sender: Sender::new(config, "hints"), topic, format: formats.hint.clone() }
    }

    /// Forwards a hint from another service. A body that is not understood becomes a hint about everything.
    pub async fn pass_on(&self, body: &[u8]) -> anyhow::Result<()> {
        let hint = match hint::read(Some(body)) {
            Reading::Understood(hint) => hint,
            _ => Hint::default(),
        };
        match &self.format {
            Format::Json => self.send_body(&hint, body).await,
            Format::Avro(_) => self.send(ChangeKind::Updated, &hint).await,
        }
    }

    /// Sends a hint that a local flag was changed.
    pub async fn local(&self, kind: ChangeKind, environment: &str, flag: &str) -> anyhow::Result<()> {
        let (environment, flag) = (Some(environment.to_owned()), Some(flag.to_owned()));
        self.send(kind, &Hint { environment, flag, local: true, ..Hint::default() }).await
    }

    /// Sends a hint that anything in an environment may have changed.
    pub async fn everything(&self, environment: &str) -> anyhow::Result<()> {
        let environment = Some(environment.to_owned());
        self.send(ChangeKind::Updated, &Hint { environment, ..Hint::default() }).await
    }

    async fn send(&self, kind: ChangeKind, hint: &Hint) -> anyhow::Result<()> {
        let body = Body {
            event_type: kind,
            flag_name: hint.flag.as_deref(),
            environment: hint.environment.as_deref(),
            source: hint.local.then_some(Source::Local),
        };
        let body = self.format.message(Kind::Hint, serde_json::to_vec(&body)?)?;
        self.send_body(hint, &body).await
    }

    /// Sends the hint with the same key as a change event.
    async fn send_body(&self, hint: &Hint, body: &[u8]) -> anyhow::Result<()> {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let key = format!("{}/{}", part(&hint.environment), part(&hint.flag));
        Ok(self.sender.send(&self.topic, &key, body, None).await?)
    }
}
