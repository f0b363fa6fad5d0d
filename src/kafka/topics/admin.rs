//! Asks Kafka for the topics there are, and makes them what they should be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Serialize;

use crate::config::{Config, TopicsConfig};
use crate::kafka::client;

use super::{Difference, Found, FoundConfig, Need, differences, needs};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why topics cannot be looked at or changed.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    #[error("Kafka's client cannot be configured: {0}")]
    Client(KafkaError),
    #[error("Kafka at {servers} does not answer: {error}")]
    Unreachable { servers: String, error: KafkaError },
    #[error("Kafka at {servers} is that of `flagstream dev`, where topics have no settings")]
    Embedded { servers: String },
    #[error("topic {topic}: {code}")]
    Refused { topic: String, code: RDKafkaErrorCode },
    #[error("stopped while asking Kafka")]
    Stopped,
}

/// How one topic is, and what was done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicReport {
    pub topic: String,
    /// Differences that are gone now.
    pub done: Vec<Difference>,
    /// Differences that are still there.
    pub left: Vec<Difference>,
}

/// Topics as seen through one admin client.
pub struct Topics {
    admin: Arc<AdminClient<client::Logged>>,
    servers: String,
    topics: TopicsConfig,
}

impl Topics {
    /// Makes a client; Kafka is not asked anything yet.
    pub fn new(config: &Config) -> Result<Self, TopicsError> {
        let client = client::base(&config.kafka, &config.instance, "topics");
        let admin =
            AdminClient::from_config_and_context(&client, client::Logged).map_err(TopicsError::Client)?;
        Ok(Self {
            admin: Arc::new(admin),
            servers: config.kafka.bootstrap_servers.clone(),
            topics: config.topics.clone(),
        })
    }

    /// Partition counts of all topics there are.
    pub async fn partitions(&self, patience: Duration) -> Result<BTreeMap<String, i32>, TopicsError> {
        let admin = Arc::clone(&self.admin);
        // All topics: a question for one by its name may create it.
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(None, patience)?;
            let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
            let count = |topic: &rdkafka::metadata::MetadataTopic| {
                let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
                (topic.name().to_owned(), partitions)
            };
            Ok(topics.map(count).collect())
        });
        let answer = asked.await.map_err(|_| TopicsError::Stopped)?;
        answer.map_err(|error| self.unreachable(error))
    }

    /// How each topic differs from what it needs.
    pub async fn check(&self) -> Result<Vec<TopicReport>, TopicsError> {
        let needs = needs(&self.topics);
        let found = self.find(&needs).await?;
        let report = |need: Need| TopicReport {
            left: differences(&need, found.get(&need.name)),
            done: Vec::new(),
            topic: need.name,
        };
        Ok(needs.into_iter().map(report).collect())
    }

    /// Creates what is missing and sets what differs; another process may do the same at the same time.
    pub async fn apply(&self) -> Result<Vec<TopicReport>, TopicsError> {
        let needs = needs(&self.topics);
        let found = self.find(&needs).await?;
        let mut reports = Vec::new();
        for need in &needs {
            let found = found.get(&need.name);
            let (left, done): (Vec<_>, Vec<_>) = differences(need, found)
                .into_iter()
                .partition(|difference| matches!(difference, Difference::Partitions { .. }));
            match (found, done.is_empty()) {
                (None, _) => self.create(need).await?,
                (Some(found), false) => self.alter(need, found).await?,
                (Some(_), true) => {}
            }
            reports.push(TopicReport { topic: need.name.clone(), done, left });
        }
        Ok(reports)
    }

    async fn find(&self, needs: &[Need]) -> Result<BTreeMap<String, Found>, TopicsError> {
        let partitions = self.partitions(CALL_TIMEOUT).await?;
        let admin = Arc::clone(&self.admin);
        // It does not answer what follows.
        let embedded = tokio::task::spawn_blocking(move || client::is_embedded(admin.inner(), CALL_TIMEOUT));
        if embedded.await.map_err(|_| TopicsError::Stopped)? {
            return Err(TopicsError::Embedded { servers: self.servers.clone() });
        }
        let there: Vec<&str> = needs.iter().map(|need| need.name.as_str()).collect();
        let there: Vec<&str> = there.into_iter().filter(|name| partitions.contains_key(*name)).collect();
        let mut found = BTreeMap::new();
        if there.is_empty() {
            return Ok(found);
        }
        let asked: Vec<_> = there.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let answers = self.admin.describe_configs(&asked, &options()).await;
        let answers = answers.map_err(|error| self.unreachable(error))?;
        for (name, answer) in there.into_iter().zip(answers) {
            let resource = answer.map_err(|code| refused(name, code))?;
            if let OwnedResourceSpecifier::Topic(topic) = &resource.specifier {
                let partitions = partitions.get(topic).copied().unwrap_or_default();
                let config = config_of(&resource);
                found.insert(topic.clone(), Found { partitions, config });
            }
        }
        Ok(found)
    }

    async fn create(&self, need: &Need) -> Result<(), TopicsError> {
        // -1: the broker's default.
        let replication = TopicReplication::Fixed(need.replication.unwrap_or(-1));
        let config = need.config.iter();
        let topic = config
            .fold(NewTopic::new(&need.name, need.partitions, replication), |topic, (name, value)| {
                topic.set(name, value)
            });
        let results = self.admin.create_topics([&topic], &options()).await;
        for result in results.map_err(|error| self.unreachable(error))? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(refused(&need.name, code)),
            }
        }
        Ok(())
    }

    /// Sets what we need. Kafka takes a topic's settings as a whole here: what others set on it goes along.
    async fn alter(&self, need: &Need, found: &Found) -> Result<(), TopicsError> {
        let ours = |name: &str| need.config.iter().any(|(our, _)| *our == name);
        let kept = found.config.iter().filter(|entry| entry.own && !ours(&entry.name));
        let kept = kept.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?)));
        let all = kept.chain(need.config.iter().map(|(name, value)| (*name, value.as_str())));
        let change = all
            .fold(AlterConfig::new(ResourceSpecifier::Topic(&need.name)), |change, (name, value)| {
                change.set(name, value)
            });
        let results = self.admin.alter_configs([&change], &options()).await;
        for result in results.map_err(|error| self.unreachable(error))? {
            result.map_err(|(_, code)| refused(&need.name, code))?;
        }
        Ok(())
    }

    fn unreachable(&self, error: KafkaError) -> TopicsError {
        TopicsError::Unreachable { servers: self.servers.clone(), error }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(CALL_TIMEOUT)).operation_timeout(Some(CALL_TIMEOUT))
}

fn config_of(resource: &ConfigResource) -> Vec<FoundConfig> {
    let entries = resource.entries.iter().map(|entry| FoundConfig {
        name: entry.name.clone(),
        value: entry.value.clone(),
        own: entry.source == ConfigSource::DynamicTopic,
    });
    entries.collect()
}

fn refused(topic: &str, code: RDKafkaErrorCode) -> TopicsError {
    let topic = topic.to_owned();
    TopicsError::Refused { topic, code }
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").field("servers", &self.servers).finish_non_exhaustive()
    }
}
