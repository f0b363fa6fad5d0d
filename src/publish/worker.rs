//! The one thread between the queue and Kafka, with the disk beside it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use crate::config::Config;
use crate::health::Reporter;
use crate::kafka::producer::is_refusal;
use crate::kafka::topics::Fit;
use crate::message::request::RefusalCode;
use crate::metrics::{CodeLabels, EnvironmentLabels, Metrics};

use super::flight::{Flight, Sent};
use super::outlet::{Outlet, Refused};
use super::queue::{Entry, QUEUE_BYTES, Queue};
use super::shelf::Shelf;

/// Handed to the producer and not acknowledged, at most.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// What Kafka has not taken within this time is put on disk as well.
const SPOOL_AFTER: Duration = Duration::from_secs(1);
/// How long a look at what came back may wait for something to come.
const STEP: Duration = Duration::from_millis(2);
const IDLE: Duration = Duration::from_millis(100);
/// A producer that is of no use is not replaced more often.
const RENEW_PAUSE: Duration = Duration::from_millis(500);
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
    flight: Flight,
    shelf: Option<Shelf>,
    /// Refused in company, to be tried alone.
    suspects: VecDeque<Refused>,
    /// One of them is on its way.
    alone: bool,
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
            queue,
            config,
            metrics,
            health,
            flight: Flight::default(),
            shelf,
            suspects: VecDeque::new(),
            alone: false,
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
            let late = self.flight.age() > SPOOL_AFTER || self.queue.bytes() > QUEUE_BYTES / 2;
            if late {
                shelf.begin(&mut self.flight);
            }
            if shelf.is_in_use() {
                shelf.store(&self.queue);
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
        if paused || self.alone || !self.suspects.is_empty() {
            return;
        }
        if self.outlet.is_none() && *self.fit.borrow() {
            self.open();
        }
        if let Err(code) = self.hand_over_unhanded() {
            self.renew(code);
        }
    }

    fn hand_over_unhanded(&mut self) -> Result<(), RDKafkaErrorCode> {
        let Self { flight, outlet: Some(outlet), suspects, .. } = self else {
            return Ok(());
        };
        for (ticket, sent) in flight.unhanded() {
            let Sent { entry, handed, .. } = sent;
            for (key, value) in entry.parcel.records().skip(*handed as usize) {
                match outlet.send(key, value, entry.parcel.trace, ticket) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(code) if is_refusal(code) => suspects.push_back(Refused {
                        ticket,
                        code,
                        trace: entry.parcel.trace,
                        key: key.map(<[u8]>::to_vec),
                        value: value.to_vec(),
                    }),
                    Err(code) => return Err(code),
                }
                *handed += 1;
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
            self.flight.settle(ticket, records, false);
        }
        for refused in reports.refused {
            if self.alone { self.bury(&refused) } else { self.suspects.push_back(refused) }
        }
        if let Some(code) = reports.broken {
            return self.renew(code);
        }
        if self.outlet.as_ref().is_some_and(|outlet| outlet.in_flight() == 0) {
            self.try_next_alone();
        }
        while let Some(sent) = self.flight.take_settled() {
            self.settled(sent);
        }
    }

    /// A broker refuses a batch as a whole: which record it does not take shows when each is sent alone.
    fn try_next_alone(&mut self) {
        self.alone = false;
        let (Some(outlet), Some(suspect)) = (&self.outlet, self.suspects.pop_front()) else {
            return;
        };
        match outlet.send(suspect.key.as_deref(), &suspect.value, suspect.trace, suspect.ticket) {
            Ok(true) => self.alone = true,
            Ok(false) => self.suspects.push_front(suspect),
            Err(code) if is_refusal(code) => self.bury(&suspect),
            Err(code) => self.renew(code),
        }
    }

    fn bury(&mut self, refused: &Refused) {
        let too_large = matches!(
            refused.code,
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize
        );
        let code = if too_large { RefusalCode::TooLarge } else { RefusalCode::Refused }.as_str();
        if let Some(outlet) = &self.outlet {
            outlet.send_dead_letter(refused, code);
        }
        self.metrics.dead_letters.get_or_create(&CodeLabels { code }).inc();
        self.flight.settle(refused.ticket, 1, true);
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

    /// Replaces the producer; everything that is on its way is sent again.
    fn renew(&mut self, code: RDKafkaErrorCode) {
        tracing::warn!(%code, "the producer of events is replaced, what is on its way is sent again");
        self.outlet = None;
        self.flight.begin_anew();
        self.suspects.clear();
        self.alone = false;
        self.pause_until = Some(Instant::now() + RENEW_PAUSE);
    }

    fn open(&mut self) {
        match Outlet::create(&self.config) {
            Ok(outlet) => self.outlet = Some(outlet),
            Err(error) => {
                tracing::error!(%error, "there is no producer of events yet");
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
            self.health.degraded(format!("{detail}; {spooled} bytes are on disk"));
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
            shelf.keep(&self.flight);
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
