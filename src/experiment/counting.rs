//! Counts exposures and conversions of an experiment in the database, in one statement.
//!
//! ```text
//!  exposures ─► spans (one row per user and phase) ─┬─► users
//!  conversions ─────────────────────────────────────┴─► joined ─┬─► values per user ─► mean and scatter per group
//!                                 measures (of the metrics) ────┴─► conversions by outcome
//! ```
//!
//! `flagstream_experiments::rows` counts the same in memory, and tests compare both.

mod dimensions;
mod parts;
mod statement;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::AssertSqlSafe;

use crate::database::{Database, DatabaseError};

use super::counts::{ConversionLine, Counts, Group, MetricLine, Seen, UserLine};
use super::design::{Cap, Design, Kind};
use super::statistics::quantile;
use super::tally::{Phase, QuantileSample, Tally};
use super::{Assignments, Draws};

use dimensions::Split;
use parts::{PARTS_FROM, Part, sample};
use statement::{CAPPED, SQLITE_MOMENTS};

const MICROSECONDS_PER_HOUR: i64 = 3_600_000_000;

/// Kinds of rows of the answer; 2 are values.
const USERS: i64 = 0;
const FINISHED: i64 = 1;
const CONVERSIONS: i64 = 3;
const WAITING: i64 = 4;

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
    /// Attribute by which rows are counted separately. `None`: all together.
    pub split: Option<Split<'q>>,
}

impl Question<'_> {
    /// Counts users, values and conversions.
    pub(super) async fn count(&self, database: &Database) -> Result<Counts, DatabaseError> {
        let caps = self.caps(database).await?;
        Ok(self.counts(self.lines(database, &caps).await?))
    }

    /// Rows of a count. `caps`: largest value of a user for each metric.
    async fn lines(&self, database: &Database, caps: &[Option<f64>]) -> Result<Vec<Line>, DatabaseError> {
        Ok(match database {
            Database::Postgres(postgres) => self.lines_of_postgres(&postgres.pool, caps, PARTS_FROM).await?,
            Database::Sqlite(sqlite) => {
                let statement = self.statement(caps, SQLITE_MOMENTS, false, Part::All);
                let query = sqlx::query_as(AssertSqlSafe(statement.text)).bind(self.experiment);
                let query = statement.events.iter().fold(query, |query, event| query.bind(event));
                query.fetch_all(&sqlite.pool).await?
            }
        })
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
            spans = self.spans(false, "", Part::All),
            converted = self.converted("", Part::All),
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
            {converted}, ordered AS (SELECT v, row_number() OVER (ORDER BY v) AS rank, count(*) OVER () AS total
                FROM converted WHERE n > 0 AND ({condition}) AND ($%NAME% = '' OR variant = $%NAME%))
            SELECT {a}, {b}, {c} FROM ordered",
            spans = self.spans(false, "", Part::All),
            converted = self.converted("", Part::All),
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

    fn counts(&self, lines: Vec<Line>) -> Counts {
        let (mut counts, ends) = (Counts::default(), self.ends());
        let mut finished: Vec<(Group, usize, u64)> = Vec::new();
        for line in lines {
            let sample = sample(&line);
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
                WAITING => counts.waiting += a,
                CONVERSIONS => counts.conversions.push(ConversionLine {
                    group,
                    attributed: a,
                    before_exposure: b,
                    after_window: c,
                }),
                _ => {
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

/// Draws of a definition, or none if it was deleted.
pub(super) fn draws(definition: Option<&str>) -> Draws {
    definition.map(Draws::read).unwrap_or_default()
}

#[cfg(test)]
#[path = "counting_tests.rs"]
mod tests;
