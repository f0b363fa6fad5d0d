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
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'h str>,
}

impl Hints {
    pub fn new(config: Arc<Config>, formats: &Formats) -> Self {
        let topic = config.topics.changes.clone();
        Self { sender: Sender::new(config.kafka.clone(), "hints"), topic, format: formats.hint.clone() }
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
        self.send_body(hint, &message(&self.format, kind, hint)?).await
    }

    /// Sends the hint with the same key as a change event.
    async fn send_body(&self, hint: &Hint, body: &[u8]) -> anyhow::Result<()> {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let key = format!("{}/{}", part(&hint.environment), part(&hint.flag));
        Ok(self.sender.send(&self.topic, &key, body, None).await?)
    }
}

/// The hint as a record of the changes topic.
fn message(format: &Format, kind: ChangeKind, hint: &Hint) -> anyhow::Result<Vec<u8>> {
    let Hint { environment, flag, local, actor } = hint;
    let body = Body {
        event_type: kind,
        flag_name: flag.as_deref(),
        environment: environment.as_deref(),
        source: local.then_some(Source::Local),
        actor: actor.as_deref(),
    };
    Ok(format.message(Kind::Hint, serde_json::to_vec(&body)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hint as the feeder reads it.
    fn read(format: &Format, record: &[u8]) -> Hint {
        let mut text = Vec::new();
        let json = match format {
            Format::Json => record,
            Format::Avro(prefix) => {
                Kind::Hint.plan().to_json(&record[prefix.len()..], &mut text, hint::HINT_BYTES_MAX).unwrap();
                &text
            }
        };
        match hint::read(Some(json)) {
            Reading::Understood(hint) => hint,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_part_of_a_hint_arrives_in_either_format() {
        let webhook = br#"{"type":"feature-environment-enabled","createdBy":"ann","featureName":"a","environment":"dev"}"#;
        let some = |text: &str| Some(text.to_owned());
        let of_webhook = read(&Format::Json, webhook);
        assert_eq!(of_webhook.actor, some("ann"));
        let local = Hint { local: true, ..Hint { actor: None, ..of_webhook.clone() } };
        for format in [Format::Json, Format::Avro(vec![0, 0, 0, 0, 7])] {
            for hint in [&of_webhook, &local, &Hint::default()] {
                for kind in [ChangeKind::Created, ChangeKind::Updated, ChangeKind::Deleted] {
                    assert_eq!(read(&format, &message(&format, kind, hint).unwrap()), *hint, "{format:?}");
                }
            }
        }
    }
}
