//! Position of the sink in a partition, and the results that it has already processed.

use serde::{Deserialize, Serialize};

use super::evaluation::{Evaluation, Source};
use super::streams::Streams;

/// Upper bound of source partitions that are remembered per events partition. An events partition has one partition of
/// requests, unless several deployments share the events topic, and all partitions of each tap's source.
const MAX_SOURCES_COUNT: usize = 1_000;

/// Identifies a topic, also if it is deleted and recreated under the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub topic: String,
    /// Kafka's topic id; a recreated topic has a new one.
    pub id: String,
}

/// Position of the sink in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub partition: i32,
    pub next_offset: i64,
    /// Number of times that the log was found truncated under the same topic id.
    pub generation: i32,
    pub sources: Sources,
    pub streams: Streams,
    /// The `audit_block` of the next rows. `None`: the database keeps no hash chain.
    pub next_block: Option<i64>,
}

/// Last result that was processed from each partition of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources(Vec<Mark>);

/// Last result that was processed from one partition of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    topic: String,
    /// Kafka's id of the requests topic. `None`: the event does not contain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic_id: Option<String>,
    /// The tap that read the record; `None` for a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tap: Option<String>,
    partition: i32,
    offset: i64,
    index: i32,
    /// Latest time of any request so far, in milliseconds since 1970.
    time_ms: i64,
}

impl Sources {
    /// Records a result. `false`: the result is a duplicate.
    ///
    /// Results of a partition arrive in the order of their requests, so a result that does not follow the last one is a
    /// duplicate (`at_least_once` writes some after a crash). A recreated requests topic has a new topic id and is
    /// tracked from its beginning. If an event has no topic id, or the requests topic was truncated, the request's time
    /// decides: a request that is later than all before it is a new one.
    pub fn take(&mut self, evaluation: &Evaluation<'_>) -> bool {
        let Source::Kafka { topic, topic_id, partition, offset, index, tap } = &evaluation.source else {
            return true;
        };
        let time_ms = evaluation.requested_ms();
        let (topic_id, tap) = (topic_id.as_deref(), tap.as_deref());
        let Some(at) = self.find(topic, topic_id, tap, *partition) else {
            if self.0.len() == MAX_SOURCES_COUNT {
                self.0.remove(0);
            }
            let (topic, topic_id) = (topic.clone().into_owned(), topic_id.map(str::to_owned));
            self.0.push(Mark {
                topic,
                topic_id,
                tap: tap.map(str::to_owned),
                partition: *partition,
                offset: *offset,
                index: *index,
                time_ms,
            });
            return true;
        };
        let Some(mark) = self.0.get_mut(at) else { return true };
        // Events of older evaluators have no topic id; take the id from the first event that has one.
        mark.topic_id = mark.topic_id.take().or_else(|| topic_id.map(str::to_owned));
        if (*offset, *index) <= (mark.offset, mark.index) && time_ms <= mark.time_ms {
            return false;
        }
        (mark.offset, mark.index) = (*offset, *index);
        mark.time_ms = mark.time_ms.max(time_ms);
        true
    }

    /// Index of the mark of a partition of requests: the one with this topic id, or else one whose id is unknown. For
    /// an event without an id (from an older evaluator), the latest mark of its partition.
    fn find(&self, topic: &str, topic_id: Option<&str>, tap: Option<&str>, partition: i32) -> Option<usize> {
        let is_of =
            |mark: &Mark| mark.partition == partition && mark.topic == topic && mark.tap.as_deref() == tap;
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
            Event::Other | Event::Switched(_) | Event::Together(_) => panic!("not an evaluation"),
        }
    }

    #[test]
    fn repetitions_are_known_by_their_place() {
        let mut sources = Sources::default();
        assert!(take(&mut sources, 0, 5, 0, 1_000));
        assert!(take(&mut sources, 0, 5, 1, 1_000));
        assert!(take(&mut sources, 1, 2, 0, 900));
        // The sender's clock went backwards.
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
        // This sender's clock was an hour ahead.
        assert!(take_of(&mut sources, Some("one"), 0, 100, 0, 3_600_000));
        assert!(!take_of(&mut sources, Some("one"), 0, 100, 0, 3_600_000));
        for offset in 0..200 {
            assert!(
                take_of(&mut sources, Some("two"), 0, offset, 0, 1_000),
                "{offset} of the recreated topic"
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
    fn taps_of_one_topic_are_counted_separately() {
        let mut sources = Sources::default();
        let mut take = |tap: &str, offset: i64| {
            let event = format!(
                r#"{{"event_type":"FEATURE_FLAG_EVALUATED","event_id":"019bc134-7845-8002-896e-300000018330","flag_name":"a",
                "environment":"e","enabled":true,"reason":"DEFAULT","evaluated_at":"2026-01-15T10:30:00Z",
                "source":{{"topic":"orders","partition":0,"offset":{offset},"index":0{tap}}}}}"#
            );
            match Event::read(event.as_bytes()).unwrap() {
                Event::Evaluated(evaluation) => sources.take(&evaluation),
                Event::Other | Event::Switched(_) | Event::Together(_) => panic!("not an evaluation"),
            }
        };
        let (one, other) = (r#","tap":"one""#, r#","tap":"other""#);
        assert!(take(one, 5) && take(other, 5) && take("", 5));
        assert!(!take(one, 5) && !take(other, 5) && !take("", 5));
        assert!(take(other, 6) && !take(other, 6) && take(one, 6));
    }

    #[test]
    fn sources_are_bounded() {
        let mut sources = Sources::default();
        for partition in 0..2_000 {
            assert!(take(&mut sources, partition, 0, 0, 1));
        }
        assert_eq!(sources.0.len(), MAX_SOURCES_COUNT);
    }
}
