//! Event batches in flight: handed to the producer but not acknowledged, in the order in which they were sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::queue::Entry;
use super::spool::Position;

/// One event batch in flight.
#[derive(Debug)]
pub struct Sent {
    pub entry: Entry,
    pub at: Instant,
    /// Position behind the batch's copy in the spool. `None`: it has no copy.
    pub on_disk: Option<Position>,
    /// Number of records handed to the producer.
    pub handed: u32,
    /// Number of records that are acknowledged or became dead letters.
    pub settled: u32,
    /// Number of evaluations whose records became dead letters.
    pub refused: u32,
    /// Whether the broker rejected one of the records together with others. Such a batch is sent one record at a time,
    /// with nothing else in flight.
    pub suspect: bool,
}

impl Sent {
    /// Marks the batch as rejected, like [`InFlight::suspect`].
    pub fn suspect(&mut self) {
        if !self.suspect {
            self.suspect = true;
            (self.handed, self.settled, self.refused) = (0, 0, 0);
        }
    }
}

/// Event batches in flight. A ticket identifies one of them and stays valid when the producer is replaced.
#[derive(Debug, Default)]
pub struct InFlight {
    sent: VecDeque<Sent>,
    first_ticket: usize,
    /// Number of batches at the front that are handed over completely.
    handed: usize,
    bytes: usize,
}

impl InFlight {
    /// Adds a batch that is not handed over yet.
    pub fn add(&mut self, entry: Entry, on_disk: Option<Position>) {
        self.bytes += entry.batch.size();
        let (handed, settled, refused) = (0, 0, 0);
        let at = Instant::now();
        self.sent.push_back(Sent { entry, at, on_disk, handed, settled, refused, suspect: false });
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Time since the oldest batch was added; zero if there is none.
    pub fn age(&self) -> Duration {
        self.sent.front().map_or(Duration::ZERO, |sent| sent.at.elapsed())
    }

    /// Counts records of a batch as settled. `refused`: they became dead letters.
    pub fn settle(&mut self, delivery_id: usize, records: u32, refused: bool) {
        if let Some(sent) = self.get_mut(delivery_id) {
            if refused {
                let indexes = sent.settled..sent.settled.saturating_add(records);
                sent.refused += indexes.map(|index| sent.entry.batch.evaluations_of(index)).sum::<u32>();
            }
            sent.settled += records;
            if sent.suspect {
                sent.handed = sent.handed.max(sent.settled);
            }
        }
    }

    /// Marks a batch as rejected. After the next [`InFlight::begin_anew`] its records are sent one at a time.
    pub fn suspect(&mut self, delivery_id: usize) {
        if let Some(sent) = self.get_mut(delivery_id) {
            sent.suspect();
        }
    }

    fn get_mut(&mut self, delivery_id: usize) -> Option<&mut Sent> {
        self.sent.get_mut(delivery_id.wrapping_sub(self.first_ticket))
    }

    /// Removes and returns the oldest batch, if all of its records are settled.
    pub fn take_settled(&mut self) -> Option<Sent> {
        let settled = |sent: &mut Sent| sent.settled >= sent.entry.batch.len();
        let sent = self.sent.pop_front_if(settled)?;
        self.first_ticket += 1;
        self.handed = self.handed.saturating_sub(1);
        self.bytes -= sent.entry.batch.size();
        Some(sent)
    }

    /// Prepares for a new producer: every batch that is not settled completely is handed over again.
    pub fn begin_anew(&mut self) {
        self.handed = 0;
        for sent in self.sent.iter_mut().filter(|sent| sent.settled < sent.entry.batch.len()) {
            if sent.suspect {
                // The records were sent one at a time, so the settled ones are the first ones.
                sent.handed = sent.settled;
            } else {
                (sent.handed, sent.settled, sent.refused) = (0, 0, 0);
            }
        }
    }

    /// Returns the first batch that is not handed over completely, with its ticket.
    pub fn next_unsent(&mut self) -> Option<(usize, &mut Sent)> {
        let handed = |sent: &Sent| sent.handed >= sent.entry.batch.len();
        while self.sent.get(self.handed).is_some_and(handed) {
            self.handed += 1;
        }
        let delivery_id = self.first_ticket + self.handed;
        self.sent.get_mut(self.handed).map(|sent| (delivery_id, sent))
    }

    pub fn first(&self) -> Option<&Sent> {
        self.sent.front()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.sent.iter_mut()
    }

    /// Removes and returns all batches.
    pub fn drain(&mut self) -> impl Iterator<Item = Sent> {
        self.first_ticket += self.sent.len();
        (self.bytes, self.handed) = (0, 0);
        self.sent.drain(..)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::EventBatch;
    use super::*;

    fn in_flight_batches(sizes: &[u32]) -> InFlight {
        let mut in_flight_batches = InFlight::default();
        for records in sizes {
            let mut batch = EventBatch::new("e".into());
            (0..*records).for_each(|_| batch.record(None, |out| out.push(b'x')));
            in_flight_batches.add(Entry { batch, delivered: None }, None);
        }
        in_flight_batches
    }

    /// Hands over all records, and returns the ticket of each.
    fn hand_over(in_flight_batches: &mut InFlight) -> Vec<usize> {
        let mut tickets = Vec::new();
        while let Some((delivery_id, sent)) = in_flight_batches.next_unsent() {
            sent.handed += 1;
            tickets.push(delivery_id);
        }
        tickets
    }

    #[test]
    fn what_kafka_has_entirely_is_not_handed_over_again() {
        let mut in_flight_batches = in_flight_batches(&[2, 1, 3]);
        assert_eq!(hand_over(&mut in_flight_batches), [0, 0, 1, 2, 2, 2]);
        in_flight_batches.settle(0, 1, false);
        in_flight_batches.settle(1, 1, false);
        in_flight_batches.settle(2, 2, false);
        assert!(in_flight_batches.take_settled().is_none());
        in_flight_batches.begin_anew();
        assert_eq!(hand_over(&mut in_flight_batches), [0, 0, 2, 2, 2]);
        in_flight_batches.settle(0, 2, false);
        in_flight_batches.settle(2, 3, false);
        assert_eq!(std::iter::from_fn(|| in_flight_batches.take_settled()).count(), 3);
        assert!(in_flight_batches.is_empty() && in_flight_batches.bytes() == 0);
    }

    #[test]
    fn suspects_go_on_behind_what_is_settled_of_them() {
        let mut in_flight_batches = in_flight_batches(&[1, 3]);
        hand_over(&mut in_flight_batches);
        in_flight_batches.settle(0, 1, false);
        in_flight_batches.settle(1, 1, false);
        in_flight_batches.suspect(1);
        in_flight_batches.begin_anew();
        assert_eq!(hand_over(&mut in_flight_batches), [1, 1, 1], "nothing is known of which were settled");
        in_flight_batches.settle(1, 1, false);
        in_flight_batches.settle(1, 1, true);
        in_flight_batches.suspect(1);
        in_flight_batches.begin_anew();
        assert_eq!(hand_over(&mut in_flight_batches), [1]);
        in_flight_batches.settle(1, 1, false);
        assert!(in_flight_batches.take_settled().is_some());
        assert_eq!(in_flight_batches.take_settled().unwrap().refused, 1);
    }
}
