//! Where calls leave their events: bounded, never waited for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::message::sequence::Sequence;

use super::Parcel;

/// What waits in memory, at most.
pub const QUEUE_BYTES: usize = 64 << 20;

/// A parcel, and who waits until Kafka has it.
#[derive(Debug)]
pub struct Entry {
    pub parcel: Parcel,
    pub delivered: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
pub struct Queue {
    /// The name of this process's events.
    stream: u64,
    inner: Mutex<Inner>,
    arrived: Condvar,
    /// Told by the worker: why there is no room here.
    spool_is_full: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Events that came so far.
    numbered: u64,
    /// The worker sleeps: waking it costs a system call, and mostly it does not.
    asleep: bool,
    closed: bool,
}

/// There is no room, for this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full(pub &'static str);

impl Default for Queue {
    fn default() -> Self {
        Self {
            stream: rand::random(),
            inner: Mutex::default(),
            arrived: Condvar::default(),
            spool_is_full: AtomicBool::default(),
        }
    }
}

impl Queue {
    /// Leaves a parcel, and numbers its events in the order in which they go on from here. Never waits.
    pub fn push(&self, mut entry: Entry) -> Result<(), Full> {
        let mut inner = self.lock();
        let bytes = inner.bytes + entry.parcel.size();
        if inner.closed {
            return Err(Full("stopped"));
        }
        if bytes > QUEUE_BYTES {
            let spool_is_full = self.spool_is_full.load(Ordering::Relaxed);
            return Err(Full(if spool_is_full { "spool_full" } else { "queue_full" }));
        }
        inner.bytes = bytes;
        entry.parcel.place = Some(Sequence { stream: self.stream, number: inner.numbered + 1 });
        inner.numbered += u64::from(entry.parcel.len());
        inner.entries.push_back(entry);
        if std::mem::take(&mut inner.asleep) {
            drop(inner);
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// The oldest entries, of about `room` bytes together.
    pub(super) fn take(&self, room: usize) -> Vec<Entry> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut inner = self.lock();
        while bytes < room {
            let Some(entry) = inner.entries.pop_front() else { break };
            bytes += entry.parcel.size();
            taken.push(entry);
        }
        inner.bytes = inner.bytes.saturating_sub(bytes);
        taken
    }

    /// Puts back what was taken, in its order.
    pub(super) fn put_back(&self, entries: impl DoubleEndedIterator<Item = Entry>) {
        let mut inner = self.lock();
        for entry in entries.rev() {
            inner.bytes += entry.parcel.size();
            inner.entries.push_front(entry);
        }
    }

    /// Sleeps until something arrives, the queue is closed, or `patience` is over.
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

    pub(super) fn set_spool_is_full(&self, full: bool) {
        self.spool_is_full.store(full, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bytes: usize) -> Entry {
        let mut parcel = Parcel::new("e".into());
        parcel.record(None, |out| out.resize(out.len() + bytes, b'x'));
        Entry { parcel, delivered: None }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let queue = Queue::default();
        assert_eq!(queue.push(entry(QUEUE_BYTES / 2)), Ok(()));
        assert_eq!(queue.push(entry(QUEUE_BYTES / 2)), Err(Full("queue_full")));
        queue.set_spool_is_full(true);
        assert_eq!(queue.push(entry(QUEUE_BYTES / 2)), Err(Full("spool_full")));
        assert_eq!(queue.take(usize::MAX).len(), 1);
        assert_eq!((queue.bytes(), queue.push(entry(QUEUE_BYTES / 2))), (0, Ok(())));
        queue.close();
        assert_eq!(queue.push(entry(1)), Err(Full("stopped")));
    }

    #[test]
    fn the_order_survives_being_put_back() {
        let queue = Queue::default();
        for bytes in [1, 2, 3, 4] {
            assert_eq!(queue.push(entry(bytes)), Ok(()));
        }
        let taken = queue.take(30);
        assert_eq!(taken.len(), 3);
        let before = queue.bytes();
        queue.put_back(taken.into_iter().skip(1));
        assert!(queue.bytes() > before);
        let sizes: Vec<usize> = queue
            .take(usize::MAX)
            .iter()
            .map(|entry| entry.parcel.records().map(|(_, value)| value.len()).sum())
            .collect();
        assert_eq!(sizes, [2, 3, 4]);
    }
}
