//! How far the events of each process that answers over HTTP were taken.

use std::collections::BTreeSet;

use ahash::AHashMap;

use crate::message::sequence::Sequence;

/// Most streams remembered for a partition; each start of a process is one. Those not heard of for longest go first.
pub const MAX_STREAMS_COUNT: usize = 10_000;
/// For so long a stream is remembered that nothing was heard of: until then its process may come back and send what
/// it has on disk.
pub const KEPT_DAYS: u32 = 30;

/// The last event taken of each stream, in one partition of the events topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    last: AHashMap<u64, Mark>,
    /// Those that the database does not know yet.
    changed: BTreeSet<u64>,
    taken: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    number: u64,
    /// When it was heard of, in events taken.
    heard: u64,
}

impl Streams {
    /// Enters what the database knows, one that was heard of longer ago than those entered before.
    pub fn enter(&mut self, known: Sequence) {
        self.last.entry(known.stream).or_insert(Mark { number: known.number, heard: 0 });
    }

    /// Notes an event. `false`: it was taken before.
    ///
    /// Whoever publishes sends its events in the order of their numbers, and sends some of them again after a crash or
    /// with another producer, to the same partition. So what does not come after the last one is a repetition.
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

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Sequence> {
        let changed = std::mem::take(&mut self.changed);
        let known = |stream| self.last.get(&stream).map(|mark| Sequence { stream, number: mark.number });
        changed.into_iter().filter_map(known).collect()
    }

    /// The tenth that was not heard of for longest; what the database does not know yet stays.
    fn forget_oldest(&mut self) {
        let mut heard: Vec<u64> = self.last.values().map(|mark| mark.heard).collect();
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
        // Numbers between are other partitions'.
        assert!(take(&mut streams, 1, 15) && take(&mut streams, 2, 1));
        assert!(!take(&mut streams, 1, 12) && !take(&mut streams, 2, 1));
        let changed = [Sequence { stream: 1, number: 15 }, Sequence { stream: 2, number: 1 }];
        assert_eq!(streams.take_changes(), changed);
        assert_eq!(streams.take_changes(), []);
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
