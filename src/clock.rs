//! Compares this machine's clock with those of other machines.
//!
//! Kill switches, schedules and tokens expire by the clock of the machine that evaluates or checks them. A clock that is an
//! hour wrong therefore shifts them by an hour on that machine, which nothing else reveals. Three clocks are compared
//! whenever they are seen anyway:
//!
//! ```text
//!  database   clock_timestamp(), every few seconds                            ahead or behind
//!  unleash    the header `Date` of answers to the leader                      ahead or behind
//!  kafka      timestamps that other instances gave to records just written    ahead only: an old record may be a late one
//! ```

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::health::{Report, State};
use crate::log_limit::limited;

/// Largest difference between two clocks at which what depends on the time may be done for everyone, such as removing data
/// by age.
pub const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::minutes(5);
/// How long a comparison with records counts that is not repeated.
const OBSERVATION_TTL: Duration = Duration::from_secs(60);

/// The clock that is compared with this machine's: `database`, `unleash` or `kafka`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClockLabels {
    pub against: &'static str,
}

/// A clock that is compared with this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherClock {
    Database,
    Unleash,
    Kafka,
}

impl OtherClock {
    fn label(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Unleash => "unleash",
            Self::Kafka => "kafka",
        }
    }

    fn described(self) -> &'static str {
        match self {
            Self::Database => "the database's clock",
            Self::Unleash => "Unleash's clock",
            Self::Kafka => "the clock of an instance that writes to Kafka",
        }
    }
}

/// How far other clocks are ahead of this machine's.
#[derive(Debug, Default)]
pub struct ClockSkew {
    /// The metric `flagstream_clock_skew_seconds`.
    pub seconds: Family<ClockLabels, Gauge<f64, AtomicU64>>,
    observations: Mutex<Vec<Observation>>,
}

#[derive(Debug, Clone, Copy)]
struct Observation {
    clock: OtherClock,
    ahead: TimeDelta,
    at: Instant,
}

impl ClockSkew {
    /// Records how far another clock is ahead. A negative value means that it is behind.
    pub fn observe(&self, clock: OtherClock, ahead: TimeDelta) {
        self.observe_at(clock, ahead, Instant::now());
    }

    fn observe_at(&self, clock: OtherClock, ahead: TimeDelta, at: Instant) {
        let mut observations = self.observations.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |known: &Observation| at.saturating_duration_since(known.at) < OBSERVATION_TTL;
        let known = observations.iter().find(|known| known.clock == clock && is_new(known)).copied();
        // Records of several instances arrive in turn; the clock that is furthest ahead counts.
        let is_less = |known: Observation| clock == OtherClock::Kafka && known.ahead > ahead;
        if known.is_some_and(is_less) {
            return;
        }
        observations.retain(|known| known.clock != clock);
        observations.push(Observation { clock, ahead, at });
        self.seconds.get_or_create(&ClockLabels { against: clock.label() }).set(ahead.as_seconds_f64());
    }

    /// The clock that differs most, if one differs by more than [`CLOCK_SKEW_MAX`].
    fn worst(&self, now: Instant) -> Option<(OtherClock, TimeDelta)> {
        let observations = self.observations.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = |observation: &&Observation| {
            let age = now.saturating_duration_since(observation.at);
            observation.clock != OtherClock::Kafka || age < OBSERVATION_TTL
        };
        let wrong = observations.iter().filter(counts).filter(|known| known.ahead.abs() > CLOCK_SKEW_MAX);
        wrong.max_by_key(|known| known.ahead.abs()).map(|known| (known.clock, known.ahead))
    }

    /// Whether this machine's clock differs so much from another one that nothing may be done by it for everyone.
    pub fn is_doubtful(&self) -> bool {
        self.worst(Instant::now()).is_some()
    }

    /// The state for `/health`.
    pub fn report(&self) -> Report {
        let Some((clock, ahead)) = self.worst(Instant::now()) else { return Report::new(State::Up) };
        let (seconds, side) =
            (ahead.num_seconds().abs(), if ahead < TimeDelta::zero() { "behind" } else { "ahead of" });
        let detail = format!(
            "{} is {seconds} s {side} this machine's: synchronise both; kill switches, schedules and tokens expire by \
             this machine's clock here",
            clock.described()
        );
        limited!(warn, "{detail}");
        Report::new(State::Degraded).detail(detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(skew: &ClockSkew) -> String {
        skew.report().detail.unwrap_or_default()
    }

    #[test]
    fn minutes_are_tolerated_and_an_hour_is_named_with_its_direction() {
        let skew = ClockSkew::default();
        skew.observe(OtherClock::Database, TimeDelta::seconds(-299));
        assert!(!skew.is_doubtful() && skew.report().state == State::Up);
        skew.observe(OtherClock::Database, TimeDelta::seconds(-3_600));
        assert!(skew.is_doubtful());
        assert!(
            detail(&skew).starts_with("the database's clock is 3600 s behind this machine's"),
            "{}",
            detail(&skew)
        );
        skew.observe(OtherClock::Database, TimeDelta::seconds(3_600));
        assert!(detail(&skew).contains("is 3600 s ahead of this machine's"), "{}", detail(&skew));
        skew.observe(OtherClock::Database, TimeDelta::zero());
        assert!(!skew.is_doubtful());
        assert_eq!(skew.seconds.get_or_create(&ClockLabels { against: "database" }).get(), 0.0);
    }

    #[test]
    fn of_several_writers_the_one_furthest_ahead_counts_for_a_minute() {
        let (skew, start) = (ClockSkew::default(), Instant::now());
        skew.observe_at(OtherClock::Kafka, TimeDelta::hours(1), start);
        skew.observe_at(OtherClock::Kafka, TimeDelta::zero(), start + Duration::from_secs(1));
        assert_eq!(
            skew.worst(start + Duration::from_secs(2)),
            Some((OtherClock::Kafka, TimeDelta::hours(1)))
        );
        assert_eq!(skew.worst(start + OBSERVATION_TTL), None, "not repeated");
        skew.observe_at(OtherClock::Kafka, TimeDelta::zero(), start + OBSERVATION_TTL);
        assert_eq!(skew.worst(start + OBSERVATION_TTL), None);
    }
}
