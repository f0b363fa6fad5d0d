//! Counts exposures and conversions of an experiment in the database, in one statement.
//!
//! ```text
//!  exposures ─► spans (one row per user and phase) ──┬─► users
//!  measures (of the metrics) ──► conversions ────────┼─► values per user ─► mean and scatter per group
//!                                                    └─► conversions by outcome
//! ```
//!
//! `flagstream_experiments::rows` counts the same in memory, and tests compare both.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::AssertSqlSafe;

use crate::database::{Database, DatabaseError};

use super::counts::{ConversionLine, Counts, Group, MetricLine, Seen, UserLine};
use super::design::{Cap, Design, Kind};
use super::statistics::quantile;
use super::tally::{Phase, QuantileSample, Sample, Tally};
use super::{Assignments, Draws};

/// Memory of each sort and hash table of a count in Postgres.
const COUNT_MEMORY: &str = "SET LOCAL work_mem = '64MB'";
const MICROSECONDS_PER_HOUR: i64 = 3_600_000_000;

/// Whether all exposures are of one version of the flag.
const ONE_VERSION: &str =
    "SELECT coalesce(min(flag_version) = max(flag_version), true) FROM experiment_exposures
    WHERE experiment_id = $1";

/// What a row of the answer counts.
const USERS: i64 = 0;
const FINISHED: i64 = 1;
const VALUES: i64 = 2;
const CONVERSIONS: i64 = 3;

/// A row of the answer: what, phase, variant, assignment, seen, metric or window, three counts, and six numbers.
type Line = (
    i64,
    i64,
    String,
    Option<i64>,
    i64,
    i64,
    i64,
    i64,
    i64,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
);

/// Inputs of a count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'q> {
    pub experiment: i64,
    pub design: &'q Design,
    pub phases: &'q [Phase],
    /// Tolerated difference between clocks.
    pub clock_skew: TimeDelta,
    pub counted_at: DateTime<Utc>,
}

/// Statement with the texts to bind after the experiment's id.
struct Statement {
    text: String,
    events: Vec<String>,
}

impl Question<'_> {
    /// Counts users, values and conversions.
    pub(super) async fn count(&self, database: &Database) -> Result<Counts, DatabaseError> {
        let caps = self.caps(database).await?;
        let lines: Vec<Line> = match database {
            Database::Postgres(postgres) => {
                let mut transaction = postgres.pool.begin().await?;
                // One snapshot for both statements.
                for setting in ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", COUNT_MEMORY] {
                    sqlx::query(setting).execute(&mut *transaction).await?;
                }
                let one: bool = sqlx::query_scalar(ONE_VERSION)
                    .bind(self.experiment)
                    .fetch_one(&mut *transaction)
                    .await?;
                let statement = self.statement(&caps, POSTGRES_MOMENTS, one);
                let query = sqlx::query_as(AssertSqlSafe(statement.text)).bind(self.experiment);
                let query = statement.events.iter().fold(query, |query, event| query.bind(event));
                let lines = query.fetch_all(&mut *transaction).await?;
                transaction.commit().await?;
                lines
            }
            Database::Sqlite(sqlite) => {
                let statement = self.statement(&caps, SQLITE_MOMENTS, false);
                let query = sqlx::query_as(AssertSqlSafe(statement.text)).bind(self.experiment);
                let query = statement.events.iter().fold(query, |query, event| query.bind(event));
                query.fetch_all(&sqlite.pool).await?
            }
        };
        Ok(self.counts(lines))
    }

    /// Sets the quantiles of the metrics that compare one.
    pub(super) async fn add_quantiles(
        &self,
        database: &Database,
        counts: &Counts,
        assignments: &Assignments,
        tallies: &mut [Tally],
    ) -> Result<(), DatabaseError> {
        for (index, metric) in self.design.metrics.iter().enumerate() {
            let Some(share) = metric.quantile.filter(|_| metric.kind == Kind::Quantile) else { continue };
            for tally in &mut *tallies {
                let phase = tally.phase.clone();
                for stratum in &mut tally.strata {
                    for variant in &mut stratum.variants {
                        let groups =
                            counts.groups(self.design, &phase, assignments, &stratum.list, &variant.variant);
                        let Some(sample) = variant.samples.get_mut(index).filter(|of| of.users > 0) else {
                            continue;
                        };
                        let shares = quantile::shares(share, sample.users);
                        let filter = groups.iter().map(condition).collect::<Vec<_>>().join(" OR ");
                        let [value, low, high] =
                            self.ranks(database, index, shares, &filter, groups.first()).await?;
                        sample.quantile = value
                            .zip(low)
                            .zip(high)
                            .map(|((value, low), high)| QuantileSample { value, low, high });
                    }
                }
            }
        }
        Ok(())
    }

    /// Statement for the users of each phase, or for their values, with the texts to bind after the experiment's id.
    pub(super) async fn rows(
        &self,
        database: &Database,
        select: &str,
    ) -> Result<(String, Vec<String>), DatabaseError> {
        let caps = self.caps(database).await?;
        let (measures, events) = self.measures(&caps, None);
        let text = format!(
            "WITH {spans}, measures(metric, event, side, kind, paired, delay, ends, length, cut, cap) AS (VALUES {measures}),
            {converted}, {CAPPED} {select}",
            spans = self.spans(false),
            converted = self.converted(),
        );
        Ok((text, events))
    }

    /// Largest value of a user for each metric.
    async fn caps(&self, database: &Database) -> Result<Vec<Option<f64>>, DatabaseError> {
        let mut caps = Vec::new();
        for (index, metric) in self.design.metrics.iter().enumerate() {
            caps.push(match metric.cap {
                Some(Cap::Value(value)) => Some(value),
                Some(Cap::Percentile(share)) => self.percentile(database, index, share).await?,
                None => None,
            });
        }
        Ok(caps)
    }

    /// Value below which this share of the users' values lies, over all variants.
    async fn percentile(
        &self,
        database: &Database,
        metric: usize,
        share: f64,
    ) -> Result<Option<f64>, DatabaseError> {
        let [value, ..] = self.ranks(database, metric, [share; 3], "1 = 1", None).await?;
        Ok(value)
    }

    /// Values of these ranks, as shares, among the users' values that fulfil a condition.
    async fn ranks(
        &self,
        database: &Database,
        metric: usize,
        shares: [f64; 3],
        condition: &str,
        group: Option<&Group>,
    ) -> Result<[Option<f64>; 3], DatabaseError> {
        let (measures, mut events) = self.measures(&[], Some(metric));
        let variant = events.len() + 2;
        let [a, b, c] = shares.map(|share| {
            format!("CAST(max(CASE WHEN rank - 1 < {share:e} * total THEN v END) AS double precision)")
        });
        let text = format!(
            "WITH {spans}, measures(metric, event, side, kind, paired, delay, ends, length, cut, cap) AS (VALUES {measures}),
            {converted}, ranked AS (SELECT v, row_number() OVER (ORDER BY v) AS rank, count(*) OVER () AS total
                FROM converted WHERE n > 0 AND ({condition}) AND ($%NAME% = '' OR variant = $%NAME%))
            SELECT {a}, {b}, {c} FROM ranked",
            spans = self.spans(false),
            converted = self.converted(),
        );
        let text = text.replace("$%NAME%", &format!("CAST(${variant} AS text)"));
        events.push(group.map(|group| group.variant.clone()).unwrap_or_default());
        let row: (Option<f64>, Option<f64>, Option<f64>) = match database {
            Database::Postgres(postgres) => {
                let query = sqlx::query_as(AssertSqlSafe(text)).bind(self.experiment);
                events.iter().fold(query, |query, event| query.bind(event)).fetch_one(&postgres.pool).await?
            }
            Database::Sqlite(sqlite) => {
                let query = sqlx::query_as(AssertSqlSafe(text)).bind(self.experiment);
                events.iter().fold(query, |query, event| query.bind(event)).fetch_one(&sqlite.pool).await?
            }
        };
        Ok([row.0, row.1, row.2])
    }

    fn statement(&self, caps: &[Option<f64>], moments: &str, one_version: bool) -> Statement {
        let (measures, events) = self.measures(caps, None);
        let windows = self.ends();
        let finished = windows.iter().enumerate().map(|(index, hours)| {
            let cut = self.cut(*hours);
            format!(
                "UNION ALL SELECT {FINISHED}, phase, variant, assignment, seen, {index}, count(*), 0, 0{NO_MOMENTS}
                FROM spans WHERE exposed_at <= {cut} GROUP BY phase, variant, assignment, seen"
            )
        });
        let finished: Vec<String> = finished.collect();
        let skew = self.skew();
        let text = format!(
            "WITH {spans}, measures(metric, event, side, kind, paired, delay, ends, length, cut, cap) AS (VALUES {measures}),
            windows AS (SELECT event, min(delay) AS delay, max(ends) AS ends FROM measures GROUP BY event),
            {converted}, {CAPPED}, outcomes AS (
                SELECT s.phase, s.variant, s.assignment, s.seen,
                    CASE WHEN c.occurred_at < s.first_at - {skew} THEN 0
                        WHEN ({OFFSET}) BETWEEN w.delay AND w.ends THEN 1 ELSE 2 END AS outcome
                FROM spans AS s JOIN experiment_conversions AS c ON c.experiment_id = $1 AND c.user_key = s.user_key
                    JOIN windows AS w ON w.event = c.metric
                WHERE ({BELONGS}) OR (c.occurred_at < s.first_at - {skew} AND s.exposed_at = s.first_at)
            )
            SELECT CAST({USERS} AS bigint), CAST(phase AS bigint), variant, assignment, CAST(seen AS bigint),
                CAST(0 AS bigint), CAST(count(*) AS bigint), CAST(0 AS bigint), CAST(0 AS bigint){NO_MOMENTS}
            FROM spans GROUP BY phase, variant, assignment, seen
            {finished}
            UNION ALL SELECT {CONVERSIONS}, phase, variant, assignment, seen, 0,
                sum(CASE WHEN outcome = 1 THEN 1 ELSE 0 END), sum(CASE WHEN outcome = 0 THEN 1 ELSE 0 END),
                sum(CASE WHEN outcome = 2 THEN 1 ELSE 0 END){NO_MOMENTS}
            FROM outcomes GROUP BY phase, variant, assignment, seen
            {moments}",
            spans = self.spans(one_version),
            finished = finished.join("\n"),
            converted = self.converted(),
            BELONGS = self.belongs(),
        );
        Statement { text, events }
    }

    /// One row per user and phase: the first exposure determines variant and assignment.
    fn spans(&self, one_version: bool) -> String {
        let seen = "CASE WHEN crossed + changed > 0 THEN 1 WHEN before <> variant THEN 2 ELSE 0 END";
        // With one version every user has one row, which Postgres reads where it is needed.
        if one_version {
            return format!(
                "spans AS NOT MATERIALIZED (SELECT user_key, {phase} AS phase, variant, assignment, exposed_at, exposed_at AS first_at,
                    exposed_at - {skew} AS starts_at, CAST(NULL AS bigint) AS until,
                    CASE WHEN crossed THEN 1 ELSE 0 END AS seen
                FROM experiment_exposures WHERE experiment_id = $1)",
                phase = phase_of_version(self.phases),
                skew = self.skew()
            );
        }
        format!(
            "seen AS (
                SELECT user_key, {phase} AS phase, variant, assignment, exposed_at, crossed FROM experiment_exposures
                WHERE experiment_id = $1
            ), ranked AS (
                SELECT seen.*, row_number() OVER (PARTITION BY user_key, phase ORDER BY exposed_at, variant) AS nth FROM seen
            ), users AS (
                SELECT user_key, phase, min(exposed_at) AS exposed_at, max(CASE WHEN nth = 1 THEN variant END) AS variant,
                    max(CASE WHEN nth = 1 THEN assignment END) AS assignment,
                    max(CASE WHEN crossed THEN 1 ELSE 0 END) AS crossed,
                    CASE WHEN min(variant) <> max(variant) THEN 1 ELSE 0 END AS changed
                FROM ranked GROUP BY user_key, phase
            ), chained AS (
                SELECT users.*, min(exposed_at) OVER (PARTITION BY user_key) AS first_at,
                    lead(exposed_at) OVER (PARTITION BY user_key ORDER BY phase) AS until,
                    min(variant) OVER (PARTITION BY user_key ORDER BY phase
                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
                    max(variant) OVER (PARTITION BY user_key ORDER BY phase
                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before_too
                FROM users
            ), spans AS (
                SELECT user_key, phase, variant, assignment, exposed_at, first_at,
                    CASE WHEN exposed_at = first_at THEN exposed_at - {skew} ELSE exposed_at END AS starts_at, until,
                    {seen} AS seen
                FROM chained
            )",
            phase = phase_of_version(self.phases),
            skew = self.skew(),
            seen = seen.replace("before <> variant", "before <> variant OR before_too <> variant"),
        )
    }

    /// Values of each user for each metric.
    fn converted(&self) -> String {
        let after = format!("({}) AND ({OFFSET}) BETWEEN m.delay AND m.ends", self.belongs());
        let before = format!(
            "m.paired = 0 AND c.occurred_at >= s.first_at - {skew} - m.length AND c.occurred_at < s.first_at - {skew}",
            skew = self.skew()
        );
        // A conversion without a value counts as 1 in a ratio.
        let value = "coalesce(c.value, CASE WHEN m.kind = 2 THEN 1.0 ELSE 0.0 END)";
        format!(
            "converted AS (
                SELECT s.user_key, s.phase, s.variant, s.assignment, s.seen, m.metric, m.kind, m.cap,
                    sum(CASE WHEN m.side = 0 AND {after} THEN 1 ELSE 0 END) AS n,
                    sum(CASE WHEN m.side = 0 AND {after} THEN {value} ELSE 0.0 END) AS v,
                    sum(CASE WHEN m.side = 1 OR {before} THEN 1 ELSE 0 END) AS other_n,
                    sum(CASE WHEN m.side = 1 OR {before} THEN {value} ELSE 0.0 END) AS other_v
                FROM spans AS s JOIN experiment_conversions AS c ON c.experiment_id = $1 AND c.user_key = s.user_key
                    JOIN measures AS m ON m.event = c.metric
                WHERE (({after}) OR ({before})) AND s.exposed_at <= m.cut AND NOT (m.kind = 0 AND coalesce(c.value, 1) = 0)
                GROUP BY s.phase, s.variant, s.assignment, s.seen, m.metric, m.kind, m.cap, s.user_key
            )"
        )
    }

    /// Condition: the conversion `c` belongs to the phase of the user `s`.
    fn belongs(&self) -> &'static str {
        "c.occurred_at >= s.starts_at AND (s.until IS NULL OR c.occurred_at < s.until)"
    }

    /// Rows of the measures, and the events to bind from the second parameter on. A ratio has a second measure for its
    /// denominator.
    fn measures(&self, caps: &[Option<f64>], only: Option<usize>) -> (String, Vec<String>) {
        let (mut rows, mut events) = (Vec::new(), Vec::new());
        for (index, metric) in self.design.metrics.iter().enumerate() {
            if only.is_some_and(|only| only != index) {
                continue;
            }
            let kind = match metric.kind {
                Kind::Conversion | Kind::Retention => 0,
                Kind::Count => 1,
                Kind::Ratio => 2,
                Kind::Mean | Kind::Quantile => 3,
            };
            let paired = i32::from(matches!(metric.kind, Kind::Ratio | Kind::Quantile));
            let hours = self.design.ends_after_hours(metric);
            let [delay, ends] = [metric.delay_hours, hours].map(micros);
            let cut = if self.design.finished_windows { self.cut(hours) } else { i64::MAX };
            let cap = match caps.get(index).copied().flatten() {
                Some(cap) => format!("CAST({cap:e} AS double precision)"),
                None => "CAST(NULL AS double precision)".to_owned(),
            };
            let sides = [Some(metric.event()), metric.denominator.as_deref()];
            for (side, event) in sides.iter().enumerate().filter_map(|(side, event)| Some((side, (*event)?)))
            {
                events.push(event.to_owned());
                let place = events.len() + 1;
                let mut row = String::new();
                // Writing to a string cannot fail.
                let _ = write!(
                    row,
                    "({index}, CAST(${place} AS text), {side}, {kind}, {paired}, CAST({delay} AS bigint), \
                     CAST({ends} AS bigint), CAST({length} AS bigint), CAST({cut} AS bigint), {cap})",
                    length = ends - delay,
                );
                rows.push(row);
            }
        }
        (rows.join(", "), events)
    }

    /// Different ends of the metrics' windows, in hours.
    fn ends(&self) -> Vec<u32> {
        let mut ends: Vec<u32> =
            self.design.metrics.iter().map(|metric| self.design.ends_after_hours(metric)).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// Latest exposure whose window of this length is over.
    fn cut(&self, hours: u32) -> i64 {
        self.counted_at.timestamp_micros() - micros(hours)
    }

    fn skew(&self) -> i64 {
        self.clock_skew.num_microseconds().unwrap_or(0)
    }

    fn counts(&self, lines: Vec<Line>) -> Counts {
        let (mut counts, ends) = (Counts::default(), self.ends());
        let mut finished: Vec<(Group, usize, u64)> = Vec::new();
        for line in lines {
            let (what, phase, variant, assignment, seen, index, a, b, c, ..) = line;
            let seen = match seen {
                0 => Seen::One,
                1 => Seen::Crossed,
                _ => Seen::Changed,
            };
            let group = Group { phase: u32::try_from(phase).unwrap_or(1), variant, assignment, seen };
            let [a, b, c] = [a, b, c].map(i64::cast_unsigned);
            let index = usize::try_from(index).unwrap_or_default();
            match what {
                USERS => counts.users.push(UserLine { group, users: a, finished: Vec::new() }),
                FINISHED => finished.push((group, index, a)),
                CONVERSIONS => counts.conversions.push(ConversionLine {
                    group,
                    attributed: a,
                    before_exposure: b,
                    after_window: c,
                }),
                _ => {
                    let numbers =
                        [line.9, line.10, line.11, line.12, line.13, line.14].map(Option::unwrap_or_default);
                    let [mean, scatter, other_mean, other_scatter, product_scatter, largest] = numbers;
                    let sample = Sample {
                        users: a,
                        converted: b,
                        mean,
                        scatter,
                        other_mean,
                        other_scatter,
                        product_scatter,
                        largest,
                        ..Sample::default()
                    };
                    counts.metrics.push(MetricLine { group, metric: index, sample });
                }
            }
        }
        for line in &mut counts.users {
            let of_metric = |metric| {
                let window = ends.iter().position(|end| *end == self.design.ends_after_hours(metric));
                let found =
                    finished.iter().find(|(group, index, _)| *group == line.group && Some(*index) == window);
                found.map_or(0, |(.., users)| *users)
            };
            line.finished = self.design.metrics.iter().map(of_metric).collect();
        }
        counts
    }
}

/// Time from the exposure of `s` to the conversion `c`; 0 for one that the clocks put before it.
const OFFSET: &str = "CASE WHEN c.occurred_at > s.exposed_at THEN c.occurred_at - s.exposed_at ELSE 0 END";
/// Value and other value of each user, by the kind of the metric.
const CAPPED: &str = "capped AS (
        SELECT user_key, phase, variant, assignment, seen, metric, n,
            CASE kind WHEN 0 THEN CASE WHEN n > 0 THEN 1.0 ELSE 0.0 END
                WHEN 1 THEN CASE WHEN n > cap THEN cap ELSE n END ELSE CASE WHEN v > cap THEN cap ELSE v END END AS y,
            CASE kind WHEN 0 THEN CASE WHEN other_n > 0 THEN 1.0 ELSE 0.0 END
                WHEN 1 THEN CASE WHEN other_n > cap THEN cap ELSE other_n END
                ELSE CASE WHEN other_v > cap THEN cap ELSE other_v END END AS x
        FROM converted
    )";
const NO_MOMENTS: &str = ", CAST(NULL AS double precision), CAST(NULL AS double precision),
    CAST(NULL AS double precision), CAST(NULL AS double precision), CAST(NULL AS double precision),
    CAST(NULL AS double precision)";
/// Postgres computes means and scatter with the algorithm of Youngs and Cramer, which keeps the precision.
const POSTGRES_MOMENTS: &str = "UNION ALL SELECT 2, phase, variant, assignment, seen, metric, count(*),
        sum(CASE WHEN n > 0 THEN 1 ELSE 0 END), 0, regr_avgy(y, x), regr_syy(y, x), regr_avgx(y, x), regr_sxx(y, x),
        regr_sxy(y, x), max(abs(y))
    FROM capped GROUP BY phase, variant, assignment, seen, metric";
/// SQLite has no such functions. The deviations from the mean are summed in a second pass.
const SQLITE_MOMENTS: &str = "UNION ALL SELECT 2, phase, variant, assignment, seen, metric, count(*),
        sum(CASE WHEN n > 0 THEN 1 ELSE 0 END), 0, max(my), sum((y - my) * (y - my)), max(mx), sum((x - mx) * (x - mx)),
        sum((y - my) * (x - mx)), max(abs(y))
    FROM (SELECT capped.*, avg(y) OVER place AS my, avg(x) OVER place AS mx FROM capped
        WINDOW place AS (PARTITION BY phase, variant, assignment, seen, metric))
    GROUP BY phase, variant, assignment, seen, metric";

fn micros(hours: u32) -> i64 {
    i64::from(hours) * MICROSECONDS_PER_HOUR
}

/// SQL condition for the users of a group, except their variant.
fn condition(group: &Group) -> String {
    let assignment = match group.assignment {
        Some(key) => format!("= {key}"),
        None => "IS NULL".to_owned(),
    };
    let seen = match group.seen {
        Seen::One => 0,
        Seen::Crossed => 1,
        Seen::Changed => 2,
    };
    format!("(phase = {} AND assignment {assignment} AND seen = {seen})", group.phase)
}

/// SQL expression for the phase of a flag version.
fn phase_of_version(phases: &[Phase]) -> String {
    let later = phases.iter().skip(1).rev();
    let cases: String = later
        .map(|phase| format!(" WHEN flag_version >= {} THEN {}", phase.first_version, phase.number))
        .collect();
    if cases.is_empty() { "1".to_owned() } else { format!("CASE{cases} ELSE 1 END") }
}

/// Draws of a definition, or none if it was deleted.
pub(super) fn draws(definition: Option<&str>) -> Draws {
    definition.map(Draws::read).unwrap_or_default()
}

#[cfg(test)]
#[path = "counting_tests.rs"]
mod tests;
