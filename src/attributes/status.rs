//! State of a table for health, and the report of all tables.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::health::{Report, State};

use super::Table;

/// Time without reaching the end of the topic after which health reports that a table lags.
const LAG_REPORT_DELAY: Duration = Duration::from_secs(10);
/// Time for which an error of a lookup is reported.
const READ_ERROR_TIME: Duration = Duration::from_secs(60);

/// State of a table, updated by its reader.
#[derive(Debug, Default)]
pub struct TableStatus(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    has_caught_up: bool,
    rows: u64,
    lag: u64,
    /// Time since which the end of the topic was not reached; `None` at the end.
    behind_since: Option<Instant>,
    /// Reason why the topic cannot be read, or the table cannot be written.
    error: Option<String>,
    /// Last error of a lookup.
    read_error: Option<(Instant, String)>,
    /// Reason of a build that is not finished.
    rebuilding: Option<&'static str>,
    malformed: u64,
}

/// State of a table as `/health` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    topic: String,
    rows: u64,
    lag: u64,
    caught_up: bool,
    malformed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    building: Option<&'static str>,
}

impl TableStatus {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the table has caught up with its topic since the start of the process.
    pub fn has_caught_up(&self) -> bool {
        self.lock().has_caught_up
    }

    /// Records how far the reader is; `lag` is `None` at the end of the topic.
    pub(super) fn progress(&self, rows: u64, lag: Option<u64>) {
        let mut inner = self.lock();
        inner.rows = rows;
        match lag {
            None => (inner.lag, inner.behind_since) = (0, None),
            Some(lag) => {
                inner.lag = lag;
                inner.behind_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Records that every row of the topic is in the table. Returns whether that is new.
    pub(super) fn caught_up(&self) -> bool {
        let mut inner = self.lock();
        inner.rebuilding = None;
        !std::mem::replace(&mut inner.has_caught_up, true)
    }

    pub(super) fn building(&self, reason: &'static str) {
        self.lock().rebuilding = Some(reason);
    }

    pub(super) fn malformed(&self, count: usize) {
        self.lock().malformed += count as u64;
    }

    /// Records the reason why the table stands still; `None` if it does not.
    pub(super) fn failed(&self, error: Option<String>) {
        self.lock().error = error;
    }

    pub(super) fn read_failed(&self, error: &str) {
        self.lock().read_error = Some((Instant::now(), error.to_owned()));
    }

    /// One sentence about what is wrong; `None` if nothing is.
    fn problem(&self, table: &str, now: Instant) -> Option<String> {
        let inner = self.lock();
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < READ_ERROR_TIME;
        let lags = |since: &Instant| now.saturating_duration_since(*since) > LAG_REPORT_DELAY;
        if let Some(error) = &inner.error {
            return Some(format!("table {table} stands still: {error}"));
        }
        if let Some((_, error)) = inner.read_error.as_ref().filter(|(at, _)| is_recent(at)) {
            return Some(format!("rows of table {table} cannot be read from disk: {error}"));
        }
        if let Some(reason) = inner.rebuilding.filter(|_| inner.has_caught_up) {
            return Some(format!("table {table} is being built again: {reason}"));
        }
        inner.behind_since.filter(lags).filter(|_| inner.has_caught_up)?;
        Some(format!("table {table} is {} records behind its topic", inner.lag))
    }

    fn shown(&self, topic: &str) -> Shown {
        let inner = self.lock();
        Shown {
            topic: topic.to_owned(),
            rows: inner.rows,
            lag: inner.lag,
            caught_up: inner.has_caught_up,
            malformed: inner.malformed,
            building: inner.rebuilding,
        }
    }
}

/// The report of all tables. `is_ready`: they have caught up, or need not.
pub(super) fn report(tables: &[Arc<Table>], is_ready: bool) -> Report {
    let now = Instant::now();
    let problems: Vec<_> =
        tables.iter().filter_map(|table| table.status().problem(table.name(), now)).collect();
    let waiting = tables.iter().filter(|table| !table.status().has_caught_up()).map(|table| {
        let shown = table.status().shown(table.topic());
        format!("table {} has {} rows and {} records to read", table.name(), shown.rows, shown.lag)
    });
    let waiting: Vec<_> = waiting.collect();
    let state = match (is_ready, problems.is_empty() && waiting.is_empty()) {
        (false, _) => State::Starting,
        (true, false) => State::Degraded,
        (true, true) => State::Up,
    };
    let details: Vec<_> = problems.into_iter().chain(waiting).collect();
    let shown: std::collections::BTreeMap<_, _> =
        tables.iter().map(|table| (table.name(), table.status().shown(table.topic()))).collect();
    let report = Report::new(state);
    let report = if details.is_empty() { report } else { report.detail(details.join("; ")) };
    report.more(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: &TableStatus, later: Duration) -> Option<String> {
        status.problem("user", Instant::now() + later)
    }

    #[test]
    fn a_table_that_stands_still_or_lags_is_named() {
        let status = TableStatus::default();
        assert!(status.caught_up() && !status.caught_up());
        status.progress(7, Some(40));
        assert_eq!(problem(&status, Duration::ZERO), None, "it has just begun to read");
        let lags = problem(&status, LAG_REPORT_DELAY * 2).unwrap_or_default();
        assert_eq!(lags, "table user is 40 records behind its topic");
        status.progress(7, None);
        assert_eq!(problem(&status, LAG_REPORT_DELAY * 2), None);
        status.failed(Some("no broker".to_owned()));
        assert_eq!(problem(&status, Duration::ZERO).as_deref(), Some("table user stands still: no broker"));
        status.failed(None);
        status.building("the topic was truncated");
        assert!(problem(&status, Duration::ZERO).is_some_and(|text| text.contains("truncated")));
        status.caught_up();
        status.read_failed("i/o");
        assert!(problem(&status, Duration::ZERO).is_some_and(|text| text.contains("i/o")));
        assert_eq!(problem(&status, READ_ERROR_TIME * 2), None);
    }
}
