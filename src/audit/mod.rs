//! The audit sink: writes every evaluation to the database as exactly one row, whatever crashes.
//!
//! ```text
//!  feature-flag-events ──► reader (thread) ── batch ──► writer (task) ──► one transaction of the database:
//!     read_committed        decode, encode    one in      retry until       rows, counts per flag, and the
//!                           ▲                 flight      it is there       positions in the topic, moved only
//!                           │                               │               from where the batch began
//!                           └── positions after rebalance ──┤
//!                               and conflict                └──► feature-flag-dead-letters (what cannot be a row)
//! ```
//!
//! The database is the only authority on the sink's position. The transaction that writes a batch also moves the
//! positions, and only from the offsets at which the batch began. A batch that is written twice (by the next owner of
//! the partition, by a process that was presumed dead, or after a commit without confirmation) finds the positions
//! moved and changes nothing. Duplicates within the topic are recognised by their source ([`position::Sources`]), or by
//! their sequence number if they have none ([`streams::Streams`]).
//!
//! A second pipeline of the same kind writes the definitions topic to `feature_flags` and `feature_flag_versions`. A
//! third one writes conversions to their experiments, and a fourth one adds what Unleash's SDKs report to the usage.

pub mod batch;
pub mod chain;
pub mod checkpoint;
pub mod dead_letters;
mod decode;
pub mod definition;
pub mod erase;
pub mod evaluation;
mod experiments;
mod health;
pub mod position;
pub mod postgres;
pub mod reader;
pub mod retention;
mod sanitize;
pub mod sqlite;
pub mod store;
pub mod streams;
pub mod switch;
pub mod usage;
pub mod verify;
pub mod writer;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::database::{Database, SqliteDatabase};
use crate::health::{Registry, Reporter};
use crate::kafka::backoff::Backoff;
use crate::kafka::client;
use crate::kafka::consumer::BatchConsumer;
use crate::log_limit::limited;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::schema_registry::Formats;
use crate::shutdown::{Shutdown, Threads, pause};

use self::chain::Hasher;
use self::checkpoint::Checkpoints;
use self::dead_letters::DeadLetters;
use self::decode::{ClientMetrics, Conversions, Definitions, Evaluations};
use self::health::PipelineHealth;
use self::postgres::PostgresStore;
use self::reader::{Decode, Reader, ReaderError};
use self::sqlite::SqliteStore;
use self::store::AuditStore;
use self::writer::Writer;

/// Environment label in metrics for every environment that this deployment does not serve, as in the evaluator's
/// metrics.
const UNSERVED: &str = "(unserved)";
/// Upper bound of the records of one fetch, and so of the records by which a batch can exceed its limit.
const FETCH_RECORDS: usize = 512;
/// Delay before a failed pipeline restarts; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest delay before a failed pipeline restarts.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Dependencies of the sink.
#[derive(Debug, Clone)]
pub struct Parts {
    pub config: Arc<Config>,
    pub formats: Arc<Formats>,
    pub database: Database,
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    pub pipelines: Pipelines,
}

/// Health and progress reporters of the pipelines.
#[derive(Debug, Clone)]
pub struct Pipelines {
    pub evaluations: PipelineReports,
    pub definitions: PipelineReports,
    pub conversions: PipelineReports,
    /// `None` if the API for Unleash's SDKs is not enabled.
    pub client_metrics: Option<PipelineReports>,
}

/// Health and progress reporters of one pipeline.
#[derive(Debug, Clone)]
pub struct PipelineReports {
    pub health: Reporter,
    pub progress: Progress,
}

impl Pipelines {
    /// Registers a health component and a progress report for each pipeline.
    pub fn new(registry: &Registry, config: &Config, metrics: &Metrics) -> Self {
        let pipeline = |name, topic: &str, is_main| {
            let progress = Progress::new(topic, &config.health, metrics.audit.partition_gauges(is_main));
            let shown = progress.clone();
            let health = registry
                .reporter_with(name, false, move |completion| shown.add_to(completion, Instant::now()));
            health.starting("waiting for the database and Kafka");
            PipelineReports { health, progress }
        };
        Self {
            evaluations: pipeline("sink", &config.topics.events, true),
            definitions: pipeline("sink-definitions", &config.topics.definitions, false),
            conversions: pipeline("sink-conversions", &config.topics.conversions, false),
            client_metrics: config
                .unleash_api
                .enabled
                .then(|| pipeline("sink-client-metrics", &config.topics.client_metrics, false)),
        }
    }
}

/// The running sink.
#[derive(Debug)]
pub struct Sink {
    pipelines: Vec<JoinHandle<()>>,
}

impl Sink {
    /// Starts one thread per pipeline; the threads run until the shutdown token is cancelled. Must be called within a
    /// Tokio runtime, which then runs the database writes.
    pub fn start(parts: &Parts) -> io::Result<Self> {
        let pipelines = match &parts.database {
            Database::Postgres(database) => {
                let (database, hasher) = (database.clone(), hasher(&parts.config));
                let exposures = parts.config.experiments.exposure_events;
                let store = move || PostgresStore::new(database.clone(), hasher.clone());
                start_lanes(parts, move || store().with_exposure_events(exposures))?
            }
            Database::Sqlite(database) => start_sqlite(parts, database.clone())?,
        };
        if let Database::Postgres(database) = &parts.database {
            let hasher = hasher(&parts.config);
            let checkpoints = Checkpoints::new(Arc::clone(&parts.config), database.clone(), hasher);
            Handle::current().spawn(checkpoints.run(parts.shutdown.clone()));
        }
        Ok(Self { pipelines })
    }

    /// Like [`Sink::start`], but rows get no hash chain. Only for measurements of the chain's cost.
    pub fn start_without_chain(parts: &Parts) -> io::Result<Self> {
        let pipelines = match &parts.database {
            Database::Postgres(database) => {
                let database = database.clone();
                start_lanes(parts, move || PostgresStore::without_chain(database.clone()))?
            }
            Database::Sqlite(database) => start_sqlite(parts, database.clone())?,
        };
        Ok(Self { pipelines })
    }
}

fn start_sqlite(parts: &Parts, database: SqliteDatabase) -> io::Result<Vec<JoinHandle<()>>> {
    let exposures = parts.config.experiments.exposure_events;
    start_lanes(parts, move || SqliteStore::new(database.clone()).with_exposure_events(exposures))
}

impl Threads for Sink {
    fn has_failed(&self) -> bool {
        self.pipelines.iter().any(JoinHandle::is_finished)
    }

    fn join(self) -> bool {
        let ended: Vec<_> = self.pipelines.into_iter().map(JoinHandle::join).collect();
        ended.iter().all(Result::is_ok)
    }
}

/// Pipeline of one topic into the database.
struct SinkPipeline<M> {
    parts: Parts,
    health: Arc<PipelineHealth>,
    progress: Progress,
    topic: String,
    /// Part of the names of the consumer group and its members.
    role: &'static str,
    what: &'static str,
    rows: M,
    runtime: Handle,
    is_main: bool,
}

fn start_lanes<R: AuditStore, M: Fn() -> R + Clone + Send + 'static>(
    parts: &Parts,
    rows: M,
) -> io::Result<Vec<JoinHandle<()>>> {
    let topics = &parts.config.topics;
    let pipeline = |topic: &str, role, what, completions: &PipelineReports, is_main| SinkPipeline {
        parts: parts.clone(),
        health: Arc::new(PipelineHealth::new(completions.health.clone())),
        progress: completions.progress.clone(),
        topic: topic.to_owned(),
        role,
        what,
        rows: rows.clone(),
        runtime: Handle::current(),
        is_main,
    };
    let evaluations = pipeline(&topics.events, "sink", "evaluations", &parts.pipelines.evaluations, true);
    let completions = &parts.pipelines.definitions;
    let definitions = pipeline(&topics.definitions, "sink-definitions", "definitions", completions, false);
    let completions = &parts.pipelines.conversions;
    let conversions = pipeline(&topics.conversions, "sink-conversions", "conversions", completions, false);
    let (config, formats) = (Arc::clone(&parts.config), Arc::clone(&parts.formats));
    let hasher = hasher(&config);
    let take = {
        let formats = Arc::clone(&formats);
        move || Conversions::new(&config, &formats)
    };
    let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(run)
    };
    let client_metrics = parts.pipelines.client_metrics.as_ref().map(|completions| {
        pipeline(&topics.client_metrics, "sink-client-metrics", "client metrics", completions, false)
    });
    let mut lanes = vec![
        start("sink", Box::new(move || evaluations.run(|| Evaluations::<R>::new(&formats, hasher.clone()))))?,
        start("sink-flags", Box::new(move || definitions.run(|| Definitions)))?,
        start("sink-conversions", Box::new(move || conversions.run(take)))?,
    ];
    if let Some(client_metrics) = client_metrics {
        lanes.push(start("sink-metrics", Box::new(move || client_metrics.run(|| ClientMetrics)))?);
    }
    Ok(lanes)
}

impl<R: AuditStore, M: Fn() -> R> SinkPipeline<M> {
    /// Runs sessions until shutdown. An error ends the session; after a backoff the next one starts from the database's
    /// positions.
    fn run<T: Decode>(self, take: impl Fn() -> T) {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        while !self.parts.shutdown.is_cancelled() {
            let started = Instant::now();
            let Err(error) = self.session(take()) else { return };
            if self.parts.shutdown.is_cancelled() {
                // The writer ends as soon as the shutdown begins, and the reader may find its channel closed.
                tracing::debug!(what = self.what, %error, "the audit sink ended during the shutdown");
                return;
            }
            limited!(
                warn,
                key = self.what,
                what = self.what,
                %error,
                "the audit sink failed; it restarts from its positions in the database",
            );
            self.health.degraded(&error);
            if started.elapsed() > MAX_BACKOFF {
                backoff.reset();
            }
            pause(backoff.delay(), &self.parts.shutdown);
        }
    }

    fn session<T: Decode>(&self, take: T) -> Result<(), ReaderError> {
        let Parts { config, metrics, shutdown, .. } = &self.parts;
        let (commands, ordered) = mpsc::channel(1);
        let (completion, completions) = std::sync::mpsc::channel();
        let writer = Writer {
            rows: (self.rows)(),
            pending_dead_letters: DeadLetters::new(Arc::clone(config)),
            metrics: Arc::clone(metrics),
            health: Arc::clone(&self.health),
            progress: self.progress.clone(),
            shutdown: shutdown.clone(),
            what: self.what,
            retention_days: self.is_main.then_some(config.audit.retention_days),
            paused: None,
        };
        let writer = self.runtime.spawn(writer.run(ordered, completion));
        let consumer = consumer(config, self.role, &self.topic);
        let ended = consumer.map_err(ReaderError::from).and_then(|consumer| {
            let mut reader = Reader {
                consumer,
                topic: self.topic.clone(),
                dead_letters: config.topics.dead_letters.clone(),
                take,
                limits: config.audit.clone(),
                commands,
                completions,
                metrics: Arc::clone(metrics),
                health: Arc::clone(&self.health),
                progress: self.progress.clone(),
                shutdown: shutdown.clone(),
                is_main: self.is_main,
                ahead_ms: None,
            };
            reader.run()
        });
        // The transaction that is still open is either committed as a whole or rolled back.
        writer.abort();
        ended
    }
}

/// Returns the hasher for the audit trail's hash chains, keyed if the configuration has a chain key.
pub fn hasher(config: &Config) -> Hasher {
    Hasher::new(config.audit.chain_key.as_ref().map(|key| key.expose().as_bytes()))
}

/// Creates a consumer that is a static member of the sink's group.
fn consumer(config: &Config, role: &str, topic: &str) -> Result<BatchConsumer, KafkaError> {
    let name = format!("{}-{role}-{}", config.kafka.group_id, config.instance);
    let mut settings = client::member(&config.kafka, config.membership(), role, role, &name);
    client::wait_for_records(&mut settings, &config.kafka, client::RECORDS_WAIT)
        .set("queued.max.messages.kbytes", "16384");
    // The end of a partition lies behind its last record if transaction markers follow that record.
    settings.set("enable.partition.eof", "true");
    BatchConsumer::subscribe(&settings, topic, FETCH_RECORDS)
}

#[cfg(test)]
mod tests;
