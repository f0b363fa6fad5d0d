//! Events of exposures for analytics, in the topic `feature-flag-exposures`.
//!
//! ```text
//!  audit sink ── one transaction ──► experiment_exposures
//!                               └──► experiment_exposure_events ──► publisher ──► feature-flag-exposures
//!                                     deleted once Kafka has them ◄──┘
//! ```
//!
//! Each exposure that the sink commits has an event, and only those. An event is published again if the publisher stops
//! between the acknowledgement and the deletion; its `event_id` is the same then. If an evaluation arrives that was
//! earlier than the exposure that is stored, the event is published again with the earlier time and its variant.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use futures_util::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use uuid::Uuid;

use crate::config::Config;
use crate::database::{Database, DatabaseError, on_pool};
use crate::kafka::sender::Sender;
use crate::log_limit::limited;
use crate::message::exposure::{EVENT_TYPE, Exposure as ExposureMessage};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

use super::exposure::{Exposure, Running};
use super::key::{Key, exposure_event_id};

/// Maximum events that are sent at a time.
const BATCH_EVENTS: i64 = 2_000;
/// Interval at which the publisher looks for events.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Pause after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Advisory lock that lets one process publish at a time.
const LOCK: &str = "SELECT pg_try_advisory_xact_lock(hashtextextended('flagstream-exposures', 0))";
/// Selects events in the order in which they were written. An experiment that is being started may still be discarded.
const NEXT: &str = "SELECT q.id, q.user_id, q.event FROM experiment_exposure_events AS q
    WHERE EXISTS (SELECT 1 FROM experiments AS e WHERE e.id = q.experiment_id AND NOT e.backfilling)
    ORDER BY q.id LIMIT $1";
const WAITING: &str = "SELECT count(*) FROM experiment_exposure_events";
const DELETE_POSTGRES: &str = "DELETE FROM experiment_exposure_events WHERE id = ANY($1)";
const DELETE_SQLITE: &str = "DELETE FROM experiment_exposure_events WHERE id = $1";

/// Event that waits to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedEvent {
    pub experiment_id: i64,
    pub user_key: Key,
    /// Key of the record.
    pub user_id: String,
    /// JSON text of the event.
    pub event: String,
}

/// Further contents of the event of an exposure.
#[derive(Debug, Clone, Copy)]
pub struct Evaluated<'e> {
    pub user_id: &'e str,
    /// Choice of the variant, as JSON text.
    pub assignment: Option<&'e str>,
    pub evaluation_id: Option<Uuid>,
    /// Context as JSON text.
    pub context: Option<&'e str>,
}

impl QueuedEvent {
    /// Builds the event of an exposure. `None` if it has no JSON form.
    pub fn new(experiment: &Running, exposure: &Exposure, evaluated: Evaluated<'_>) -> Option<Self> {
        let Exposure { experiment_id, user_key, flag_version, .. } = *exposure;
        let message = ExposureMessage {
            event_type: EVENT_TYPE,
            event_id: exposure_event_id(&experiment.environment, &experiment.name, user_key, flag_version),
            experiment: &experiment.name,
            environment: &experiment.environment,
            flag_name: &experiment.flag_name,
            flag_version,
            variant: &exposure.variant,
            assignment: evaluated.assignment.and_then(|text| serde_json::from_str(text).ok()),
            user_id: evaluated.user_id,
            exposed_at: DateTime::from_timestamp_micros(exposure.exposed_at)?,
            evaluation_id: evaluated.evaluation_id,
            metadata: evaluated.context.and_then(ExposureMessage::metadata),
        };
        let event = serde_json::to_string(&message).ok()?;
        Some(Self { experiment_id, user_key, user_id: evaluated.user_id.to_owned(), event })
    }
}

/// Reason why events were not published. They are published later.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("the database request failed: {0}")]
    Database(#[from] DatabaseError),
    #[error("topic {topic}: {error}{hint}")]
    Kafka { topic: String, error: KafkaError, hint: &'static str },
}

impl From<sqlx::Error> for PublishError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Row of [`NEXT`].
type Queued = (i64, String, String);

struct Publisher {
    database: Database,
    topic: String,
    sender: Sender,
    metrics: Arc<Metrics>,
}

/// Publishes the events of exposures until `shutdown`.
pub async fn run(database: Database, config: Arc<Config>, metrics: Arc<Metrics>, shutdown: Shutdown) {
    let publisher = Publisher {
        database,
        topic: config.topics.exposures.clone(),
        sender: Sender::new(config.kafka.clone(), "exposures"),
        metrics,
    };
    let mut is_well = true;
    loop {
        // Events that were sent and not deleted are sent again after the restart.
        let published = tokio::select! {
            () = shutdown.cancelled() => return,
            published = publisher.publish() => published,
        };
        // Logged once, however long it fails.
        if let (Err(error), true) = (&published, is_well) {
            limited!(
                warn,
                %error,
                "events of exposures could not be published; they wait in the database, retrying",
            );
        }
        is_well = published.is_ok();
        let pause = match published {
            Ok(count) if count == BATCH_EVENTS.unsigned_abs() => continue,
            Ok(_) => LOOK_INTERVAL,
            Err(_) => RETRY_DELAY,
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Publisher {
    /// Publishes the next events. Returns how many.
    async fn publish(&self) -> Result<u64, PublishError> {
        let (sent, failed) = match &self.database {
            Database::Postgres(postgres) => {
                let mut transaction = postgres.pool.begin().await?;
                if !sqlx::query_scalar::<_, bool>(LOCK).fetch_one(&mut *transaction).await? {
                    // Another process publishes, and reports what waits.
                    self.metrics.experiments.exposures_waiting.set(0);
                    return Ok(0);
                }
                let next = sqlx::query_as(NEXT).bind(BATCH_EVENTS).fetch_all(&mut *transaction).await?;
                let (sent, failed) = self.send(next).await;
                if !sent.is_empty() {
                    sqlx::query(DELETE_POSTGRES).bind(&sent).execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
                (sent, failed)
            }
            // A single process uses the file.
            Database::Sqlite(sqlite) => {
                let next = sqlx::query_as(NEXT).bind(BATCH_EVENTS).fetch_all(&sqlite.pool).await?;
                let (sent, failed) = self.send(next).await;
                if !sent.is_empty() {
                    let mut transaction = sqlite.pool.begin_with("BEGIN IMMEDIATE").await?;
                    for id in &sent {
                        sqlx::query(DELETE_SQLITE).bind(id).execute(&mut *transaction).await?;
                    }
                    transaction.commit().await?;
                }
                (sent, failed)
            }
        };
        let metrics = &self.metrics.experiments;
        metrics.exposures_published.inc_by(sent.len() as u64);
        let waiting = match (failed.is_some(), sent.is_empty()) {
            (false, true) => 0,
            _ => self.waiting().await?,
        };
        metrics.exposures_waiting.set(waiting);
        match failed {
            None => Ok(sent.len() as u64),
            Some(error) => Err(self.kafka(error)),
        }
    }

    async fn waiting(&self) -> Result<i64, PublishError> {
        Ok(on_pool!(&self.database, |pool, sql| sqlx::query_scalar(sql(WAITING)).fetch_one(pool).await?))
    }

    /// Sends events. Returns the ids of those that Kafka has, and an error if there is one.
    async fn send(&self, events: Vec<Queued>) -> (Vec<i64>, Option<KafkaError>) {
        let sends = events.iter().map(|(id, user, event)| async move {
            (*id, self.sender.send(&self.topic, user, event.as_bytes(), None).await)
        });
        let (mut sent, mut failed) = (Vec::new(), None);
        for (id, result) in join_all(sends).await {
            match result {
                Ok(()) => sent.push(id),
                // It would never be accepted, and the others would wait behind it.
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    let topic = &self.topic;
                    limited!(warn, %error, topic, "an event of an exposure is too large for its topic; it is dropped");
                    sent.push(id);
                }
                Err(error) => failed = Some(error),
            }
        }
        (sent, failed)
    }

    fn kafka(&self, error: KafkaError) -> PublishError {
        // The client waits for a missing topic for a while, so that its first error is a timeout.
        let may_be_missing = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::MessageTimedOut
            )
        );
        let hint = if may_be_missing {
            "; if the topic is missing, create it with `flagstream topics apply`"
        } else {
            ""
        };
        PublishError::Kafka { topic: self.topic.clone(), error, hint }
    }
}

#[cfg(test)]
#[path = "exposure_events_tests.rs"]
mod tests;
