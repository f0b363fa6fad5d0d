//! Reads a topic into batches, on a thread of its own, and hands them to the writer one at a time.
//!
//! Where to read from is the database's to say: after every rebalance, and after every conflict, the positions are
//! asked for and sought. What Kafka has committed for the group is for display only. While the writer is at work the
//! next batch is filled; when that is full too, nothing more is fetched.

mod standing;

use std::ffi::CString;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::Sender;

use crate::config::AuditConfig;
use crate::kafka::consumer::{BatchConsumer, Record};
use crate::kafka::describe::{DescribeError, log_id};
use crate::metrics::{Metrics, PartitionLabels};
use crate::shutdown::Shutdown;

use super::batch::Batch;
use super::position::{Log, Position};
use super::writer::{Order, Report};

use self::standing::Standing;

/// How long an idle reader waits for records before it looks for rebalances and shutdown.
const IDLE: Duration = Duration::from_millis(50);
/// For one question to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts to find out where to read.
const PAUSE: Duration = Duration::from_millis(200);
const LAG_INTERVAL: Duration = Duration::from_secs(1);
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
    pub shutdown: Shutdown,
    /// Whether it tells lag and partitions.
    pub tells: bool,
}

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
            if !standing.sure {
                self.find_position(&mut standing)?;
                continue;
            }
            self.fill(&mut standing);
            self.hand_over(&mut standing)?;
            if standing.held_up && standing.batch.is_empty() {
                self.look_again(&mut standing)?;
            }
            if self.tells && told.elapsed() > LAG_INTERVAL {
                told = Instant::now();
                self.tell(&standing, &topic);
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
        if self.tells {
            self.metrics.audit.partitions.set(i64::try_from(partitions.len()).unwrap_or(i64::MAX));
        }
        if partitions.is_empty() {
            std::thread::park_timeout(IDLE);
            return Ok(());
        }
        let log = match self.log() {
            Ok(log) => log,
            Err(error) => {
                tracing::warn!(%error, "waits for Kafka");
                std::thread::park_timeout(PAUSE);
                return Ok(());
            }
        };
        standing.log = Some(log.clone());
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

    /// Reads on from the database's positions.
    fn seek(&mut self, standing: &mut Standing, positions: Vec<Position>) -> Result<(), ReaderError> {
        let mut targets = TopicPartitionList::new();
        for position in &positions {
            let (low, high) =
                match self.consumer.inner().fetch_watermarks(&self.topic, position.partition, CALL_TIMEOUT) {
                    Ok(ends) => ends,
                    Err(error) => {
                        tracing::warn!(%error, partition = position.partition, "waits for Kafka");
                        return Ok(());
                    }
                };
            if position.next_offset < low && position.next_offset > 0 {
                let (partition, lost) = (position.partition, low - position.next_offset);
                tracing::error!(
                    partition,
                    from = position.next_offset,
                    to = low,
                    "Kafka has deleted events before they were read"
                );
                self.metrics.audit.expired.inc_by(lost.unsigned_abs());
            }
            if position.next_offset > high {
                let (partition, next) = (position.partition, position.next_offset);
                tracing::error!(partition, next, high, "Kafka's log ends before what was read of it");
            }
            let offset = Offset::Offset(position.next_offset.max(low));
            targets.add_partition_offset(&self.topic, position.partition, offset)?;
        }
        let sought = self.consumer.inner().seek_partitions(targets, CALL_TIMEOUT)?;
        if let Some(error) = sought.elements().iter().find_map(|element| element.error().err()) {
            tracing::debug!(%error, "not sought yet");
            std::thread::park_timeout(PAUSE);
            return Ok(());
        }
        standing.positions = positions.into_iter().map(|position| (position.partition, position)).collect();
        standing.sure = true;
        Ok(())
    }

    /// Takes what has arrived, if there is room.
    fn fill(&mut self, standing: &mut Standing) {
        if standing.is_full(&self.limits) {
            return;
        }
        let patience = if standing.batch.is_empty() { IDLE } else { self.limits.batch_max / 10 };
        let fetched = self.consumer.fetch(patience);
        let Standing { positions, batch, held_up, .. } = standing;
        let mut sure = true;
        for record in fetched.records() {
            let Some(position) = positions.get_mut(&record.partition()) else { continue };
            if record.offset() < position.next_offset {
                // Not what was sought: the topic may be another one under the same name.
                sure = false;
                break;
            }
            if let Some(why) = self.take.holds_up(&record) {
                tracing::debug!(
                    partition = record.partition(),
                    offset = record.offset(),
                    "the sink waits: {why}"
                );
                *held_up = true;
                break;
            }
            let from = position.next_offset;
            position.next_offset = record.offset() + 1;
            self.take.take(&record, position, batch);
            batch.advance(position, from);
        }
        if !sure {
            drop(fetched);
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

    /// Gives the batch to the writer, once it is due and the writer is free.
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
        let mut next = standing.spare.take().unwrap_or_default();
        next.clear();
        let mut batch = std::mem::replace(&mut standing.batch, next);
        for moved in &mut batch.moves {
            if let Some(position) = standing.positions.get_mut(&moved.partition) {
                moved.sources = position.sources.clone();
                moved.streams = position.streams.take_changes();
            }
        }
        self.order(standing, Order::Write(log, batch))
    }

    /// Tells Kafka's tools how far it is.
    fn show(&self, batch: &Batch) {
        let mut offsets = TopicPartitionList::new();
        for moved in &batch.moves {
            let _ = offsets.add_partition_offset(&self.topic, moved.partition, Offset::Offset(moved.to));
        }
        if let Err(error) = self.consumer.inner().commit(&offsets, CommitMode::Async) {
            tracing::debug!(%error, "offsets are not shown");
        }
    }

    fn tell(&self, standing: &Standing, topic: &std::ffi::CStr) {
        let audit = &self.metrics.audit;
        audit.partitions.set(i64::try_from(standing.positions.len()).unwrap_or(i64::MAX));
        for (partition, position) in &standing.positions {
            if let Some(high) = self.consumer.high_watermark(topic, *partition) {
                let labels = PartitionLabels { partition: *partition };
                audit.lag.get_or_create(&labels).set((high - position.next_offset).max(0));
            }
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
