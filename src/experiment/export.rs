//! Export of an experiment's rows as CSV, for the tools of analysts.
//!
//! ```text
//!  exposures.csv    one line per user and phase: variant, how it was chosen, stratum, whether the user is compared
//!  conversions.csv  one line per conversion
//!  values.csv       one line per user, phase and metric with a value: what the statistics are computed from
//! ```
//!
//! Users are the keys of the tables, never the users' ids.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::TryStreamExt;
use serde::Serialize;
use sqlx::AssertSqlSafe;

use crate::config::Config;
use crate::database::{Database, DatabaseError, on_pool};

use super::Assignments;
use super::aggregate::{assignments, versions};
use super::counting::Question;
use super::counts::{Eligibility, Group, Seen, eligibility};
use super::phases::phases;
use super::records::{Row, StoredExperiment, kept, read_row};
use super::tally::Tally;

const FIND: &str = kept!("WHERE environment = $1 AND name = $2 AND NOT backfilling");
const CONVERSIONS: &str =
    "SELECT user_key, metric, value, occurred_at, metadata::text FROM experiment_conversions
    WHERE experiment_id = $1 ORDER BY occurred_at, event_key";
const USERS: &str =
    "SELECT user_key, CAST(phase AS bigint), variant, assignment, CAST(seen AS bigint), exposed_at
    FROM spans ORDER BY user_key, phase";
const VALUES: &str = "SELECT user_key, CAST(phase AS bigint), variant, assignment, CAST(seen AS bigint),
    CAST(metric AS bigint), CAST(y AS double precision), CAST(x AS double precision), CAST(n AS bigint)
    FROM capped ORDER BY metric, phase, user_key";

type User = (Vec<u8>, i64, String, Option<i64>, i64, i64);
type Value = (Vec<u8>, i64, String, Option<i64>, i64, i64, f64, f64, i64);
type Converted = (Vec<u8>, String, Option<f64>, i64, Option<String>);

/// Number of lines of each file, without the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Exported {
    pub exposures: u64,
    pub conversions: u64,
    pub values: u64,
    /// Time of the count that the values belong to.
    pub counted_at: DateTime<Utc>,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("there is no experiment of this name in this environment")]
    Unknown,
    #[error("the database request failed: {0}")]
    Database(#[from] DatabaseError),
    #[error("a file cannot be written: {0}")]
    File(#[from] io::Error),
}

impl From<sqlx::Error> for ExportError {
    fn from(error: sqlx::Error) -> Self {
        DatabaseError::from(error).into()
    }
}

/// A CSV file that is being written.
struct Csv {
    out: BufWriter<File>,
    lines: u64,
}

impl Csv {
    fn create(folder: &Path, name: &str, head: &[&str]) -> io::Result<Self> {
        let mut csv = Self { out: BufWriter::new(File::create(folder.join(name))?), lines: 0 };
        csv.line(head.iter().copied())?;
        csv.lines = 0;
        Ok(csv)
    }

    fn line<'c>(&mut self, cells: impl Iterator<Item = &'c str>) -> io::Result<()> {
        for (index, cell) in cells.enumerate() {
            let separator = if index == 0 { "" } else { "," };
            if cell.contains(['"', ',', '\n', '\r']) {
                write!(self.out, "{separator}\"{}\"", cell.replace('"', "\"\""))?;
            } else {
                write!(self.out, "{separator}{cell}")?;
            }
        }
        self.lines += 1;
        writeln!(self.out)
    }

    fn finish(mut self) -> io::Result<u64> {
        self.out.flush()?;
        Ok(self.lines)
    }
}

/// Properties of an experiment that are known before its rows are read.
struct Source<'s> {
    question: Question<'s>,
    tallies: Vec<Tally>,
    assignments: Assignments,
}

/// Writes the rows of an experiment to `folder`.
pub async fn export(
    database: &Database,
    config: &Config,
    environment: &str,
    name: &str,
    folder: &Path,
) -> Result<Exported, ExportError> {
    let row: Option<Row> = on_pool!(database, |pool, sql| {
        sqlx::query_as(sql(FIND)).bind(environment).bind(name).fetch_optional(pool).await?
    });
    let kept = row.map(read_row).transpose()?.ok_or(ExportError::Unknown)?;
    let StoredExperiment { id, experiment, .. } = kept;
    let design = &experiment.design;
    let versions = versions(database, design, -1).await?;
    let phases = phases(&versions, &design.control, experiment.started_at, experiment.stopped_at);
    let (counted_at, clock_skew) = (Utc::now(), config.experiments.clock_skew());
    let question = Question { experiment: id, design, phases: &phases, clock_skew, counted_at, split: None };
    let counts = question.count(database).await?;
    let assignments = assignments(database, id).await?;
    let tallies = counts.tallies(design, phases.clone(), &assignments, counted_at);
    let source = Source { question, tallies, assignments };
    Ok(Exported {
        exposures: source.exposures(database, folder).await?,
        conversions: source.conversions(database, folder).await?,
        values: source.values(database, folder).await?,
        counted_at,
    })
}

impl Source<'_> {
    async fn exposures(&self, database: &Database, folder: &Path) -> Result<u64, ExportError> {
        let head = [
            "user",
            "phase",
            "variant",
            "how",
            "rule",
            "weights",
            "stratum",
            "compared",
            "seen",
            "exposed_at",
        ];
        let mut csv = Csv::create(folder, "exposures.csv", &head)?;
        let (text, events) = self.question.rows(database, USERS).await?;
        on_pool!(database, |pool, _sql| {
            let query = sqlx::query_as(AssertSqlSafe(text)).bind(self.question.experiment);
            let mut users = events.iter().fold(query, |query, event| query.bind(event)).fetch(pool);
            while let Some((user, phase, variant, assignment, seen, at)) =
                users.try_next().await? as Option<User>
            {
                let group = group(phase, variant, assignment, seen);
                let (stratum, compared) = self.eligibility(&group);
                let known = group.assignment.and_then(|key| self.assignments.get(&key));
                let (how, rule, weights) = match known {
                    Some(of) => (
                        if of.list().is_some() { "drawn" } else { "forced" },
                        of.rule.map(|rule| rule.to_string()).unwrap_or_default(),
                        serde_json::to_string(&of.weights).unwrap_or_default(),
                    ),
                    None => ("not recorded", String::new(), String::new()),
                };
                let (user, phase, at) = (hex(&user), group.phase.to_string(), time(at));
                let seen = match group.seen {
                    Seen::One => "one",
                    Seen::Crossed => "crossed",
                    Seen::Changed => "changed",
                };
                csv.line(
                    [
                        user.as_str(),
                        &phase,
                        &group.variant,
                        how,
                        &rule,
                        &weights,
                        &stratum,
                        compared,
                        seen,
                        &at,
                    ]
                    .into_iter(),
                )?;
            }
        });
        Ok(csv.finish()?)
    }

    async fn conversions(&self, database: &Database, folder: &Path) -> Result<u64, ExportError> {
        let head = ["user", "metric", "value", "occurred_at", "metadata"];
        let mut csv = Csv::create(folder, "conversions.csv", &head)?;
        on_pool!(database, |pool, sql| {
            let mut rows = sqlx::query_as(sql(CONVERSIONS)).bind(self.question.experiment).fetch(pool);
            while let Some((user, metric, value, at, metadata)) = rows.try_next().await? as Option<Converted>
            {
                let value = value.map(|value| value.to_string()).unwrap_or_default();
                let metadata = metadata.unwrap_or_default();
                csv.line([hex(&user).as_str(), &metric, &value, &time(at), &metadata].into_iter())?;
            }
        });
        Ok(csv.finish()?)
    }

    async fn values(&self, database: &Database, folder: &Path) -> Result<u64, ExportError> {
        let head =
            ["user", "phase", "variant", "stratum", "compared", "metric", "value", "other", "converted"];
        let mut csv = Csv::create(folder, "values.csv", &head)?;
        let (text, events) = self.question.rows(database, VALUES).await?;
        on_pool!(database, |pool, _sql| {
            let query = sqlx::query_as(AssertSqlSafe(text)).bind(self.question.experiment);
            let mut rows = events.iter().fold(query, |query, event| query.bind(event)).fetch(pool);
            while let Some(row) = rows.try_next().await? as Option<Value> {
                let (user, phase, variant, assignment, seen, metric, value, other, converted) = row;
                let group = group(phase, variant, assignment, seen);
                let (stratum, compared) = self.eligibility(&group);
                let metric = usize::try_from(metric).ok().and_then(|at| self.question.design.metrics.get(at));
                let metric = metric.map_or("", |metric| metric.name.as_str());
                // Rust prints the shortest text that is read as the same number.
                let [value, other] = [value, other].map(|number| number.to_string());
                let (user, phase, converted) = (hex(&user), group.phase.to_string(), converted.to_string());
                csv.line(
                    [
                        user.as_str(),
                        &phase,
                        &group.variant,
                        &stratum,
                        compared,
                        metric,
                        &value,
                        &other,
                        &converted,
                    ]
                    .into_iter(),
                )?;
            }
        });
        Ok(csv.finish()?)
    }

    /// Number of the stratum, or the reason why the users of the group are not compared.
    fn eligibility(&self, group: &Group) -> (String, &'static str) {
        let tally = self.tallies.iter().find(|tally| tally.phase.number == group.phase);
        let eligibility =
            tally.map(|tally| eligibility(self.question.design, tally, &self.assignments, group));
        match eligibility {
            Some(Eligibility::Stratum(index)) => ((index + 1).to_string(), "yes"),
            Some(Eligibility::Excluded(reason)) => (String::new(), reason),
            None => (String::new(), "unknown"),
        }
    }
}

fn group(phase: i64, variant: String, assignment: Option<i64>, seen: i64) -> Group {
    let seen = match seen {
        0 => Seen::One,
        1 => Seen::Crossed,
        _ => Seen::Changed,
    };
    Group { phase: u32::try_from(phase).unwrap_or(1), variant, assignment, seen }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn time(micros: i64) -> String {
    let at = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_need_it_are_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut csv = Csv::create(folder.path(), "x.csv", &["a", "b"]).unwrap();
        csv.line(["plain", "two, \"quoted\""].into_iter()).unwrap();
        assert_eq!(csv.finish().unwrap(), 1);
        let text = std::fs::read_to_string(folder.path().join("x.csv")).unwrap();
        assert_eq!(text, "a,b\nplain,\"two, \"\"quoted\"\"\"\n");
    }
}
