//! How far a table has read its topic, and whether reading can continue there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since the end of the topic was last seen after which a table is built again: tombstones may be gone by then.
/// `topics apply` sets `delete.retention.ms` to twice this time.
pub const RESUME_MAX_AGE: Duration = Duration::from_secs(12 * 3_600);

/// State of a table, stored with its rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub topic: String,
    /// Id of the topic that the rows come from.
    pub topic_id: String,
    /// Number of the build. Rows of an earlier build are removed once the topic has been read to its end.
    pub epoch: u32,
    /// Whether there are no rows of an earlier build.
    pub is_swept: bool,
    /// The next offset of each partition.
    pub offsets: BTreeMap<i32, i64>,
    /// Number of rows of all builds.
    pub rows: u64,
    /// Time at which the end of the topic was last seen, or the build began, in milliseconds since 1970.
    pub seen_ms: i64,
}

/// The topic as Kafka describes it.
#[derive(Debug)]
pub(super) struct FoundTopic<'t> {
    pub topic: &'t str,
    pub id: &'t str,
    /// First offset of each partition, and the offset behind its last record.
    pub bounds: &'t BTreeMap<i32, (i64, i64)>,
}

impl State {
    /// Reason why the table must be built again; `None` if reading can continue.
    pub(super) fn outdated(&self, found: &FoundTopic<'_>, now_ms: i64) -> Option<&'static str> {
        if self.epoch == 0 {
            return Some("it is new");
        }
        if self.topic != found.topic {
            return Some("it belongs to another topic");
        }
        if self.topic_id != found.id {
            return Some("the topic was deleted and created again");
        }
        if u128::try_from(now_ms - self.seen_ms).unwrap_or(0) > RESUME_MAX_AGE.as_millis() {
            return Some("tombstones may have been compacted since it was last current");
        }
        let of = |partition: &i32| found.bounds.get(partition).copied();
        self.offsets.iter().find_map(|(partition, next)| cut(*next, of(partition)))
    }

    /// The state at the beginning of a new build.
    pub(super) fn anew(&self, topic: &str, id: &str, now_ms: i64) -> Self {
        Self {
            topic: topic.to_owned(),
            topic_id: id.to_owned(),
            epoch: self.epoch + 1,
            is_swept: false,
            offsets: BTreeMap::new(),
            rows: self.rows,
            seen_ms: now_ms,
        }
    }
}

/// Reason why a partition cannot be read from `next`, given its bounds.
pub(super) fn cut(next: i64, bounds: Option<(i64, i64)>) -> Option<&'static str> {
    match bounds {
        None => Some("the topic has lost a partition"),
        Some((_, high)) if next > high => Some("the topic was truncated"),
        Some((low, _)) if next < low => Some("records of the topic were deleted before they were read"),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn state() -> State {
        State {
            topic: "t".to_owned(),
            topic_id: "id".to_owned(),
            epoch: 1,
            is_swept: true,
            offsets: [(0, 5), (1, 9)].into(),
            rows: 3,
            seen_ms: NOW - 1_000,
        }
    }

    fn outdated(state: &State, id: &str, bounds: &[(i32, (i64, i64))]) -> Option<&'static str> {
        let bounds = bounds.iter().copied().collect();
        state.outdated(&FoundTopic { topic: "t", id, bounds: &bounds }, NOW)
    }

    #[test]
    fn reading_continues_in_the_same_topic() {
        let whole = [(0, (0, 5)), (1, (9, 20)), (2, (0, 1))];
        assert_eq!(outdated(&state(), "id", &whole), None);
        assert_eq!(outdated(&State::default(), "id", &whole), Some("it is new"));
        let reason = outdated(&state(), "other", &whole).unwrap_or_default();
        assert!(reason.contains("created again"), "{reason}");
        let elsewhere = State { topic: "u".to_owned(), ..state() };
        assert!(outdated(&elsewhere, "id", &whole).unwrap_or_default().contains("another topic"));
    }

    #[test]
    fn a_topic_that_lost_records_is_read_anew() {
        let reason = |bounds| outdated(&state(), "id", bounds).unwrap_or_default();
        assert!(reason(&[(0, (0, 4)), (1, (0, 20))]).contains("truncated"));
        assert!(reason(&[(0, (6, 7)), (1, (0, 20))]).contains("deleted before"));
        assert!(reason(&[(0, (0, 5))]).contains("lost a partition"));
    }

    #[test]
    fn a_table_that_was_off_for_longer_than_tombstones_last_is_built_anew() {
        let whole = [(0, (0, 5)), (1, (0, 20))];
        let age = i64::try_from(RESUME_MAX_AGE.as_millis()).unwrap_or_default();
        let old = State { seen_ms: NOW - age - 1, ..state() };
        assert!(outdated(&old, "id", &whole).unwrap_or_default().contains("tombstones"));
        assert_eq!(outdated(&State { seen_ms: NOW - age, ..state() }, "id", &whole), None);
    }

    #[test]
    fn a_new_build_has_a_new_number_and_keeps_the_rows_meanwhile() {
        let anew = state().anew("t", "new", NOW);
        assert_eq!((anew.epoch, anew.rows, anew.is_swept), (2, 3, false));
        assert!(anew.offsets.is_empty());
    }
}
