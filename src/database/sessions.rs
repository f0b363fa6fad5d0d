//! Keeps sessions of a demoted Postgres server out of the pool.
//!
//! After a failover the former primary may stay up as a standby: sessions that were opened before answer reads with old data
//! and refuse writes. So sessions are checked when they leave the pool, and as soon as one is found to be read-only all
//! that are as old are closed when their turn comes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnectionMetadata;
use sqlx::{PgConnection, Row};

/// A session is checked again after so long.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Answers `on` or `off`; on a standby always `on`.
const IS_READ_ONLY: &str = "SHOW transaction_read_only";

/// Milliseconds of [`now_ms`] at which a write was last refused because its server takes none (SQLSTATE 25006).
static READ_ONLY_AT_MS: AtomicU64 = AtomicU64::new(0);

/// When sessions of one pool were checked.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Milliseconds of [`now_ms`].
    checked_ms: AtomicU64,
}

impl Sessions {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Whether a session may be used: it is younger than the last refused write, and takes writes if it was not checked
    /// for a second.
    pub(super) async fn may_use(
        &self,
        session: &mut PgConnection,
        metadata: PoolConnectionMetadata,
    ) -> Result<bool, sqlx::Error> {
        let now_ms = now_ms();
        if is_outdated(now_ms, metadata.age, READ_ONLY_AT_MS.load(Ordering::Relaxed)) {
            return Ok(false);
        }
        let interval_ms = millis(CHECK_INTERVAL);
        let is_due = now_ms.saturating_sub(self.checked_ms.load(Ordering::Relaxed)) >= interval_ms;
        if !is_due && metadata.idle_for < CHECK_INTERVAL {
            return Ok(true);
        }
        self.checked_ms.store(now_ms, Ordering::Relaxed);
        let is_read_only = is_read_only(session).await?;
        if is_read_only {
            note_read_only();
        }
        Ok(!is_read_only)
    }
}

/// Whether the server takes no writes from this session.
pub(super) async fn is_read_only(session: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::raw_sql(IS_READ_ONLY).fetch_one(session).await?;
    Ok(row.try_get::<String, _>(0)? == "on")
}

/// A server refused a write because it takes none: sessions opened before now are not used again.
pub(super) fn note_read_only() {
    READ_ONLY_AT_MS.fetch_max(now_ms(), Ordering::Relaxed);
}

fn is_outdated(now_ms: u64, age: Duration, read_only_at_ms: u64) -> bool {
    read_only_at_ms > 0 && now_ms.saturating_sub(millis(age)) <= read_only_at_ms
}

/// Milliseconds since the first call, at least 1.
fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // Later than any session's birth would be counted from otherwise.
    millis(START.get_or_init(|| Instant::now() - Duration::from_millis(1)).elapsed()).max(1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_from_before_a_refused_write_are_outdated() {
        let cases = [(10_000, 6_000, 0, false), (10_000, 6_000, 5_000, true), (10_000, 4_000, 5_000, false)];
        for (now, age, read_only_at, expected) in cases {
            assert_eq!(
                is_outdated(now, Duration::from_millis(age), read_only_at),
                expected,
                "{age} {read_only_at}"
            );
        }
    }
}
