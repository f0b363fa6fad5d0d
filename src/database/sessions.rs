//! Removes sessions of a demoted Postgres server from the pool.
//!
//! After a failover the former primary may stay up as a standby: sessions that were opened before return outdated data
//! and refuse writes. So sessions are checked when they leave the pool. As soon as one of them is read-only, all
//! sessions of that age are closed when they are next taken from the pool.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnectionMetadata;
use sqlx::{PgConnection, Row};

/// Interval after which a session is checked again.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Returns `on` or `off`; always `on` on a standby.
const IS_READ_ONLY: &str = "SHOW transaction_read_only";

/// Time of the last write that a read-only server refused (SQLSTATE 25006), in milliseconds of [`now_ms`]. 0: none.
static READ_ONLY_AT_MS: AtomicU64 = AtomicU64::new(0);

/// Time at which a session of one pool was last checked.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Time of the last check, in milliseconds of [`now_ms`].
    checked_ms: AtomicU64,
}

impl Sessions {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Whether a session may be used. It must be younger than the last refused write; if the last check was a second or
    /// more ago, it must also accept writes.
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

/// Whether the server refuses writes from this session.
pub(super) async fn is_read_only(session: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::raw_sql(IS_READ_ONLY).fetch_one(session).await?;
    Ok(row.try_get::<String, _>(0)? == "on")
}

/// Records that a server is read-only: sessions opened before now are not used again.
pub(super) fn note_read_only() {
    READ_ONLY_AT_MS.fetch_max(now_ms(), Ordering::Relaxed);
}

fn is_outdated(now_ms: u64, age: Duration, read_only_at_ms: u64) -> bool {
    read_only_at_ms > 0 && now_ms.saturating_sub(millis(age)) <= read_only_at_ms
}

/// Milliseconds since the first call, at least 1.
fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // The start lies before the first session, so that the age of a session never reaches back behind it.
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
