//! The circuit breaker: stops requests for a while after repeated failures.
//!
//! It opens after a number of consecutive failures. After the recovery timeout one attempt is allowed, whose outcome
//! closes it or opens it again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Breaker {
    threshold: u32,
    recovery: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Time until which no attempt is allowed; `None` while the circuit is closed.
    open_until: Option<Instant>,
    probing: bool,
}

/// Permission for one attempt. If it is dropped without an outcome, the attempt was abandoned, and the state of the
/// circuit does not change.
#[derive(Debug)]
pub(super) struct Permit<'b>(&'b Breaker);

impl Breaker {
    pub(super) fn new(threshold: u32, recovery: Duration) -> Self {
        Self { threshold, recovery, state: Mutex::default() }
    }

    /// Requests permission for an attempt. `None` if the circuit is open.
    pub(super) fn enter(&self, now: Instant) -> Option<Permit<'_>> {
        let mut state = self.lock();
        if let Some(until) = state.open_until {
            if state.probing || now < until {
                return None;
            }
            state.probing = true;
        }
        Some(Permit(self))
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().open_until.is_some()
    }

    /// Allows the next attempt immediately, because the service showed that it is reachable.
    pub(super) fn may_be_well(&self, now: Instant) {
        let mut state = self.lock();
        state.open_until = state.open_until.map(|_| now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    pub(super) fn succeeded(self) {
        *self.0.lock() = State::default();
    }

    pub(super) fn failed(self, now: Instant) {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        if state.open_until.is_some() || state.failures >= self.0.threshold {
            state.open_until = now.checked_add(self.0.recovery);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.lock().probing = false;
    }
}
