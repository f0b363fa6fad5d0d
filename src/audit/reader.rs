//! Reads a topic into batches, on its own thread, and hands them to the writer one at a time.
//!
//! The database decides where to read from: after every rebalance and every conflict, the reader requests the positions
//! and seeks to them. The offsets committed in Kafka are only for display. While the writer works, the next batch is
//! filled; when that one is full too, nothing more is fetched.

mod blocked;
mod bounds;
mod log_check;
mod start;
mod state;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use chrono::Utc;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::Sender;

use crate::config::AuditConfig;
use crate::kafka::consumer::{BatchConsumer, Record};
use crate::kafka::describe::{DescribeError, log_id};
use crate::log_limit::LogLimit;
use crate::metrics::Metrics;
use crate::progress::{Progress, Reason};
use crate::shutdown::Shutdown;

use super::batch::{Batch, MAX_RECORD_BYTES};
use super::health::PipelineHealth;
use super::position::{Log, Position};
use super::writer::{Command, Completion};

use self::bounds::expired_between;
use self::state::ReaderState;

/// How long an idle reader waits for records before it checks for rebalances and shutdown.
const IDLE: Duration = Duration::from_millis(50);
/// Timeout of one request to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay before the reader tries again to find its position.
const RETRY_BACKOFF: Duration = Duration::from_millis(200);
/// Interval at which the lag of the partitions is measured.
const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// Largest excess of a batch over its limit in bytes, because small compressed records can be much larger than the
/// fetched data.
const MAX_EXCESS_BYTES: usize = 32 << 20;
/// How long shutdown waits for the batch in flight.
const LAST_WRITE: Duration = Duration::from_secs(3);

/// Converts records into entries of a batch.
pub trait Decode: Send + 'static {
    fn take(&mut self, record: &Record<'_>, position: &mut Position, batch: &mut Batch);

    /// Returns why the record cannot be processed yet, for instance because its schema is not available. `None`: it
    /// can.
    fn holds_up(&mut self, _: &Record<'_>) -> Option<Arc<str>> {
        None
    }
}

/// Reader of one topic.
#[derive(Debug)]
pub struct Reader<T> {
    pub consumer: BatchConsumer,
    pub topic: String,
    /// Name of the dead-letter topic, for messages.
    pub dead_letters: String,
    pub take: T,
    pub limits: AuditConfig,
    pub commands: Sender<Command>,
    pub completions: Receiver<Completion>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<PipelineHealth>,
    pub progress: Progress,
    pub shutdown: Shutdown,
    /// Whether this is the reader of the events topic, which reports the number of partitions.
    pub is_main: bool,
    /// Largest lead of a record's timestamp over this machine's clock since the last check, in milliseconds. `None`: no
    /// records.
    pub ahead_ms: Option<i64>,
}

/// Index of a pipeline's only reader in its [`Progress`].
pub(super) const READER: usize = 0;

/// Reason why a reader ended; a new one starts from the database's positions.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    #[error("consumer: {0}")]
    Consumer(#[from] KafkaError),
    #[error("the sink's writer has ended")]
    Writer,
}

impl<T: Decode> Reader<T> {
    /// Reads until shutdown.
    pub fn run(&mut self) -> Result<(), ReaderError> {
        let mut reader_state = ReaderState { rebalances: usize::MAX, ..ReaderState::default() };
        let topic = CString::new(self.topic.as_str()).unwrap_or_default();
        let mut told = Instant::now();
        // A session that failed may have left it.
        self.health.condition(blocked::CONDITION, None);
        while !self.shutdown.is_cancelled() {
            self.consumer.serve()?;
            if reader_state.rebalances != self.consumer.rebalances() {
                reader_state.rebalances = self.consumer.rebalances();
                reader_state.doubt();
            }
            self.receive_completions(&mut reader_state, Duration::ZERO)?;
            if told.elapsed() > LAG_INTERVAL {
                told = Instant::now();
                self.health.refresh();
                self.look(&mut reader_state, &topic);
                self.note_blocked(&reader_state);
                if reader_state.sure && reader_state.blocked.is_due(Instant::now()) {
                    reader_state.doubt();
                }
            }
            if !reader_state.sure {
                self.find_position(&mut reader_state)?;
                continue;
            }
            self.fill(&mut reader_state, &topic)?;
            self.hand_over(&mut reader_state)?;
            if reader_state.held_up && reader_state.batch.is_empty() {
                self.look_again(&mut reader_state)?;
            }
        }
        self.finish(&mut reader_state);
        Ok(())
    }

    /// Requests the database's positions, once the writer is idle.
    fn find_position(&mut self, reader_state: &mut ReaderState) -> Result<(), ReaderError> {
        if reader_state.waiting {
            return self.receive_completions(reader_state, IDLE);
        }
        let assigned = self.consumer.inner().assignment()?;
        let partitions: Vec<i32> = assigned.elements().iter().map(|element| element.partition()).collect();
        self.progress.assign(READER, &partitions);
        if self.is_main {
            self.metrics.audit.partitions.set(i64::try_from(partitions.len()).unwrap_or(i64::MAX));
        }
        if partitions.is_empty() {
            std::thread::park_timeout(IDLE);
            return Ok(());
        }
        let log = match self.log() {
            Ok(log) => log,
            Err(error) => {
                self.wait_for_kafka(&error);
                return Ok(());
            }
        };
        if reader_state.log.as_ref().is_some_and(|known| *known != log) {
            self.report_recreated();
        }
        self.retain_blocked(reader_state, &log, &partitions);
        self.command(reader_state, Command::Position(log, partitions))
    }

    fn log(&self) -> Result<Log, DescribeError> {
        let id = match &self.limits.log_id {
            Some(id) => id.clone(),
            None => log_id(self.consumer.inner().client(), &self.topic, CALL_TIMEOUT)?,
        };
        Ok(Log { topic: self.topic.clone(), id })
    }

    fn command(&self, reader_state: &mut ReaderState, command: Command) -> Result<(), ReaderError> {
        // The channel has capacity, because the writer has answered everything before.
        self.commands.try_send(command).map_err(|_| ReaderError::Writer)?;
        reader_state.waiting = true;
        Ok(())
    }

    fn receive_completions(
        &mut self,
        reader_state: &mut ReaderState,
        patience: Duration,
    ) -> Result<(), ReaderError> {
        if !reader_state.waiting {
            return Ok(());
        }
        let completion = match self.completions.recv_timeout(patience) {
            Ok(completion) => completion,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) if self.shutdown.is_cancelled() => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(ReaderError::Writer),
        };
        reader_state.waiting = false;
        match completion {
            // After another rebalance the positions may belong to the wrong partitions; they are requested again.
            Completion::Positions(positions) if reader_state.rebalances == self.consumer.rebalances() => {
                self.seek(reader_state, positions)?;
            }
            Completion::Positions(_) => {}
            // In both cases the positions are requested again.
            Completion::Restarted(restarted) => {
                if restarted {
                    self.metrics.audit.truncated.inc();
                }
                reader_state.receded.clear();
                reader_state.cut.clear();
                reader_state.floors.clear();
                reader_state.blocked.clear();
                self.report_blocked(reader_state);
            }
            Completion::Written(batch) => {
                self.show(&batch);
                self.note_written(reader_state, &batch);
                reader_state.spare = Some(batch);
            }
            Completion::Conflict(batch) => {
                reader_state.spare = Some(batch);
                reader_state.doubt();
            }
        }
        Ok(())
    }

    /// Logs at most once a minute, however often it is called, and pauses for [`RETRY_BACKOFF`].
    fn wait_for_kafka(&self, error: &dyn std::fmt::Display) {
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(suppressed) = LIMIT.admit() {
            tracing::warn!(
                topic = self.topic,
                suppressed,
                "the sink cannot read from Kafka: {error}; retrying"
            );
        }
        std::thread::park_timeout(RETRY_BACKOFF);
    }

    /// Adds the records that have arrived to the batch, unless it is full.
    fn fill(&mut self, reader_state: &mut ReaderState, topic: &CStr) -> KafkaResult<()> {
        if reader_state.is_full(&self.limits) {
            return Ok(());
        }
        let patience = if reader_state.batch.is_empty() { IDLE } else { self.limits.batch_max / 10 };
        let max_bytes = self.limits.batch_max_bytes.saturating_add(MAX_EXCESS_BYTES);
        let (mut expired, mut skipped, now) = (Vec::new(), Vec::new(), Instant::now());
        // The low watermarks cannot be read while the fetch borrows the consumer.
        let lows = self.low_watermarks(reader_state, topic);
        let now_ms = Utc::now().timestamp_millis();
        let fetched = self.consumer.fetch(patience);
        let ReaderState { positions, batch, held_up, floors, ends, receded, blocked, .. } =
            &mut *reader_state;
        ends.extend(fetched.ends());
        for record in fetched.records() {
            let (partition, offset) = (record.partition(), record.offset());
            let Some(position) = positions.get_mut(&partition) else { continue };
            if offset < position.next_offset {
                // The record is before the position: the topic may have been recreated, or its log may have been
                // truncated.
                receded.insert(partition, offset);
                break;
            }
            if blocked.stops(partition, offset, now) {
                if !skipped.contains(&partition) {
                    skipped.push(partition);
                }
                continue;
            }
            let floor = floors.get(&partition).copied().unwrap_or_default();
            let expected = position.next_offset.max(floor);
            let lost = lows.get(&partition).map_or(0, |low| expired_between(expected, offset, *low));
            if lost > 0 {
                expired.push((partition, expected, lost));
            }
            if batch.size_bytes() > max_bytes {
                *held_up = true;
                break;
            }
            let is_too_large = record.size_bytes() > MAX_RECORD_BYTES;
            if !is_too_large && let Some(why) = self.take.holds_up(&record) {
                tracing::debug!(partition, offset, "the sink is paused: {why}");
                self.progress.blocked(partition, Reason::Held, why);
                *held_up = true;
                break;
            }
            self.ahead_ms = self.ahead_ms.max(Some(record.timestamp_ms() - now_ms));
            let from = position.next_offset;
            position.next_offset = offset + 1;
            if is_too_large {
                batch.refuse_too_large(&record);
            } else {
                self.take.take(&record, position, batch);
            }
            batch.advance(position, from);
        }
        drop(fetched);
        for (partition, from, lost) in expired {
            reader_state.floors.insert(partition, from.saturating_add_unsigned(lost));
            self.report_expired(partition, from, lost);
        }
        if !reader_state.receded.is_empty() {
            reader_state.doubt();
            std::thread::park_timeout(RETRY_BACKOFF);
        }
        self.pause_blocked(reader_state, &skipped)
    }

    fn low_watermarks(&self, reader_state: &ReaderState, topic: &CStr) -> BTreeMap<i32, i64> {
        let low = |partition: &i32| Some((*partition, self.consumer.low_watermark(topic, *partition)?));
        reader_state.positions.keys().filter_map(low).collect()
    }

    /// Reads a record that could not be processed again, once everything before it is written.
    fn look_again(&mut self, reader_state: &mut ReaderState) -> Result<(), ReaderError> {
        if reader_state.waiting {
            return self.receive_completions(reader_state, IDLE);
        }
        reader_state.doubt();
        std::thread::park_timeout(RETRY_BACKOFF);
        Ok(())
    }

    /// Sends the batch to the writer if it is due, the writer is idle, and Kafka confirms that the topic was not
    /// recreated while the batch was read.
    fn hand_over(&mut self, reader_state: &mut ReaderState) -> Result<(), ReaderError> {
        if !reader_state.sure || reader_state.batch.is_empty() {
            return Ok(());
        }
        let full = reader_state.is_full(&self.limits);
        if reader_state.waiting {
            return if full { self.receive_completions(reader_state, IDLE) } else { Ok(()) };
        }
        let (true, Some(log)) =
            (full || reader_state.batch.opened.elapsed() >= self.limits.batch_max, &reader_state.log)
        else {
            return Ok(());
        };
        let log = log.clone();
        match self.log() {
            Ok(now) if now == log => {}
            // These may be records of a recreated topic, so they are read again as such.
            Ok(_) => {
                reader_state.doubt();
                return Ok(());
            }
            Err(error) => {
                self.wait_for_kafka(&error);
                return Ok(());
            }
        }
        let mut next = reader_state.spare.take().unwrap_or_default();
        next.clear();
        let mut batch = std::mem::replace(&mut reader_state.batch, next);
        let with_rows = batch.partitions_with_rows();
        for moved in &mut batch.moves {
            if let Some(position) = reader_state.positions.get_mut(&moved.partition) {
                moved.sources = position.sources.clone();
                moved.streams = position.streams.take_changes();
                if with_rows.contains(&moved.partition) {
                    position.next_block = position.next_block.map(|block| block + 1);
                }
            }
        }
        self.command(reader_state, Command::Write(log, batch))
    }

    /// Commits offsets to Kafka, so that its tools show the sink's progress.
    fn show(&self, batch: &Batch) {
        let mut offsets = TopicPartitionList::new();
        for moved in &batch.moves {
            self.progress.committed(moved.partition, moved.to);
            let _ = offsets.add_partition_offset(&self.topic, moved.partition, Offset::Offset(moved.to));
        }
        if let Err(error) = self.consumer.inner().commit(&offsets, CommitMode::Async) {
            tracing::debug!(%error, "the sink's offsets could not be committed to Kafka; they are informational only");
        }
    }

    /// Waits for the batch in flight. Records that were read but not sent to the writer are read again by the next
    /// owner.
    fn finish(&mut self, reader_state: &mut ReaderState) {
        if reader_state.waiting
            && let Ok(Completion::Written(batch)) = self.completions.recv_timeout(LAST_WRITE)
        {
            self.show(&batch);
        }
    }
}
