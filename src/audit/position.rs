//! Where the sink stands in a partition, and which results it has taken already.

use serde::{Deserialize, Serialize};

use super::evaluation::{Evaluation, Source};
use super::streams::Streams;

/// Most partitions of requests whose last result is remembered per partition of events. There is one, unless several
/// deployments share an events topic.
const MAX_SOURCES_COUNT: usize = 100;

/// A topic in its present life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub topic: String,
    /// The topic's own id: a topic made anew has another one.
    pub id: String,
}

/// Where the sink stands in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub partition: i32,
    pub next_offset: i64,
    pub sources: Sources,
    pub streams: Streams,
}

/// The last result taken of each partition of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources(Vec<Mark>);

/// The last result taken of one partition of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    topic: String,
    partition: i32,
    offset: i64,
    index: i32,
    /// The latest time of any request so far, in milliseconds since 1970.
    time_ms: i64,
}

impl Sources {
    /// Notes a result. `false`: it was taken before.
    ///
    /// Results of a partition come in the order of their requests, so what does not come after the last one is a
    /// repetition (`at_least_once` writes some after a crash). Unless its request is younger than any seen: then the
    /// requests topic was made anew, and counts from its beginning again.
    pub fn take(&mut self, evaluation: &Evaluation<'_>) -> bool {
        let Source::Kafka { topic, partition, offset, index } = &evaluation.source else {
            return true;
        };
        let time_ms = evaluation.requested_ms();
        let known = self.0.iter_mut().find(|mark| mark.partition == *partition && mark.topic == *topic);
        let Some(mark) = known else {
            if self.0.len() == MAX_SOURCES_COUNT {
                self.0.remove(0);
            }
            let (topic, partition) = (topic.clone().into_owned(), *partition);
            self.0.push(Mark { topic, partition, offset: *offset, index: *index, time_ms });
            return true;
        };
        if (*offset, *index) <= (mark.offset, mark.index) && time_ms <= mark.time_ms {
            return false;
        }
        (mark.offset, mark.index) = (*offset, *index);
        mark.time_ms = mark.time_ms.max(time_ms);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::evaluation::Event;
    use super::*;

    fn take(sources: &mut Sources, partition: i32, offset: i64, index: i32, ms: i64) -> bool {
        let topic_hash = 7;
        let id =
            crate::message::event::stream_event_id(topic_hash, partition, offset, index.cast_unsigned(), ms);
        let event = format!(
            r#"{{"event_type":"FEATURE_FLAG_EVALUATED","event_id":"{}","flag_name":"a","environment":"e",
            "enabled":true,"reason":"DEFAULT","evaluated_at":"2026-01-15T10:30:00Z","source":{{"topic":"requests",
            "partition":{partition},"offset":{offset},"index":{index}}}}}"#,
            std::str::from_utf8(&id).unwrap()
        );
        match Event::read(event.as_bytes()).unwrap() {
            Event::Evaluated(evaluation) => sources.take(&evaluation),
            Event::Other | Event::Switched(_) => panic!("not an evaluation"),
        }
    }

    #[test]
    fn repetitions_are_known_by_their_place() {
        let mut sources = Sources::default();
        assert!(take(&mut sources, 0, 5, 0, 1_000));
        assert!(take(&mut sources, 0, 5, 1, 1_000));
        assert!(take(&mut sources, 1, 2, 0, 900));
        // Its clock went backwards.
        assert!(take(&mut sources, 0, 9, 0, 500));
        for (offset, index, ms) in [(5, 0, 1_000), (5, 1, 1_000), (9, 0, 500)] {
            assert!(!take(&mut sources, 0, offset, index, ms), "{offset} {index}");
        }
        assert!(take(&mut sources, 0, 10, 0, 1_001));
    }

    #[test]
    fn a_requests_topic_made_anew_counts_from_its_beginning() {
        let mut sources = Sources::default();
        assert!(take(&mut sources, 0, 5_000, 0, 1_000));
        assert!(take(&mut sources, 0, 0, 0, 2_000));
        assert!(take(&mut sources, 0, 1, 0, 2_001));
        assert!(!take(&mut sources, 0, 1, 0, 2_001));
    }

    #[test]
    fn sources_are_bounded() {
        let mut sources = Sources::default();
        for partition in 0..200 {
            assert!(take(&mut sources, partition, 0, 0, 1));
        }
        assert_eq!(sources.0.len(), MAX_SOURCES_COUNT);
    }
}
