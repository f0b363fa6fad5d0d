//! Per-record changes that apply when a batch is retried because the broker rejected part of it.

use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};

use crate::message::request::RefusalCode;

use super::batch::SourceOffset;

/// An event of a size that the broker rejected is rejected locally for this long, without asking the broker again.
const REFUSED_SIZE_TTL: Duration = Duration::from_secs(60);

/// The parts of the original record that its dead letters contain. The record's position and the reason are always
/// included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetainedParts {
    Everything,
    /// Key and headers, without the body.
    KeyAndHeaders,
    Nothing,
}

/// Changes by record. The entries of a record are removed once it is committed.
#[derive(Debug, Default)]
pub struct Rejections {
    events: AHashMap<(SourceOffset, u32), RefusalCode>,
    /// Copies of records that a tap's output topic rejected, by the index of that topic.
    copies: AHashMap<(SourceOffset, usize), RefusalCode>,
    /// Records whose results are sent as one event each, because a bulk event of theirs was rejected.
    split: AHashSet<SourceOffset>,
    /// Content of a record's dead letters. A record without an entry is kept completely.
    kept: AHashMap<SourceOffset, RetainedParts>,
    unanswered: AHashSet<SourceOffset>,
    /// Records that are written as dead letters instead of being evaluated.
    unprocessable: AHashSet<SourceOffset>,
    /// Smallest size that a topic rejected, by the topic's index among those that the producer has a handle for.
    refused_sizes: AHashMap<usize, (usize, Instant)>,
}

impl Rejections {
    /// Replaces the event with this index by a dead letter.
    pub fn refuse_event(&mut self, place: SourceOffset, index: u32, code: RefusalCode) {
        self.events.insert((place, index), code);
    }

    /// Sends an event of its own for each result of the record.
    pub fn split(&mut self, place: SourceOffset) {
        self.split.insert(place);
    }

    pub fn is_split(&self, place: SourceOffset) -> bool {
        !self.split.is_empty() && self.split.contains(&place)
    }

    /// Size in bytes up to which no event was rejected recently; `None` if none was. `lane` is the index of the events
    /// topic.
    pub fn accepted_event_bytes(&self, lane: usize) -> Option<usize> {
        self.refused_size(lane).map(|bytes| bytes.saturating_sub(1))
    }

    /// Writes a dead letter instead of a copy of the record.
    pub fn refuse_copy(&mut self, place: SourceOffset, output: usize, code: RefusalCode) {
        self.copies.insert((place, output), code);
    }

    /// Reduces what the record's dead letters contain by one step: first the body is omitted, then also key and
    /// headers.
    pub fn shorten_dead_letter(&mut self, place: SourceOffset) {
        let kept = match self.kept(place) {
            RetainedParts::Everything => RetainedParts::KeyAndHeaders,
            RetainedParts::KeyAndHeaders | RetainedParts::Nothing => RetainedParts::Nothing,
        };
        self.kept.insert(place, kept);
    }

    /// Marks the record as unprocessable: it is written as a dead letter instead of being evaluated.
    pub fn give_up(&mut self, place: SourceOffset) {
        self.unprocessable.insert(place);
    }

    pub fn is_unprocessable(&self, place: SourceOffset) -> bool {
        !self.unprocessable.is_empty() && self.unprocessable.contains(&place)
    }

    /// Drops the record's reply.
    pub fn drop_reply(&mut self, place: SourceOffset) {
        self.unanswered.insert(place);
    }

    /// Remembers that a topic rejected a result of this size, in bytes, as too large.
    pub fn learn_refused_size(&mut self, lane: usize, bytes: usize) {
        let smallest = self.refused_size(lane).map_or(bytes, |known| known.min(bytes));
        self.refused_sizes.insert(lane, (smallest, Instant::now()));
    }

    /// The reason why an event is known to be rejected; `lane` is the index of the events topic.
    pub fn event_refusal(
        &self,
        place: SourceOffset,
        index: u32,
        lane: usize,
        bytes: usize,
    ) -> Option<RefusalCode> {
        let known = if self.events.is_empty() { None } else { self.events.get(&(place, index)).copied() };
        known.or_else(|| self.too_large(lane, bytes))
    }

    /// The reason why the copy of a record is known to be rejected.
    pub fn copy_refusal(&self, place: SourceOffset, output: usize, bytes: usize) -> Option<RefusalCode> {
        let known = if self.copies.is_empty() { None } else { self.copies.get(&(place, output)).copied() };
        known.or_else(|| self.too_large(output, bytes))
    }

    fn too_large(&self, lane: usize, bytes: usize) -> Option<RefusalCode> {
        if self.refused_sizes.is_empty() {
            return None;
        }
        self.refused_size(lane).filter(|limit| bytes >= *limit).map(|_| RefusalCode::TooLarge)
    }

    /// The parts of the record that its dead letters contain.
    pub fn kept(&self, place: SourceOffset) -> RetainedParts {
        self.kept.get(&place).copied().unwrap_or(RetainedParts::Everything)
    }

    pub fn is_reply_dropped(&self, place: SourceOffset) -> bool {
        self.unanswered.contains(&place)
    }

    /// Removes the entries of all records before the committed `positions`, given as (partition, next offset).
    pub fn committed(&mut self, positions: &[(i32, i64)]) {
        let open = |place: &SourceOffset| {
            !positions.iter().any(|(partition, next)| place.partition == *partition && place.offset < *next)
        };
        self.events.retain(|(place, _), _| open(place));
        self.copies.retain(|(place, _), _| open(place));
        self.split.retain(open);
        self.kept.retain(|place, _| open(place));
        self.unanswered.retain(open);
        self.unprocessable.retain(open);
    }

    fn refused_size(&self, lane: usize) -> Option<usize> {
        let known = self.refused_sizes.get(&lane);
        known.filter(|(_, learned)| learned.elapsed() < REFUSED_SIZE_TTL).map(|(bytes, _)| *bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE_OFFSET: SourceOffset = SourceOffset { partition: 1, offset: 7 };

    #[test]
    fn amendments_last_until_their_record_is_committed() {
        let mut rejections = Rejections::default();
        rejections.refuse_event(SOURCE_OFFSET, 2, RefusalCode::Refused);
        rejections.shorten_dead_letter(SOURCE_OFFSET);
        rejections.split(SOURCE_OFFSET);
        rejections.drop_reply(SOURCE_OFFSET);
        rejections.give_up(SOURCE_OFFSET);
        rejections.committed(&[(0, 100), (1, 7)]);
        assert_eq!(rejections.event_refusal(SOURCE_OFFSET, 2, 0, 10), Some(RefusalCode::Refused));
        assert_eq!(rejections.event_refusal(SOURCE_OFFSET, 1, 0, 10), None);
        assert!(rejections.is_reply_dropped(SOURCE_OFFSET) && rejections.is_unprocessable(SOURCE_OFFSET));
        assert!(rejections.is_split(SOURCE_OFFSET));
        assert_eq!(rejections.kept(SOURCE_OFFSET), RetainedParts::KeyAndHeaders);
        rejections.shorten_dead_letter(SOURCE_OFFSET);
        assert_eq!(rejections.kept(SOURCE_OFFSET), RetainedParts::Nothing);
        rejections.committed(&[(1, 8)]);
        assert_eq!(rejections.event_refusal(SOURCE_OFFSET, 2, 0, 10), None);
        assert!(!rejections.is_reply_dropped(SOURCE_OFFSET) && !rejections.is_unprocessable(SOURCE_OFFSET));
        assert!(!rejections.is_split(SOURCE_OFFSET));
        assert_eq!(rejections.kept(SOURCE_OFFSET), RetainedParts::Everything);
    }

    #[test]
    fn the_smallest_refused_size_counts() {
        let mut rejections = Rejections::default();
        rejections.learn_refused_size(0, 2_000);
        rejections.learn_refused_size(0, 1_000);
        rejections.learn_refused_size(0, 3_000);
        assert_eq!(rejections.event_refusal(SOURCE_OFFSET, 0, 0, 1_000), Some(RefusalCode::TooLarge));
        assert_eq!(rejections.event_refusal(SOURCE_OFFSET, 0, 0, 999), None);
        assert_eq!(rejections.accepted_event_bytes(0), Some(999));
        assert_eq!(rejections.accepted_event_bytes(1), None, "another topic");
        assert_eq!(rejections.copy_refusal(SOURCE_OFFSET, 1, 1_000), None, "another topic");
    }
}
