//! Overflow to disk: while Kafka does not keep up, all events go through the spool, in order.

use std::time::{Duration, Instant};

use std::sync::Arc;

use crate::log_limit::{LogLimit, limited};
use crate::metrics::Metrics;

use super::in_flight::InFlight;
use super::queue::{DiskFault, Entry, Queue};
use super::spool::{Next, Position, Spool, SpoolError};

/// Upper bound of bytes moved from memory to disk before the worker serves Kafka again.
const STORE_BYTES: usize = 8 << 20;
/// Kafka keeps up again once no event is in flight for longer than this.
const HEALTHY_AGE: Duration = Duration::from_millis(500);
/// Delay after an error of the disk before it is used again.
const DISK_RETRY_BACKOFF: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Overflow {
    spool: Spool,
    metrics: Arc<Metrics>,
    /// Whether new events are appended to the spool.
    in_use: bool,
    /// Whether the spool may contain events.
    filled: bool,
    pause_until: Option<Instant>,
    /// Reason why the last attempt to write events to disk failed.
    disk_fault: Option<DiskFault>,
}

impl Overflow {
    /// Uses a spool, including the events that a previous process left in it.
    pub(super) fn new(spool: Spool, metrics: Arc<Metrics>) -> Self {
        let left = spool.bytes() > 0;
        if left {
            tracing::info!(
                bytes = spool.bytes(),
                "the spool contains events of a previous run; they are sent first"
            );
        }
        Self { spool, metrics, in_use: left, filled: left, pause_until: None, disk_fault: None }
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.in_use
    }

    pub(super) fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// Starts to use the spool: events in flight are copied to it, and new events are appended.
    pub(super) fn begin(&mut self, in_flight_batches: &mut InFlight) {
        if self.in_use || self.is_paused() {
            return;
        }
        self.filled = true;
        for sent in in_flight_batches.iter_mut().filter(|sent| sent.on_disk.is_none()) {
            match self.spool.append(&sent.entry.batch) {
                Ok(position) => {
                    sent.on_disk = Some(position);
                    self.metrics.publish.spooled.inc_by(sent.entry.batch.evaluations().into());
                }
                // Batches without a copy are still in flight, and new events stay in memory.
                Err(error) => return self.not_stored(&error),
            }
        }
        self.disk_fault = None;
        // Under a fluctuating load the spool may be used several times a second, so the message is rate-limited; the
        // metrics are complete.
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(suppressed) = LIMIT.admit() {
            tracing::warn!(suppressed, "Kafka does not keep up; events are written to the spool on disk");
        }
        self.spool.skip_to_end();
        self.in_use = true;
    }

    /// Moves events from the queue to the spool. `false` if the disk fails.
    pub(super) fn store(&mut self, queue: &Queue) -> bool {
        if self.is_paused() {
            return false;
        }
        let mut entries = queue.take(STORE_BYTES).into_iter();
        while let Some(entry) = entries.next() {
            match self.spool.append(&entry.batch) {
                Ok(_) => self.metrics.publish.spooled.inc_by(entry.batch.evaluations().into()),
                Err(error) => {
                    queue.put_back(std::iter::once(entry).chain(entries));
                    self.not_stored(&error);
                    return false;
                }
            };
        }
        self.disk_fault = None;
        true
    }

    /// Reads events from the spool until `room` bytes are in flight.
    pub(super) fn load(&mut self, in_flight_batches: &mut InFlight, room: usize) {
        while in_flight_batches.bytes() < room {
            match self.spool.next() {
                Ok(Next::EventBatch(batch, position)) => {
                    in_flight_batches.add(Entry { batch, delivered: None }, Some(position));
                }
                Ok(Next::Damaged { segment, bytes }) => {
                    limited!(
                        error,
                        segment,
                        bytes,
                        "the end of a spool segment is damaged; its events are lost",
                    );
                    super::count_dropped(&self.metrics, "spool_damaged", 1);
                }
                Ok(Next::End) => return,
                Err(error) => return self.fault(&error.into()),
            }
        }
    }

    /// Records that Kafka has acknowledged a batch and everything before it.
    pub(super) fn acknowledge(&mut self, position: Option<Position>, in_flight_batches: &InFlight) {
        if let Some(Err(error)) = position.map(|position| self.spool.acknowledge(position)) {
            self.fault(&error.into());
        }
        self.end(in_flight_batches);
    }

    /// Periodic maintenance: flushes the spool and ends its use when possible.
    pub(super) fn keep(&mut self, in_flight_batches: &InFlight) {
        if !self.filled {
            return;
        }
        if let Err(error) = self.spool.sync() {
            self.fault(&error.into());
        }
        self.end(in_flight_batches);
    }

    /// Flushes the spool at shutdown.
    pub(super) fn finish(&mut self, in_flight_batches: &InFlight) {
        self.keep(in_flight_batches);
        if self.filled
            && let Err(error) = self.spool.finish()
        {
            self.fault(&error.into());
        }
    }

    /// Ends the use of the spool once everything was read and Kafka keeps up. Deletes its files once everything is
    /// acknowledged.
    fn end(&mut self, in_flight_batches: &InFlight) {
        if in_flight_batches.age() < HEALTHY_AGE && !self.in_use {
            // Kafka keeps up without the disk.
            self.disk_fault = None;
        }
        if self.in_use && self.spool.is_read() && in_flight_batches.age() < HEALTHY_AGE {
            self.in_use = false;
            tracing::debug!("Kafka keeps up again; all events of the spool are in flight");
        }
        // Spooled batches were sent before all others.
        let acknowledged = in_flight_batches.first().is_none_or(|first| first.on_disk.is_none());
        if self.filled && !self.in_use && acknowledged {
            match self.spool.clear() {
                Ok(()) => self.filled = false,
                Err(error) => self.fault(&error.into()),
            }
        }
    }

    fn is_paused(&self) -> bool {
        self.pause_until.is_some_and(|until| Instant::now() < until)
    }

    /// Reason why the disk accepts no events. `None`: it does.
    pub(super) fn disk_fault(&self) -> Option<DiskFault> {
        self.disk_fault
    }

    fn not_stored(&mut self, error: &SpoolError) {
        let full = error.is_full();
        self.disk_fault = Some(if full { DiskFault::Full } else { DiskFault::Failed });
        self.fault(error);
    }

    fn fault(&mut self, error: &SpoolError) {
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(suppressed) = LIMIT.admit() {
            tracing::error!(%error, suppressed, "the event spool reports an error; retrying");
        }
        self.pause_until = Some(Instant::now() + DISK_RETRY_BACKOFF);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::EventBatch;
    use super::*;

    fn entry() -> Entry {
        let mut batch = EventBatch::new("e".into());
        batch.record(None, |out| out.push(b'x'));
        Entry { batch, delivered: None }
    }

    /// Waits until the disk may be used again.
    fn after_the_pause(overflow: &Overflow) {
        while overflow.is_paused() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_disk_is_in_trouble_from_a_failed_write_to_the_next_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 1 << 20).unwrap();
        let (mut overflow, mut in_flight_batches, queue) =
            (Overflow::new(spool, Metrics::new()), InFlight::default(), Queue::default());
        in_flight_batches.add(entry(), None);
        overflow.spool.fail_next_append().unwrap();
        overflow.begin(&mut in_flight_batches);
        assert_eq!((overflow.is_in_use(), overflow.disk_fault()), (false, Some(DiskFault::Full)));
        after_the_pause(&overflow);
        overflow.begin(&mut in_flight_batches);
        assert_eq!((overflow.is_in_use(), overflow.disk_fault()), (true, None));

        queue.push(entry()).unwrap();
        let bytes = queue.bytes();
        overflow.spool.fail_next_append().unwrap();
        assert!(!overflow.store(&queue));
        assert_eq!((queue.bytes(), overflow.disk_fault()), (bytes, Some(DiskFault::Full)));
        after_the_pause(&overflow);
        assert!(overflow.store(&queue));
        assert_eq!((queue.bytes(), overflow.disk_fault()), (0, None));
    }
}
