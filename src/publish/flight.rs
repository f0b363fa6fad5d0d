//! What was handed to the producer and is not acknowledged yet, in the order it was sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::queue::Entry;
use super::spool::Position;

/// One parcel on its way.
#[derive(Debug)]
pub struct Sent {
    pub entry: Entry,
    pub at: Instant,
    /// Behind its copy on disk, if it has one.
    pub on_disk: Option<Position>,
    /// Records handed over of those that it has.
    pub handed: u32,
    /// Records that Kafka has, or that became dead letters.
    pub settled: u32,
    /// How many of those are dead letters.
    pub refused: u32,
}

/// The parcels on their way. A ticket names one of them, over any number of producers.
#[derive(Debug, Default)]
pub struct Flight {
    sent: VecDeque<Sent>,
    first_ticket: usize,
    bytes: usize,
}

impl Flight {
    /// Adds a parcel of which nothing is handed over yet.
    pub fn add(&mut self, entry: Entry, on_disk: Option<Position>) {
        self.bytes += entry.parcel.size();
        self.sent.push_back(Sent { entry, at: Instant::now(), on_disk, handed: 0, settled: 0, refused: 0 });
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// How long the oldest has been on its way.
    pub fn age(&self) -> Duration {
        self.sent.front().map_or(Duration::ZERO, |sent| sent.at.elapsed())
    }

    /// Counts records of a ticket as settled.
    pub fn settle(&mut self, ticket: usize, records: u32, refused: bool) {
        let index = ticket.wrapping_sub(self.first_ticket);
        if let Some(sent) = self.sent.get_mut(index) {
            sent.settled += records;
            sent.refused += if refused { records } else { 0 };
        }
    }

    /// The oldest parcel, if all of its records are settled.
    pub fn take_settled(&mut self) -> Option<Sent> {
        let settled = |sent: &mut Sent| sent.settled >= sent.entry.parcel.len();
        let sent = self.sent.pop_front_if(settled)?;
        self.first_ticket += 1;
        self.bytes -= sent.entry.parcel.size();
        Some(sent)
    }

    /// Nothing of what is on its way will arrive: all of it is to be handed over anew.
    pub fn begin_anew(&mut self) {
        for sent in &mut self.sent {
            (sent.handed, sent.settled, sent.refused) = (0, 0, 0);
        }
    }

    /// With their tickets, those that are not handed over entirely.
    pub fn unhanded(&mut self) -> impl Iterator<Item = (usize, &mut Sent)> {
        let complete = |sent: &Sent| sent.handed >= sent.entry.parcel.len();
        let start = self.sent.partition_point(complete);
        let first_ticket = self.first_ticket;
        self.sent.iter_mut().enumerate().skip(start).map(move |(index, sent)| (first_ticket + index, sent))
    }

    pub fn first(&self) -> Option<&Sent> {
        self.sent.front()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.sent.iter_mut()
    }

    /// Gives everything up.
    pub fn drain(&mut self) -> impl Iterator<Item = Sent> {
        self.first_ticket += self.sent.len();
        self.bytes = 0;
        self.sent.drain(..)
    }
}
