//! Describes, creates and alters topics through Kafka's admin API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Serialize;

use crate::config::TopicsConfig;
use crate::kafka::describe::{DescribeError, Overview, overview};
use crate::kafka::{KafkaConfig, client};

use super::{
    Difference, Found, FoundConfig, INTERNAL, Need, Settings, differences, needs, unwritable,
    without_enough_replicas,
};

/// Timeout of each administrative request to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long created topics may take to become known to all brokers.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of the checks for created topics.
const VISIBILITY_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Each check is answered by one random broker. This many consecutive answers per broker must include all topics.
const VISIBLE_ANSWERS_PER_BROKER: usize = 5;
/// Upper bound of the consecutive answers that must list a created topic.
const VISIBLE_ANSWERS_MAX: usize = 50;

/// Reason why topics cannot be described or changed.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    #[error("the Kafka client cannot be configured: {0}")]
    Client(KafkaError),
    #[error("Kafka at {servers} does not answer: {error}")]
    Unreachable { servers: String, error: KafkaError },
    #[error("Kafka at {servers} is the embedded broker of `flagstream dev`, which has no topic settings")]
    Embedded { servers: String },
    #[error("topic {topic}: {code}")]
    Refused { topic: String, code: RDKafkaErrorCode },
    #[error(
        "the created topics {topics} are not visible on all brokers after {VISIBLE_TIMEOUT:?}; run the command again"
    )]
    Invisible { topics: String },
    #[error("interrupted while waiting for Kafka")]
    Stopped,
}

/// The state of one topic, and the changes that were made to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicReport {
    pub topic: String,
    /// Differences that were resolved.
    pub done: Vec<Difference>,
    /// Differences that remain.
    pub left: Vec<Difference>,
}

/// Problems of the topics' replicas.
#[derive(Debug)]
pub struct ReplicaReport {
    /// The reasons why Kafka accepts no records for some of the topics at the moment.
    pub unwritable: Vec<String>,
    /// The topics for which older brokers accept no records.
    pub doubtful: Vec<String>,
}

/// Access to the topics through one admin client.
pub struct Topics {
    admin: Arc<AdminClient<client::Logged>>,
    servers: String,
    topics: TopicsConfig,
}

impl Topics {
    /// Creates a client, without a request to Kafka.
    pub fn new(kafka: &KafkaConfig, topics: &TopicsConfig) -> Result<Self, TopicsError> {
        let client = client::base(kafka, "topics");
        let admin =
            AdminClient::from_config_and_context(&client, client::Logged).map_err(TopicsError::Client)?;
        Ok(Self { admin: Arc::new(admin), servers: kafka.bootstrap_servers.clone(), topics: topics.clone() })
    }

    /// Describes our topics; those that do not exist are left out.
    pub async fn describe(&self, timeout: Duration) -> Result<Overview, TopicsError> {
        let admin = Arc::clone(&self.admin);
        let names: Vec<String> = self.topics.names().into_iter().map(|(_, name)| name.to_owned()).collect();
        let asked = tokio::task::spawn_blocking(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            overview(admin.inner(), &names, &INTERNAL, timeout)
        });
        let answer = asked.await.map_err(|_| TopicsError::Stopped)?;
        answer.map_err(|error| match error {
            DescribeError::Refused { topic, code: RDKafkaErrorCode::TopicAuthorizationFailed } => {
                refused(&topic, RDKafkaErrorCode::TopicAuthorizationFailed)
            }
            DescribeError::Refused { code, .. } => self.unreachable(KafkaError::MetadataFetch(code)),
            DescribeError::Silent { .. } => {
                self.unreachable(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut))
            }
        })
    }

    /// Reads the settings of our topics and of Kafka's own. Topics that do not exist, or whose settings this user may not
    /// read, are left out.
    pub async fn settings(&self) -> Result<Settings, TopicsError> {
        let names: Vec<&str> =
            self.topics.names().into_iter().map(|(_, name)| name).chain(INTERNAL).collect();
        let asked: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let answers = self.admin.describe_configs(&asked, &options()).await;
        let answers = answers.map_err(|error| self.unreachable(error))?;
        let read = |(name, answer): (&str, Result<ConfigResource, _>)| {
            Some((name.to_owned(), config_of(&answer.ok()?)))
        };
        Ok(names.into_iter().zip(answers).filter_map(read).collect())
    }

    /// Compares the replicas of the topics with what their settings require.
    pub async fn replicas(&self) -> Result<ReplicaReport, TopicsError> {
        let (found, settings) = (self.describe(CALL_TIMEOUT).await?, self.settings().await?);
        Ok(ReplicaReport {
            unwritable: unwritable(&found, &settings),
            doubtful: without_enough_replicas(&found, &settings),
        })
    }

    /// The differences of each topic from its required properties.
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

    /// Creates missing topics and sets differing settings. Another process may do the same concurrently.
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
        let created = reports.iter().filter(|report| report.done.contains(&Difference::Missing));
        let created: Vec<&str> = created.map(|report| report.topic.as_str()).collect();
        if !created.is_empty() {
            self.wait_until_visible(&created).await?;
        }
        Ok(reports)
    }

    /// Waits until every broker knows the created topics and a leader of each of their partitions, so that later
    /// requests to any broker find them.
    async fn wait_until_visible(&self, created: &[&str]) -> Result<(), TopicsError> {
        let deadline = Instant::now() + VISIBLE_TIMEOUT;
        let mut in_a_row = 0;
        loop {
            let needed = match self.describe(CALL_TIMEOUT).await {
                Ok(Overview { brokers, topics, .. }) => {
                    let is_known = |name: &&str| topics.get(*name).is_some_and(|topic| topic.leaderless == 0);
                    in_a_row = if created.iter().all(is_known) { in_a_row + 1 } else { 0 };
                    (brokers * VISIBLE_ANSWERS_PER_BROKER).clamp(1, VISIBLE_ANSWERS_MAX)
                }
                // Errors are expected while a topic is being created.
                Err(_) => {
                    in_a_row = 0;
                    1
                }
            };
            if in_a_row >= needed {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(TopicsError::Invisible { topics: created.join(", ") });
            }
            tokio::time::sleep(VISIBILITY_POLL_INTERVAL).await;
        }
    }

    async fn find(&self, needs: &[Need]) -> Result<BTreeMap<String, Found>, TopicsError> {
        let Overview { topics: described, is_embedded, .. } = self.describe(CALL_TIMEOUT).await?;
        // The embedded broker does not support the requests below.
        if is_embedded {
            return Err(TopicsError::Embedded { servers: self.servers.clone() });
        }
        let there: Vec<&str> = needs.iter().map(|need| need.name.as_str()).collect();
        let there: Vec<&str> = there.into_iter().filter(|name| described.contains_key(*name)).collect();
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
                let partitions = described.get(topic).map_or(0, |topic| topic.partitions);
                let config = config_of(&resource);
                found.insert(topic.clone(), Found { partitions, config });
            }
        }
        Ok(found)
    }

    async fn create(&self, need: &Need) -> Result<(), TopicsError> {
        // -1 selects the broker's default.
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

    /// Sets the required settings. This Kafka request replaces all settings of a topic, so those that others set are
    /// sent along.
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
