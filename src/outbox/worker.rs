//! The thread that moves events from the queue to Kafka, with the spool as overflow.

mod refusals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::Config;
use crate::health::Reporter;
use crate::kafka::producer::is_refusal;
use crate::kafka::topics::Fit;
use crate::log_limit::LogLimit;
use crate::metrics::{EnvironmentLabels, Metrics};

use super::event_batch::BatchTopic;
use super::event_producer::{DEAD_LETTER_ID, EventProducer, Refused, SendOutcome};
use super::in_flight::{InFlight, Sent};
use super::opening::Opening;
use super::overflow::Overflow;
use super::queue::{Entry, QUEUE_BYTES, Queue};

/// Upper bound of events in flight, in bytes.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// Bytes handed to the producer at once, about one request per partition. Later events are handed over when these are
/// acknowledged, because librdkafka polls busily over what waits behind requests in flight.
const ROUND_BYTES: usize = 4 << 20;
/// Time in flight after which events are also written to the spool.
const SPOOL_AFTER: Duration = Duration::from_secs(1);
/// Time in flight after which events are also written to the spool while the queue is more than half full. If Kafka
/// acknowledges faster than this, it empties the queue within half a second; then the disk would cost more than it
/// saves, and calls wait for space.
const CROWDED_SPOOL_AFTER: Duration = Duration::from_millis(250);
/// Time for which one poll waits for delivery reports.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
const IDLE: Duration = Duration::from_millis(100);
/// Minimum interval between two replacements of the producer.
const RECREATE_BACKOFF: Duration = Duration::from_millis(500);
/// Time for which a producer that is to be replaced may still deliver reports.
const LAST_REPORTS: Duration = Duration::from_secs(1);
/// Interval of periodic work: metrics, health and deletion of acknowledged segments.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(200);
/// How long shutdown waits for Kafka to acknowledge what is left.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Worker {
    pub queue: Arc<Queue>,
    pub config: Arc<Config>,
    pub metrics: Arc<Metrics>,
    pub health: Reporter,
    /// Whether the topics are as required. An earlier producer would make the broker create missing topics.
    fit: Fit,
    event_producer: Option<EventProducer>,
    /// Producer that is being connected and replaces the current one.
    opening: Option<Opening>,
    in_flight_batches: InFlight,
    overflow: Option<Overflow>,
    /// Error for which the producer is replaced, and the time until which its reports are still processed.
    ending: Option<(RDKafkaErrorCode, Instant)>,
    /// True while exactly one record is in flight: a dead letter, or a record of a batch that is sent one record at a
    /// time.
    alone: bool,
    /// Record that was rejected on its own; a dead letter for it is to be sent.
    dead_letter: Option<Refused>,
    /// Earliest time for the next send; set after the producer was replaced.
    pause_until: Option<Instant>,
    house_kept: Instant,
    closing: Option<Instant>,
}

impl Worker {
    pub(super) fn create(
        queue: Arc<Queue>,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        health: Reporter,
        overflow: Option<Overflow>,
        fit: Fit,
    ) -> Self {
        health.up();
        Self {
            fit,
            event_producer: None,
            opening: None,
            queue,
            config,
            metrics,
            health,
            in_flight_batches: InFlight::default(),
            overflow,
            ending: None,
            alone: false,
            dead_letter: None,
            pause_until: None,
            house_kept: Instant::now(),
            closing: None,
        }
    }

    /// Runs until the queue is closed and its events are sent or stored, or [`DRAIN_TIMEOUT`] has elapsed.
    pub(super) fn run(mut self) {
        while !self.is_done() {
            self.take_in();
            self.hand_over();
            self.collect();
            self.keep_house();
            if self.in_flight_batches.is_empty() {
                // If events are queued but nothing is in flight, they wait for the disk.
                if self.queue.bytes() > 0 { std::thread::sleep(POLL_INTERVAL) } else { self.queue.wait(IDLE) }
            }
        }
        self.put_away();
    }

    fn is_done(&mut self) -> bool {
        if !self.queue.is_closed() {
            return false;
        }
        let since = *self.closing.get_or_insert_with(Instant::now);
        let stored = self.overflow.as_ref().is_some_and(Overflow::is_in_use);
        let nothing_left = self.in_flight_batches.is_empty() && self.queue.bytes() == 0;
        nothing_left || stored || since.elapsed() > DRAIN_TIMEOUT
    }

    /// Moves queued events to the spool or into flight.
    fn take_in(&mut self) {
        if let Some(overflow) = &mut self.overflow {
            let age = self.in_flight_batches.age();
            if age > SPOOL_AFTER || (age > CROWDED_SPOOL_AFTER && self.queue.bytes() > QUEUE_BYTES / 2) {
                overflow.begin(&mut self.in_flight_batches);
            }
            if overflow.is_in_use() {
                overflow.store(&self.queue);
            }
            self.queue.set_disk_fault(overflow.disk_fault());
            if overflow.is_in_use() {
                overflow.load(&mut self.in_flight_batches, IN_FLIGHT_BYTES);
                return;
            }
        }
        let room = IN_FLIGHT_BYTES.saturating_sub(self.in_flight_batches.bytes());
        for entry in self.queue.take(room) {
            self.in_flight_batches.add(entry, None);
        }
    }

    fn hand_over(&mut self) {
        let paused = self.pause_until.is_some_and(|until| Instant::now() < until);
        if paused || self.alone || self.ending.is_some() {
            return;
        }
        if self.event_producer.is_none() && *self.fit.borrow() {
            self.open();
        }
        let handed =
            if self.dead_letter.is_some() { self.send_dead_letter_now() } else { self.send_unsent() };
        if let Err(code) = handed {
            self.end(code);
        }
    }

    fn send_unsent(&mut self) -> Result<(), RDKafkaErrorCode> {
        let Self { in_flight_batches, event_producer: Some(event_producer), .. } = self else {
            return Ok(());
        };
        if event_producer.in_flight() > 0 {
            return Ok(());
        }
        let mut room = ROUND_BYTES;
        while let Some((delivery_id, sent)) = in_flight_batches.next_unsent() {
            if room == 0 || (sent.suspect && event_producer.in_flight() > 0) {
                return Ok(());
            }
            room = room.saturating_sub(sent.entry.batch.size());
            match event_producer.hand_over(delivery_id, sent) {
                SendOutcome::Entirely => {}
                SendOutcome::NoRoom => return Ok(()),
                SendOutcome::Alone => {
                    self.alone = true;
                    return Ok(());
                }
                SendOutcome::Refused(refused) if sent.suspect => {
                    self.dead_letter = Some(refused);
                    return Ok(());
                }
                SendOutcome::Refused(refused) => {
                    sent.suspect();
                    return Err(refused.code);
                }
                SendOutcome::Broken(code) => return Err(code),
            }
        }
        Ok(())
    }

    /// Processes delivery reports.
    fn collect(&mut self) {
        let patience = if self.in_flight_batches.is_empty() { Duration::ZERO } else { POLL_INTERVAL };
        let Some(event_producer) = &self.event_producer else {
            return std::thread::sleep(patience);
        };
        let reports = event_producer.poll(patience);
        for (delivery_id, records) in reports.delivered {
            self.alone = false;
            if delivery_id == DEAD_LETTER_ID {
                self.dead_letter_settled()
            } else {
                self.in_flight_batches.settle(delivery_id, records, false)
            }
        }
        for refused in reports.refused {
            self.refused(refused);
        }
        if let Some(code) = reports.broken {
            self.end(code);
        }
        if let Some((code, until)) = self.ending
            && (self.event_producer.as_ref().is_none_or(|event_producer| event_producer.in_flight() == 0)
                || Instant::now() > until)
        {
            self.renew(code);
        }
        while let Some(sent) = self.in_flight_batches.take_settled() {
            self.settled(sent);
        }
    }

    fn settled(&mut self, sent: Sent) {
        let published = sent.entry.batch.evaluations() - sent.refused;
        let labels = EnvironmentLabels { environment: sent.entry.batch.environment };
        if sent.entry.batch.topic == BatchTopic::Events {
            self.metrics.events_published.get_or_create(&labels).inc_by(published.into());
        }
        self.metrics.publish.latency.observe(sent.at.elapsed());
        if let Some(overflow) = &mut self.overflow {
            overflow.acknowledge(sent.on_disk, &self.in_flight_batches);
        }
        if let Some(delivered) = sent.entry.delivered {
            // The call may have timed out and dropped its receiver.
            let _ = delivered.send(());
        }
    }

    /// Starts the replacement of the producer. Reports of its records are still processed for [`LAST_REPORTS`].
    fn end(&mut self, code: RDKafkaErrorCode) {
        self.ending.get_or_insert_with(|| (code, Instant::now() + LAST_REPORTS));
    }

    /// Replaces the producer. Events in flight are sent again, in their order and with their numbers.
    fn renew(&mut self, code: RDKafkaErrorCode) {
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(suppressed) = LIMIT.admit() {
            tracing::warn!(%code, suppressed, "the producer of events is replaced; unacknowledged events are sent again");
        }
        self.event_producer = None;
        self.ending = None;
        self.alone = false;
        self.in_flight_batches.begin_anew();
        // After a rejection the worker continues immediately; other errors are retried after a delay.
        self.pause_until = (!is_refusal(code)).then(|| Instant::now() + RECREATE_BACKOFF);
    }

    /// Starts or continues to open a producer, without blocking.
    fn open(&mut self) {
        static LIMIT: LogLimit = LogLimit::new();
        let opened = match &self.opening {
            Some(opening) => opening.poll(),
            None => match Opening::start(&self.config) {
                Ok(opening) => {
                    self.opening = Some(opening);
                    None
                }
                Err(error) => Some(Err(KafkaError::ClientCreation(error.to_string()))),
            },
        };
        let Some(opened) = opened else { return };
        self.opening = None;
        match opened {
            Ok(event_producer) => self.event_producer = Some(event_producer),
            Err(error) => {
                if let Some(suppressed) = LIMIT.admit() {
                    tracing::error!(%error, suppressed, "the producer of events cannot be created");
                }
                self.pause_until = Some(Instant::now() + RECREATE_BACKOFF);
            }
        }
    }

    fn keep_house(&mut self) {
        if self.house_kept.elapsed() < HOUSEKEEPING_INTERVAL {
            return;
        }
        self.house_kept = Instant::now();
        let spooled = self.overflow.as_mut().map_or(0, |overflow| {
            overflow.keep(&self.in_flight_batches);
            overflow.bytes()
        });
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.metrics
            .publish
            .queue_bytes
            .set(gauge((self.queue.bytes() + self.in_flight_batches.bytes()) as u64));
        self.metrics.publish.spool_bytes.set(gauge(spooled));
        if self.in_flight_batches.age() > SPOOL_AFTER {
            let detail =
                format!("Kafka has not acknowledged events for {} s", self.in_flight_batches.age().as_secs());
            let disk = match self.overflow.as_ref().and_then(Overflow::disk_fault) {
                Some(fault) => format!(", and {}", fault.describe()),
                None => String::new(),
            };
            self.health.degraded(format!("{detail}; {spooled} bytes are on disk{disk}"));
        } else {
            self.health.up();
        }
    }

    /// Writes unacknowledged events to the spool at shutdown, or drops and counts them.
    fn put_away(mut self) {
        if let Some(overflow) = &mut self.overflow {
            if !self.in_flight_batches.is_empty() || self.queue.bytes() > 0 {
                overflow.begin(&mut self.in_flight_batches);
                while overflow.store(&self.queue) && self.queue.bytes() > 0 {}
            }
            overflow.finish(&self.in_flight_batches);
        }
        let unstored =
            self.in_flight_batches.drain().filter(|sent| sent.on_disk.is_none()).map(|sent| sent.entry);
        let lost: u32 =
            unstored.chain(self.queue.take(usize::MAX)).map(|Entry { batch, .. }| batch.evaluations()).sum();
        if lost > 0 {
            // Not limited: once in the life of the process.
            tracing::error!(
                events = lost,
                "events were dropped at shutdown, because Kafka did not acknowledge them in time"
            );
            super::count_dropped(&self.metrics, "stopped", lost);
        }
    }
}
