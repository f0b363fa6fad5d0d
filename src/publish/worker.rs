//! The one thread between the queue and Kafka, with the disk beside it.

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

use super::flight::{Flight, Sent};
use super::opening::Opening;
use super::outlet::{Handed, LETTER, Outlet, Refused};
use super::queue::{Entry, QUEUE_BYTES, Queue};
use super::shelf::Shelf;

/// Handed to the producer and not acknowledged, at most.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// Handed to the producer at once: about what fits into one request for each partition. What came meanwhile is the next
/// round, when this one is acknowledged: librdkafka spins over what waits behind requests that are on their way.
const ROUND_BYTES: usize = 4 << 20;
/// What Kafka has not taken within this time is put on disk as well.
const SPOOL_AFTER: Duration = Duration::from_secs(1);
/// The same while much is waiting. A Kafka that takes what is on its way sooner than that empties the queue in half a
/// second: the disk would cost more than it saves, and calls wait for room.
const CROWDED_SPOOL_AFTER: Duration = Duration::from_millis(250);
/// How long a look at what came back may wait for something to come.
const STEP: Duration = Duration::from_millis(2);
const IDLE: Duration = Duration::from_millis(100);
/// A producer that is of no use is not replaced more often.
const RENEW_PAUSE: Duration = Duration::from_millis(500);
/// How long a producer that is to be replaced may still tell what has arrived.
const LAST_REPORTS: Duration = Duration::from_secs(1);
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(200);
/// At shutdown, for Kafka to take what is left.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Worker {
    pub queue: Arc<Queue>,
    pub config: Arc<Config>,
    pub metrics: Arc<Metrics>,
    pub health: Reporter,
    /// Whether the topics are as they must be. A producer that opened before would make the broker create them.
    fit: Fit,
    outlet: Option<Outlet>,
    /// The producer that is to become the outlet, while it connects.
    opening: Option<Opening>,
    flight: Flight,
    shelf: Option<Shelf>,
    /// Why the producer is to be replaced, and how long it is listened to.
    ending: Option<(RDKafkaErrorCode, Instant)>,
    /// What is on its way is one record of a suspect, or a dead letter.
    alone: bool,
    /// Refused though it was alone: a dead letter takes its place.
    letter: Option<Refused>,
    /// Nothing is handed over before.
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
        shelf: Option<Shelf>,
        fit: Fit,
    ) -> Self {
        health.up();
        Self {
            fit,
            outlet: None,
            opening: None,
            queue,
            config,
            metrics,
            health,
            flight: Flight::default(),
            shelf,
            ending: None,
            alone: false,
            letter: None,
            pause_until: None,
            house_kept: Instant::now(),
            closing: None,
        }
    }

    /// Runs until the queue is closed and empty, or until waiting for Kafka is no more use.
    pub(super) fn run(mut self) {
        while !self.is_done() {
            self.take_in();
            self.hand_over();
            self.collect();
            self.keep_house();
            if self.flight.is_empty() {
                // What waits although nothing is on its way waits for the disk.
                if self.queue.bytes() > 0 { std::thread::sleep(STEP) } else { self.queue.wait(IDLE) }
            }
        }
        self.put_away();
    }

    fn is_done(&mut self) -> bool {
        if !self.queue.is_closed() {
            return false;
        }
        let since = *self.closing.get_or_insert_with(Instant::now);
        let stored = self.shelf.as_ref().is_some_and(Shelf::is_in_use);
        let nothing_left = self.flight.is_empty() && self.queue.bytes() == 0;
        nothing_left || stored || since.elapsed() > DRAIN_PATIENCE
    }

    /// Moves what arrived to the disk or to the producer.
    fn take_in(&mut self) {
        if let Some(shelf) = &mut self.shelf {
            let age = self.flight.age();
            if age > SPOOL_AFTER || (age > CROWDED_SPOOL_AFTER && self.queue.bytes() > QUEUE_BYTES / 2) {
                shelf.begin(&mut self.flight);
            }
            if shelf.is_in_use() {
                shelf.store(&self.queue);
            }
            self.queue.set_disk_trouble(shelf.disk_trouble());
            if shelf.is_in_use() {
                shelf.load(&mut self.flight, IN_FLIGHT_BYTES);
                return;
            }
        }
        let room = IN_FLIGHT_BYTES.saturating_sub(self.flight.bytes());
        for entry in self.queue.take(room) {
            self.flight.add(entry, None);
        }
    }

    fn hand_over(&mut self) {
        let paused = self.pause_until.is_some_and(|until| Instant::now() < until);
        if paused || self.alone || self.ending.is_some() {
            return;
        }
        if self.outlet.is_none() && *self.fit.borrow() {
            self.open();
        }
        let handed = if self.letter.is_some() { self.hand_over_letter() } else { self.hand_over_unhanded() };
        if let Err(code) = handed {
            self.end(code);
        }
    }

    fn hand_over_unhanded(&mut self) -> Result<(), RDKafkaErrorCode> {
        let Self { flight, outlet: Some(outlet), .. } = self else {
            return Ok(());
        };
        if outlet.in_flight() > 0 {
            return Ok(());
        }
        let mut room = ROUND_BYTES;
        while let Some((ticket, sent)) = flight.next_unhanded() {
            if room == 0 || (sent.suspect && outlet.in_flight() > 0) {
                return Ok(());
            }
            room = room.saturating_sub(sent.entry.parcel.size());
            match outlet.hand_over(ticket, sent) {
                Handed::Entirely => {}
                Handed::NoRoom => return Ok(()),
                Handed::Alone => {
                    self.alone = true;
                    return Ok(());
                }
                Handed::Refused(refused) if sent.suspect => {
                    self.letter = Some(refused);
                    return Ok(());
                }
                Handed::Refused(refused) => {
                    sent.suspect();
                    return Err(refused.code);
                }
                Handed::Broken(code) => return Err(code),
            }
        }
        Ok(())
    }

    /// Takes note of what came back.
    fn collect(&mut self) {
        let patience = if self.flight.is_empty() { Duration::ZERO } else { STEP };
        let Some(outlet) = &self.outlet else {
            return std::thread::sleep(patience);
        };
        let reports = outlet.poll(patience);
        for (ticket, records) in reports.delivered {
            self.alone = false;
            if ticket == LETTER { self.letter_settled() } else { self.flight.settle(ticket, records, false) }
        }
        for refused in reports.refused {
            self.refused(refused);
        }
        if let Some(code) = reports.broken {
            self.end(code);
        }
        if let Some((code, until)) = self.ending
            && (self.outlet.as_ref().is_none_or(|outlet| outlet.in_flight() == 0) || Instant::now() > until)
        {
            self.renew(code);
        }
        while let Some(sent) = self.flight.take_settled() {
            self.settled(sent);
        }
    }

    fn settled(&mut self, sent: Sent) {
        let published = sent.entry.parcel.len() - sent.refused;
        let labels = EnvironmentLabels { environment: sent.entry.parcel.environment };
        self.metrics.events_published.get_or_create(&labels).inc_by(published.into());
        self.metrics.publish.latency.observe(sent.at.elapsed());
        if let Some(shelf) = &mut self.shelf {
            shelf.acknowledge(sent.on_disk, &self.flight);
        }
        if let Some(delivered) = sent.entry.delivered {
            // Who does not wait any more does not mind.
            let _ = delivered.send(());
        }
    }

    /// The producer is of no more use. What it has sent may still arrive, and is waited for a little.
    fn end(&mut self, code: RDKafkaErrorCode) {
        self.ending.get_or_insert_with(|| (code, Instant::now() + LAST_REPORTS));
    }

    /// Replaces the producer; what is on its way is sent again, in its order and with its numbers.
    fn renew(&mut self, code: RDKafkaErrorCode) {
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(suppressed) = LIMIT.admit() {
            tracing::warn!(%code, suppressed, "the producer of events is replaced; unacknowledged events are sent again");
        }
        self.outlet = None;
        self.ending = None;
        self.alone = false;
        self.flight.begin_anew();
        // A refusal is answered at once; else the broker may need a rest.
        self.pause_until = (!is_refusal(code)).then(|| Instant::now() + RENEW_PAUSE);
    }

    /// Gets a producer without waiting for it.
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
            Ok(outlet) => self.outlet = Some(outlet),
            Err(error) => {
                if let Some(suppressed) = LIMIT.admit() {
                    tracing::error!(%error, suppressed, "the producer of events cannot be created");
                }
                self.pause_until = Some(Instant::now() + RENEW_PAUSE);
            }
        }
    }

    fn keep_house(&mut self) {
        if self.house_kept.elapsed() < HOUSEKEEPING_INTERVAL {
            return;
        }
        self.house_kept = Instant::now();
        let spooled = self.shelf.as_mut().map_or(0, |shelf| {
            shelf.keep(&self.flight);
            shelf.bytes()
        });
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.metrics.publish.queue_bytes.set(gauge((self.queue.bytes() + self.flight.bytes()) as u64));
        self.metrics.publish.spool_bytes.set(gauge(spooled));
        if self.flight.age() > SPOOL_AFTER {
            let detail = format!("kafka has not taken events for {} s", self.flight.age().as_secs());
            let disk = match self.shelf.as_ref().and_then(Shelf::disk_trouble) {
                Some(trouble) => format!(", and {}", trouble.describe()),
                None => String::new(),
            };
            self.health.degraded(format!("{detail}; {spooled} bytes are on disk{disk}"));
        } else {
            self.health.up();
        }
    }

    /// What Kafka did not take before the end goes to the disk, or is dropped and counted.
    fn put_away(mut self) {
        if let Some(shelf) = &mut self.shelf {
            if !self.flight.is_empty() || self.queue.bytes() > 0 {
                shelf.begin(&mut self.flight);
                while shelf.store(&self.queue) && self.queue.bytes() > 0 {}
            }
            shelf.finish(&self.flight);
        }
        let unstored = self.flight.drain().filter(|sent| sent.on_disk.is_none()).map(|sent| sent.entry);
        let lost: u32 =
            unstored.chain(self.queue.take(usize::MAX)).map(|Entry { parcel, .. }| parcel.len()).sum();
        if lost > 0 {
            tracing::error!(events = lost, "dropped: kafka did not take them before the end");
            super::count_dropped(&self.metrics, "stopped", lost);
        }
    }
}
