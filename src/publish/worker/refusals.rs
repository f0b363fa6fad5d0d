//! Handling of events that the broker rejects.

use rdkafka::error::RDKafkaErrorCode;

use crate::log_limit::LogLimit;
use crate::metrics::CodeLabels;
use crate::publish::count_dropped;
use crate::publish::outlet::{LETTER, Refused};

use super::Worker;

impl Worker {
    /// Handles a rejected record. A broker rejects a request as a whole, so the batch's records are then sent one at a
    /// time, by a new producer without other records. A record that was alone becomes a dead letter.
    pub(super) fn refused(&mut self, refused: Refused) {
        let (code, alone) = (refused.code, std::mem::take(&mut self.alone));
        if refused.ticket == LETTER {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.admit() {
                tracing::error!(%code, suppressed, "the broker refuses the dead letter of an event; both are dropped");
            }
            count_dropped(&self.metrics, "dead_letter_refused", 1);
            self.letter_settled();
        } else if alone {
            self.letter = Some(refused);
        } else {
            self.flight.suspect(refused.ticket);
        }
        self.end(code);
    }

    /// Counts a settled dead letter and settles its event.
    pub(super) fn letter_settled(&mut self) {
        if let Some(letter) = self.letter.take() {
            self.metrics.dead_letters.get_or_create(&CodeLabels { code: letter.reason() }).inc();
            self.flight.settle(letter.ticket, 1, true);
        }
    }

    pub(super) fn hand_over_letter(&mut self) -> Result<(), RDKafkaErrorCode> {
        if let (Some(outlet), Some(letter)) = (&self.outlet, &self.letter)
            && outlet.in_flight() == 0
        {
            self.alone = outlet.send_letter(letter)?;
        }
        Ok(())
    }
}
