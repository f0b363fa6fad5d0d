//! Handling of events that the broker rejects.

use rdkafka::error::RDKafkaErrorCode;

use crate::log_limit::LogLimit;
use crate::metrics::CodeLabels;
use crate::outbox::count_dropped;
use crate::outbox::event_producer::{DEAD_LETTER_ID, Refused};

use super::Worker;

impl Worker {
    /// Handles a rejected record. A broker rejects a request as a whole, so the batch's records are then sent one at a
    /// time, by a new producer without other records. A record that was alone becomes a dead letter.
    pub(super) fn refused(&mut self, refused: Refused) {
        let (code, alone) = (refused.code, std::mem::take(&mut self.alone));
        if refused.delivery_id == DEAD_LETTER_ID {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.admit() {
                tracing::error!(%code, suppressed, "the broker rejected the dead letter of a rejected event; both \
                    are dropped");
            }
            count_dropped(&self.metrics, "dead_letter_refused", 1);
            self.dead_letter_settled();
        } else if alone {
            self.dead_letter = Some(refused);
        } else {
            self.in_flight_batches.suspect(refused.delivery_id);
        }
        self.end(code);
    }

    /// Counts a settled dead letter and settles its event.
    pub(super) fn dead_letter_settled(&mut self) {
        if let Some(dead_letter) = self.dead_letter.take() {
            self.metrics.dead_letters.get_or_create(&CodeLabels { code: dead_letter.reason() }).inc();
            self.in_flight_batches.settle(dead_letter.delivery_id, 1, true);
        }
    }

    pub(super) fn send_dead_letter_now(&mut self) -> Result<(), RDKafkaErrorCode> {
        if let (Some(event_producer), Some(dead_letter)) = (&self.event_producer, &self.dead_letter)
            && event_producer.in_flight() == 0
        {
            self.alone = event_producer.send_dead_letter(dead_letter)?;
        }
        Ok(())
    }
}
