//! Counts by the values of an attribute.

use sqlx::AssertSqlSafe;

use crate::database::{Database, DatabaseError, on_pool};

use super::super::counts::Counts;
use super::super::design::{Dimension, DimensionSource};
use super::super::dimensions::MAX_LEVEL_BYTES;
use super::super::results::{Breakdown, DimensionLevel, LevelKind};
use super::super::tally::Phase;
use super::{Assignments, CONVERSIONS, FINISHED, Line, Question, USERS, WAITING};

/// Maximum number of values of an attribute that have a separate level. All other values share one level.
const DIMENSION_LEVELS_MAX: usize = 10;
/// Number of values of `seen`. The number of the level is added as a multiple of it.
pub(super) const SEEN_VALUES: i64 = 3;

/// Attribute by which rows are counted separately.
#[derive(Debug, Clone, Copy)]
pub(in crate::experiment) struct Split<'q> {
    pub(super) dimension: &'q Dimension,
    /// Values that have a separate level.
    pub(super) values: &'q [String],
}

impl Split<'_> {
    /// SQL expression for the number of the level of a column with attributes. `first` is the number of the first of the
    /// parameters that [`Split::texts`] returns.
    fn level(&self, column: &str, first: usize) -> String {
        let value = format!("CAST({column} ->> CAST(${first} AS text) AS text)");
        let cases = (1..=self.values.len())
            .map(|index| format!(" WHEN CAST(${} AS text) THEN {}", first + index, index - 1));
        let (cases, other) = (cases.collect::<String>(), self.values.len());
        let rest = format!("CASE WHEN {value} IS NULL THEN {} ELSE {other} END", other + 1);
        if cases.is_empty() { rest } else { format!("CASE {value}{cases} ELSE {rest} END") }
    }

    /// Parameters of the expression.
    pub(super) fn texts(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.dimension.name).chain(self.values)
    }

    /// Levels in the order of their numbers.
    fn levels(&self) -> Vec<DimensionLevel> {
        let value = |value: &String| DimensionLevel { kind: LevelKind::Value, value: Some(value.clone()) };
        let rest = [LevelKind::Other, LevelKind::None].map(|kind| DimensionLevel { kind, value: None });
        self.values.iter().map(value).chain(rest).collect()
    }
}

impl Question<'_> {
    /// Term that adds the level of an exposure's attributes to `seen`; empty without one.
    pub(super) fn level_of_exposure(&self, first: usize) -> String {
        self.level(DimensionSource::Context, "attributes", first)
    }

    /// Term that adds the level of a conversion's metadata to `seen`; empty without one.
    pub(super) fn level_of_conversion(&self, first: usize) -> String {
        self.level(DimensionSource::Conversion, "c.metadata", first)
    }

    fn level(&self, source: DimensionSource, column: &str, first: usize) -> String {
        let split = self.split.filter(|split| split.dimension.source == source);
        split.map(|split| split.level(column, first)).unwrap_or_default()
    }

    /// Counts one phase by the values of an attribute.
    pub(in crate::experiment) async fn break_down(
        &self,
        database: &Database,
        phase: &Phase,
        assignments: &Assignments,
        dimension: &Dimension,
    ) -> Result<Breakdown, DatabaseError> {
        let values = self.values(database, dimension).await?;
        let split = Split { dimension, values: &values };
        let caps = self.caps(database).await?;
        let question = Question { split: Some(split), ..*self };
        let lines = question.lines(database, &caps).await?;
        let mut levels = Vec::new();
        for (number, level) in split.levels().into_iter().enumerate() {
            let counts = question.counts_of_level(&lines, number);
            let mut tally = counts.tallies(self.design, vec![phase.clone()], assignments, self.counted_at);
            // Values without users or conversions are none.
            let is_there = counts.metrics.iter().any(|line| line.group.phase == phase.number)
                || (dimension.source == DimensionSource::Context
                    && counts.users.iter().any(|line| line.group.phase == phase.number));
            levels.extend(tally.pop().filter(|_| is_there).map(|tally| (level, tally)));
        }
        Ok(Breakdown { dimension: dimension.clone(), levels })
    }

    /// Counts of the users, or of the conversions, of a level.
    pub(super) fn counts_of_level(&self, lines: &[Line], number: usize) -> Counts {
        let of_conversions =
            self.split.is_some_and(|split| split.dimension.source == DimensionSource::Conversion);
        let is_in = |line: &&Line| {
            let is_level = usize::try_from(line.4 / SEEN_VALUES) == Ok(number);
            match line.0 {
                CONVERSIONS | WAITING => false,
                // All users may have conversions of any level.
                USERS | FINISHED => is_level || of_conversions,
                _ => is_level,
            }
        };
        let mut lines: Vec<Line> = lines.iter().filter(is_in).cloned().collect();
        lines.iter_mut().for_each(|line| line.4 %= SEEN_VALUES);
        self.counts(lines)
    }

    /// Most frequent values of an attribute, the most frequent one first.
    async fn values(&self, database: &Database, dimension: &Dimension) -> Result<Vec<String>, DatabaseError> {
        let (table, column) = match dimension.source {
            DimensionSource::Context => ("experiment_exposures", "attributes"),
            DimensionSource::Conversion => ("experiment_conversions", "metadata"),
        };
        let text = format!(
            "SELECT value FROM (SELECT CAST({column} ->> CAST($2 AS text) AS text) AS value FROM {table}
                WHERE experiment_id = $1) AS found
            WHERE value IS NOT NULL AND length(value) <= {MAX_LEVEL_BYTES}
            GROUP BY value ORDER BY count(*) DESC, value LIMIT {DIMENSION_LEVELS_MAX}"
        );
        Ok(on_pool!(database, |pool, _sql| {
            let query = sqlx::query_scalar(AssertSqlSafe(text)).bind(self.experiment);
            query.bind(&dimension.name).fetch_all(pool).await?
        }))
    }
}
