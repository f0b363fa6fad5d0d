//! Recomputes the counts and results of experiments from their rows, one experiment after the other.
//!
//! Several processes can run this task. The one that advances an experiment's `due_at` counts it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use chrono::{DateTime, TimeDelta, Utc};

use crate::config::Config;
use crate::database::{Database, DatabaseError, in_transaction, on_pool};
use crate::kill::{KillSwitches, Turn};
use crate::log_limit::limited;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

use super::counting::{Question, draws};
use super::design::{Design, OnHarm};
use super::freshness::{CountStart, CountedTopics, StoredResults};
use super::phases::{Version, phases};
use super::records::{Row, StoredExperiment, kept, read_row};
use super::results::history::Point;
use super::results::{Breakdown, Conclusion, Conversions, Finding, Results, Status};
use super::start::discard;
use super::tally::{Phase, Tally};
use super::{Assignment, Assignments};

/// Interval at which the aggregation checks whether an experiment is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Time for which a count reserves an experiment, in addition to [`CLAIM_FACTOR`] times the duration of the last count.
/// If the process is killed meanwhile, the results are not updated for this time.
const CLAIM: Duration = Duration::from_secs(10);
const CLAIM_FACTOR: u32 = 5;
/// Minimum pause between two counts of a running experiment.
const AGGREGATION_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum pause for a stopped experiment, which changes little.
const STOPPED_INTERVAL: Duration = Duration::from_secs(30);
/// Counting uses at most one part in this many of the database's time.
const INTERVAL_FACTOR: u32 = 20;
/// Maximum conversions of one experiment that wait for their exposure.
const WAITING_MAX: i64 = 1_000_000;

const LAST_POINT: &str =
    "SELECT point::text FROM experiment_history WHERE experiment_id = $1 ORDER BY counted_at DESC LIMIT 1";
const KEEP_POINT: &str = "INSERT INTO experiment_history (experiment_id, counted_at, point)
    VALUES ($1, $2, $3::jsonb) ON CONFLICT DO NOTHING";
const ACTED: &str = "UPDATE experiments SET acted_at = $2 WHERE id = $1";
const DUE: &str = kept!("WHERE due_at <= $1 ORDER BY due_at LIMIT 1");
const CLAIMED: &str = "UPDATE experiments SET due_at = $3 WHERE id = $1 AND due_at = $2";
const DONE: &str = "UPDATE experiments SET results = $2::jsonb, due_at = $3 WHERE id = $1 AND due_at = $4";
const VERSIONS: &str = "SELECT version, definition::text, in_force_at FROM feature_flag_versions
    WHERE environment = $1 AND name = $2 AND version > $3 ORDER BY version";
const EXPIRE: &str = "DELETE FROM experiment_conversions WHERE experiment_id = $1 AND occurred_at < $2
    AND NOT EXISTS (SELECT 1 FROM experiment_exposures AS e WHERE e.experiment_id = $1
        AND e.user_key = experiment_conversions.user_key)";
const ASSIGNMENTS: &str =
    "SELECT assignment_key, assignment FROM experiment_assignments WHERE experiment_id = $1";
const EXPIRED: &str = "UPDATE experiments SET expired = expired + $2 WHERE id = $1";
const ALL: &str = "SELECT count(*) FROM experiment_conversions WHERE experiment_id = $1";
const WAITING: &str = "SELECT count(*) FROM experiment_conversions AS c WHERE experiment_id = $1
    AND NOT EXISTS (SELECT 1 FROM experiment_exposures AS e WHERE e.experiment_id = $1 AND e.user_key = c.user_key)";
/// Deletes the `$2` waiting conversions that occurred first. Exactly as many rows, even if many occurred at the same time.
const DROP_OLDEST: &str = "DELETE FROM experiment_conversions WHERE experiment_id = $1 AND event_key IN (
    SELECT c.event_key FROM experiment_conversions AS c WHERE c.experiment_id = $1
        AND NOT EXISTS (SELECT 1 FROM experiment_exposures AS e WHERE e.experiment_id = $1 AND e.user_key = c.user_key)
    ORDER BY c.occurred_at, c.event_key LIMIT $2)";

/// Counts the experiments that are due, until `shutdown`.
pub async fn run(
    database: Database,
    config: Arc<Config>,
    switches: Arc<KillSwitches>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) {
    let mut aggregate = Aggregation {
        database,
        topics: CountedTopics::of(&config),
        clock_skew: config.experiments.clock_skew(),
        switches,
        metrics,
        versions: AHashMap::new(),
        took: AHashMap::new(),
    };
    let mut is_well = true;
    loop {
        // An interrupted count is repeated later.
        let counted = tokio::select! {
            () = shutdown.cancelled() => return,
            counted = aggregate.next() => counted,
        };
        // Logged once, however long it fails.
        if let (Err(error), true) = (&counted, is_well) {
            limited!(
                warn,
                %error,
                "the results of experiments could not be computed; retrying",
            );
        }
        is_well = counted.is_ok();
        if !matches!(counted, Ok(true)) {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }
}

struct Aggregation {
    database: Database,
    topics: CountedTopics,
    /// Tolerated difference between clocks.
    clock_skew: TimeDelta,
    switches: Arc<KillSwitches>,
    metrics: Arc<Metrics>,
    /// Known versions of the flags, by experiment id. A version never changes.
    versions: AHashMap<i64, Vec<Version>>,
    /// Duration of the last count of each experiment in this process.
    took: AHashMap<i64, Duration>,
}

impl Aggregation {
    /// Counts the experiment that has been due longest. Returns `false` if none is due.
    async fn next(&mut self) -> Result<bool, DatabaseError> {
        let now = Utc::now();
        let row: Option<Row> = on_pool!(&self.database, |pool, sql| {
            sqlx::query_as(sql(DUE)).bind(now.timestamp_micros()).fetch_optional(pool).await?
        });
        let Some(row) = row else {
            return Ok(false);
        };
        let kept = read_row(row)?;
        let (id, due_at) = (kept.id, kept.due_at);
        if kept.backfilling {
            limited!(
                warn,
                experiment = kept.experiment.design.name,
                "an experiment whose start was interrupted is discarded",
            );
            discard(&self.database, id).await?;
            return Ok(true);
        }
        let claim = CLAIM + CLAIM_FACTOR * self.took.get(&id).copied().unwrap_or_default();
        let claim = (now + claim).timestamp_micros();
        let claimed = on_pool!(&self.database, |pool, sql| {
            let claimed = sqlx::query(sql(CLAIMED)).bind(id).bind(due_at).bind(claim);
            claimed.execute(pool).await?.rows_affected()
        });
        if claimed == 0 {
            return Ok(true);
        }
        let started = Instant::now();
        // Read before the rows: what the sink writes during the count may be in it, but is not claimed to be.
        let count_start = CountStart::read(&self.database, &self.topics).await?;
        let (tallies, conversions, breakdowns) = self.count(&kept).await?;
        let status = kept.experiment.status;
        let acted = kept.acted_at.is_some();
        let mut results = Results::of(kept.experiment, &tallies, conversions);
        results.break_down(&breakdowns);
        if !acted && let Some(harm) = harm(&results) {
            self.act(id, &results.experiment.design, harm).await?;
        }
        let point = self.point(id, &results).await?;
        let results = serde_json::to_string(&StoredResults { results, count_start })
            .map_err(|error| sqlx::Error::Encode(error.into()))?;
        let took = started.elapsed();
        self.took.insert(id, took);
        self.metrics.experiments.counted.observe(took);
        let least = if status == Status::Running { AGGREGATION_INTERVAL } else { STOPPED_INTERVAL };
        let pause = (took * INTERVAL_FACTOR).max(least);
        let due = (Utc::now() + pause).timestamp_micros();
        on_pool!(&self.database, |pool, sql| {
            let done = sqlx::query(sql(DONE)).bind(id).bind(results).bind(due).bind(claim);
            done.execute(pool).await?;
        });
        if let Some(point) = point {
            self.keep(id, point).await?;
        }
        Ok(true)
    }

    /// Kills the flag of an experiment, once. If the process stops in between, the next count repeats it.
    async fn act(&self, id: i64, design: &Design, reason: &str) -> Result<(), DatabaseError> {
        let actor = format!("experiment {}", design.name);
        let turn = Turn { environment: &design.environment, flag: &design.flag_name, actor: &actor, reason };
        if let Err(error) = self.switches.kill(turn, None).await {
            let (flag, experiment) = (&design.flag_name, &design.name);
            limited!(
                warn,
                key = flag,
                %error,
                flag,
                experiment,
                "the flag of a harmful experiment could not be killed; retrying",
            );
            return Ok(());
        }
        on_pool!(&self.database, |pool, sql| {
            let acted = sqlx::query(sql(ACTED)).bind(id).bind(Utc::now().timestamp_micros());
            acted.execute(pool).await?;
        });
        Ok(())
    }

    /// Point of the experiment's history, if it is worth keeping.
    async fn point(&mut self, id: i64, results: &Results) -> Result<Option<Point>, DatabaseError> {
        let Some(point) = Point::of(results) else {
            return Ok(None);
        };
        let last = on_pool!(&self.database, |pool, sql| {
            let last = sqlx::query_scalar::<_, String>(sql(LAST_POINT)).bind(id);
            last.fetch_optional(pool).await?
        });
        let last: Option<Point> = last.and_then(|text| serde_json::from_str(&text).ok());
        Ok(Some(point).filter(|point| point.follows(last.as_ref())))
    }

    /// Adds a point to the experiment's history.
    async fn keep(&self, id: i64, point: Point) -> Result<(), DatabaseError> {
        let text = serde_json::to_string(&point).map_err(|error| sqlx::Error::Encode(error.into()))?;
        on_pool!(&self.database, |pool, sql| {
            let keep = sqlx::query(sql(KEEP_POINT)).bind(id).bind(point.counted_at.timestamp_micros());
            keep.bind(text).execute(pool).await?;
        });
        Ok(())
    }

    async fn count(
        &mut self,
        kept: &StoredExperiment,
    ) -> Result<(Vec<Tally>, Conversions, Vec<Breakdown>), DatabaseError> {
        let phases = self.phases(kept).await?;
        let design = &kept.experiment.design;
        let hours = design.metrics.iter().map(|metric| design.ends_after_hours(metric)).max();
        let window = TimeDelta::hours(hours.unwrap_or(design.window_hours).into());
        let expired = expire(&self.database, kept.id, Utc::now() - window, WAITING_MAX).await?;
        let counted_at = Utc::now();
        let (experiment, clock_skew) = (kept.id, self.clock_skew);
        let question = Question { experiment, design, phases: &phases, clock_skew, counted_at, split: None };
        // The assignments are read after the rows that refer to them were written.
        let counts = question.count(&self.database).await?;
        let assignments = assignments(&self.database, kept.id).await?;
        let conversions = Conversions {
            expired: (kept.expired + expired).cast_unsigned(),
            duplicates: kept.duplicates.cast_unsigned(),
            ..counts.conversions(design, &phases, &assignments)
        };
        let mut tallies = counts.tallies(design, phases.clone(), &assignments, counted_at);
        question.add_quantiles(&self.database, &counts, &assignments, &mut tallies).await?;
        let mut breakdowns = Vec::new();
        if let Some(phase) = phases.last() {
            for dimension in &design.dimensions {
                breakdowns.push(question.break_down(&self.database, phase, &assignments, dimension).await?);
            }
        }
        Ok((tallies, conversions, breakdowns))
    }

    async fn phases(&mut self, kept: &StoredExperiment) -> Result<Vec<Phase>, DatabaseError> {
        let (experiment, design) = (&kept.experiment, &kept.experiment.design);
        let known = self.versions.entry(kept.id).or_default();
        let last = known.last().map_or(-1, |version| version.version.cast_signed());
        known.extend(versions(&self.database, design, last).await?);
        Ok(phases(known, &design.control, experiment.started_at, experiment.stopped_at))
    }
}

/// Deletes the waiting conversions of an experiment that occurred before `before`, and of the others the oldest ones
/// beyond `waiting_max`. Returns their number.
async fn expire(
    database: &Database,
    experiment: i64,
    before: DateTime<Utc>,
    waiting_max: i64,
) -> Result<i64, DatabaseError> {
    let before = before.timestamp_micros();
    let expired = in_transaction!(database, |transaction, sql| {
        let expire = sqlx::query(sql(EXPIRE)).bind(experiment).bind(before);
        let mut expired = expire.execute(&mut *transaction).await?.rows_affected();
        let all: i64 = sqlx::query_scalar(sql(ALL)).bind(experiment).fetch_one(&mut *transaction).await?;
        // Only then there can be too many that wait. To find those is slow.
        if all > waiting_max {
            let waiting: i64 =
                sqlx::query_scalar(sql(WAITING)).bind(experiment).fetch_one(&mut *transaction).await?;
            let surplus = (waiting - waiting_max).max(0);
            let drop = sqlx::query(sql(DROP_OLDEST)).bind(experiment).bind(surplus);
            expired += drop.execute(&mut *transaction).await?.rows_affected();
        }
        if expired > 0 {
            let count = sqlx::query(sql(EXPIRED)).bind(experiment).bind(expired.cast_signed());
            count.execute(&mut *transaction).await?;
        }
        expired.cast_signed()
    });
    Ok(expired)
}

/// Conclusion for which the flag is killed, if the design requests it: a guardrail of a running experiment is harmed.
fn harm(results: &Results) -> Option<&str> {
    let experiment = &results.experiment;
    let requested = experiment.design.on_harm == Some(OnHarm::Kill) && experiment.status == Status::Running;
    let harmed = |of: &&Conclusion| of.alarm && of.finding == Finding::Guardrail;
    results.conclusions.iter().filter(|_| requested).find(harmed).map(|of| of.text.as_str())
}

/// Reads the versions of an experiment's flag after `last`.
pub(super) async fn versions(
    database: &Database,
    design: &Design,
    last: i64,
) -> Result<Vec<Version>, DatabaseError> {
    let newer: Vec<(i64, Option<String>, DateTime<Utc>)> = on_pool!(database, |pool, sql| {
        let newer = sqlx::query_as(sql(VERSIONS)).bind(&design.environment).bind(&design.flag_name);
        newer.bind(last).fetch_all(pool).await?
    });
    let version = |(version, definition, in_force_at): (i64, Option<String>, DateTime<Utc>)| Version {
        version: version.cast_unsigned(),
        draws: draws(definition.as_deref()),
        in_force_at,
    };
    Ok(newer.into_iter().map(version).collect())
}

/// Reads how the variants of an experiment were chosen. Texts of a newer version of flagstream that this one cannot read
/// are left out: their users count as unknown.
pub(super) async fn assignments(database: &Database, experiment: i64) -> Result<Assignments, DatabaseError> {
    let rows: Vec<(i64, String)> = on_pool!(database, |pool, sql| {
        sqlx::query_as(sql(ASSIGNMENTS)).bind(experiment).fetch_all(pool).await?
    });
    Ok(rows.into_iter().filter_map(|(key, text)| Some((key, Assignment::read(&text)?))).collect())
}

#[cfg(test)]
#[path = "aggregate_tests.rs"]
mod tests;
