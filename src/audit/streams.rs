//! Last processed event of each stream. A stream is the events that one process publishes between start and exit.

use std::collections::BTreeSet;

use ahash::AHashMap;

use crate::message::sequence::Sequence;

/// Upper bound of streams remembered per partition. Those without events for longest are evicted first.
pub const MAX_STREAMS_COUNT: usize = 10_000;
/// How long a stream without new events is remembered, in days. Within this time its process may restart and send the
/// events in its spool.
pub const KEPT_DAYS: u32 = 30;

/// Last processed number of each stream in one partition of the events topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    last: AHashMap<u64, Mark>,
    /// Streams whose last number is not in the database yet.
    changed: BTreeSet<u64>,
    /// Number of calls of [`Streams::enter`].
    entered: i64,
    /// Number of calls of [`Streams::take`].
    taken: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    number: u64,
    /// Value of [`Streams::taken`] at the stream's last event. Negative for a stream from the database without an event
    /// since: the lower, the longer ago.
    heard: i64,
}

impl Streams {
    /// Adds a stream from the database, the one with the latest event first. Streams added this way count as older than
    /// every stream in use.
    pub fn enter(&mut self, known: Sequence) {
        self.entered += 1;
        self.last.entry(known.stream).or_insert(Mark { number: known.number, heard: -self.entered });
    }

    /// Records an event. `false`: the event is a duplicate.
    ///
    /// A publisher sends its events to a partition in the order of their numbers, and sends some again after a crash or
    /// with a new producer, to the same partition. So an event that does not follow the last one is a duplicate.
    pub fn take(&mut self, sequence: Sequence) -> bool {
        self.taken += 1;
        let Sequence { stream, number } = sequence;
        if !self.last.contains_key(&stream) && self.last.len() >= MAX_STREAMS_COUNT {
            self.forget_oldest();
        }
        let mark = self.last.entry(stream).or_insert(Mark { number: 0, heard: 0 });
        mark.heard = self.taken;
        if number <= mark.number {
            return false;
        }
        mark.number = number;
        self.changed.insert(stream);
        true
    }

    /// Returns the streams that have changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Sequence> {
        let changed = std::mem::take(&mut self.changed);
        let known = |stream| self.last.get(&stream).map(|mark| Sequence { stream, number: mark.number });
        changed.into_iter().filter_map(known).collect()
    }

    /// Evicts the tenth of the streams without events for longest, except for changes that are not in the database yet.
    fn forget_oldest(&mut self) {
        let mut heard: Vec<i64> = self.last.values().map(|mark| mark.heard).collect();
        heard.sort_unstable();
        let limit = heard.get(heard.len() / 10).copied().unwrap_or_default();
        self.last.retain(|stream, mark| mark.heard > limit || self.changed.contains(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(streams: &mut Streams, stream: u64, number: u64) -> bool {
        streams.take(Sequence { stream, number })
    }

    #[test]
    fn what_was_sent_again_is_known() {
        let mut streams = Streams::default();
        streams.enter(Sequence { stream: 1, number: 10 });
        assert!(!take(&mut streams, 1, 9) && !take(&mut streams, 1, 10));
        assert_eq!(streams.take_changes(), []);
        // The missing numbers belong to other partitions.
        assert!(take(&mut streams, 1, 15) && take(&mut streams, 2, 1));
        assert!(!take(&mut streams, 1, 12) && !take(&mut streams, 2, 1));
        let changed = [Sequence { stream: 1, number: 15 }, Sequence { stream: 2, number: 1 }];
        assert_eq!(streams.take_changes(), changed);
        assert_eq!(streams.take_changes(), []);
    }

    #[test]
    fn a_new_stream_evicts_only_the_oldest_of_those_from_the_database() {
        let mut streams = Streams::default();
        let count = MAX_STREAMS_COUNT as u64;
        // As read from the database: the latest first.
        (0..count).for_each(|stream| streams.enter(Sequence { stream, number: 5 }));
        assert!(take(&mut streams, count, 1), "a new one");
        assert!(streams.last.len() <= MAX_STREAMS_COUNT);
        let kept = count - count / 10 - 1;
        assert!((0..kept).all(|stream| !take(&mut streams, stream, 5)), "duplicates of known streams");
        assert!(!streams.last.contains_key(&kept) && !streams.last.contains_key(&(count - 1)), "the oldest");
    }

    #[test]
    fn streams_are_bounded_and_the_oldest_go() {
        let mut streams = Streams::default();
        for stream in 0..3 * MAX_STREAMS_COUNT as u64 {
            assert!(take(&mut streams, stream, 5));
            assert!(!take(&mut streams, 0, 5), "heard of all the time");
            streams.take_changes();
        }
        assert!(streams.last.len() <= MAX_STREAMS_COUNT);
    }
}
