//! Publishes checkpoints to a Kafka topic: the last hash of each chain, signed if there is a key.
//!
//! Anyone who can write to the database can rewrite a whole chain, but cannot change the checkpoints in Kafka, so that
//! a rewritten chain no longer agrees with them.

use std::sync::Arc;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use sqlx::{Connection, PgConnection, Row};

use crate::config::Config;
use crate::database::{DatabaseError, PostgresDatabase};
use crate::kafka::sender::Sender;
use crate::log_limit::limited;
use crate::message::checkpoint::{ChainEnd, Checkpoint, EVENT_TYPE, LogEnd};
use crate::shutdown::Shutdown;

use super::chain::{Hasher, json};

/// Timeout of all database work for one checkpoint.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Advisory lock that lets one process publish at a time; the others then find nothing changed.
const LOCK: &str = "SELECT pg_try_advisory_xact_lock(hashtextextended('flagstream-checkpoint', 0))";
const CHAINS: &str =
    "SELECT topic, partition, number, hash FROM audit_chains WHERE number > 0 ORDER BY topic, partition";
const LOGS: &str = "SELECT log, number, hash FROM audit_change_heads WHERE number > 0 ORDER BY log";
const LAST: &str = "SELECT digest FROM audit_checkpoint";
const NOTE: &str = "UPDATE audit_checkpoint SET digest = $1, published_at = now()";

/// Publishes checkpoints at a fixed interval.
#[derive(Debug)]
pub struct Checkpoints {
    config: Arc<Config>,
    database: PostgresDatabase,
    hasher: Hasher,
    sender: Sender,
}

/// Reason why a checkpoint was not published. The next checkpoint covers the same blocks.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{0}")]
    Database(#[from] DatabaseError),
    #[error("topic {topic}: {error}")]
    Kafka { topic: String, error: KafkaError },
    #[error("a checkpoint cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<sqlx::Error> for CheckpointError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl CheckpointError {
    /// Whether the topic does not exist.
    fn is_missing_topic(&self) -> bool {
        let Self::Kafka { error, .. } = self else { return false };
        matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)
        )
    }
}

impl Checkpoints {
    pub fn new(config: Arc<Config>, database: PostgresDatabase, hasher: Hasher) -> Self {
        let sender = Sender::new(config.kafka.clone(), "audit-checkpoints");
        Self { config, database, hasher, sender }
    }

    /// Publishes a checkpoint at each interval if the chains have changed, until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let mut failed = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.config.audit.checkpoint_interval) => {}
            }
            match self.publish().await {
                Ok(_) => {
                    if std::mem::take(&mut failed) {
                        tracing::info!("audit checkpoints are published again");
                    }
                }
                Err(error) => {
                    // Only the first failure of an outage is logged.
                    if !std::mem::replace(&mut failed, true) {
                        let hint = if error.is_missing_topic() {
                            "; create it with `flagstream topics apply`"
                        } else {
                            ""
                        };
                        limited!(
                            warn,
                            "the audit checkpoint could not be published: {error}{hint}; retrying at the \
                             next interval",
                        );
                    }
                }
            }
        }
    }

    /// Publishes a checkpoint now. `false`: nothing has changed since the last one, or another process is publishing.
    pub async fn publish(&self) -> Result<bool, CheckpointError> {
        let published = tokio::time::timeout(DATABASE_TIMEOUT, async {
            let mut connection = self.database.connect().await?;
            let published = self.publish_on(&mut connection).await;
            let _ = connection.close().await;
            published
        });
        published.await.unwrap_or(Err(DatabaseError::Silent(DATABASE_TIMEOUT).into()))
    }

    async fn publish_on(&self, connection: &mut PgConnection) -> Result<bool, CheckpointError> {
        let mut transaction = connection.begin().await?;
        if !sqlx::query_scalar::<_, bool>(LOCK).fetch_one(&mut *transaction).await? {
            return Ok(false);
        }
        let mut checkpoint = self.read(&mut transaction).await?;
        let digest = self.hasher.digest(&contents(&checkpoint)).to_vec();
        let last: Option<Vec<u8>> = sqlx::query_scalar(LAST).fetch_one(&mut *transaction).await?;
        if (checkpoint.chains.is_empty() && checkpoint.changes.is_empty()) || last.as_ref() == Some(&digest) {
            return Ok(false);
        }
        if self.hasher.is_keyed() {
            checkpoint.signature = Some(hex::encode(self.hasher.digest(&checkpoint.signed_bytes())));
        }
        let topic = &self.config.topics.audit_checkpoints;
        let body = serde_json::to_vec(&checkpoint)?;
        let sent = self.sender.send(topic, &self.config.instance, &body, None).await;
        sent.map_err(|error| CheckpointError::Kafka { topic: topic.clone(), error })?;
        // The note follows the record: a checkpoint that is published twice does no harm, but a missing one would.
        sqlx::query(NOTE).bind(digest).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn read(&self, connection: &mut PgConnection) -> Result<Checkpoint, CheckpointError> {
        let chain = |row: &sqlx::postgres::PgRow| {
            let hash = hex::encode(row.try_get::<Vec<u8>, _>("hash")?);
            let (topic, partition) = (row.try_get("topic")?, row.try_get("partition")?);
            Ok(ChainEnd { topic, partition, number: row.try_get("number")?, hash })
        };
        let log = |row: &sqlx::postgres::PgRow| {
            let hash = hex::encode(row.try_get::<Vec<u8>, _>("hash")?);
            Ok(LogEnd { log: row.try_get("log")?, number: row.try_get("number")?, hash })
        };
        let chains = sqlx::query(CHAINS).fetch_all(&mut *connection).await?;
        let logs = sqlx::query(LOGS).fetch_all(&mut *connection).await?;
        Ok(Checkpoint {
            event_type: EVENT_TYPE.to_owned(),
            instance: self.config.instance.clone(),
            created_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            chains: chains.iter().map(chain).collect::<Result<_, sqlx::Error>>()?,
            changes: logs.iter().map(log).collect::<Result<_, sqlx::Error>>()?,
            signature: None,
        })
    }
}

/// Bytes that identify the ends of the chains, without the checkpoint's time and instance.
fn contents(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut bytes = Vec::new();
    for end in &checkpoint.chains {
        json::sized(end.topic.as_bytes(), &mut bytes);
        bytes.extend_from_slice(&end.partition.to_be_bytes());
        json::sized(end.hash.as_bytes(), &mut bytes);
    }
    for end in &checkpoint.changes {
        json::sized(end.log.as_bytes(), &mut bytes);
        json::sized(end.hash.as_bytes(), &mut bytes);
    }
    bytes
}
