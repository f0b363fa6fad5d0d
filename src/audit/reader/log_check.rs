//! Checks all partitions once a second.

use std::ffi::CStr;
use std::time::Instant;

use chrono::TimeDelta;

use crate::clock::{CLOCK_SKEW_MAX, ClockLabels};

use super::state::ReaderState;
use super::{Decode, Reader};

impl<T: Decode> Reader<T> {
    /// Reports how far each partition is read, and restarts from the database if a log ends before its position.
    pub(super) fn look(&mut self, reader_state: &mut ReaderState, topic: &CStr) {
        let ends: Vec<(i32, i64)> = reader_state
            .positions
            .keys()
            .filter_map(|partition| Some((*partition, self.consumer.high_watermark(topic, *partition)?)))
            .collect();
        self.tell(reader_state, &ends);
        let is_cut = |(partition, high): &(i32, i64)| {
            reader_state.positions.get(partition).is_some_and(|position| position.next_offset > *high)
        };
        // This is only the consumer's cached watermark; the following request to Kafka decides.
        if ends.iter().any(is_cut) && reader_state.batch.is_empty() && !reader_state.waiting {
            reader_state.doubt();
        }
    }

    /// Reports the end and the position of each partition, and records whose timestamps are ahead of this clock.
    fn tell(&mut self, reader_state: &ReaderState, ends: &[(i32, i64)]) {
        for (partition, high) in ends {
            self.progress.end(*partition, *high);
            if let Some(read) = reader_state.read_to(*partition) {
                self.progress.position(*partition, read);
            }
        }
        self.progress.observe(Instant::now());
        let Some(ahead_ms) = self.ahead_ms.take() else { return };
        let ahead = TimeDelta::milliseconds(ahead_ms.max(0));
        if self.is_main {
            let labels = ClockLabels { against: "kafka" };
            self.metrics.audit.clock_skew.get_or_create(&labels).set(ahead.as_seconds_f64());
        }
        let wrong = (ahead > CLOCK_SKEW_MAX).then(|| {
            let (topic, seconds) = (&self.topic, ahead.num_seconds());
            format!("records of {topic} are {seconds} s ahead of this machine's clock: correct this machine's clock \
                or the producer's")
        });
        self.health.condition("kafka-clock", wrong);
    }
}
