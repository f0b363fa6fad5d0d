//! The audit trail in SQLite, for the embedded mode: one writer, hundreds of rows per second.

mod retention;
mod streams;
mod usage;

use std::ops::Range;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Sqlite, Transaction};

use crate::database::{DatabaseError, SqliteDatabase, text_of as time};
use crate::experiment::exposure::KnownExposures;

use super::batch::{Batch, Content, Entry};
use super::dead_letters::DeadLetters;
use super::definition::FlagVersion;
use super::evaluation::{Evaluation, Event, Source};
use super::experiments;
use super::position::{Log, Position};
use super::retention::Kept;
use super::store::{AuditStore, WriteError, Written, send_dead_letters};
use super::switch::SwitchChange;

/// Writes the audit trail to SQLite. Rows are not encoded in advance; they are decoded from the events when written.
#[derive(Debug)]
pub struct SqliteStore {
    database: SqliteDatabase,
    /// Whether exposures of experiments have events.
    exposure_events: bool,
}

/// Row of `sink_offsets`: partition, next offset, generation, sources, batch id.
type OffsetRow = (i32, i64, i32, String, Option<String>);

impl SqliteStore {
    pub fn new(database: SqliteDatabase) -> Self {
        Self { database, exposure_events: true }
    }

    /// Whether exposures of experiments have events. They do unless this says otherwise.
    pub fn with_exposure_events(self, exposure_events: bool) -> Self {
        Self { exposure_events, ..self }
    }
}

impl AuditStore for SqliteStore {
    const SYSTEM: &'static str = "sqlite";

    fn encode(_: &Evaluation<'_>, _: &mut Vec<u8>) {}

    async fn positions(&mut self, log: &Log, partitions: &[i32]) -> Result<Vec<Position>, DatabaseError> {
        let mut transaction = self.begin().await?;
        let mut positions = Vec::new();
        for partition in partitions {
            let enter =
                "INSERT INTO sink_offsets (topic, log_id, partition, next_offset) VALUES ($1, $2, $3, 0)
                ON CONFLICT DO NOTHING";
            let query = sqlx::query(enter).bind(&log.topic).bind(&log.id).bind(partition);
            query.execute(&mut *transaction).await?;
            let offset_row = offset_row(&mut transaction, log, *partition).await?;
            for (partition, next_offset, generation, sources, _) in offset_row {
                let sources =
                    serde_json::from_str(&sources).map_err(|error| sqlx::Error::Decode(error.into()))?;
                let streams = streams::known(&mut transaction, &log.topic, partition).await?;
                positions.push(Position {
                    partition,
                    next_offset,
                    generation,
                    sources,
                    streams,
                    next_block: None,
                });
            }
        }
        transaction.commit().await?;
        Ok(positions)
    }

    async fn restart(&mut self, log: &Log, position: &Position, offset: i64) -> Result<bool, DatabaseError> {
        let update =
            "UPDATE sink_offsets SET next_offset = $1, generation = generation + 1, batch_id = NULL, updated_at = $2
            WHERE topic = $3 AND log_id = $4 AND partition = $5 AND next_offset = $6 AND generation = $7";
        let query = sqlx::query(update).bind(offset).bind(time(Utc::now())).bind(&log.topic).bind(&log.id);
        let query = query.bind(position.partition).bind(position.next_offset).bind(position.generation);
        Ok(query.execute(&self.database.pool).await?.rows_affected() > 0)
    }

    async fn write(
        &mut self,
        log: &Log,
        batch: &Batch,
        pending_dead_letters: &mut DeadLetters,
    ) -> Result<Written, WriteError> {
        let mut transaction = self.begin().await?;
        let id = batch.id.to_string();
        for moved in &batch.moves {
            let offset_row = offset_row(&mut transaction, log, moved.partition).await?;
            if offset_row.iter().any(|(.., batch_id)| batch_id.as_ref() == Some(&id)) {
                return Ok(Written::Before);
            }
            let stands = |(_, next, generation, ..): &OffsetRow| {
                *next == moved.from && *generation == moved.generation
            };
            if !offset_row.iter().any(stands) {
                return Ok(Written::Conflict);
            }
            let update =
                "UPDATE sink_offsets SET next_offset = $4, sources = $5, batch_id = $6, updated_at = $7
                WHERE topic = $1 AND log_id = $2 AND partition = $3";
            let query =
                sqlx::query(update).bind(&log.topic).bind(&log.id).bind(moved.partition).bind(moved.to);
            let sources = serde_json::to_string(&moved.sources).unwrap_or_else(|_| "[]".to_owned());
            query.bind(sources).bind(&id).bind(time(Utc::now())).execute(&mut *transaction).await?;
            streams::advance(&mut transaction, &log.topic, moved).await?;
        }
        enter(&mut transaction, batch, &batch.entries).await?;
        let known = KnownExposures::default();
        experiments::enter(&mut *transaction, batch, &known, self.exposure_events).await?;
        send_dead_letters(pending_dead_letters, log, batch)?;
        transaction.commit().await?;
        Ok(Written::Committed)
    }

    async fn probe(&mut self, batch: &Batch, entries: Range<usize>) -> Result<(), DatabaseError> {
        let mut transaction = self.begin().await?;
        enter(&mut transaction, batch, batch.entries.get(entries).unwrap_or_default()).await?;
        Ok(transaction.rollback().await?)
    }

    async fn maintain(&mut self, retention_days: u32, process: DateTime<Utc>) -> Result<Kept, DatabaseError> {
        let mut transaction = self.begin().await?;
        let kept = retention::keep(&mut transaction, retention_days, process).await?;
        usage::make_coarser(&mut transaction, process.timestamp()).await?;
        transaction.commit().await?;
        Ok(kept)
    }
}

impl SqliteStore {
    /// Begins a transaction with the write lock, because upgrading a read transaction later can fail.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, DatabaseError> {
        Ok(self.database.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

async fn offset_row(
    connection: &mut SqliteConnection,
    log: &Log,
    partition: i32,
) -> Result<Vec<OffsetRow>, DatabaseError> {
    let query = "SELECT partition, next_offset, generation, sources, batch_id FROM sink_offsets
        WHERE topic = $1 AND log_id = $2 AND partition = $3";
    let query = sqlx::query_as(query).bind(&log.topic).bind(&log.id).bind(partition);
    Ok(query.fetch_all(connection).await?)
}

async fn enter(
    connection: &mut SqliteConnection,
    batch: &Batch,
    entries: &[Entry],
) -> Result<(), DatabaseError> {
    for entry in entries.iter().filter(|entry| entry.refusal.is_none()) {
        match &entry.content {
            Content::Evaluation { .. } => {
                let payload = batch.payload(entry).unwrap_or_default();
                // The event was decoded before, so this cannot fail.
                if let Ok(Event::Evaluated(evaluation)) = Event::read(payload) {
                    insert(connection, &evaluation).await?;
                }
            }
            Content::Definition(version) => define(connection, version).await?,
            Content::Switched(change) => log_switch(connection, change).await?,
            Content::Conversion(_) | Content::SdkUsage(_) | Content::Nothing => {}
        }
    }
    for count in batch.counts(entries) {
        let upsert = "INSERT INTO feature_flags (environment, name, evaluation_count, last_evaluated_at, outcomes_since,
                last_off_at)
            VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name, environment) DO UPDATE SET
                evaluation_count = evaluation_count + excluded.evaluation_count,
                last_evaluated_at = max(coalesce(last_evaluated_at, ''), excluded.last_evaluated_at),
                outcomes_since = min(coalesce(outcomes_since, excluded.outcomes_since), excluded.outcomes_since),
                last_off_at = nullif(max(coalesce(last_off_at, ''), coalesce(excluded.last_off_at, '')), '')";
        let query = sqlx::query(upsert).bind(&*count.environment).bind(&*count.flag).bind(count.evaluations);
        let query = query.bind(micros(count.last_evaluated_at)).bind(micros(count.first_evaluated_at));
        query.bind(count.last_off_at.map(micros)).execute(&mut *connection).await?;
    }
    usage::add(connection, batch, entries).await?;
    usage::add_reported(connection, entries).await
}

async fn insert(connection: &mut SqliteConnection, row: &Evaluation<'_>) -> Result<(), DatabaseError> {
    let insert = "INSERT INTO feature_flag_evaluations (flag_name, user_id, context, result, variant,
            evaluated_value, environment, evaluated_at, evaluation_reason, event_id, request_id, session_id, enabled,
            default_value, error_code, error_message, flag_version, source_topic, source_partition, source_offset,
            source_index, source_api, amended, flags_version, value_type, attributes)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
            $23, $24, $25, $26)";
    let query = sqlx::query(insert).bind(&*row.flag_name).bind(row.user_id.as_deref()).bind(&*row.context);
    let query = query.bind(row.result).bind(row.variant.as_deref()).bind(row.evaluated_value.as_deref());
    let query = query.bind(&*row.environment).bind(micros(row.evaluated_at)).bind(&*row.reason);
    let query = query.bind(row.event_id.to_string()).bind(row.request_id.as_deref());
    let query = query.bind(row.session_id.as_deref()).bind(row.enabled).bind(row.default_value.as_deref());
    let query =
        query.bind(row.error_code.as_deref()).bind(row.error_message.as_deref()).bind(row.flag_version);
    let (topic, partition, offset, index, api) = match &row.source {
        Source::Kafka { topic, partition, offset, index, .. } => {
            (Some(&**topic), Some(*partition), Some(*offset), Some(*index), None)
        }
        Source::Api(api) => (None, None, None, None, Some(&**api)),
        Source::Unknown => (None, None, None, None, None),
    };
    let query = query.bind(topic).bind(partition).bind(offset).bind(index).bind(api).bind(row.amended);
    let query = query.bind(row.flags_version).bind(row.value_type.as_deref()).bind(row.attributes.as_deref());
    query.execute(connection).await?;
    Ok(())
}

/// Records a version, and updates the flag unless its version is newer.
async fn define(connection: &mut SqliteConnection, version: &FlagVersion) -> Result<(), DatabaseError> {
    let record = "INSERT INTO feature_flag_versions
            (environment, name, version, definition, checksum, source, actor, in_force_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    let defined = version.defined.as_ref();
    let now = time(Utc::now());
    let in_force_at = time(DateTime::from_timestamp_millis(version.in_force_ms).unwrap_or_default());
    let query = sqlx::query(record).bind(&version.environment).bind(&version.name).bind(version.version);
    let query = query.bind(defined.map(|defined| &defined.definition));
    let query =
        query.bind(defined.map(|defined| &defined.checksum)).bind(defined.map(|defined| defined.source));
    query.bind(&version.actor).bind(&in_force_at).execute(&mut *connection).await?;
    let Some(defined) = defined else {
        let delete =
            "UPDATE feature_flags SET is_enabled = 0, version = $3, deleted_at = $4, updated_at = $5,
                last_synced_at = $5
            WHERE environment = $1 AND name = $2 AND (version IS NULL OR version < $3)";
        let query = sqlx::query(delete).bind(&version.environment).bind(&version.name).bind(version.version);
        query.bind(in_force_at).bind(now).execute(connection).await?;
        return Ok(());
    };
    let upsert = "INSERT INTO feature_flags (environment, name, version, is_enabled, description,
            rollout_percentage, target_users, source, unleash_flag_name, last_synced_at, type, project, owner)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, CASE $8 WHEN 'unleash' THEN $2 END, $9, $10, $11,
            $12)
        ON CONFLICT (name, environment) DO UPDATE SET version = excluded.version,
            is_enabled = excluded.is_enabled, description = coalesce(excluded.description, CASE excluded.source
                WHEN 'unleash' THEN feature_flags.description END),
            rollout_percentage = excluded.rollout_percentage, target_users = excluded.target_users,
            type = excluded.type, project = excluded.project,
            owner = coalesce(excluded.owner, CASE excluded.source WHEN 'unleash' THEN feature_flags.owner END),
            source = excluded.source, unleash_flag_name = excluded.unleash_flag_name,
            last_synced_at = excluded.last_synced_at, updated_at = excluded.last_synced_at, deleted_at = NULL
        WHERE feature_flags.version IS NULL OR feature_flags.version < excluded.version";
    let users = serde_json::to_string(&defined.target_users).unwrap_or_else(|_| "[]".to_owned());
    let query = sqlx::query(upsert).bind(&version.environment).bind(&version.name).bind(version.version);
    let query = query.bind(defined.is_enabled).bind(&defined.description).bind(&defined.rollout_percentage);
    let query = query.bind(users).bind(defined.source).bind(now);
    query.bind(&defined.r#type).bind(&defined.project).bind(&defined.owner).execute(connection).await?;
    Ok(())
}

/// Adds a change of a kill switch to the change log, once.
async fn log_switch(connection: &mut SqliteConnection, change: &SwitchChange) -> Result<(), DatabaseError> {
    let insert = "INSERT INTO feature_flag_changes
            (environment, flag_name, action, actor, reason, before, after, changed_at, change_id, version)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
    let query = sqlx::query(insert).bind(&change.environment).bind(&change.flag).bind(change.action);
    let query = query.bind(&change.actor).bind(&change.reason).bind(&change.before).bind(&change.after);
    let query = query.bind(time(change.changed_at)).bind(&change.change_id).bind(change.version);
    query.execute(connection).await?;
    Ok(())
}

fn micros(micros: i64) -> String {
    time(DateTime::from_timestamp_micros(micros).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::batch::Move;
    use super::*;
    use crate::config::{Profile, Secret, load_from};
    use crate::database::Database;
    use crate::message::sequence::Sequence;

    fn batch(from: i64, to: i64) -> Batch {
        let mut batch = Batch::default();
        batch.moves.push(Move {
            partition: 1,
            from,
            to,
            generation: 0,
            sources: Default::default(),
            streams: vec![Sequence { stream: u64::MAX, number: to.cast_unsigned() }],
        });
        batch
    }

    #[tokio::test]
    async fn positions_move_only_from_where_a_batch_began() {
        let database = Database::open(&Secret::new("sqlite::memory:"), "test").unwrap();
        database.migrate().await.unwrap();
        let Database::Sqlite(sqlite) = database else { panic!("not SQLite") };
        let mut rows = SqliteStore::new(sqlite);
        let loaded = load_from(None, std::iter::empty(), Profile::Service).unwrap();
        let mut pending_dead_letters = DeadLetters::new(std::sync::Arc::new(loaded.config));
        let log = Log { topic: "events".to_owned(), id: "one".to_owned() };
        let stands = async |rows: &mut SqliteStore, log: &Log| {
            rows.positions(log, &[1]).await.unwrap().first().unwrap().next_offset
        };
        assert_eq!(stands(&mut rows, &log).await, 0);
        let first = batch(0, 5);
        assert_eq!(rows.write(&log, &first, &mut pending_dead_letters).await.unwrap(), Written::Committed);
        // The commit was not confirmed, so the batch is written again.
        assert_eq!(rows.write(&log, &first, &mut pending_dead_letters).await.unwrap(), Written::Before);
        // This is another sink that is still at the beginning.
        assert_eq!(
            rows.write(&log, &batch(0, 3), &mut pending_dead_letters).await.unwrap(),
            Written::Conflict
        );
        assert_eq!(
            rows.write(&log, &batch(5, 6), &mut pending_dead_letters).await.unwrap(),
            Written::Committed
        );
        assert_eq!(rows.write(&log, &first, &mut pending_dead_letters).await.unwrap(), Written::Conflict);
        assert_eq!(stands(&mut rows, &log).await, 6);
        let mut position = rows.positions(&log, &[1]).await.unwrap().remove(0);
        assert!(!position.streams.take(Sequence { stream: u64::MAX, number: 6 }));
        assert!(position.streams.take(Sequence { stream: u64::MAX, number: 7 }));
        // The topic was recreated.
        assert_eq!(stands(&mut rows, &Log { id: "two".to_owned(), ..log }).await, 0);
    }
}
