//! Reads a topic into batches, on a thread of its own, and hands them to the writer one at a time.
//!
//! Where to read from is the database's to say: after every rebalance, and after every conflict, the positions are
//! asked for and sought. What Kafka has committed for the group is for display only. While the writer is at work the
//! next batch is filled; when that is full too, nothing more is fetched.

mod bounds;
mod look;
mod standing;
mod start;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use chrono::Utc;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
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
use super::health::LaneHealth;
use super::position::{Log, Position};
use super::writer::{Order, Report};

use self::bounds::expired_between;
use self::standing::Standing;

/// How long an idle reader waits for records before it looks for rebalances and shutdown.
const IDLE: Duration = Duration::from_millis(50);
/// For one question to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts to find out where to read.
const PAUSE: Duration = Duration::from_millis(200);
const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// Most bytes by which a batch may be larger than its limit: a fetch of small compressed records may be much larger than
/// what was fetched.
const MAX_EXCESS_BYTES: usize = 32 << 20;
/// How long shutdown waits for the batch that the writer has.
const LAST_WRITE: Duration = Duration::from_secs(3);

/// What becomes of each record.
pub trait Take: Send + 'static {
    fn take(&mut self, record: &Record<'_>, position: &mut Position, batch: &mut Batch);

    /// Why the record cannot be taken now, for a reason that is not its own.
    fn holds_up(&mut self, _: &Record<'_>) -> Option<Arc<str>> {
        None
    }
}

/// One reader.
#[derive(Debug)]
pub struct Reader<T> {
    pub consumer: BatchConsumer,
    pub topic: String,
    pub take: T,
    pub limits: AuditConfig,
    pub orders: Sender<Order>,
    pub reports: Receiver<Report>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<LaneHealth>,
    pub progress: Progress,
    pub shutdown: Shutdown,
    /// Whether it reads the events topic, and reports how many partitions it has.
    pub is_main: bool,
    /// How far the timestamps of the last second's records were ahead of this machine's clock at most.
    pub ahead_ms: Option<i64>,
}

/// The one reader of a lane's [`Progress`].
pub(super) const READER: usize = 0;

/// What ends a reader; a new one begins from the database's positions.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    #[error("consumer: {0}")]
    Consumer(#[from] KafkaError),
    #[error("the writer is gone")]
    Writer,
}

impl<T: Take> Reader<T> {
    /// Reads until shutdown.
    pub fn run(&mut self) -> Result<(), ReaderError> {
        let mut standing = Standing { rebalances: usize::MAX, ..Standing::default() };
        let topic = CString::new(self.topic.as_str()).unwrap_or_default();
        let mut told = Instant::now();
        while !self.shutdown.is_cancelled() {
            self.consumer.serve()?;
            if standing.rebalances != self.consumer.rebalances() {
                standing.rebalances = self.consumer.rebalances();
                standing.doubt();
            }
            self.hear(&mut standing, Duration::ZERO)?;
            if told.elapsed() > LAG_INTERVAL {
                told = Instant::now();
                self.health.refresh();
                self.look(&mut standing, &topic);
            }
            if !standing.sure {
                self.find_position(&mut standing)?;
                continue;
            }
            self.fill(&mut standing, &topic);
            self.hand_over(&mut standing)?;
            if standing.held_up && standing.batch.is_empty() {
                self.look_again(&mut standing)?;
            }
        }
        self.finish(&mut standing);
        Ok(())
    }

    /// Asks the database where to read, once the writer is free.
    fn find_position(&mut self, standing: &mut Standing) -> Result<(), ReaderError> {
        if standing.waiting {
            return self.hear(standing, IDLE);
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
        if standing.log.as_ref().is_some_and(|known| *known != log) {
            self.report_recreated();
        }
        standing.follow(&log);
        self.order(standing, Order::Position(log, partitions))
    }

    fn log(&self) -> Result<Log, DescribeError> {
        let id = match &self.limits.log_id {
            Some(id) => id.clone(),
            None => log_id(self.consumer.inner().client(), &self.topic, CALL_TIMEOUT)?,
        };
        Ok(Log { topic: self.topic.clone(), id })
    }

    fn order(&self, standing: &mut Standing, order: Order) -> Result<(), ReaderError> {
        // There is room: the writer has answered everything before.
        self.orders.try_send(order).map_err(|_| ReaderError::Writer)?;
        standing.waiting = true;
        Ok(())
    }

    fn hear(&mut self, standing: &mut Standing, patience: Duration) -> Result<(), ReaderError> {
        if !standing.waiting {
            return Ok(());
        }
        let report = match self.reports.recv_timeout(patience) {
            Ok(report) => report,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) if self.shutdown.is_cancelled() => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(ReaderError::Writer),
        };
        standing.waiting = false;
        match report {
            // Partitions may have come and gone since the question: then it is asked again.
            Report::Positions(positions) if standing.rebalances == self.consumer.rebalances() => {
                self.seek(standing, positions)?;
            }
            Report::Positions(_) => {}
            // Either way the positions are asked for again.
            Report::Restarted(restarted) => {
                if restarted {
                    self.metrics.audit.truncated.inc();
                }
                standing.receded.clear();
                standing.cut.clear();
                standing.floors.clear();
            }
            Report::Written(batch) => {
                self.show(&batch);
                standing.spare = Some(batch);
            }
            Report::Conflict(batch) => {
                standing.spare = Some(batch);
                standing.doubt();
            }
        }
        Ok(())
    }

    /// At most a line a minute, however often it is tried.
    fn wait_for_kafka(&self, error: &dyn std::fmt::Display) {
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(suppressed) = LIMIT.admit() {
            tracing::warn!(topic = self.topic, suppressed, "the sink waits for Kafka: {error}");
        }
        std::thread::park_timeout(PAUSE);
    }

    /// Takes what has arrived, if there is room.
    fn fill(&mut self, standing: &mut Standing, topic: &CStr) {
        if standing.is_full(&self.limits) {
            return;
        }
        let patience = if standing.batch.is_empty() { IDLE } else { self.limits.batch_max / 10 };
        let max_bytes = self.limits.batch_max_bytes.saturating_add(MAX_EXCESS_BYTES);
        let mut expired = Vec::new();
        // The low watermarks cannot be asked for while the fetch is borrowed from the consumer.
        let lows: BTreeMap<i32, i64> = standing
            .positions
            .keys()
            .filter_map(|partition| Some((*partition, self.consumer.low_watermark(topic, *partition)?)))
            .collect();
        let now_ms = Utc::now().timestamp_millis();
        let fetched = self.consumer.fetch(patience);
        let Standing { positions, batch, held_up, floors, ends, receded, .. } = &mut *standing;
        ends.extend(fetched.ends());
        for record in fetched.records() {
            let (partition, offset) = (record.partition(), record.offset());
            let Some(position) = positions.get_mut(&partition) else { continue };
            if offset < position.next_offset {
                // Not what was sought: the topic may be another one under the same name, or its log may have been cut.
                receded.insert(partition, offset);
                break;
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
                tracing::debug!(partition, offset, "the sink waits: {why}");
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
            standing.floors.insert(partition, from.saturating_add_unsigned(lost));
            self.report_expired(partition, from, lost);
        }
        if !standing.receded.is_empty() {
            standing.doubt();
            std::thread::park_timeout(PAUSE);
        }
    }

    /// What could not be taken is read again, once all before it is written.
    fn look_again(&mut self, standing: &mut Standing) -> Result<(), ReaderError> {
        if standing.waiting {
            return self.hear(standing, IDLE);
        }
        standing.doubt();
        std::thread::park_timeout(PAUSE);
        Ok(())
    }

    /// Gives the batch to the writer, once it is due, the writer is free, and Kafka says that the topic was not made anew
    /// while the batch was read.
    fn hand_over(&mut self, standing: &mut Standing) -> Result<(), ReaderError> {
        if !standing.sure || standing.batch.is_empty() {
            return Ok(());
        }
        let full = standing.is_full(&self.limits);
        if standing.waiting {
            return if full { self.hear(standing, IDLE) } else { Ok(()) };
        }
        let (true, Some(log)) =
            (full || standing.batch.opened.elapsed() >= self.limits.batch_max, &standing.log)
        else {
            return Ok(());
        };
        let log = log.clone();
        match self.log() {
            Ok(now) if now == log => {}
            // These may be records of the topic that was made anew: they are read again as such.
            Ok(_) => {
                standing.doubt();
                return Ok(());
            }
            Err(error) => {
                self.wait_for_kafka(&error);
                return Ok(());
            }
        }
        let mut next = standing.spare.take().unwrap_or_default();
        next.clear();
        let mut batch = std::mem::replace(&mut standing.batch, next);
        let with_rows = batch.partitions_with_rows();
        for moved in &mut batch.moves {
            if let Some(position) = standing.positions.get_mut(&moved.partition) {
                moved.sources = position.sources.clone();
                moved.streams = position.streams.take_changes();
                if with_rows.contains(&moved.partition) {
                    position.next_block = position.next_block.map(|block| block + 1);
                }
            }
        }
        self.order(standing, Order::Write(log, batch))
    }

    /// Tells Kafka's tools how far it is.
    fn show(&self, batch: &Batch) {
        let mut offsets = TopicPartitionList::new();
        for moved in &batch.moves {
            self.progress.committed(moved.partition, moved.to);
            let _ = offsets.add_partition_offset(&self.topic, moved.partition, Offset::Offset(moved.to));
        }
        if let Err(error) = self.consumer.inner().commit(&offsets, CommitMode::Async) {
            tracing::debug!(%error, "offsets are not shown");
        }
    }

    /// The writer ends its batch; what is only read is read again by whoever comes next.
    fn finish(&mut self, standing: &mut Standing) {
        if standing.waiting
            && let Ok(Report::Written(batch)) = self.reports.recv_timeout(LAST_WRITE)
        {
            self.show(&batch);
        }
    }
}
