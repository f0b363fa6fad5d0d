//! How many calls are answered at the same time, in pools of their own: whatever takes all places for evaluations
//! leaves those for kill switches and for management. Health takes no place at all.
//!
//! A place is taken when the caller may do what it asks for and its body is here, so that neither strangers nor slow
//! senders hold one.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Problem;

/// Evaluations, and reports of conversions.
pub const MAX_CALLS: usize = 1_024;
/// Calls that read or change flags, experiments and tokens.
pub const MAX_MANAGEMENT_CALLS: usize = 256;
/// Calls that turn kill switches.
pub const MAX_SWITCH_CALLS: usize = 32;
/// Calls that wait until a version is in force; they take no place for evaluations meanwhile.
pub const MAX_VERSION_WAITS: usize = 256;

/// What a call takes a place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Evaluation,
    Management,
    Switch,
    VersionWait,
}

/// The places of all pools.
#[derive(Debug)]
pub(super) struct Places {
    evaluation: Arc<Semaphore>,
    management: Arc<Semaphore>,
    switch: Arc<Semaphore>,
    version_wait: Arc<Semaphore>,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(super) struct CallPlace(#[allow(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Places {
    pub(super) fn new() -> Self {
        let of = |pool: Pool| Arc::new(Semaphore::new(pool.max()));
        Self {
            evaluation: of(Pool::Evaluation),
            management: of(Pool::Management),
            switch: of(Pool::Switch),
            version_wait: of(Pool::VersionWait),
        }
    }

    /// A place, at once or not at all: a call that finds none is asked to come again, not queued.
    pub(super) fn take(&self, pool: Pool) -> Result<CallPlace, Problem> {
        Arc::clone(self.of(pool)).try_acquire_owned().map(CallPlace).map_err(|_| {
            let detail = format!("{} {} already", pool.max(), pool.calls());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
        })
    }

    fn of(&self, pool: Pool) -> &Arc<Semaphore> {
        match pool {
            Pool::Evaluation => &self.evaluation,
            Pool::Management => &self.management,
            Pool::Switch => &self.switch,
            Pool::VersionWait => &self.version_wait,
        }
    }

    /// All places of a pool; for tests.
    #[cfg(test)]
    pub(super) fn take_all(&self, pool: Pool) -> Vec<CallPlace> {
        (0..pool.max()).map_while(|_| self.take(pool).ok()).collect()
    }
}

impl Pool {
    fn max(self) -> usize {
        match self {
            Self::Evaluation => MAX_CALLS,
            Self::Management => MAX_MANAGEMENT_CALLS,
            Self::Switch => MAX_SWITCH_CALLS,
            Self::VersionWait => MAX_VERSION_WAITS,
        }
    }

    fn calls(self) -> &'static str {
        match self {
            Self::Evaluation => "calls are being answered",
            Self::Management => "management calls are being answered",
            Self::Switch => "kill switches are being turned",
            Self::VersionWait => "calls wait for a version",
        }
    }
}
