//! Writes to the tables of experiments in both databases.

use std::collections::BTreeMap;
use std::time::Duration;

use ahash::AHashMap;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;

use crate::database::DatabaseError;

use super::conversion::Reported;
use super::design::{Design, Dimension};
use super::exposure::{Exposure, Running, StoredAssignment};
use super::exposure_events::QueuedEvent;
use super::key::Key;

/// Maximum rows of one statement.
const CHUNK_ROWS: usize = 10_000;
/// Key of the Postgres advisory lock that guards exposures.
const EXPOSURES_LOCK: i64 = 0x666c_6167_6578_7000;
const RUNNING: &str = "SELECT id, name, environment, flag_name, started_at, stopped_at,
    CAST(design -> 'dimensions' AS TEXT) FROM experiments";
const DESIGNS: &str = "SELECT id, CAST(design AS TEXT) FROM experiments";
/// Keeps the earlier of two exposures, and marks it as crossed if their variants differ.
const EARLIER: &str = " ON CONFLICT (experiment_id, user_key, flag_version) DO UPDATE SET
        variant = CASE WHEN excluded.exposed_at < e.exposed_at
            OR (excluded.exposed_at = e.exposed_at AND excluded.variant < e.variant)
            THEN excluded.variant ELSE e.variant END,
        exposed_at = CASE WHEN excluded.exposed_at < e.exposed_at THEN excluded.exposed_at ELSE e.exposed_at END,
        assignment = CASE WHEN excluded.exposed_at < e.exposed_at
            OR (excluded.exposed_at = e.exposed_at AND excluded.variant < e.variant)
            THEN excluded.assignment ELSE e.assignment END,
        attributes = CASE WHEN excluded.exposed_at < e.exposed_at
            OR (excluded.exposed_at = e.exposed_at AND excluded.variant < e.variant)
            THEN excluded.attributes ELSE e.attributes END,
        crossed = e.crossed OR excluded.crossed OR excluded.variant <> e.variant
    WHERE excluded.exposed_at < e.exposed_at
        OR (NOT e.crossed AND (excluded.crossed OR excluded.variant <> e.variant))";
const EXPOSE: &str = "INSERT INTO experiment_exposures AS e
        (experiment_id, user_key, flag_version, variant, exposed_at, crossed, assignment, attributes) ";
const DESCRIBE: &str = "INSERT INTO experiment_assignments (experiment_id, assignment_key, assignment)
    VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
const REPEATED: &str = "UPDATE experiments SET duplicates = duplicates + $2 WHERE id = $1";
const CONVERT: &str = "INSERT INTO experiment_conversions
        (experiment_id, event_key, user_key, metric, value, occurred_at, metadata) ";
const ENQUEUE: &str = "INSERT INTO experiment_exposure_events (experiment_id, user_key, user_id, event) ";
/// Returns the exposures that were inserted or changed, as they are now.
const RETURNING: &str = " RETURNING experiment_id, user_key, flag_version, variant, exposed_at";

type RunningRow = (i64, String, String, String, i64, Option<i64>, Option<String>);
/// Row that [`RETURNING`] returns.
type ExposedRow = (i64, Vec<u8>, i64, String, i64);

/// Operations on a connection inside a transaction.
pub(crate) trait Tables: Send {
    /// Limits the duration of each statement until the end of the transaction. SQLite has no limit.
    fn limit_statements(&mut self, limit: Duration)
    -> impl Future<Output = Result<(), DatabaseError>> + Send;

    /// Prevents all others from writing exposures until the end of the transaction.
    fn hold_exposures(&mut self) -> impl Future<Output = Result<(), DatabaseError>> + Send;

    /// Returns all experiments, also stopped ones: evaluations from while one ran may arrive after its end. No
    /// experiment can start until the end of the transaction.
    fn running(&mut self) -> impl Future<Output = Result<Vec<Running>, DatabaseError>> + Send;

    fn designs(&mut self) -> impl Future<Output = Result<Vec<(i64, Design)>, DatabaseError>> + Send;

    /// Stores how variants were chosen, each way once.
    fn describe(
        &mut self,
        assignments: &[StoredAssignment],
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send;

    /// Stores exposures. Returns the positions of those that are the first of their user and version now.
    fn expose(
        &mut self,
        exposures: &[Exposure],
    ) -> impl Future<Output = Result<Vec<usize>, DatabaseError>> + Send;

    /// Stores events of exposures until they are published.
    fn enqueue(&mut self, events: &[QueuedEvent]) -> impl Future<Output = Result<(), DatabaseError>> + Send;

    /// Stores conversions. An event that is already stored is skipped, and counted.
    fn convert(
        &mut self,
        conversions: &[(i64, &Reported)],
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send;
}

impl Tables for PgConnection {
    async fn limit_statements(&mut self, limit: Duration) -> Result<(), DatabaseError> {
        let setting = sqlx::query("SELECT set_config('statement_timeout', $1, true)");
        setting.bind(limit.as_millis().to_string()).execute(self).await?;
        Ok(())
    }

    async fn hold_exposures(&mut self) -> Result<(), DatabaseError> {
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(EXPOSURES_LOCK).execute(self).await?;
        Ok(())
    }

    async fn running(&mut self) -> Result<Vec<Running>, DatabaseError> {
        // The lock is taken before the query, so that an experiment that starts meanwhile is seen.
        let share = sqlx::query("SELECT pg_advisory_xact_lock_shared($1)").bind(EXPOSURES_LOCK);
        share.execute(&mut *self).await?;
        let rows: Vec<RunningRow> = sqlx::query_as(RUNNING).fetch_all(self).await?;
        Ok(rows.into_iter().map(running).collect())
    }

    async fn designs(&mut self) -> Result<Vec<(i64, Design)>, DatabaseError> {
        designs(sqlx::query_as(DESIGNS).fetch_all(self).await?)
    }

    async fn describe(&mut self, assignments: &[StoredAssignment]) -> Result<(), DatabaseError> {
        for of in assignments {
            let query = sqlx::query(DESCRIBE).bind(of.experiment_id).bind(of.key).bind(&of.text);
            query.execute(&mut *self).await?;
        }
        Ok(())
    }

    async fn expose(&mut self, exposures: &[Exposure]) -> Result<Vec<usize>, DatabaseError> {
        const ROWS: &str =
            "SELECT a, b, c, d, e, f, g, h::jsonb FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::text[],
            $5::bigint[], $6::boolean[], $7::bigint[], $8::text[]) AS n (a, b, c, d, e, f, g, h)";
        let mut written: Vec<ExposedRow> = Vec::new();
        for exposures in exposures.chunks(CHUNK_ROWS) {
            let column = |number: fn(&Exposure) -> i64| exposures.iter().map(number).collect::<Vec<i64>>();
            let users: Vec<&[u8]> = exposures.iter().map(|exposure| exposure.user_key.as_slice()).collect();
            let variants: Vec<&str> = exposures.iter().map(|exposure| exposure.variant.as_str()).collect();
            let crossed: Vec<bool> = exposures.iter().map(|exposure| exposure.crossed).collect();
            let query = sqlx::query_as(AssertSqlSafe(format!("{EXPOSE}{ROWS}{EARLIER}{RETURNING}")));
            let query = query.bind(column(|exposure| exposure.experiment_id)).bind(users);
            let query = query.bind(column(|exposure| exposure.flag_version)).bind(variants);
            let assignments: Vec<Option<i64>> =
                exposures.iter().map(|exposure| exposure.assignment).collect();
            let query = query.bind(column(|exposure| exposure.exposed_at)).bind(crossed).bind(assignments);
            let attributes: Vec<Option<&str>> =
                exposures.iter().map(|exposure| exposure.attributes.as_deref()).collect();
            let query = query.bind(attributes);
            let rows: Vec<ExposedRow> = query.fetch_all(&mut *self).await?;
            written.extend(rows);
        }
        Ok(firsts(exposures, written))
    }

    async fn enqueue(&mut self, events: &[QueuedEvent]) -> Result<(), DatabaseError> {
        const ROWS: &str = "SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::text[], $4::text[])";
        for events in events.chunks(CHUNK_ROWS) {
            let experiments: Vec<i64> = events.iter().map(|event| event.experiment_id).collect();
            let keys: Vec<&[u8]> = events.iter().map(|event| event.user_key.as_slice()).collect();
            let users: Vec<&str> = events.iter().map(|event| event.user_id.as_str()).collect();
            let texts: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
            let query = sqlx::query(AssertSqlSafe(format!("{ENQUEUE}{ROWS}"))).bind(experiments).bind(keys);
            query.bind(users).bind(texts).execute(&mut *self).await?;
        }
        Ok(())
    }

    async fn convert(&mut self, conversions: &[(i64, &Reported)]) -> Result<(), DatabaseError> {
        const ROWS: &str =
            "SELECT a, b, c, d, e, f, g::jsonb FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::text[],
            $5::float8[], $6::bigint[], $7::text[]) AS n (a, b, c, d, e, f, g) ON CONFLICT DO NOTHING RETURNING experiment_id)
            SELECT experiment_id, count(*) FROM new GROUP BY 1";
        let experiments: Vec<i64> = conversions.iter().map(|(experiment, _)| *experiment).collect();
        let reported = || conversions.iter().map(|(_, reported)| *reported);
        let events: Vec<&[u8]> = reported().map(|reported| reported.event_key.as_slice()).collect();
        let users: Vec<&[u8]> = reported().map(|reported| reported.user_key.as_slice()).collect();
        let metrics: Vec<&str> = reported().map(|reported| reported.metric.as_str()).collect();
        let values: Vec<Option<f64>> = reported().map(|reported| reported.value).collect();
        let times: Vec<i64> = reported().map(|reported| reported.occurred_at).collect();
        let query = sqlx::query_as(AssertSqlSafe(format!("WITH new AS ({CONVERT}{ROWS}"))).bind(experiments);
        let metadata: Vec<Option<&str>> = reported().map(|reported| reported.metadata.as_deref()).collect();
        let query = query.bind(events).bind(users).bind(metrics).bind(values).bind(times).bind(metadata);
        let new: Vec<(i64, i64)> = query.fetch_all(&mut *self).await?;
        for (experiment, count) in repeated(conversions, &new) {
            sqlx::query(REPEATED).bind(experiment).bind(count).execute(&mut *self).await?;
        }
        Ok(())
    }
}

impl Tables for SqliteConnection {
    async fn limit_statements(&mut self, _limit: Duration) -> Result<(), DatabaseError> {
        Ok(())
    }

    /// SQLite has a single writer at a time.
    async fn hold_exposures(&mut self) -> Result<(), DatabaseError> {
        Ok(())
    }

    async fn running(&mut self) -> Result<Vec<Running>, DatabaseError> {
        let rows: Vec<RunningRow> = sqlx::query_as(RUNNING).fetch_all(self).await?;
        Ok(rows.into_iter().map(running).collect())
    }

    async fn designs(&mut self) -> Result<Vec<(i64, Design)>, DatabaseError> {
        designs(sqlx::query_as(DESIGNS).fetch_all(self).await?)
    }

    async fn describe(&mut self, assignments: &[StoredAssignment]) -> Result<(), DatabaseError> {
        for of in assignments {
            let query = sqlx::query(DESCRIBE).bind(of.experiment_id).bind(of.key).bind(&of.text);
            query.execute(&mut *self).await?;
        }
        Ok(())
    }

    async fn expose(&mut self, exposures: &[Exposure]) -> Result<Vec<usize>, DatabaseError> {
        let mut written: Vec<ExposedRow> = Vec::new();
        for exposure in exposures {
            let query = format!("{EXPOSE}VALUES ($1, $2, $3, $4, $5, $6, $7, $8){EARLIER}{RETURNING}");
            let query = sqlx::query_as(AssertSqlSafe(query)).bind(exposure.experiment_id);
            let query = query.bind(exposure.user_key.as_slice()).bind(exposure.flag_version);
            let query = query.bind(&exposure.variant).bind(exposure.exposed_at).bind(exposure.crossed);
            let query = query.bind(exposure.assignment).bind(exposure.attributes.as_deref());
            let rows: Vec<ExposedRow> = query.fetch_all(&mut *self).await?;
            written.extend(rows);
        }
        Ok(firsts(exposures, written))
    }

    async fn enqueue(&mut self, events: &[QueuedEvent]) -> Result<(), DatabaseError> {
        for event in events {
            let query = sqlx::query(AssertSqlSafe(format!("{ENQUEUE}VALUES ($1, $2, $3, $4)")));
            let query = query.bind(event.experiment_id).bind(event.user_key.as_slice());
            query.bind(&event.user_id).bind(&event.event).execute(&mut *self).await?;
        }
        Ok(())
    }

    async fn convert(&mut self, conversions: &[(i64, &Reported)]) -> Result<(), DatabaseError> {
        let mut new: Vec<(i64, i64)> = Vec::new();
        for (experiment, reported) in conversions {
            let query = format!("{CONVERT}VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING");
            let query = sqlx::query(AssertSqlSafe(query)).bind(experiment);
            let query = query.bind(reported.event_key.as_slice()).bind(reported.user_key.as_slice());
            let query = query.bind(&reported.metric).bind(reported.value).bind(reported.occurred_at);
            let query = query.bind(reported.metadata.as_deref());
            let inserted = query.execute(&mut *self).await?.rows_affected();
            new.push((*experiment, inserted.cast_signed()));
        }
        for (experiment, count) in repeated(conversions, &new) {
            sqlx::query(REPEATED).bind(experiment).bind(count).execute(&mut *self).await?;
        }
        Ok(())
    }
}

/// Number of conversions of each experiment that were there before, in the order in which every writer locks the
/// experiments. `new`: numbers of inserted conversions by experiment.
fn repeated(conversions: &[(i64, &Reported)], new: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    conversions.iter().for_each(|(experiment, _)| *counts.entry(*experiment).or_default() += 1);
    new.iter().for_each(|(experiment, inserted)| *counts.entry(*experiment).or_default() -= inserted);
    counts.into_iter().filter(|(_, repeated)| *repeated > 0).collect()
}

/// Positions of the exposures that were written with their variant and time. An exposure that only marked an earlier one
/// as crossed is not among them.
fn firsts(exposures: &[Exposure], written: Vec<ExposedRow>) -> Vec<usize> {
    let written: AHashMap<_, _> = written
        .into_iter()
        .filter_map(|(experiment, user, version, variant, at)| {
            Some(((experiment, Key::try_from(user).ok()?, version), (variant, at)))
        })
        .collect();
    let is_first = |exposure: &Exposure| {
        let stored = written.get(&exposure.id());
        stored.is_some_and(|(variant, at)| *variant == exposure.variant && *at == exposure.exposed_at)
    };
    exposures.iter().enumerate().filter(|(_, exposure)| is_first(exposure)).map(|(at, _)| at).collect()
}

fn running((id, name, environment, flag_name, started_at, stopped_at, dimensions): RunningRow) -> Running {
    let dimensions: Vec<Dimension> =
        dimensions.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Running {
        id,
        name,
        environment,
        flag_name,
        started_at,
        stopped_at,
        attributes: Design::attributes_of(&dimensions).map(str::to_owned).collect(),
    }
}

fn designs(rows: Vec<(i64, String)>) -> Result<Vec<(i64, Design)>, DatabaseError> {
    let read = |(id, design): (i64, String)| Ok((id, serde_json::from_str(&design)?));
    let designs: Result<_, serde_json::Error> = rows.into_iter().map(read).collect();
    designs.map_err(|error| sqlx::Error::Decode(error.into()).into())
}
