//! The circuit breaker: leaves a service alone for a while that fails again and again.
//!
//! It opens after so many failures in a row; after the recovery timeout it lets one attempt through, which decides.

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
    /// Until then nothing goes through.
    open_until: Option<Instant>,
    probing: bool,
}

/// An attempt that may be made. Dropped without a word, it was given up, which says nothing about the service.
#[derive(Debug)]
pub(super) struct Permit<'b>(&'b Breaker);

impl Breaker {
    pub(super) fn new(threshold: u32, recovery: Duration) -> Self {
        Self { threshold, recovery, state: Mutex::default() }
    }

    /// `None`: the circuit is open.
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

    /// The service gave a sign of life: the next attempt goes through at once.
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
