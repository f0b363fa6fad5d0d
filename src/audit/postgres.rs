//! The audit trail in Postgres.
//!
//! ```text
//!  BEGIN
//!    are the positions those of the batch?            without a lock, so that an outdated batch costs no COPY
//!    COPY feature_flag_evaluations … BINARY
//!    the same check FOR UPDATE                        locks the positions until the end
//!    UPDATE sink_offsets, sink_streams, feature_flags in a fixed order, so that sinks cannot deadlock
//!    exposures and conversions of experiments
//!    dead letters, committed in Kafka                 if there are any
//!  COMMIT
//! ```
//!
//! Rows that other sinks wait for are locked last and as briefly as possible: a process that stalls during its `COPY`
//! blocks no other.

mod chain;
pub mod copy;
mod flags;
mod maintenance;
mod streams;
mod usage;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::database::{DatabaseError, PostgresDatabase};
use crate::experiment::exposure::{KnownExposures, NewExposures};

use super::batch::{Batch, Content, Entry};
use super::chain::{Hasher, Head};
use super::dead_letters::DeadLetters;
use super::evaluation::Evaluation;
use super::experiments;
use super::position::{Log, Position, Sources};
use super::retention::Kept;
use super::store::{AuditStore, WriteError, Written, send_dead_letters};

use self::flags::{count, define, log_switch};

pub use maintenance::AHEAD_DAYS;

/// Timeout of one operation; afterwards the connection is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeouts on the server are a little shorter, so that the work of a lost client ends too.
const SETTINGS: &str = "SET statement_timeout = '50s'; SET lock_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '10s'; SET TIME ZONE 'UTC'";
/// Bytes per `CopyData` message.
const CHUNK_BYTES: usize = 256 << 10;

/// Writes the audit trail to Postgres over one dedicated connection.
#[derive(Debug)]
pub struct PostgresStore {
    database: PostgresDatabase,
    /// Connection of the sink. `None` after an error, because the old connection is in an unknown state; the next call
    /// opens a new one.
    connection: Option<PgConnection>,
    /// Exposures that are already in the tables.
    known: KnownExposures,
    /// `None`: no hash chain is written.
    hasher: Option<Hasher>,
    /// Whether exposures of experiments have events.
    exposure_events: bool,
}

/// Row of `sink_offsets`: partition, next offset, generation, sources, batch id.
type OffsetRow = (i32, i64, i32, String, Option<String>);

impl PostgresStore {
    pub fn new(database: PostgresDatabase, hasher: Hasher) -> Self {
        Self { hasher: Some(hasher), ..Self::without_chain(database) }
    }

    /// Like [`PostgresStore::new`], but rows get no hash chain. Only for measurements of the chain's cost.
    pub fn without_chain(database: PostgresDatabase) -> Self {
        let known = KnownExposures::default();
        Self { database, connection: None, known, hasher: None, exposure_events: true }
    }

    /// Whether exposures of experiments have events. They do unless this says otherwise.
    pub fn with_exposure_events(self, exposure_events: bool) -> Self {
        Self { exposure_events, ..self }
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, DatabaseError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = self.database.connect().await?;
                sqlx::raw_sql(SETTINGS).execute(&mut connection).await?;
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Runs an operation on the connection with [`WRITE_TIMEOUT`]. After an error the connection is dropped.
    async fn with<T, E: From<DatabaseError>>(
        &mut self,
        what: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let done = tokio::time::timeout(WRITE_TIMEOUT, async {
            let connection = self.connection().await?;
            what(connection).await
        });
        let done = done.await.unwrap_or(Err(DatabaseError::Silent(WRITE_TIMEOUT).into()));
        if done.is_err() {
            self.connection = None;
        }
        done
    }
}

impl AuditStore for PostgresStore {
    const SYSTEM: &'static str = "postgresql";

    fn encode(evaluation: &Evaluation<'_>, out: &mut Vec<u8>) {
        copy::row(evaluation, out);
    }

    async fn positions(&mut self, log: &Log, partitions: &[i32]) -> Result<Vec<Position>, DatabaseError> {
        let enter = "INSERT INTO sink_offsets (topic, log_id, partition, next_offset)
            SELECT $1, $2, partition, 0 FROM unnest($3::int[]) AS partition ORDER BY partition
            ON CONFLICT DO NOTHING";
        let has_chain = self.hasher.is_some();
        let offset_row = self.with(async |connection| {
            let entered = sqlx::query(enter).bind(&log.topic).bind(&log.id).bind(partitions);
            entered.execute(&mut *connection).await?;
            let streams = streams::known(connection, &log.topic, partitions).await?;
            let heads = match has_chain {
                true => chain::begin(connection, &log.topic, partitions).await?,
                false => BTreeMap::new(),
            };
            Ok::<_, DatabaseError>((offset_row(connection, log, partitions, false).await?, streams, heads))
        });
        let (offset_row, mut streams, heads) = offset_row.await?;
        let position = |(partition, next_offset, generation, sources, _): OffsetRow| {
            let sources =
                serde_json::from_str(&sources).map_err(|error| sqlx::Error::Decode(error.into()))?;
            let streams = streams.remove(&partition).unwrap_or_default();
            let next_block = heads.get(&partition).map(Head::next_block);
            Ok(Position { partition, next_offset, generation, sources, streams, next_block })
        };
        offset_row.into_iter().map(position).collect()
    }

    async fn restart(&mut self, log: &Log, position: &Position, offset: i64) -> Result<bool, DatabaseError> {
        let update =
            "UPDATE sink_offsets SET next_offset = $1, generation = generation + 1, batch_id = NULL, updated_at = now()
            WHERE topic = $2 AND log_id = $3 AND partition = $4 AND next_offset = $5 AND generation = $6";
        self.with(async |connection| {
            let query = sqlx::query(update).bind(offset).bind(&log.topic).bind(&log.id);
            let query = query.bind(position.partition).bind(position.next_offset).bind(position.generation);
            Ok(query.execute(connection).await?.rows_affected() > 0)
        })
        .await
    }

    async fn write(
        &mut self,
        log: &Log,
        batch: &Batch,
        pending_dead_letters: &mut DeadLetters,
    ) -> Result<Written, WriteError> {
        let known = std::mem::take(&mut self.known);
        let mut exposed = NewExposures::default();
        let (hasher, exposure_events) = (self.hasher.clone(), self.exposure_events);
        let written = self.with(async |connection| {
            let mut transaction = connection.begin().await?;
            let partitions: Vec<i32> = batch.moves.iter().map(|moved| moved.partition).collect();
            let before = offset_row(&mut transaction, log, &partitions, false).await?;
            if let Some(written) = compare(&before, batch) {
                transaction.rollback().await?;
                return Ok(written);
            }
            enter(&mut transaction, batch, &batch.entries).await?;
            let before = offset_row(&mut transaction, log, &partitions, true).await?;
            if let Some(written) = compare(&before, batch) {
                transaction.rollback().await?;
                return Ok(written);
            }
            advance(&mut transaction, log, batch).await?;
            if let Some(hasher) = &hasher {
                chain::append(&mut transaction, hasher, &log.topic, batch).await?;
            }
            streams::advance(&mut transaction, &log.topic, batch).await?;
            count(&mut transaction, batch, &batch.entries).await?;
            usage::add(&mut transaction, batch, &batch.entries).await?;
            usage::add_reported(&mut transaction, &batch.entries).await?;
            exposed = experiments::enter(&mut *transaction, batch, &known, exposure_events).await?;
            send_dead_letters(pending_dead_letters, log, batch)?;
            transaction.commit().await?;
            Ok(Written::Committed)
        });
        let written = written.await;
        self.known = known;
        if matches!(written, Ok(Written::Committed)) {
            self.known.note(exposed, Instant::now());
        }
        written
    }

    async fn probe(&mut self, batch: &Batch, entries: Range<usize>) -> Result<(), DatabaseError> {
        self.with(async |connection| {
            let entries = batch.entries.get(entries).unwrap_or_default();
            let mut transaction = connection.begin().await?;
            enter(&mut transaction, batch, entries).await?;
            count(&mut transaction, batch, entries).await?;
            usage::add(&mut transaction, batch, entries).await?;
            usage::add_reported(&mut transaction, entries).await?;
            Ok(transaction.rollback().await?)
        })
        .await
    }

    async fn maintain(&mut self, retention_days: u32, process: DateTime<Utc>) -> Result<Kept, DatabaseError> {
        self.with(async |connection| {
            let kept = maintenance::keep(connection, retention_days, process).await?;
            if kept.objection.is_none() {
                usage::make_coarser(connection, (process + kept.ahead).timestamp()).await?;
            }
            Ok(kept)
        })
        .await
    }
}

async fn offset_row(
    connection: &mut PgConnection,
    log: &Log,
    partitions: &[i32],
    lock: bool,
) -> Result<Vec<OffsetRow>, DatabaseError> {
    let look = "SELECT partition, next_offset, generation, sources::text, batch_id::text FROM sink_offsets
        WHERE topic = $1 AND log_id = $2 AND partition = ANY($3) ORDER BY partition";
    let hold = "SELECT partition, next_offset, generation, sources::text, batch_id::text FROM sink_offsets
        WHERE topic = $1 AND log_id = $2 AND partition = ANY($3) ORDER BY partition FOR UPDATE";
    let query = sqlx::query_as(if lock { hold } else { look });
    Ok(query.bind(&log.topic).bind(&log.id).bind(partitions).fetch_all(connection).await?)
}

/// Returns how the write has already ended. `None`: the positions are those of the batch, so it can be written.
fn compare(offset_row: &[OffsetRow], batch: &Batch) -> Option<Written> {
    let id = batch.id.to_string();
    if offset_row.iter().any(|(.., batch_id)| batch_id.as_ref() == Some(&id)) {
        return Some(Written::Before);
    }
    let unmoved = batch.moves.iter().all(|moved| {
        let stands = |(partition, next, generation, ..): &OffsetRow| {
            (*partition, *next, *generation) == (moved.partition, moved.from, moved.generation)
        };
        offset_row.iter().any(stands)
    });
    (!unmoved).then_some(Written::Conflict)
}

/// Writes the rows, flag versions and kill switch changes of the accepted entries.
async fn enter(
    transaction: &mut Transaction<'_, Postgres>,
    batch: &Batch,
    entries: &[Entry],
) -> Result<(), DatabaseError> {
    let mut rows = runs(entries).peekable();
    if rows.peek().is_some() {
        let mut copy = transaction.copy_in_raw(copy::STATEMENT).await?;
        copy.send(copy::HEADER).await?;
        for run in rows {
            for chunk in batch.encoded.get(run).unwrap_or_default().chunks(CHUNK_BYTES) {
                copy.send(chunk).await?;
            }
        }
        copy.send(copy::TRAILER).await?;
        copy.finish().await?;
    }
    for entry in entries.iter().filter(|entry| entry.refusal.is_none()) {
        match &entry.content {
            Content::Definition(version) => define(transaction, version).await?,
            Content::Switched(change) => log_switch(transaction, change).await?,
            // Conversions are written last, once the locked positions confirm that this batch is the next one.
            Content::Evaluation { .. } | Content::Conversion(_) | Content::SdkUsage(_) | Content::Nothing => {
            }
        }
    }
    Ok(())
}

/// Byte ranges of the accepted entries' rows, with adjacent rows merged.
fn runs(entries: &[Entry]) -> impl Iterator<Item = Range<usize>> {
    let mut rows =
        entries.iter().filter(|entry| entry.refusal.is_none()).filter_map(|entry| match &entry.content {
            Content::Evaluation { row, .. } => Some(row.clone()),
            _ => None,
        });
    let mut open = rows.next();
    std::iter::from_fn(move || {
        let mut run = open.take()?;
        for row in rows.by_ref() {
            if row.start != run.end {
                open = Some(row);
                break;
            }
            run.end = row.end;
        }
        Some(run)
    })
}

async fn advance(
    transaction: &mut Transaction<'_, Postgres>,
    log: &Log,
    batch: &Batch,
) -> Result<(), DatabaseError> {
    let update = "UPDATE sink_offsets AS o SET next_offset = m.next_offset, sources = m.sources::jsonb,
            batch_id = $6::uuid, updated_at = now()
        FROM unnest($3::int[], $4::bigint[], $5::text[]) AS m (partition, next_offset, sources)
        WHERE o.topic = $1 AND o.log_id = $2 AND o.partition = m.partition";
    let partitions: Vec<i32> = batch.moves.iter().map(|moved| moved.partition).collect();
    let offsets: Vec<i64> = batch.moves.iter().map(|moved| moved.to).collect();
    let sources: Vec<String> = batch.moves.iter().map(|moved| text_of(&moved.sources)).collect();
    let query =
        sqlx::query(update).bind(&log.topic).bind(&log.id).bind(partitions).bind(offsets).bind(sources);
    query.bind(batch.id.to_string()).execute(&mut **transaction).await?;
    Ok(())
}

fn text_of(sources: &Sources) -> String {
    serde_json::to_string(sources).unwrap_or_else(|_| "[]".to_owned())
}
