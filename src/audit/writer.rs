//! Writes batches one at a time, until each is in the database or found to be there already.
//!
//! While the database is unavailable, the batch is retried; the reader fills one more batch and then stops fetching. A
//! record that the database rejects is found by bisecting its batch.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::ClockLabels;
use crate::database::{DatabaseError, DatabaseFault};
use crate::kafka::backoff::Backoff;
use crate::log_limit::{LogLimit, limited};
use crate::metrics::{AuditBatchLabels, CodeLabels, EnvironmentLabels, Metrics, PausedLabels};
use crate::progress::{Progress, Reason};
use crate::shutdown::Shutdown;
use crate::traces::{self, WrittenBatch};

use super::batch::{Batch, Content, LeftOut, Refusal};
use super::dead_letters::{DeadLetters, UnsentDeadLetter};
use super::health::PipelineHealth;
use super::position::{Log, Position};
use super::reader::READER;
use super::retention::{Kept, LATE_KEPT_DAYS};
use super::store::{AuditStore, WriteError, Written};

/// Delay before the first retry of a write; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// Longest delay between two attempts of a write.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Interval of partition maintenance and retention.
const HOUSE_INTERVAL: Duration = Duration::from_secs(600);
/// Interval after a failed run.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(30);

/// Commands from the reader to the writer.
#[derive(Debug)]
pub enum Command {
    Position(Log, Vec<i32>),
    /// Start a new generation of a partition at this offset.
    Restart(Log, Box<Position>, i64),
    Write(Log, Box<Batch>),
}

/// Replies of the writer to its commands.
#[derive(Debug)]
pub enum Completion {
    Positions(Vec<Position>),
    /// Whether the partition starts a new generation. `false`: another sink has moved its position meanwhile.
    Restarted(bool),
    Written(Box<Batch>),
    /// Another sink wrote first, so the positions must be requested again.
    Conflict(Box<Batch>),
}

/// Executes the reader's commands on the database.
#[derive(Debug)]
pub struct Writer<R> {
    pub rows: R,
    pub pending_dead_letters: DeadLetters,
    pub metrics: Arc<Metrics>,
    pub health: Arc<PipelineHealth>,
    pub progress: Progress,
    pub shutdown: Shutdown,
    /// Label in metrics of what is written.
    pub what: &'static str,
    /// Retention of evaluations in days. `None`: another writer maintains the tables.
    pub retention_days: Option<u32>,
    /// Reason why writing is paused. `None`: it is not.
    pub paused: Option<&'static str>,
}

impl<R: AuditStore> Writer<R> {
    /// Serves the reader until its channel closes or `shutdown`.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        completions: std::sync::mpsc::Sender<Completion>,
    ) {
        let mut house_due = Instant::now();
        loop {
            if house_due <= Instant::now() {
                house_due = Instant::now() + self.maintain().await;
            }
            let command = tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep_until(house_due) => continue,
                command = commands.recv() => command,
            };
            let completion = match command {
                Some(Command::Position(log, partitions)) => self.position(&log, &partitions).await,
                Some(Command::Restart(log, position, offset)) => self.restart(&log, &position, offset).await,
                Some(Command::Write(log, batch)) => self.write(&log, batch).await,
                None => return,
            };
            // `None` means that shutdown came first; the batch is read again after a restart.
            if completion.is_none_or(|completion| completions.send(completion).is_err()) {
                return;
            }
        }
    }

    async fn position(&mut self, log: &Log, partitions: &[i32]) -> Option<Completion> {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        loop {
            match self.rows.positions(log, partitions).await {
                Ok(positions) => {
                    self.well();
                    return Some(Completion::Positions(positions));
                }
                Err(error) => self.pause(&error, &mut backoff).await?,
            }
        }
    }

    async fn restart(&mut self, log: &Log, position: &Position, offset: i64) -> Option<Completion> {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        loop {
            match self.rows.restart(log, position, offset).await {
                Ok(restarted) => {
                    self.well();
                    return Some(Completion::Restarted(restarted));
                }
                Err(error) => self.pause(&error, &mut backoff).await?,
            }
        }
    }

    async fn write(&mut self, log: &Log, mut batch: Box<Batch>) -> Option<Completion> {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        loop {
            let started = Instant::now();
            let error = match self.rows.write(log, &batch, &mut self.pending_dead_letters).await {
                Ok(Written::Conflict) => {
                    self.outcome("conflict");
                    tracing::info!(
                        topic = log.topic,
                        "another sink has moved the positions; they are read again"
                    );
                    return Some(Completion::Conflict(batch));
                }
                Ok(written) => {
                    self.committed(log, &batch, written, started.elapsed());
                    return Some(Completion::Written(batch));
                }
                Err(WriteError::Refused(refused)) => {
                    batch.refuse(refused);
                    continue;
                }
                Err(WriteError::DeadLetters(unsent)) => {
                    self.outcome("failed");
                    leave_out(&mut batch, unsent);
                    if batch.is_empty() {
                        return Some(Completion::Written(batch));
                    }
                    continue;
                }
                Err(WriteError::Database(error)) if error.is_about_data() => {
                    match self.narrow(&mut batch).await {
                        Ok(true) => continue,
                        // No single entry is the reason.
                        Ok(false) => error,
                        Err(error) => error,
                    }
                }
                Err(WriteError::Database(error)) => error,
            };
            self.outcome("failed");
            if error.trouble() == DatabaseFault::NoPartition {
                self.maintain().await;
            }
            self.pause(&error, &mut backoff).await?;
        }
    }

    /// Finds and refuses the entries that the database rejects. `false`: it rejects none of them alone.
    async fn narrow(&mut self, batch: &mut Batch) -> Result<bool, DatabaseError> {
        let mut found = false;
        let mut suspects = vec![(0, batch.entries.len())];
        while let Some((from, to)) = suspects.pop() {
            let range = from..to;
            let error = match self.rows.probe(batch, range.clone()).await {
                Ok(()) => continue,
                Err(error) if error.is_about_data() => error,
                Err(error) => return Err(error),
            };
            if range.len() > 1 {
                let middle = range.start + range.len() / 2;
                suspects.push((middle, range.end));
                suspects.push((range.start, middle));
            } else if let Some(entry) = batch.entries.get_mut(range.start) {
                let (partition, offset) = (entry.partition, entry.offset);
                static LIMIT: LogLimit = LogLimit::new();
                if let Some(suppressed) = LIMIT.admit() {
                    tracing::warn!(partition, offset, %error, suppressed, "the database rejected a record; it is \
                        sent to the dead-letter topic");
                }
                let message = format!("the database rejected the record: {error}");
                entry.refusal = Some(Refusal { code: "ROW_REFUSED", message });
                found = true;
            }
        }
        Ok(found)
    }

    fn committed(&mut self, log: &Log, batch: &Batch, written: Written, took: Duration) {
        self.well();
        self.outcome(if written == Written::Before { "found_committed" } else { "committed" });
        let audit = &self.metrics.audit;
        audit.write.observe(took);
        for (environment, rows) in batch.rows_by_environment() {
            audit.rows.get_or_create(&EnvironmentLabels { environment }).inc_by(rows);
        }
        audit.repeated.inc_by(batch.repeated);
        for refusal in batch.entries.iter().filter_map(|entry| entry.refusal.as_ref()) {
            self.metrics.dead_letters.get_or_create(&CodeLabels { code: refusal.code }).inc();
        }
        let evaluated_at = |content: &Content| match content {
            Content::Evaluation { evaluated_at, .. } => Some(*evaluated_at),
            _ => None,
        };
        if let Some(first) = batch.accepted().find_map(|entry| evaluated_at(&entry.content)) {
            let waited = Utc::now().timestamp_micros().saturating_sub(first);
            audit.latency.observe(Duration::from_micros(u64::try_from(waited).unwrap_or_default()));
        }
        let (topic, records) = (log.topic.as_str(), batch.entries.len());
        traces::written(&WrittenBatch { topic, database: R::SYSTEM, records, took }, batch.traced());
    }

    /// Runs partition maintenance and retention. Returns the time until the next run.
    async fn maintain(&mut self) -> Duration {
        let Some(days) = self.retention_days else {
            return HOUSE_INTERVAL;
        };
        match self.rows.maintain(days, Utc::now()).await {
            Ok(kept) => {
                self.report_kept(&kept);
                HOUSE_INTERVAL
            }
            Err(error) => {
                self.outcome("house_failed");
                static LIMIT: LogLimit = LogLimit::new();
                if let Some(suppressed) = LIMIT.admit() {
                    tracing::warn!(%error, suppressed, "maintenance of partitions and retention failed; retrying");
                }
                MAINTENANCE_INTERVAL
            }
        }
    }

    /// Reports clock differences, late evaluations, and why nothing is removed.
    fn report_kept(&self, kept: &Kept) {
        let audit = &self.metrics.audit;
        let labels = ClockLabels { against: "database" };
        audit.clock_skew.get_or_create(&labels).set(kept.ahead.as_seconds_f64());
        audit.late.set(kept.late_count);
        if let Some(objection) = &kept.objection {
            limited!(error, "retention is suspended: {objection}");
        }
        self.health.condition("retention", kept.objection.clone());
        let late = (kept.late_count > 0).then(|| {
            let count = kept.late_count;
            format!(
                "{count} evaluations were older than the retention when they were written: check the clocks of \
                 evaluators and API instances; these rows are removed after {LATE_KEPT_DAYS} days"
            )
        });
        self.health.condition("late", late);
    }

    fn outcome(&self, outcome: &'static str) {
        self.metrics.audit.batches.get_or_create(&AuditBatchLabels { outcome }).inc();
    }

    fn well(&mut self) {
        if self.paused.is_some() {
            tracing::info!(what = self.what, "the audit sink continues");
        }
        self.note(None);
        self.health.up();
    }

    fn note(&mut self, reason: Option<&'static str>) {
        let gauge = |reason, value| {
            let labels = PausedLabels { what: self.what, reason };
            self.metrics.audit.paused.get_or_create(&labels).set(value);
        };
        self.paused.into_iter().for_each(|before| gauge(before, 0));
        reason.into_iter().for_each(|reason| gauge(reason, 1));
        self.paused = reason;
    }

    /// Reports the reason and waits for the backoff. `None`: shutdown came first.
    async fn pause(&mut self, error: &DatabaseError, backoff: &mut Backoff) -> Option<()> {
        let reason = error.trouble().as_str();
        // Repeated failures with the same reason are logged once.
        if self.paused != Some(reason) {
            limited!(
                warn,
                key = reason,
                what = self.what,
                reason,
                "the audit sink is paused: {error}; retrying",
            );
        }
        self.note(Some(reason));
        self.health.down(format!("paused ({reason}): {error}"));
        self.progress.blocked_reader(READER, Reason::Database, error.to_string());
        let wait = tokio::time::sleep(backoff.jittered());
        tokio::select! {
            () = self.shutdown.cancelled() => None,
            () = wait => Some(()),
        }
    }
}

/// Takes the partitions out of the batch whose dead letters cannot be written, so that the others are.
fn leave_out(batch: &mut Batch, unsent: Vec<UnsentDeadLetter>) {
    for UnsentDeadLetter { partition, offset, error } in unsent {
        batch.leave_out(LeftOut { partition, offset, why: error.to_string() });
    }
}
