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
    /// Grows when the log is found to be cut under the same topic id.
    pub generation: i32,
    pub sources: Sources,
    pub streams: Streams,
    /// The `audit_block` of the next rows; `None` where the database keeps no hash chain.
    pub next_block: Option<i64>,
}

/// The last result taken of each partition of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources(Vec<Mark>);

/// The last result taken of one partition of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    topic: String,
    /// The requests topic's own id, where the event has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic_id: Option<String>,
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
    /// repetition (`at_least_once` writes some after a crash). Requests of a topic that was made anew count from its
    /// beginning: its id tells. Only where an event has no id, or the log of the topic was cut, the request's time decides: one
    /// that is younger than any seen is another request.
    pub fn take(&mut self, evaluation: &Evaluation<'_>) -> bool {
        let Source::Kafka { topic, topic_id, partition, offset, index } = &evaluation.source else {
            return true;
        };
        let time_ms = evaluation.requested_ms();
        let topic_id = topic_id.as_deref();
        let Some(at) = self.find(topic, topic_id, *partition) else {
            if self.0.len() == MAX_SOURCES_COUNT {
                self.0.remove(0);
            }
            let (topic, topic_id) = (topic.clone().into_owned(), topic_id.map(str::to_owned));
            self.0.push(Mark {
                topic,
                topic_id,
                partition: *partition,
                offset: *offset,
                index: *index,
                time_ms,
            });
            return true;
        };
        let Some(mark) = self.0.get_mut(at) else { return true };
        // The id was not known until now.
        mark.topic_id = mark.topic_id.take().or_else(|| topic_id.map(str::to_owned));
        if (*offset, *index) <= (mark.offset, mark.index) && time_ms <= mark.time_ms {
            return false;
        }
        (mark.offset, mark.index) = (*offset, *index);
        mark.time_ms = mark.time_ms.max(time_ms);
        true
    }

    /// The mark of a partition of requests: of the topic of this id, or one whose id is not known. For an event without an
    /// id (of an older evaluator) the latest of its partition.
    fn find(&self, topic: &str, topic_id: Option<&str>, partition: i32) -> Option<usize> {
        let is_of = |mark: &Mark| mark.partition == partition && mark.topic == topic;
        let known = |mark: &Mark| is_of(mark) && mark.topic_id.as_deref() == topic_id;
        let exact = topic_id.and_then(|_| self.0.iter().rposition(known));
        let unknown = |mark: &Mark| is_of(mark) && (mark.topic_id.is_none() || topic_id.is_none());
        exact.or_else(|| self.0.iter().rposition(unknown))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::evaluation::Event;
    use super::*;

    fn take(sources: &mut Sources, partition: i32, offset: i64, index: i32, ms: i64) -> bool {
        take_of(sources, None, partition, offset, index, ms)
    }

    fn take_of(
        sources: &mut Sources,
        topic_id: Option<&str>,
        partition: i32,
        offset: i64,
        index: i32,
        ms: i64,
    ) -> bool {
        let topic_id = topic_id.map(|id| format!(r#""topic_id":"{id}","#)).unwrap_or_default();
        let topic_hash = 7;
        let id =
            crate::message::event::stream_event_id(topic_hash, partition, offset, index.cast_unsigned(), ms);
        let event = format!(
            r#"{{"event_type":"FEATURE_FLAG_EVALUATED","event_id":"{}","flag_name":"a","environment":"e",
            "enabled":true,"reason":"DEFAULT","evaluated_at":"2026-01-15T10:30:00Z","source":{{"topic":"requests",{topic_id}
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
    fn the_topics_id_decides_whatever_senders_clocks_say() {
        let mut sources = Sources::default();
        // A sender whose clock is an hour ahead was here.
        assert!(take_of(&mut sources, Some("one"), 0, 100, 0, 3_600_000));
        assert!(!take_of(&mut sources, Some("one"), 0, 100, 0, 3_600_000));
        for offset in 0..200 {
            assert!(
                take_of(&mut sources, Some("two"), 0, offset, 0, 1_000),
                "{offset} of the topic made anew"
            );
            assert!(!take_of(&mut sources, Some("two"), 0, offset, 0, 1_000), "{offset} again");
        }
        assert!(!take_of(&mut sources, Some("one"), 0, 99, 0, 1_000), "sent again by a slow evaluator");
        assert!(take_of(&mut sources, Some("two"), 0, 5, 0, 3_600_000), "the topic's log was cut");
    }

    #[test]
    fn evaluators_that_write_no_id_are_understood_beside_those_that_do() {
        let mut sources = Sources::default();
        assert!(take(&mut sources, 0, 100, 0, 1_000));
        assert!(!take_of(&mut sources, Some("one"), 0, 100, 0, 1_000), "sent again after an upgrade");
        assert!(take_of(&mut sources, Some("one"), 0, 101, 0, 1_000));
        assert!(!take(&mut sources, 0, 101, 0, 1_000) && take(&mut sources, 0, 102, 0, 1_000));
        assert!(!take_of(&mut sources, Some("one"), 0, 102, 0, 1_000));
        let text = serde_json::to_string(&sources).unwrap();
        assert_eq!(serde_json::from_str::<Sources>(&text).unwrap(), sources);
        let old = r#"[{"topic":"requests","partition":0,"offset":5,"index":0,"time_ms":9}]"#;
        let mut old: Sources = serde_json::from_str(old).unwrap();
        assert!(!take(&mut old, 0, 5, 0, 9) && take(&mut old, 0, 6, 0, 9));
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
