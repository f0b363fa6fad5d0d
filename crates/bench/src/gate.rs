//! Determines when the measurement starts: when every worker of the arm has received records.
//!
//! A group's first member is assigned all partitions and gives up half of them seconds later. A backlog is answered
//! faster than that, so without a gate some runs would measure one worker and others two.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::error::KafkaResult;

use flagstream::evaluate::answer::{Respond, Responded};
use flagstream::evaluate::batch_sender::BatchSender;
use flagstream::kafka::consumer::Record;

/// Pause before each fetch's records while a backlog waits for the gate.
const SPARING: Duration = Duration::from_millis(100);

/// Open once all workers have started.
#[derive(Debug, Clone)]
pub struct Gate {
    missing: Arc<AtomicUsize>,
    /// Whether workers answer slowly until the gate opens.
    sparing: bool,
}

/// A worker's responder that reports its start to the gate.
#[derive(Debug)]
pub struct Gated<R> {
    inner: R,
    gate: Gate,
    has_begun: bool,
}

impl Gate {
    pub fn new(workers: usize, sparing: bool) -> Self {
        Self { missing: Arc::new(AtomicUsize::new(workers)), sparing }
    }

    pub fn is_open(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }
}

impl<R: Respond> Gated<R> {
    pub fn new(inner: R, gate: Gate) -> Self {
        Self { inner, gate, has_begun: false }
    }
}

impl<R: Respond> Respond for Gated<R> {
    fn begin(&mut self, topic_id: Option<&Arc<str>>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.gate.missing.fetch_sub(1, Ordering::AcqRel);
        }
        if self.gate.sparing && !self.gate.is_open() {
            std::thread::park_timeout(SPARING);
        }
        self.inner.begin(topic_id);
    }

    fn respond(&mut self, record: &Record<'_>, sender: &mut BatchSender<'_>) -> KafkaResult<Responded> {
        self.inner.respond(record, sender)
    }
}
