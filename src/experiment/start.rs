//! Starts experiments, also ones that begin in the past.
//!
//! ```text
//!  insert     under the exposures lock: one row, marked `backfilling`. The audit sinks wait for milliseconds.
//!  backfill   without the lock: past evaluations are read, exposures are written in small transactions.
//!  finish     the mark is removed and the change log gets its entry. Only now is the experiment visible.
//! ```
//!
//! A sink holds the lock shared from its look at the experiments until its commit. So an evaluation is either committed
//! before the experiment is inserted, and the backfill reads it, or its sink knows the experiment. Both may write an
//! exposure of the same user, in any order: the table keeps the earlier one.
//!
//! An experiment that is not finished by its deadline, because its process was killed or its caller has gone, is
//! discarded by the aggregation.

use std::time::Duration;

use ahash::AHashMap;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures_util::TryStreamExt;
use tokio::time::timeout;

use crate::database::audited::{self, Actor};
use crate::database::{Database, DatabaseError, in_transaction, on_pool, text_of};
use crate::flag::local::Invalid;
use crate::log_limit::limited;

use super::create_request::CreateRequest;
use super::design::{Design, Layer};
use super::dimensions::attributes;
use super::exposure::{Exposure, Exposures, KnownExposures, Running, Shown};
use super::exposure_events::{Evaluated, QueuedEvent};
use super::key::{Key, key};
use super::layer::{self, Use, check_running};
use super::records::{EXPERIMENTS_MAX, ExperimentError, Experiments, StoredExperiment, draws, entry};
use super::results::{Experiment, Status};
use super::tables::Tables;

/// Maximum past users of one experiment.
const BACKFILLED_MAX: usize = 1_000_000;
/// Exposures of one transaction of the backfill. A sink that writes an exposure of the same user waits for it.
const BACKFILL_CHUNK_ROWS: usize = 5_000;
/// Timeout of a statement that inserts an experiment, which waits for the open transactions of the sinks.
const INSERT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a statement of the backfill.
const BACKFILL_STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a backfill.
const BACKFILL_TIMEOUT: Duration = Duration::from_secs(20);
/// Time after which an unfinished experiment is discarded. Longer than a backfill and its last statement may take.
const DISCARD_AFTER: TimeDelta = TimeDelta::seconds(40);
/// Pause between two looks for backfills that are not finished.
const BACKFILL_POLL_INTERVAL: Duration = Duration::from_millis(200);

const COUNT: &str = "SELECT count(*) FROM experiments";
const RUNNING_DESIGNS: &str = "SELECT design::text FROM experiments WHERE stopped_at IS NULL";
const BEGIN: &str =
    "INSERT INTO experiments (environment, name, flag_name, design, created_by, started_at, backfilling, due_at)
    VALUES ($1, $2, $3, $4::jsonb, $5, $6, true, $7) ON CONFLICT (environment, name) DO NOTHING RETURNING id";
const IS_BACKFILLING: &str = "SELECT backfilling FROM experiments WHERE environment = $1 AND name = $2";
const FINISH: &str = "UPDATE experiments SET backfilling = false, due_at = 0 WHERE id = $1 AND backfilling";
const DISCARD: &str = "DELETE FROM experiments WHERE id = $1 AND backfilling";
const DISCARD_EXPOSURES: &str = "DELETE FROM experiment_exposures WHERE experiment_id = $1";
const DISCARD_CONVERSIONS: &str = "DELETE FROM experiment_conversions WHERE experiment_id = $1";
const DISCARD_ASSIGNMENTS: &str = "DELETE FROM experiment_assignments WHERE experiment_id = $1";
const DISCARD_EVENTS: &str = "DELETE FROM experiment_exposure_events WHERE experiment_id = $1";
const DISCARD_HISTORY: &str = "DELETE FROM experiment_history WHERE experiment_id = $1";
const EXISTS: &str = "SELECT count(*) FROM experiments WHERE id = $1";
const UNFINISHED: &str = "SELECT count(*) FROM experiments WHERE backfilling AND due_at > $1";
/// Selects the evaluations that expose their user.
/// `$4`: whether their contexts are needed.
const EVALUATED: &str = "SELECT user_id, variant, flag_version, evaluated_at, CASE WHEN $4 THEN context::text END
    FROM feature_flag_evaluations
    WHERE flag_name = $1 AND environment = $2 AND evaluated_at >= $3::timestamptz AND enabled AND variant <> ''
        AND user_id <> '' AND flag_version IS NOT NULL AND error_code IS NULL";

type PastRow = (String, String, i64, DateTime<Utc>, Option<String>);

impl Experiments {
    /// Starts an experiment. Evaluations since `started_at` that are already audited are included.
    pub async fn begin(
        &self,
        request: CreateRequest,
        author: Actor<'_>,
    ) -> Result<StoredExperiment, ExperimentError> {
        let now = Utc::now();
        let wrong = request.check(now, self.config.audit.oldest(now));
        if !wrong.is_empty() {
            return Err(ExperimentError::Invalid(wrong));
        }
        let definition = self.definition(&request.environment, request.flag_name(), "flag_name").await?;
        let draws = draws(&definition)?;
        let [layer, global_holdout] = self.layers(&request, &definition).await?;
        let started_at = request.started_at;
        let design = request.design(draws).map_err(ExperimentError::Invalid)?;
        let design = Design { layer, global_holdout, ..design };
        // The semaphore is never closed, so this cannot fail.
        let _turn = self.beginnings.acquire().await;
        let inserted = self.insert(&design, started_at, author).await;
        let (id, started_at) = inserted.map_err(|error| match error {
            // The only statement that can take long waits for the sinks.
            ExperimentError::TooLong => ExperimentError::Busy,
            error => error,
        })?;
        let backfill = async {
            self.backfill(&design, id, started_at).await?;
            self.finish(&design, id, started_at, author).await
        };
        if let Err(error) = timeout(BACKFILL_TIMEOUT, backfill).await.unwrap_or(Err(ExperimentError::TooLong))
        {
            match discard(&self.database, id).await {
                // The error came after the commit.
                Ok(false) => {}
                Ok(true) => return Err(error),
                Err(failed) => {
                    let experiment = &design.name;
                    limited!(
                        warn,
                        error = %failed,
                        experiment,
                        "an unfinished experiment is discarded later",
                    );
                    return Err(error);
                }
            }
        }
        let (stopped_at, reason, winner) = (None, None, None);
        let experiment =
            Experiment { design, status: Status::Running, started_at, stopped_at, reason, winner };
        let created_by = author.actor.to_owned();
        Ok(StoredExperiment {
            id,
            experiment,
            created_by,
            expired: 0,
            duplicates: 0,
            acted_at: None,
            due_at: 0,
            backfilling: false,
        })
    }

    /// Layer and global holdout of an experiment whose flag has this definition.
    async fn layers(
        &self,
        request: &CreateRequest,
        definition: &str,
    ) -> Result<[Option<Layer>; 2], ExperimentError> {
        let mut definitions = vec![definition.to_owned()];
        let mut found = [None, None];
        let uses = [(Use::Layer, &request.layer), (Use::GlobalHoldout, &request.global_holdout)];
        for (place, (of, name)) in found.iter_mut().zip(uses) {
            let Some(name) = name else { continue };
            let drawn = self.definition(&request.environment, name, of.field()).await?;
            let known: Vec<&str> = definitions.iter().map(String::as_str).collect();
            let read = layer::read(of, request.flag_name(), &known, name, &drawn);
            *place = Some(read.map_err(|invalid| ExperimentError::Invalid(vec![invalid]))?);
            // The holdout may be a parent of the layer's flag instead.
            definitions.push(drawn);
        }
        Ok(found)
    }

    /// Inserts the experiment. From then on, no sink writes evaluations without knowing it.
    async fn insert(
        &self,
        design: &Design,
        started_at: Option<DateTime<Utc>>,
        author: Actor<'_>,
    ) -> Result<(i64, DateTime<Utc>), ExperimentError> {
        let text = serde_json::to_string(design).map_err(|error| sqlx::Error::Encode(error.into()))?;
        Ok(in_transaction!(&self.database, |transaction, sql| {
            transaction.limit_statements(INSERT_TIMEOUT).await?;
            transaction.hold_exposures().await?;
            let now = Utc::now();
            let started_at = started_at.unwrap_or(now).trunc_subsecs(6);
            let count: i64 = sqlx::query_scalar(sql(COUNT)).fetch_one(&mut *transaction).await?;
            if count >= EXPERIMENTS_MAX {
                return Err(ExperimentError::TooMany);
            }
            if design.layer.is_some() || design.global_holdout.is_some() {
                let running: Vec<String> =
                    sqlx::query_scalar(sql(RUNNING_DESIGNS)).fetch_all(&mut *transaction).await?;
                let running: Vec<Design> =
                    running.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
                let wrong = check_running(design, running.iter());
                if !wrong.is_empty() {
                    return Err(ExperimentError::Invalid(wrong));
                }
            }
            let begun = sqlx::query_scalar(sql(BEGIN)).bind(&design.environment).bind(&design.name);
            let begun = begun.bind(&design.flag_name).bind(&text).bind(author.actor);
            let begun = begun.bind(started_at.timestamp_micros());
            let begun = begun.bind((now + DISCARD_AFTER).timestamp_micros());
            let Some(id): Option<i64> = begun.fetch_optional(&mut *transaction).await? else {
                let other = sqlx::query_scalar(sql(IS_BACKFILLING)).bind(&design.environment);
                let other = other.bind(&design.name).fetch_one(&mut *transaction).await?;
                return Err(if other { ExperimentError::Starting } else { ExperimentError::Exists });
            };
            (id, started_at)
        }))
    }

    /// Writes the exposures of the evaluations that were committed before the experiment was inserted.
    async fn backfill(
        &self,
        design: &Design,
        id: i64,
        started_at: DateTime<Utc>,
    ) -> Result<(), ExperimentError> {
        let mut exposures = Exposures::default();
        let mut users: AHashMap<Key, String> = AHashMap::new();
        let names: Vec<String> = Design::attributes_of(&design.dimensions).map(str::to_owned).collect();
        on_pool!(&self.database, |pool, sql| {
            // Only reads, so that it holds up no writer in SQLite either.
            let mut transaction = pool.begin().await?;
            transaction.limit_statements(BACKFILL_STATEMENT_TIMEOUT).await?;
            let evaluated = sqlx::query_as(sql(EVALUATED)).bind(&design.flag_name).bind(&design.environment);
            let evaluated = evaluated.bind(text_of(started_at)).bind(!names.is_empty());
            let mut evaluated = evaluated.fetch(&mut *transaction);
            while let Some((user, variant, version, at, context)) =
                evaluated.try_next().await? as Option<PastRow>
            {
                // Rows do not record how the variant was chosen. It follows from the definition if there is one way only.
                let evaluated_at = at.timestamp_micros();
                let found = context.and_then(|context| attributes(&context, &names));
                let shown = Shown {
                    variant: &variant,
                    assignment: None,
                    evaluated_at,
                    place: 0,
                    attributes: found.as_deref(),
                };
                let user_key = key(&user);
                exposures.add(id, user_key, version, shown);
                if exposures.len() > BACKFILLED_MAX {
                    return Err(too_many_exposed());
                }
                if self.config.experiments.exposure_events {
                    users.entry(user_key).or_insert(user);
                }
            }
        });
        let experiment = Running {
            id,
            name: design.name.clone(),
            environment: design.environment.clone(),
            flag_name: design.flag_name.clone(),
            started_at: started_at.timestamp_micros(),
            stopped_at: None,
            attributes: names,
        };
        for chunk in exposures.unknown(&KnownExposures::default()).exposures.chunks(BACKFILL_CHUNK_ROWS) {
            in_transaction!(&self.database, |transaction, _sql| {
                transaction.limit_statements(BACKFILL_STATEMENT_TIMEOUT).await?;
                let firsts = transaction.expose(chunk).await?;
                let firsts = firsts.into_iter().filter_map(|at| chunk.get(at));
                let events: Vec<_> = firsts.filter_map(|of| past_event(&experiment, of, &users)).collect();
                transaction.enqueue(&events).await?;
            });
        }
        Ok(())
    }

    async fn finish(
        &self,
        design: &Design,
        id: i64,
        started_at: DateTime<Utc>,
        author: Actor<'_>,
    ) -> Result<(), ExperimentError> {
        in_transaction!(&self.database, |transaction, sql| {
            let finished = sqlx::query(sql(FINISH)).bind(id).execute(&mut *transaction).await?;
            // Its deadline has passed, and it was discarded.
            if finished.rows_affected() == 0 {
                return Err(ExperimentError::TooLong);
            }
            audited::enter!(transaction, sql, entry(design, "begun", author, started_at));
        });
        Ok(())
    }
}

/// Deletes an experiment with what was written for it. The lock makes sure that no sink writes for it afterwards.
/// Returns `false`, and deletes nothing, if the start of the experiment was finished.
pub(super) async fn discard(database: &Database, id: i64) -> Result<bool, DatabaseError> {
    in_transaction!(database, |transaction, sql| {
        transaction.limit_statements(INSERT_TIMEOUT).await?;
        transaction.hold_exposures().await?;
        sqlx::query(sql(DISCARD)).bind(id).execute(&mut *transaction).await?;
    });
    Ok(on_pool!(database, |pool, sql| {
        let left: i64 = sqlx::query_scalar(sql(EXISTS)).bind(id).fetch_one(pool).await?;
        if left == 0 {
            let all = [
                DISCARD_EXPOSURES,
                DISCARD_CONVERSIONS,
                DISCARD_ASSIGNMENTS,
                DISCARD_HISTORY,
                DISCARD_EVENTS,
            ];
            for delete in all {
                sqlx::query(sql(delete)).bind(id).execute(pool).await?;
            }
        }
        left == 0
    }))
}

/// Waits until the backfills that have begun are finished or discarded. An erasure that has deleted a user's evaluations
/// waits for those that may have read them before.
pub(crate) async fn wait_for_backfills(database: &Database) -> Result<(), DatabaseError> {
    let begun_by = (Utc::now() + DISCARD_AFTER).timestamp_micros();
    loop {
        let now = Utc::now().timestamp_micros();
        let unfinished: i64 = on_pool!(database, |pool, sql| {
            sqlx::query_scalar(sql(UNFINISHED)).bind(now).fetch_one(pool).await?
        });
        if unfinished == 0 || now > begun_by {
            return Ok(());
        }
        tokio::time::sleep(BACKFILL_POLL_INTERVAL).await;
    }
}

/// Event of an exposure that was read from rows. `None` if the user is not among `users`.
fn past_event(
    experiment: &Running,
    exposure: &Exposure,
    users: &AHashMap<Key, String>,
) -> Option<QueuedEvent> {
    let user_id = users.get(&exposure.user_key)?;
    let evaluated = Evaluated { user_id, assignment: None, evaluation_id: None, context: None };
    QueuedEvent::new(experiment, exposure, evaluated)
}

fn too_many_exposed() -> ExperimentError {
    let message = format!("more than {BACKFILLED_MAX} users were exposed since then: choose a later time");
    ExperimentError::Invalid(vec![Invalid::new("started_at", message)])
}
