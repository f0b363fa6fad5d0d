//! The statement of a count in Postgres, for all users at once or in two parts that are counted at the same time.

use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::database::DatabaseError;

use super::super::tally::Sample;
use super::statement::{POSTGRES_MOMENTS, Statement};
use super::{Line, Question};

/// One snapshot for all statements.
const SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";
/// Memory of each sort and hash table.
const MEMORY: &str = "SET LOCAL work_mem = '64MB'";
/// Without statistics of the joined rows, Postgres expects few groups and sorts them, which takes several times as long as
/// a hash table.
const HASH_TABLES: &str = "SET LOCAL enable_sort = off";
/// Settings for parts: they are counted at the same time, so each needs no further processes; and compiled expressions
/// pay with so many rows.
const OF_PARTS: [&str; 2] = ["SET LOCAL max_parallel_workers_per_gather = 0", "SET LOCAL jit = on"];
/// Number of exposures from which on users are counted in two parts.
pub(super) const PARTS_FROM: i64 = 100_000;

/// Whether all exposures are of one version of the flag, and their number.
const EXPOSURES: &str = "SELECT coalesce(min(flag_version) = max(flag_version), true), count(*)
    FROM experiment_exposures WHERE experiment_id = $1";

/// The users of a count, by their keys. Keys are hashes, so each half of the keys has half of the users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    Lower,
    Upper,
}

impl Part {
    /// SQL condition for the users of this part, to be added to others; empty for all.
    pub(super) fn condition(self, column: &str) -> String {
        match self {
            Self::All => String::new(),
            Self::Lower => format!(" AND {column} < '\\x80'::bytea"),
            Self::Upper => format!(" AND {column} >= '\\x80'::bytea"),
        }
    }
}

impl Question<'_> {
    /// Rows of a count. `parts_from`: number of exposures from which on they are counted in parts.
    pub(super) async fn lines_of_postgres(
        &self,
        pool: &PgPool,
        caps: &[Option<f64>],
        parts_from: i64,
    ) -> Result<Vec<Line>, DatabaseError> {
        let mut first = pool.begin().await?;
        prepare(&mut first, None).await?;
        let (one_version, exposures): (bool, i64) =
            sqlx::query_as(EXPOSURES).bind(self.experiment).fetch_one(&mut *first).await?;
        // Without a second connection at hand, all are counted on the first one.
        let second = if exposures >= parts_from { pool.try_begin().await? } else { None };
        let Some(mut second) = second else {
            let lines = self.part(&mut first, caps, one_version, Part::All).await?;
            first.commit().await?;
            return Ok(lines);
        };
        let snapshot: String =
            sqlx::query_scalar("SELECT pg_export_snapshot()").fetch_one(&mut *first).await?;
        prepare(&mut second, Some(snapshot)).await?;
        for connection in [&mut first, &mut second] {
            for setting in OF_PARTS {
                sqlx::query(setting).execute(&mut **connection).await?;
            }
        }
        let (lower, upper) = tokio::try_join!(
            self.part(&mut first, caps, one_version, Part::Lower),
            self.part(&mut second, caps, one_version, Part::Upper),
        )?;
        second.commit().await?;
        first.commit().await?;
        Ok(merged(lower, upper))
    }

    async fn part(
        &self,
        connection: &mut PgConnection,
        caps: &[Option<f64>],
        one_version: bool,
        part: Part,
    ) -> Result<Vec<Line>, DatabaseError> {
        let Statement { text, events } = self.statement(caps, POSTGRES_MOMENTS, one_version, part);
        let query = sqlx::query_as(AssertSqlSafe(text)).bind(self.experiment);
        let query = events.iter().fold(query, |query, event| query.bind(event));
        Ok(query.fetch_all(connection).await?)
    }
}

/// Settings of a transaction, which reads what `snapshot` contains, or else what is there now.
async fn prepare(connection: &mut PgConnection, snapshot: Option<String>) -> Result<(), DatabaseError> {
    sqlx::query(SNAPSHOT).execute(&mut *connection).await?;
    if let Some(snapshot) = snapshot {
        let import = format!("SET TRANSACTION SNAPSHOT '{}'", snapshot.replace('\'', "''"));
        sqlx::query(AssertSqlSafe(import)).execute(&mut *connection).await?;
    }
    for setting in [MEMORY, HASH_TABLES] {
        sqlx::query(setting).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Adds up the lines of two parts.
fn merged(mut lines: Vec<Line>, more: Vec<Line>) -> Vec<Line> {
    for line in more {
        match lines.iter_mut().find(|known| is_of_same_group(known, &line)) {
            Some(known) => add(known, &line),
            None => lines.push(line),
        }
    }
    lines
}

/// Whether two lines count the same: kind, phase, variant, assignment, `seen`, and metric or window.
fn is_of_same_group(one: &Line, other: &Line) -> bool {
    (one.0, one.1, one.3, one.4, one.5) == (other.0, other.1, other.3, other.4, other.5) && one.2 == other.2
}

fn add(line: &mut Line, more: &Line) {
    if line.9.is_some() || more.9.is_some() {
        let sample = sample(line).merged(&sample(more));
        line.9 = Some(sample.mean);
        line.10 = Some(sample.scatter);
        line.11 = Some(sample.other_mean);
        line.12 = Some(sample.other_scatter);
        line.13 = Some(sample.product_scatter);
        line.14 = Some(sample.largest);
    }
    line.6 += more.6;
    line.7 += more.7;
    line.8 += more.8;
}

/// Values of a line.
pub(super) fn sample(line: &Line) -> Sample {
    let numbers = [line.9, line.10, line.11, line.12, line.13, line.14].map(Option::unwrap_or_default);
    let [mean, scatter, other_mean, other_scatter, product_scatter, largest] = numbers;
    Sample {
        users: line.6.cast_unsigned(),
        converted: line.7.cast_unsigned(),
        mean,
        scatter,
        other_mean,
        other_scatter,
        product_scatter,
        largest,
        ..Sample::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(variant: &str, count: i64) -> Line {
        (0, 1, variant.to_owned(), None, 0, 0, count, 0, 0, None, None, None, None, None, None)
    }

    /// A line with the values of a metric.
    fn values(metric: i64, values: &[f64]) -> Line {
        let mut sample = Sample::default();
        values.iter().for_each(|value| sample.push(*value, value * 2.0));
        let numbers = [
            sample.mean,
            sample.scatter,
            sample.other_mean,
            sample.other_scatter,
            sample.product_scatter,
            sample.largest,
        ];
        let [a, b, c, d, e, f] = numbers.map(Some);
        let (users, converted) = (sample.users.cast_signed(), sample.converted.cast_signed());
        (2, 1, "on".to_owned(), Some(7), 0, metric, users, converted, 0, a, b, c, d, e, f)
    }

    #[test]
    fn lines_of_the_same_group_are_added_up_and_others_kept() {
        let lower = vec![users("on", 3), users("off", 4), values(0, &[1.0, 2.0])];
        let upper = vec![users("on", 5), values(0, &[9.0]), values(1, &[4.0])];
        let merged = merged(lower, upper);
        let counts: Vec<_> = merged.iter().map(|line| (line.0, line.2.as_str(), line.5, line.6)).collect();
        assert_eq!(counts, [(0, "on", 0, 8), (0, "off", 0, 4), (2, "on", 0, 3), (2, "on", 1, 1)]);
        let (ours, all) = (sample(&merged[2]), sample(&values(0, &[1.0, 2.0, 9.0])));
        assert!((ours.mean - all.mean).abs() + (ours.scatter - all.scatter).abs() < 1e-9, "{ours:?}");
        assert_eq!(sample(&merged[3]), sample(&values(1, &[4.0])));
    }

    #[test]
    fn the_parts_have_all_users() {
        let [all, lower, upper] =
            [Part::All, Part::Lower, Part::Upper].map(|part| part.condition("user_key"));
        assert_eq!(all, "");
        assert_eq!(lower.replace('<', ">="), upper);
    }
}
