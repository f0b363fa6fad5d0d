//! Experiments in the database: listing, reading and stopping them. The module `start` starts them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ahash::AHashMap;
use chrono::{DateTime, SubsecRound, Utc};
use rdkafka::error::KafkaError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::config::Config;
use crate::database::audited::{self, Actor, Entry};
use crate::database::{Database, DatabaseError, in_transaction, on_pool};
use crate::flag::local::Invalid;
use crate::kafka::sender::Sender;
use crate::message::avro::{Format, Kind};
use crate::message::conversion::{Conversion, USER_HEADER};
use crate::schema_registry::Formats;
use crate::store::Store;

use super::Draws;
use super::design::Design;
use super::freshness::{COUNT_START, CountStart, Freshness};
use super::results::history::Point;
use super::results::{Experiment, Status};
use super::tracked::Listed;

/// Maximum experiments of a deployment.
pub const EXPERIMENTS_MAX: i64 = 1_000;
/// SQLSTATE of Postgres for a statement that exceeded `statement_timeout`.
const STATEMENT_CANCELED: &str = "57014";
/// Timeout for the definition in force here to appear in the database.
const DEFINITION_TIMEOUT: Duration = Duration::from_secs(2);
const DEFINITION_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Access to the tables of experiments.
#[derive(Debug)]
pub struct Experiments {
    pub(super) database: Database,
    store: Arc<Store>,
    pub(super) config: Arc<Config>,
    /// Cached designs by environment and name. A design never changes.
    designs: Mutex<AHashMap<(String, String), Arc<Design>>>,
    /// All experiments, for tracking events.
    pub(super) listed: Listed,
    /// Limits starts to one at a time, because each blocks the audit sinks for a moment.
    pub(super) beginnings: Semaphore,
    freshness: Freshness,
    sender: Sender,
    format: Format,
}

/// A stored experiment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = KeptExperiment)]
pub struct StoredExperiment {
    #[serde(skip)]
    pub id: i64,
    #[serde(flatten)]
    pub experiment: Experiment,
    pub created_by: String,
    /// Number of conversions that expired without a matching exposure.
    #[serde(skip)]
    pub expired: i64,
    /// Number of conversions with an event id that was there before.
    #[serde(skip)]
    pub duplicates: i64,
    /// Time of the action after a harmed guardrail. `None`: there was none.
    #[serde(skip)]
    pub acted_at: Option<i64>,
    /// Time at which the results are computed again. Of an experiment that is being started: its deadline.
    #[serde(skip)]
    pub due_at: i64,
    /// The experiment is being started, and only the start and the aggregation see it.
    #[serde(skip)]
    pub backfilling: bool,
}

/// Results of an experiment over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentHistory)]
pub struct History {
    /// Points for each day, and for each time that the number of users has grown by a twentieth; oldest first.
    pub points: Vec<Point>,
}

#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    #[error("the request is invalid")]
    Invalid(Vec<Invalid>),
    #[error("there is no experiment of this name in this environment")]
    Unknown,
    #[error("an experiment of this name exists in this environment")]
    Exists,
    #[error(
        "an experiment of this name is being started, or its start was cancelled a moment ago; retry later"
    )]
    Starting,
    /// The sinks' open transactions did not end in time.
    #[error(
        "the experiment could not be started, because the audit sink's open transactions did not end in time; retry later"
    )]
    Busy,
    #[error("the experiment has already been stopped")]
    Stopped,
    #[error("the limit of {EXPERIMENTS_MAX} experiments is reached")]
    TooMany,
    /// The results were not computed yet, or the flag is not in the database yet.
    #[error("the flag's definition or the experiment's results are not in the database yet; retry later")]
    NotYet,
    #[error("reading the evaluations since `started_at` takes too long: choose a later `started_at`")]
    TooLong,
    #[error("the database request failed: {0}")]
    Database(#[from] DatabaseError),
    #[error("the conversion could not be written to Kafka: {0}")]
    Kafka(#[from] KafkaError),
}

impl From<sqlx::Error> for ExperimentError {
    fn from(error: sqlx::Error) -> Self {
        let is_canceled = error.as_database_error().and_then(|error| error.code());
        if is_canceled.as_deref() == Some(STATEMENT_CANCELED) {
            return Self::TooLong;
        }
        DatabaseError::from(error).into()
    }
}

/// Columns selected by [`kept`].
pub(super) type Row =
    (i64, String, String, i64, Option<i64>, Option<String>, Option<String>, i64, i64, bool, i64, Option<i64>);

/// Query for experiments; the argument selects the rows.
macro_rules! kept {
    ($which:literal) => {
        concat!(
            "SELECT id, design::text, created_by, started_at, stopped_at, reason, winner, expired, due_at,
                backfilling, duplicates, acted_at FROM experiments ",
            $which
        )
    };
}

pub(super) use kept;

const LIST: &str = kept!("WHERE NOT backfilling ORDER BY environment, name");
const FIND: &str = kept!("WHERE environment = $1 AND name = $2 AND NOT backfilling");
const DEFINITION: &str = "SELECT version, definition::text FROM feature_flag_versions
    WHERE environment = $1 AND name = $2 ORDER BY version DESC LIMIT 1";
const STOP: &str = "UPDATE experiments SET stopped_at = $3, reason = $4, winner = $5, due_at = 0
    WHERE environment = $1 AND name = $2 AND stopped_at IS NULL AND NOT backfilling";
const HISTORY: &str =
    "SELECT h.point::text FROM experiment_history AS h JOIN experiments AS e ON e.id = h.experiment_id
    WHERE e.environment = $1 AND e.name = $2 AND NOT e.backfilling ORDER BY h.counted_at";
const RESULTS: &str = "SELECT results::text FROM experiments
    WHERE environment = $1 AND name = $2 AND NOT backfilling";

impl Experiments {
    pub fn new(database: Database, store: Arc<Store>, config: Arc<Config>, formats: &Formats) -> Self {
        let sender = Sender::new(config.kafka.clone(), "conversions");
        let freshness = Freshness::new(Arc::clone(&config));
        Self {
            database,
            store,
            config,
            designs: Mutex::default(),
            listed: Listed::default(),
            beginnings: Semaphore::new(1),
            freshness,
            sender,
            format: formats.conversion.clone(),
        }
    }

    /// Returns all experiments, ordered by environment and name.
    pub async fn list(&self) -> Result<Vec<StoredExperiment>, ExperimentError> {
        let rows: Vec<Row> =
            on_pool!(&self.database, |pool, sql| sqlx::query_as(sql(LIST)).fetch_all(pool).await?);
        Ok(rows.into_iter().map(read_row).collect::<Result<_, _>>()?)
    }

    pub async fn find(&self, environment: &str, name: &str) -> Result<StoredExperiment, ExperimentError> {
        let row: Option<Row> = on_pool!(&self.database, |pool, sql| {
            sqlx::query_as(sql(FIND)).bind(environment).bind(name).fetch_optional(pool).await?
        });
        row.map(read_row).transpose()?.ok_or(ExperimentError::Unknown)
    }

    /// Stops an experiment. Later evaluations expose no users; conversions still count until their window ends.
    pub async fn stop(
        &self,
        environment: &str,
        name: &str,
        winner: Option<&str>,
        author: Actor<'_>,
    ) -> Result<StoredExperiment, ExperimentError> {
        let before = self.find(environment, name).await?;
        let now = Utc::now().trunc_subsecs(6);
        in_transaction!(&self.database, |transaction, sql| {
            let stop = sqlx::query(sql(STOP)).bind(environment).bind(name).bind(now.timestamp_micros());
            let stopped = stop.bind(author.reason).bind(winner).execute(&mut *transaction).await?;
            if stopped.rows_affected() == 0 {
                return Err(ExperimentError::Stopped);
            }
            audited::enter!(transaction, sql, entry(&before.experiment.design, "stopped", author, now));
        });
        self.find(environment, name).await
    }

    pub async fn design(&self, environment: &str, name: &str) -> Result<Arc<Design>, ExperimentError> {
        let place = (environment.to_owned(), name.to_owned());
        if let Some(design) = self.designs.lock().ok().and_then(|designs| designs.get(&place).cloned()) {
            return Ok(design);
        }
        let design = Arc::new(self.find(environment, name).await?.experiment.design);
        if let Ok(mut designs) = self.designs.lock() {
            designs.insert(place, Arc::clone(&design));
        }
        Ok(design)
    }

    /// Sends a conversion to Kafka. `is_hashed`: the user id is a hash, not the id that clients send.
    pub async fn report(&self, conversion: &Conversion<'_>, is_hashed: bool) -> Result<(), ExperimentError> {
        let body = serde_json::to_vec(conversion).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let body = self.format.message(Kind::Conversion, body);
        let body = body.map_err(|error| sqlx::Error::Encode(error.into()))?;
        let (name, value) = USER_HEADER;
        let header = name.to_str().ok().filter(|_| is_hashed).map(|name| (name, value));
        let topic = &self.config.topics.conversions;
        Ok(self.sender.send(topic, &conversion.user_id, &body, header).await?)
    }

    /// Returns the results over time, oldest first.
    pub async fn history(&self, environment: &str, name: &str) -> Result<History, ExperimentError> {
        self.find(environment, name).await?;
        let points: Vec<String> = on_pool!(&self.database, |pool, sql| {
            sqlx::query_scalar(sql(HISTORY)).bind(environment).bind(name).fetch_all(pool).await?
        });
        let decode = |error: serde_json::Error| sqlx::Error::Decode(error.into());
        let points: Result<_, _> = points.iter().map(|point| serde_json::from_str(point)).collect();
        Ok(History { points: points.map_err(decode)? })
    }

    /// Returns the results of the last count, and how recent it is.
    pub async fn results(&self, environment: &str, name: &str) -> Result<Value, ExperimentError> {
        let results: Option<Option<String>> = on_pool!(&self.database, |pool, sql| {
            sqlx::query_scalar(sql(RESULTS)).bind(environment).bind(name).fetch_optional(pool).await?
        });
        let results = results.ok_or(ExperimentError::Unknown)?.ok_or(ExperimentError::NotYet)?;
        let decode = |error: serde_json::Error| sqlx::Error::Decode(error.into());
        let mut results: Map<String, Value> = serde_json::from_str(&results).map_err(decode)?;
        if let Some(start) = results.remove(COUNT_START) {
            let start: CountStart = serde_json::from_value(start).map_err(decode)?;
            let counted = self.freshness.of(&start).await;
            results.insert("counted".to_owned(), serde_json::to_value(counted).map_err(decode)?);
        }
        Ok(Value::Object(results))
    }

    /// Definition of the flag in force here, once it is in the database. `field` names the flag in the request.
    pub(super) async fn definition(
        &self,
        environment: &str,
        flag: &str,
        field: &str,
    ) -> Result<String, ExperimentError> {
        let refuse = |message: String| ExperimentError::Invalid(vec![Invalid::new(field, message)]);
        let snapshot = self.store.load_full();
        let known = snapshot.environment(environment).and_then(|flags| flags.get(flag));
        let version = known.map(|flag| flag.definition_version);
        let Some(version) = version else {
            return Err(if self.store.is_ready() {
                refuse(format!("there is no flag {flag} in {environment}"))
            } else {
                ExperimentError::NotYet
            });
        };
        let deadline = tokio::time::Instant::now() + DEFINITION_TIMEOUT;
        loop {
            let row: Option<(i64, Option<String>)> = on_pool!(&self.database, |pool, sql| {
                sqlx::query_as(sql(DEFINITION)).bind(environment).bind(flag).fetch_optional(pool).await?
            });
            match row {
                Some((stored, definition)) if stored.cast_unsigned() >= version => {
                    return Ok(definition.unwrap_or_default());
                }
                _ if tokio::time::Instant::now() > deadline => return Err(ExperimentError::NotYet),
                _ => tokio::time::sleep(DEFINITION_POLL_INTERVAL).await,
            }
        }
    }
}

/// Draws of the definition of an experiment's flag.
pub(super) fn draws(definition: &str) -> Result<Draws, ExperimentError> {
    let feature: Value = serde_json::from_str(definition).unwrap_or_default();
    match feature.get("type").and_then(Value::as_str) {
        Some("experiment") => Ok(Draws::read(definition)),
        other => {
            let message = format!("expected a flag of type experiment, got {}", other.unwrap_or("none"));
            Err(ExperimentError::Invalid(vec![Invalid::new("flag_name", message)]))
        }
    }
}

pub(super) fn entry<'e>(
    design: &'e Design,
    action: &'static str,
    author: Actor<'e>,
    at: DateTime<Utc>,
) -> Entry<'e> {
    let after = serde_json::to_value(design).ok();
    Entry { kind: audited::Kind::Experiment, subject: &design.name, action, author, before: None, after, at }
}

pub(super) fn read_row(
    (
        id,
        design,
        created_by,
        started_at,
        stopped_at,
        reason,
        winner,
        expired,
        due_at,
        backfilling,
        duplicates,
        acted_at,
    ): Row,
) -> Result<StoredExperiment, sqlx::Error> {
    let time = |micros: i64| DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let experiment = Experiment {
        design: serde_json::from_str(&design).map_err(|error| sqlx::Error::Decode(error.into()))?,
        status: if stopped_at.is_some() { Status::Stopped } else { Status::Running },
        started_at: time(started_at),
        stopped_at: stopped_at.map(time),
        reason,
        winner,
    };
    Ok(StoredExperiment { id, experiment, created_by, expired, duplicates, acted_at, due_at, backfilling })
}
