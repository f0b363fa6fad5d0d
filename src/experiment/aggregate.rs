//! Recomputes the counts and results of experiments from their rows, one experiment after the other.
//!
//! Several processes can run this task. The one that advances an experiment's `due_at` counts it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::AssertSqlSafe;

use crate::database::{Database, DatabaseError, in_transaction, on_pool};
use crate::log_limit::limited;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

use super::design::{Design, Kind};
use super::freshness::{CountStart, CountedTopics, StoredResults};
use super::phases::{self, Version, phases};
use super::records::{Row, StoredExperiment, kept, read_row};
use super::results::{Conversions, Results, Status};
use super::start::discard;
use super::tally::{Phase, Sample, Tally, VariantTally};

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

const DUE: &str = kept!("WHERE due_at <= $1 ORDER BY due_at LIMIT 1");
const CLAIMED: &str = "UPDATE experiments SET due_at = $3 WHERE id = $1 AND due_at = $2";
const DONE: &str = "UPDATE experiments SET results = $2::jsonb, due_at = $3 WHERE id = $1 AND due_at = $4";
const VERSIONS: &str = "SELECT version, definition::text, in_force_at FROM feature_flag_versions
    WHERE environment = $1 AND name = $2 AND version > $3 ORDER BY version";
const EXPIRE: &str = "DELETE FROM experiment_conversions WHERE experiment_id = $1 AND occurred_at < $2
    AND NOT EXISTS (SELECT 1 FROM experiment_exposures AS e WHERE e.experiment_id = $1
        AND e.user_key = experiment_conversions.user_key)";
const EXPIRED: &str = "UPDATE experiments SET expired = expired + $2 WHERE id = $1";
const WAITING: &str = "SELECT count(*) FROM experiment_conversions AS c WHERE experiment_id = $1
    AND NOT EXISTS (SELECT 1 FROM experiment_exposures AS e WHERE e.experiment_id = $1 AND e.user_key = c.user_key)";
/// Deletes the `$2` waiting conversions that occurred first. Exactly as many rows, even if many occurred at the same time.
const DROP_OLDEST: &str = "DELETE FROM experiment_conversions WHERE experiment_id = $1 AND event_key IN (
    SELECT c.event_key FROM experiment_conversions AS c WHERE c.experiment_id = $1
        AND NOT EXISTS (SELECT 1 FROM experiment_exposures AS e WHERE e.experiment_id = $1 AND e.user_key = c.user_key)
    ORDER BY c.occurred_at, c.event_key LIMIT $2)";

/// Counts each user once per phase, in the first of the phase's variants that the user saw. A conversion belongs to the
/// user's last exposure before it. `{phase}` is replaced by the phase of a version, `{chosen}` by a condition that
/// selects the phase's variants: other variants that a rule of the flag may serve are ignored.
const TALLY: &str = "WITH seen AS (
        SELECT user_key, {phase} AS phase, variant, exposed_at, crossed FROM experiment_exposures
        WHERE experiment_id = $1
    ), ranked AS (
        SELECT seen.*, row_number() OVER (PARTITION BY user_key, phase ORDER BY exposed_at, variant) AS nth
        FROM seen WHERE {chosen}
    ), users AS (
        SELECT user_key, phase, min(exposed_at) AS exposed_at, max(CASE WHEN nth = 1 THEN variant END) AS variant,
            max(CASE WHEN crossed THEN 1 ELSE 0 END) AS crossed,
            CASE WHEN min(variant) <> max(variant) THEN 1 ELSE 0 END AS changed
        FROM ranked GROUP BY user_key, phase
    ), spans AS (
        SELECT users.*, lead(exposed_at) OVER (PARTITION BY user_key ORDER BY phase) AS until FROM users
    ), converted AS (
        SELECT s.phase, s.variant, c.metric,
            sum(CASE WHEN c.occurred_at >= s.exposed_at THEN 1 ELSE 0 END) AS after_count,
            sum(CASE WHEN c.occurred_at >= s.exposed_at THEN coalesce(c.value, 0) ELSE 0 END) AS after_sum,
            sum(CASE WHEN c.occurred_at < s.exposed_at THEN 1 ELSE 0 END) AS before_count,
            sum(CASE WHEN c.occurred_at < s.exposed_at THEN coalesce(c.value, 0) ELSE 0 END) AS before_sum
        FROM spans AS s JOIN experiment_conversions AS c ON c.experiment_id = $1 AND c.user_key = s.user_key
            AND c.occurred_at >= s.exposed_at - $2 AND c.occurred_at <= s.exposed_at + $2
            AND (s.until IS NULL OR c.occurred_at < s.until)
        GROUP BY s.phase, s.variant, c.metric, s.user_key
    )
    SELECT CAST(phase AS bigint), variant, NULL, count(*), CAST(sum(CASE WHEN crossed + changed > 0 THEN 1 ELSE 0 END)
        AS bigint), CAST(0 AS bigint), CAST(0 AS bigint), CAST(0 AS double precision), CAST(0 AS double precision),
        CAST(0 AS double precision), CAST(0 AS double precision), CAST(0 AS double precision)
    FROM users GROUP BY phase, variant
    UNION ALL
    SELECT CAST(phase AS bigint), variant, metric, CAST(sum(CASE WHEN after_count > 0 THEN 1 ELSE 0 END) AS bigint),
        CAST(sum(CASE WHEN before_count > 0 THEN 1 ELSE 0 END) AS bigint),
        CAST(sum(CASE WHEN after_count > 0 AND before_count > 0 THEN 1 ELSE 0 END) AS bigint),
        CAST(sum(after_count) AS bigint), CAST(sum(after_sum) AS double precision),
        CAST(sum(after_sum * after_sum) AS double precision), CAST(sum(before_sum) AS double precision),
        CAST(sum(before_sum * before_sum) AS double precision), CAST(sum(after_sum * before_sum) AS double precision)
    FROM converted GROUP BY phase, variant, metric";

/// A row of the tally: of one metric, or of all users.
type Line = (i64, String, Option<String>, i64, i64, i64, i64, f64, f64, f64, f64, f64);

/// Counts the experiments that are due, until `shutdown`.
pub async fn run(database: Database, topics: CountedTopics, metrics: Arc<Metrics>, shutdown: Shutdown) {
    let mut aggregate =
        Aggregation { database, topics, metrics, versions: AHashMap::new(), took: AHashMap::new() };
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
        let (tallies, conversions) = self.count(&kept).await?;
        let status = kept.experiment.status;
        let results = Results::of(kept.experiment, &tallies, conversions);
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
        Ok(true)
    }

    async fn count(&mut self, kept: &StoredExperiment) -> Result<(Vec<Tally>, Conversions), DatabaseError> {
        let phases = self.phases(kept).await?;
        let design = &kept.experiment.design;
        let window = TimeDelta::hours(design.window_hours.into());
        let expiry = expire(&self.database, kept.id, Utc::now() - window, WAITING_MAX).await?;
        let (expired, waiting) = (kept.expired + expiry.expired, expiry.waiting);
        let counted_at = Utc::now();
        let (chosen, names) = chosen(&phases);
        let question = TALLY.replace("{phase}", &phase_of_version(&phases)).replace("{chosen}", &chosen);
        let window = window.num_microseconds().unwrap_or(i64::MAX);
        let lines: Vec<Line> = on_pool!(&self.database, |pool, _sql| {
            let lines = sqlx::query_as(AssertSqlSafe(question)).bind(kept.id).bind(window);
            names.iter().fold(lines, |lines, name| lines.bind(*name)).fetch_all(pool).await?
        });
        let attributed: i64 = lines.iter().map(|line| line.6).sum();
        let tally = |phase: Phase| Tally { variants: variants(design, &phase, &lines), phase, counted_at };
        let tallies = phases.into_iter().map(tally).collect();
        let [attributed, waiting, expired] = [attributed, waiting, expired].map(i64::cast_unsigned);
        Ok((tallies, Conversions { attributed, waiting, expired }))
    }

    async fn phases(&mut self, kept: &StoredExperiment) -> Result<Vec<Phase>, DatabaseError> {
        let (experiment, design) = (&kept.experiment, &kept.experiment.design);
        let known = self.versions.entry(kept.id).or_default();
        let last = known.last().map_or(-1, |version| version.version.cast_signed());
        let newer: Vec<(i64, Option<String>, DateTime<Utc>)> = on_pool!(&self.database, |pool, sql| {
            let newer = sqlx::query_as(sql(VERSIONS)).bind(&design.environment).bind(&design.flag_name);
            newer.bind(last).fetch_all(pool).await?
        });
        known.extend(newer.into_iter().map(|(version, definition, in_force_at)| Version {
            version: version.cast_unsigned(),
            variants: definition.map(|definition| phases::variants(&definition)).unwrap_or_default(),
            in_force_at,
        }));
        Ok(phases(known, experiment.started_at, experiment.stopped_at))
    }
}

/// Result of deleting waiting conversions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expiry {
    /// Number of deleted conversions.
    expired: i64,
    /// Number of conversions that still wait for an exposure of their user.
    waiting: i64,
}

/// Deletes the waiting conversions of an experiment that occurred before `before`, and of the others the oldest ones
/// beyond `waiting_max`.
async fn expire(
    database: &Database,
    experiment: i64,
    before: DateTime<Utc>,
    waiting_max: i64,
) -> Result<Expiry, DatabaseError> {
    let before = before.timestamp_micros();
    let expiry = in_transaction!(database, |transaction, sql| {
        let expire = sqlx::query(sql(EXPIRE)).bind(experiment).bind(before);
        let mut expired = expire.execute(&mut *transaction).await?.rows_affected();
        let mut waiting: i64 =
            sqlx::query_scalar(sql(WAITING)).bind(experiment).fetch_one(&mut *transaction).await?;
        if waiting > waiting_max {
            let surplus = sqlx::query(sql(DROP_OLDEST)).bind(experiment).bind(waiting - waiting_max);
            let dropped = surplus.execute(&mut *transaction).await?.rows_affected();
            expired += dropped;
            waiting -= dropped.cast_signed();
        }
        if expired > 0 {
            let count = sqlx::query(sql(EXPIRED)).bind(experiment).bind(expired.cast_signed());
            count.execute(&mut *transaction).await?;
        }
        Expiry { expired: expired.cast_signed(), waiting }
    });
    Ok(expiry)
}

/// SQL expression for the phase of a flag version.
fn phase_of_version(phases: &[Phase]) -> String {
    let later = phases.iter().skip(1).rev();
    let cases: String = later
        .map(|phase| format!(" WHEN flag_version >= {} THEN {}", phase.first_version, phase.number))
        .collect();
    if cases.is_empty() { "1".to_owned() } else { format!("CASE{cases} ELSE 1 END") }
}

/// SQL condition for the variants of the phases, and the names to bind from the third parameter on.
fn chosen(phases: &[Phase]) -> (String, Vec<&str>) {
    let (mut conditions, mut names) = (vec!["1 = 0".to_owned()], Vec::new());
    for phase in phases {
        let first = names.len() + 3;
        names.extend(phase.variants.iter().map(|variant| variant.name.as_str()));
        let places: Vec<String> = (first..names.len() + 3).map(|place| format!("${place}")).collect();
        conditions.push(format!("(phase = {} AND variant IN ({}))", phase.number, places.join(", ")));
    }
    (conditions.join(" OR "), names)
}

fn variants(design: &Design, phase: &Phase, lines: &[Line]) -> Vec<VariantTally> {
    let line = |variant: &str, metric: Option<&str>| {
        let of_phase = |line: &&Line| line.0 == i64::from(phase.number);
        lines.iter().filter(of_phase).find(|line| line.1 == variant && line.2.as_deref() == metric)
    };
    let tally = |name: &str| {
        let (users, crossed) = line(name, None).map_or((0, 0), |line| (line.3, line.4));
        let users = users.cast_unsigned();
        let metrics = design.metrics.iter();
        VariantTally {
            variant: name.to_owned(),
            users,
            crossed: crossed.cast_unsigned(),
            samples: metrics
                .map(|metric| sample(users, metric.kind, line(name, Some(&metric.name))))
                .collect(),
        }
    };
    phase.variants.iter().map(|variant| tally(&variant.name)).collect()
}

fn sample(users: u64, kind: Kind, line: Option<&Line>) -> Sample {
    let Some((_, _, _, after, before, both, _, sum, squares, before_sum, before_squares, product)) = line
    else {
        return Sample { users, ..Sample::default() };
    };
    let converted = after.cast_unsigned();
    #[expect(clippy::cast_precision_loss, reason = "users, not atoms")]
    let count = |count: &i64| *count as f64;
    match kind {
        Kind::Conversion => Sample {
            users,
            converted,
            sum: count(after),
            sum_of_squares: count(after),
            before_sum: count(before),
            before_sum_of_squares: count(before),
            product_sum: count(both),
        },
        Kind::Mean => Sample {
            users,
            converted,
            sum: *sum,
            sum_of_squares: *squares,
            before_sum: *before_sum,
            before_sum_of_squares: *before_squares,
            product_sum: *product,
        },
    }
}

#[cfg(test)]
#[path = "aggregate_tests.rs"]
mod tests;
