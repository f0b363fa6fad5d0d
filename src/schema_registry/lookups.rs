//! Bookkeeping of schema lookups: those in flight, their limits, and ids that were not found.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};

use super::Lookup;

/// How long an unknown id is not looked up again.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// Maximum number of remembered unknown or failing ids. Producers may send made-up ids.
const MAX_IDS_COUNT: usize = 1_000;
/// Maximum number of lookups that are in flight or waiting.
const MAX_OPEN_COUNT: usize = 64;
/// Maximum number of lookups started per second.
const MAX_LOOKUPS_PER_SECOND: u32 = 50;
/// Minimum interval between lookups of an id that fails.
const FAILURE_BACKOFF: Duration = Duration::from_secs(1);
/// Maximum number of failures of an id while the registry answers other requests. After that, the id counts as unknown.
const MAX_FAILURES: u32 = 3;
/// Upper bound of the time that threads wait for lookups at once. In the long run, one part in [`WAIT_SHARE`] of all
/// time is spent waiting.
const MAX_WAIT: Duration = Duration::from_secs(2);
const WAIT_SHARE: u32 = 10;

/// Result of the attempt to start a lookup.
pub(super) enum Begun {
    /// The lookup was started; its outcome is sent to this channel.
    Open(Receiver<Lookup>),
    /// The lookup is already in flight, or a limit is reached. Try again later.
    Later,
    /// The id was not found recently.
    Unknown(Arc<str>),
}

/// The lookups of one registry.
#[derive(Debug, Default)]
pub(super) struct Open(Mutex<State>);

#[derive(Debug)]
struct State {
    open: AHashSet<u32>,
    unknown: AHashMap<u32, (Instant, Arc<str>)>,
    /// Failing ids, each with the time of the last failure and the number of failures while the registry answered other
    /// requests.
    failing: AHashMap<u32, (Instant, u32)>,
    /// Start of the current second, and the number of lookups started in it.
    second: (Instant, u32),
    /// Remaining time that threads may wait, and the time at which it was computed.
    allowance: (Duration, Instant),
}

impl Default for State {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            open: AHashSet::new(),
            unknown: AHashMap::new(),
            failing: AHashMap::new(),
            second: (now, 0),
            allowance: (MAX_WAIT, now),
        }
    }
}

impl Open {
    /// Decides whether a lookup of the id may start now. A started lookup must be [ended](Self::end).
    pub(super) fn begin(&self, id: u32, outcome: Receiver<Lookup>) -> Begun {
        self.begin_at(id, outcome, Instant::now())
    }

    fn begin_at(&self, id: u32, outcome: Receiver<Lookup>, now: Instant) -> Begun {
        let mut state = self.state();
        state.unknown.retain(|_, (since, _)| now.saturating_duration_since(*since) < UNKNOWN_FOR);
        if let Some((_, why)) = state.unknown.get(&id) {
            return Begun::Unknown(Arc::clone(why));
        }
        if now.saturating_duration_since(state.second.0) >= Duration::from_secs(1) {
            state.second = (now, 0);
        }
        let rests = |(last, _): &(Instant, u32)| now.saturating_duration_since(*last) < FAILURE_BACKOFF;
        if state.open.len() >= MAX_OPEN_COUNT
            || state.second.1 >= MAX_LOOKUPS_PER_SECOND
            || state.failing.get(&id).is_some_and(rests)
            || !state.open.insert(id)
        {
            return Begun::Later;
        }
        state.second.1 += 1;
        Begun::Open(outcome)
    }

    pub(super) fn end(&self, id: u32) {
        self.state().open.remove(&id);
    }

    pub(super) fn note_unknown(&self, id: u32, why: Arc<str>) {
        let mut state = self.state();
        state.failing.remove(&id);
        if state.unknown.len() >= MAX_IDS_COUNT {
            state.unknown.clear();
        }
        state.unknown.insert(id, (Instant::now(), why));
    }

    /// Whether the last lookup of this id failed.
    pub(super) fn has_failed(&self, id: u32) -> bool {
        self.state().failing.contains_key(&id)
    }

    /// Records a failure of the lookup while the whole registry was unreachable.
    pub(super) fn failed_with_all(&self, id: u32) {
        self.state().note_failure(id, 0);
    }

    /// Records a failure of the lookup while the registry answers other requests. `true` if the limit of failures is
    /// reached.
    pub(super) fn failed_alone(&self, id: u32) -> bool {
        let mut state = self.state();
        let count = state.failing.get(&id).map_or(0, |(_, count)| *count) + 1;
        state.note_failure(id, count);
        count >= MAX_FAILURES
    }

    /// How long a thread may wait for a lookup now.
    pub(super) fn timeout(&self) -> Duration {
        let (mut state, now) = (self.state(), Instant::now());
        let (left, since) = state.allowance;
        let left = (left + now.saturating_duration_since(since) / WAIT_SHARE).min(MAX_WAIT);
        state.allowance = (left, now);
        left
    }

    pub(super) fn spend(&self, spent: Duration) {
        let mut state = self.state();
        state.allowance.0 = state.allowance.0.saturating_sub(spent);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note_failure(&mut self, id: u32, count: u32) {
        if self.failing.len() >= MAX_IDS_COUNT && !self.failing.contains_key(&id) {
            self.failing.clear();
        }
        self.failing.insert(id, (Instant::now(), count));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn begin(open: &Open, id: u32, now: Instant) -> Begun {
        open.begin_at(id, sync_channel(1).1, now)
    }

    #[test]
    fn made_up_ids_begin_few_lookups_a_second() {
        let (open, start) = (Open::default(), Instant::now());
        let mut begun = 0;
        for id in 0..2_048 {
            if matches!(begin(&open, id, start), Begun::Open(_)) {
                begun += 1;
                open.end(id);
            }
        }
        assert_eq!(begun, MAX_LOOKUPS_PER_SECOND);
        assert!(matches!(begin(&open, 5_000, start + Duration::from_secs(1)), Begun::Open(_)));
        assert!(matches!(begin(&open, 5_000, start + Duration::from_secs(1)), Begun::Later), "it is open");
    }

    #[test]
    fn an_id_that_fails_alone_rests_and_is_given_up_in_the_end() {
        let (open, start) = (Open::default(), Instant::now());
        open.failed_with_all(7);
        assert!(open.has_failed(7));
        assert!(matches!(begin(&open, 7, start), Begun::Later));
        assert!(matches!(begin(&open, 7, Instant::now() + FAILURE_BACKOFF), Begun::Open(_)));
        open.end(7);
        assert!(!open.failed_alone(7) && !open.failed_alone(7) && open.failed_alone(7));
        open.failed_with_all(7);
        assert!(!open.failed_alone(7), "an outage between begins the count anew");
        open.note_unknown(7, "why".into());
        assert!(matches!(begin(&open, 7, Instant::now()), Begun::Unknown(_)));
        assert!(matches!(begin(&open, 7, Instant::now() + UNKNOWN_FOR), Begun::Open(_)));
    }

    #[test]
    fn threads_wait_for_a_bounded_share_of_the_time() {
        let open = Open::default();
        assert_eq!(open.timeout(), MAX_WAIT);
        open.spend(MAX_WAIT * 2);
        assert!(open.timeout() < MAX_WAIT / 2);
    }
}
