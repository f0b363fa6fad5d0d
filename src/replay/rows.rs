//! Reads recorded evaluations from the database into a [`Session`]. The rows of Postgres are read on one thread and
//! evaluated on another.

mod copied;
mod sqlite;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::TryStreamExt;
use tokio::sync::mpsc;

use crate::audit::evaluation::Evaluation;
use crate::audit::postgres::copy;
use crate::database::{Database, PostgresDatabase};

use super::{ReplayError, Session};

pub(crate) use copied::{Copied, each_row};

/// Size of the blocks of rows that are passed to evaluation, in bytes. The last block may be smaller.
const BLOCK_BYTES: usize = 512 * 1024;
/// Upper bound of blocks that are read but not evaluated yet.
const BLOCKS_MAX: usize = 4;
/// Upper bound of queries into which a time range is divided, so that progress is known.
const SLICES_MAX: i32 = 100;
const SLICE_MIN: TimeDelta = TimeDelta::minutes(10);

/// Selection of recorded evaluations.
#[derive(Debug, Clone)]
pub struct RowFilter {
    pub from: DateTime<Utc>,
    /// End of the time range, exclusive.
    pub to: DateTime<Utc>,
    /// Environments to include. Empty: all.
    pub environments: Vec<String>,
    /// Flags to include. Empty: all.
    pub flags: Vec<String>,
    /// Number of latest evaluations to include. `None`: all.
    pub last: Option<u32>,
}

/// Progress of a replay, which can be read while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    pub rows: AtomicU64,
    /// Completed part of the time range, in thousandths.
    pub done: AtomicU32,
}

/// Replays the selected evaluations and returns the session.
pub async fn database(
    database: &Database,
    filter: &RowFilter,
    session: Session,
    progress: &Arc<Progress>,
) -> Result<Session, ReplayError> {
    match database {
        Database::Postgres(postgres) => of_postgres(postgres, filter, session, progress).await,
        Database::Sqlite(sqlite) => sqlite::take(sqlite, filter, session, progress).await,
    }
}

/// Reads the selected rows without evaluating them and returns their size in bytes. Serves as a baseline in benchmarks.
pub async fn copied_bytes(postgres: &PostgresDatabase, filter: &RowFilter) -> Result<u64, ReplayError> {
    let mut connection = postgres.pool.acquire().await?.detach();
    let mut bytes = 0;
    for (from, to) in filter.slices() {
        let mut stream = connection.copy_out_raw(&statement(filter, from, to)).await?;
        while let Some(chunk) = stream.try_next().await? {
            bytes += chunk.len() as u64;
        }
    }
    Ok(bytes)
}

impl RowFilter {
    /// Divides the time range into consecutive slices.
    fn slices(&self) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        let whole = (self.to - self.from).max(TimeDelta::zero());
        if self.last.is_some() || whole <= SLICE_MIN {
            return vec![(self.from, self.to)];
        }
        let slice = (whole / SLICES_MAX).max(SLICE_MIN);
        let mut slices = Vec::new();
        let mut from = self.from;
        while from < self.to {
            let to = (from + slice).min(self.to);
            slices.push((from, to));
            from = to;
        }
        slices
    }

    /// Whether a row is selected, regardless of its time.
    pub fn means(&self, row: &Evaluation<'_>) -> bool {
        let named = |names: &[String], name: &str| names.is_empty() || names.iter().any(|it| it == name);
        named(&self.environments, &row.environment) && named(&self.flags, &row.flag_name)
    }
}

impl Progress {
    /// Sets the progress to `done` of `of` units.
    pub fn is_at(&self, done: u64, of: u64) {
        let thousandths = done.saturating_mul(1_000).checked_div(of).unwrap_or(1_000).min(1_000);
        self.done.store(u32::try_from(thousandths).unwrap_or(1_000), Ordering::Relaxed);
    }
}

async fn of_postgres(
    postgres: &PostgresDatabase,
    filter: &RowFilter,
    mut session: Session,
    progress: &Arc<Progress>,
) -> Result<Session, ReplayError> {
    session.is_reworded = true;
    let (blocks, mut next) = mpsc::channel::<Vec<u8>>(BLOCKS_MAX);
    let counted = Arc::clone(progress);
    let evaluating = tokio::task::spawn_blocking(move || {
        while let Some(block) = next.blocking_recv() {
            let rows = session.take_block(&block)?;
            counted.rows.fetch_add(rows, Ordering::Relaxed);
        }
        Ok::<_, ReplayError>(session)
    });
    // Detached from the pool, because a connection that is dropped during a `COPY` cannot be reused.
    let mut connection = postgres.pool.acquire().await?.detach();
    let slices = filter.slices();
    for (index, (from, to)) in slices.iter().enumerate() {
        let mut stream = connection.copy_out_raw(&statement(filter, *from, *to)).await?;
        let mut copied = Copied::default();
        while let Some(chunk) = stream.try_next().await? {
            if let Some(block) = copied.add(&chunk)?
                && blocks.send(block).await.is_err()
            {
                break;
            }
        }
        if blocks.send(copied.rest()).await.is_err() {
            break;
        }
        progress.is_at(index as u64 + 1, slices.len() as u64);
    }
    drop(blocks);
    evaluating.await.map_err(|_| ReplayError::Ended)?
}

/// SQL text that reads one slice of rows. `COPY` takes no parameters, so the values are quoted.
fn statement(filter: &RowFilter, from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let list = |names: &[String]| {
        let quoted = names.iter().map(|name| format!("'{}'", name.replace('\0', "").replace('\'', "''")));
        quoted.collect::<Vec<_>>().join(", ")
    };
    let mut conditions = format!("evaluated_at >= '{}' AND evaluated_at < '{}'", time(from), time(to));
    for (column, names) in [("environment", &filter.environments), ("flag_name", &filter.flags)] {
        if !names.is_empty() {
            conditions.push_str(&format!(" AND {column} IN ({})", list(names)));
        }
    }
    if let Some(last) = filter.last {
        conditions.push_str(&format!(" ORDER BY evaluated_at DESC LIMIT {last}"));
    }
    let columns = copy::COLUMN_NAMES;
    format!(
        "COPY (SELECT {columns} FROM feature_flag_evaluations WHERE {conditions}) TO STDOUT (FORMAT binary)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_without_gaps() {
        let at = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        let filter = |to| RowFilter { from: at(0), to, environments: vec![], flags: vec![], last: None };
        assert_eq!(filter(at(5)).slices(), [(at(0), at(5))]);
        assert_eq!(filter(at(25)).slices(), [(at(0), at(10)), (at(10), at(20)), (at(20), at(25))]);
        let month = filter(at(30 * 24 * 60)).slices();
        assert!(month.len() == 100 && month.windows(2).all(|pair| pair[0].1 == pair[1].0));
    }

    #[test]
    fn names_are_quoted() {
        let at = DateTime::UNIX_EPOCH;
        let flags = vec!["it's".to_owned(), "b".to_owned()];
        let filter = RowFilter { from: at, to: at, environments: vec![], flags, last: Some(5) };
        let statement = statement(&filter, at, at);
        assert!(statement.contains("flag_name IN ('it''s', 'b') ORDER BY"), "{statement}");
    }
}
