//! Limits how often one log statement may write, whatever it logs, as the last protection against log floods.
//!
//! Each statement that logs a warning, an error or an information has an allowance of a few lines, which refills by one
//! line per minute. Lines beyond the allowance are counted, and the next written line of the statement contains the
//! number of suppressed ones. Statements that are known to repeat quickly additionally use [`crate::log_limit`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Maximum number of lines that one statement may write in a burst.
const ALLOWANCE_LINES: u64 = 10;
/// Time after which the allowance increases by one line.
const REFILL_MS: u64 = 60_000;
/// librdkafka's lines all come from one statement and are limited by their text instead.
const LIMITED_BY_TEXT: &str = crate::kafka::client::LOG_TARGET;

/// Formats events with `F`, except those beyond the allowance of their statement.
#[derive(Debug)]
pub(super) struct Limited<F> {
    inner: F,
    start: Instant,
    /// Whether lines are JSON, which determines how the number of suppressed lines is added.
    json: bool,
    places: Mutex<HashMap<Identifier, Allowance>>,
}

#[derive(Debug)]
struct Allowance {
    /// Remaining allowance in milliseconds of refill time; a line costs [`REFILL_MS`].
    left_ms: u64,
    updated_ms: u64,
    suppressed: u64,
}

impl<F> Limited<F> {
    pub(super) fn new(inner: F, json: bool) -> Self {
        Self { inner, start: Instant::now(), json, places: Mutex::default() }
    }

    /// The number of lines suppressed since the last one; `None` if the line must be suppressed.
    fn admit(&self, place: &Metadata<'_>) -> Option<u64> {
        if *place.level() > Level::INFO || place.target() == LIMITED_BY_TEXT {
            return Some(0);
        }
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // The number of log statements in the program is bounded.
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(place.callsite()).or_insert_with(|| Allowance::full(now_ms)).admit(now_ms)
    }
}

impl Allowance {
    fn full(now_ms: u64) -> Self {
        Self { left_ms: ALLOWANCE_LINES * REFILL_MS, updated_ms: now_ms, suppressed: 0 }
    }

    fn admit(&mut self, now_ms: u64) -> Option<u64> {
        let refilled = self.left_ms.saturating_add(now_ms.saturating_sub(self.updated_ms));
        self.left_ms = refilled.min(ALLOWANCE_LINES * REFILL_MS);
        self.updated_ms = now_ms;
        match self.left_ms.checked_sub(REFILL_MS) {
            Some(left_ms) => {
                self.left_ms = left_ms;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed += 1;
                None
            }
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self.admit(event.metadata()) {
            // An empty line is not written at all.
            None => Ok(()),
            Some(0) => self.inner.format_event(context, writer, event),
            Some(suppressed) => {
                let mut line = String::new();
                self.inner.format_event(context, Writer::new(&mut line), event)?;
                writer.write_str(&with_suppressed(&line, suppressed, self.json))
            }
        }
    }
}

/// Appends the number of suppressed lines to `line`.
fn with_suppressed(line: &str, suppressed: u64, json: bool) -> String {
    let text = line.trim_end_matches('\n');
    match text.strip_suffix('}').filter(|_| json) {
        Some(object) => format!("{object},\"suppressed_lines\":{suppressed}}}\n"),
        None => format!("{text} suppressed_lines={suppressed}\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::writer::tests::Buffer;
    use super::*;

    #[test]
    fn a_place_may_write_a_few_lines_and_then_one_a_minute() {
        let mut allowance = Allowance::full(5);
        let admitted = (0..1000).filter(|_| allowance.admit(6) == Some(0)).count() as u64;
        assert_eq!(admitted, ALLOWANCE_LINES);
        assert_eq!(allowance.admit(5 + REFILL_MS - 1), None);
        assert_eq!(allowance.admit(6 + REFILL_MS), Some(1000 - ALLOWANCE_LINES + 1));
        assert_eq!(allowance.admit(7 + REFILL_MS), None);
        let hour_ms = 60 * REFILL_MS;
        let in_an_hour =
            (0..hour_ms / 100).filter(|n| allowance.admit(2 * REFILL_MS + n * 100).is_some()).count();
        assert!(in_an_hour <= 61, "{in_an_hour} lines in an hour");
        // A long pause refills the allowance completely, but not beyond its maximum.
        allowance.admit(100 * hour_ms);
        let admitted = (0..1000).filter(|_| allowance.admit(100 * hour_ms).is_some()).count() as u64;
        assert_eq!(admitted, ALLOWANCE_LINES - 1);
    }

    /// The output of `log`.
    fn logged(json: bool, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let out = Arc::new(buffer.clone());
        let make = move || Buffer::clone(&out);
        let builder = tracing_subscriber::fmt().with_writer(make).with_ansi(false);
        if json {
            let builder =
                builder.json().flatten_event(true).map_event_format(|inner| Limited::new(inner, true));
            tracing::subscriber::with_default(builder.finish(), log);
        } else {
            let builder = builder.map_event_format(|inner| Limited::new(inner, false));
            tracing::subscriber::with_default(builder.finish(), log);
        }
        buffer.text()
    }

    #[test]
    fn a_flood_of_one_place_leaves_room_for_others() {
        for json in [false, true] {
            let text = logged(json, || {
                (0..10_000).for_each(|number| tracing::warn!(number, "flood"));
                tracing::error!("something else");
            });
            assert_eq!(text.matches("flood").count() as u64, ALLOWANCE_LINES);
            assert_eq!(text.matches("something else").count(), 1);
            assert_eq!(text.lines().count() as u64, ALLOWANCE_LINES + 1, "{text}");
        }
    }

    #[test]
    fn the_number_of_suppressed_lines_is_in_the_next_one() {
        let json = with_suppressed("{\"level\":\"WARN\",\"message\":\"m\"}\n", 7, true);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
        assert_eq!(parsed.get("suppressed_lines"), Some(&7.into()));
        assert_eq!(with_suppressed("WARN m {}\n", 7, false), "WARN m {} suppressed_lines=7\n");
    }
}
