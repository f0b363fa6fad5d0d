//! Limits how many requests are answered at the same time, in separate pools: a pool that is full of evaluations leaves
//! slots for kill switches and management. Health routes need no slot.
//!
//! A slot is taken only after the caller was authorized and the body was read, so that neither unauthorized callers nor
//! slow clients hold one.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Problem;

/// Concurrent evaluations and conversion reports.
pub const MAX_CALLS: usize = 1_024;
/// Concurrent requests that read or change flags, experiments and tokens.
pub const MAX_MANAGEMENT_CALLS: usize = 256;
/// Concurrent requests that set or clear kill switches.
pub const MAX_SWITCH_CALLS: usize = 32;
/// Concurrent requests that read a part of a topic.
pub const MAX_SCAN_CALLS: usize = 4;
/// Requests that may wait for a version at the same time. They hold no evaluation slot meanwhile.
pub const MAX_VERSION_WAITS: usize = 256;

/// Pool that a request takes its slot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Evaluation,
    Management,
    Switch,
    Scan,
    VersionWait,
}

/// Slots of all pools.
#[derive(Debug)]
pub(super) struct Places {
    evaluation: Arc<Semaphore>,
    management: Arc<Semaphore>,
    switch: Arc<Semaphore>,
    scan: Arc<Semaphore>,
    version_wait: Arc<Semaphore>,
}

/// One slot, released when dropped.
#[derive(Debug)]
pub(super) struct CallPlace(#[allow(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Places {
    pub(super) fn new() -> Self {
        let of = |pool: Pool| Arc::new(Semaphore::new(pool.max()));
        Self {
            evaluation: of(Pool::Evaluation),
            management: of(Pool::Management),
            switch: of(Pool::Switch),
            scan: of(Pool::Scan),
            version_wait: of(Pool::VersionWait),
        }
    }

    /// Takes a slot without waiting. A full pool is an error with `Retry-After`: requests are not queued.
    pub(super) fn take(&self, pool: Pool) -> Result<CallPlace, Problem> {
        Arc::clone(self.of(pool)).try_acquire_owned().map(CallPlace).map_err(|_| {
            let detail =
                format!("{} {} are in progress, which is the limit; retry later", pool.max(), pool.calls());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
        })
    }

    fn of(&self, pool: Pool) -> &Arc<Semaphore> {
        match pool {
            Pool::Evaluation => &self.evaluation,
            Pool::Management => &self.management,
            Pool::Switch => &self.switch,
            Pool::Scan => &self.scan,
            Pool::VersionWait => &self.version_wait,
        }
    }

    /// Takes all slots of a pool, for tests.
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
            Self::Scan => MAX_SCAN_CALLS,
            Self::VersionWait => MAX_VERSION_WAITS,
        }
    }

    fn calls(self) -> &'static str {
        match self {
            Self::Evaluation => "evaluation requests",
            Self::Management => "management requests",
            Self::Switch => "changes of kill switches",
            Self::Scan => "requests that read a topic",
            Self::VersionWait => "requests that wait for a flags version",
        }
    }
}
