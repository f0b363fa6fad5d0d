//! Bounded in-memory queue between calls and the worker.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use crate::message::sequence::Sequence;

use super::EventBatch;

/// Upper bound of the queue in bytes.
pub const QUEUE_BYTES: usize = 64 << 20;

/// Event batch, with the sender that reports its acknowledgement to a waiting call.
#[derive(Debug)]
pub struct Entry {
    pub batch: EventBatch,
    pub delivered: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
pub struct Queue {
    /// Random identifier of this process's events.
    stream: u64,
    inner: Mutex<Inner>,
    arrived: Condvar,
    /// Notified when space becomes available, or when none will.
    room: Notify,
    /// The [`DiskFault`] that prevents the worker from moving the queue to disk, as a number; 0 if there is none.
    disk_fault: AtomicU8,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Number of events so far.
    numbered: u64,
    /// Whether the worker is waiting. Waking it needs a system call, which is mostly unnecessary.
    asleep: bool,
    closed: bool,
}

/// The queue is full or closed. Contains the reason and the rejected entry.
#[derive(Debug)]
pub struct Full {
    pub reason: &'static str,
    pub entry: Box<Entry>,
}

impl Full {
    /// Whether space may become available soon.
    pub fn may_pass(&self) -> bool {
        self.reason == QUEUE_FULL
    }
}

const QUEUE_FULL: &str = "queue_full";

/// Reason why events cannot be written to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// The spool has reached its limit, or its disk is full.
    Full = 1,
    /// The disk fails in another way, for example because it is read-only.
    Failed = 2,
}

impl DiskFault {
    const ALL: [Self; 2] = [Self::Full, Self::Failed];

    /// The `reason` label under which dropped events are counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Full => "spool_full",
            Self::Failed => "spool_failed",
        }
    }

    /// Description for the health report.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Full => "the spool has reached its size limit, or its disk is full",
            Self::Failed => "writing to the spool fails",
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            stream: rand::random(),
            inner: Mutex::default(),
            arrived: Condvar::default(),
            room: Notify::new(),
            disk_fault: AtomicU8::default(),
        }
    }
}

impl Queue {
    /// Adds a batch and numbers its events in queue order. Never waits.
    pub fn push(&self, mut entry: Entry) -> Result<(), Full> {
        let mut inner = self.lock();
        let bytes = inner.bytes + entry.batch.size();
        if inner.closed {
            return Err(Full { reason: "stopped", entry: Box::new(entry) });
        }
        if bytes > QUEUE_BYTES {
            let reason = self.disk_fault().map_or(QUEUE_FULL, DiskFault::reason);
            return Err(Full { reason, entry: Box::new(entry) });
        }
        inner.bytes = bytes;
        entry.batch.place = Some(Sequence { stream: self.stream, number: inner.numbered + 1 });
        inner.numbered += u64::from(entry.batch.len());
        inner.entries.push_back(entry);
        if std::mem::take(&mut inner.asleep) {
            drop(inner);
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Returns a future that completes when entries are removed after this call, or when the disk fails.
    pub fn taken(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Removes the oldest entries, about `room` bytes in all.
    pub(super) fn take(&self, room: usize) -> Vec<Entry> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut inner = self.lock();
        while bytes < room {
            let Some(entry) = inner.entries.pop_front() else { break };
            bytes += entry.batch.size();
            taken.push(entry);
        }
        let was_full = inner.bytes > QUEUE_BYTES / 2;
        inner.bytes = inner.bytes.saturating_sub(bytes);
        drop(inner);
        if was_full {
            self.room.notify_waiters();
        }
        taken
    }

    /// Puts back entries that were taken, in their original order.
    pub(super) fn put_back(&self, entries: impl DoubleEndedIterator<Item = Entry>) {
        let mut inner = self.lock();
        for entry in entries.rev() {
            inner.bytes += entry.batch.size();
            inner.entries.push_front(entry);
        }
    }

    /// Waits until an entry arrives, the queue is closed, or `patience` has elapsed.
    pub(super) fn wait(&self, patience: Duration) {
        let mut inner = self.lock();
        if inner.entries.is_empty() && !inner.closed {
            inner.asleep = true;
            let (mut inner, _) =
                self.arrived.wait_timeout(inner, patience).unwrap_or_else(PoisonError::into_inner);
            inner.asleep = false;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Sets the reason why the disk accepts no events, and wakes waiting calls, because no space will become available.
    pub(super) fn set_disk_fault(&self, fault: Option<DiskFault>) {
        let number = fault.map_or(0, |fault| fault as u8);
        if self.disk_fault.swap(number, Ordering::Relaxed) == 0 && number != 0 {
            self.room.notify_waiters();
        }
    }

    fn disk_fault(&self) -> Option<DiskFault> {
        let number = self.disk_fault.load(Ordering::Relaxed);
        DiskFault::ALL.into_iter().find(|fault| *fault as u8 == number)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(bytes: usize) -> Entry {
        let mut batch = EventBatch::new("e".into());
        batch.record(None, |out| out.resize(out.len() + bytes, b'x'));
        Entry { batch, delivered: None }
    }

    fn refused(queue: &Queue, bytes: usize) -> Option<&'static str> {
        queue.push(entry(bytes)).err().map(|full| full.reason)
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let queue = Queue::default();
        assert_eq!(refused(&queue, QUEUE_BYTES / 2), None);
        assert_eq!(refused(&queue, QUEUE_BYTES / 2), Some("queue_full"));
        for (fault, reason) in [(DiskFault::Full, "spool_full"), (DiskFault::Failed, "spool_failed")] {
            queue.set_disk_fault(Some(fault));
            let full = queue.push(entry(QUEUE_BYTES / 2)).unwrap_err();
            assert_eq!((full.reason, full.may_pass()), (reason, false));
        }
        assert_eq!(queue.take(usize::MAX).len(), 1);
        assert_eq!((queue.bytes(), refused(&queue, QUEUE_BYTES / 2)), (0, None));
        queue.close();
        assert_eq!(refused(&queue, 1), Some("stopped"));
    }

    #[tokio::test]
    async fn who_finds_no_room_is_woken_when_there_is_some() {
        let queue = Queue::default();
        assert_eq!(refused(&queue, QUEUE_BYTES - 1_000), None);
        let mut taken = std::pin::pin!(queue.taken());
        assert!(futures_util::poll!(taken.as_mut()).is_pending());
        assert!(queue.push(entry(2_000)).is_err_and(|full| full.may_pass()));
        queue.take(1);
        taken.await;
        assert_eq!(refused(&queue, 2_000), None);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken_when_the_disk_takes_no_more() {
        let queue = Queue::default();
        assert_eq!(refused(&queue, QUEUE_BYTES - 1_000), None);
        let mut taken = std::pin::pin!(queue.taken());
        assert!(futures_util::poll!(taken.as_mut()).is_pending());
        queue.set_disk_fault(Some(DiskFault::Full));
        taken.await;
        assert_eq!(refused(&queue, 2_000), Some("spool_full"));
        queue.set_disk_fault(None);
        assert_eq!(refused(&queue, 2_000), Some("queue_full"));
    }

    #[test]
    fn the_order_survives_being_put_back() {
        let queue = Queue::default();
        for bytes in [1, 2, 3, 4] {
            assert_eq!(refused(&queue, bytes), None);
        }
        let taken = queue.take(30);
        assert_eq!(taken.len(), 3);
        let before = queue.bytes();
        queue.put_back(taken.into_iter().skip(1));
        assert!(queue.bytes() > before);
        let sizes: Vec<usize> = queue
            .take(usize::MAX)
            .iter()
            .map(|entry| entry.batch.records().map(|(_, value)| value.len()).sum())
            .collect();
        assert_eq!(sizes, [2, 3, 4]);
    }
}
