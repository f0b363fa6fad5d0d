//! Task that reads the table of tokens.

use std::time::Duration;

use anyhow::Result;
use chrono::Utc;
use tokio::time::{Instant, sleep, timeout};

use crate::auth::table::{self, TableError};
use crate::health::Reporter;
use crate::log_limit::limited;
use crate::metrics::{AuthMetrics, LookLabels};
use crate::shutdown::Shutdown;

use super::{LOOK_INTERVAL, REFRESH_INTERVAL, TokenCache};

/// Timeout of one read.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which the tokens are read even if the revision has not changed (for example after a restored backup),
/// and at which uses are written to the table.
const HOUSE_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum uses written at a time. Each is one statement.
const NOTES_MAX: usize = 1_000;

/// State kept between two reads.
struct RefreshState {
    revision: Option<i64>,
    /// Time of the last read of all tokens.
    read_at: Instant,
    told: Option<String>,
}

impl TokenCache {
    /// Reads the table regularly until `shutdown`.
    pub async fn run(&self, shutdown: Shutdown, health: Reporter, metrics: AuthMetrics) -> Result<()> {
        let mut refresh_state = RefreshState { revision: None, read_at: Instant::now(), told: None };
        while !shutdown.is_cancelled() {
            let failed = tokio::select! {
                () = shutdown.cancelled() => break,
                failed = self.look(&mut refresh_state, &health, &metrics) => failed,
            };
            let pause = async {
                sleep(REFRESH_INTERVAL).await;
                // After a failure only the regular interval applies: requests do not trigger reads of an unreachable
                // database.
                let asked =
                    async { if failed { std::future::pending().await } else { self.asked.notified().await } };
                let _ = timeout(LOOK_INTERVAL - REFRESH_INTERVAL, asked).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = pause => {}
            }
        }
        // If this fails, these uses are lost; the next use of each token is recorded again.
        let _ = timeout(LOOK_TIMEOUT, self.note_uses()).await;
        Ok(())
    }

    /// Performs one read of the table. Returns whether it failed.
    async fn look(&self, refresh_state: &mut RefreshState, health: &Reporter, metrics: &AuthMetrics) -> bool {
        self.looks.send_modify(|looks| looks.begun += 1);
        let as_of = Instant::now();
        let looked = timeout(LOOK_TIMEOUT, self.look_at_table(refresh_state, as_of)).await;
        let error = match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("the database did not respond within {} s", LOOK_TIMEOUT.as_secs())),
        };
        let failed = error.is_some();
        let outcome = if failed { "failed" } else { "done" };
        metrics.looks.get_or_create(&LookLabels { outcome }).inc();
        metrics.expiring.set(i64::try_from(self.expiring(Utc::now())).unwrap_or(i64::MAX));
        metrics.tokens.set(i64::try_from(self.len()).unwrap_or(i64::MAX));
        self.looks.send_modify(|looks| {
            looks.ended = looks.begun;
            looks.failing = failed;
        });
        refresh_state.tell(error, health);
        failed
    }

    async fn look_at_table(
        &self,
        refresh_state: &mut RefreshState,
        as_of: Instant,
    ) -> Result<(), TableError> {
        let revision = table::revision(&self.database).await?;
        let house = refresh_state.read_at.elapsed() >= HOUSE_INTERVAL;
        if refresh_state.revision != Some(revision) || house {
            // The revision was read first, so a change after that is seen by the next read.
            self.replace(table::valid(&self.database).await?, as_of);
            refresh_state.revision = Some(revision);
            refresh_state.read_at = Instant::now();
        }
        self.confirm(as_of);
        if house {
            self.note_uses().await?;
        }
        Ok(())
    }

    /// Writes the uses since the last write to the table. Writing the same use twice is harmless.
    pub(super) async fn note_uses(&self) -> Result<(), TableError> {
        let known = self.known.load_full();
        let used = known.values().filter_map(|entry| Some((entry, entry.unwritten_use()?)));
        for (entry, at) in used.take(NOTES_MAX) {
            table::used(&self.database, entry.valid.id, at).await?;
            // Only after the write: this future is cancelled by the timeout of a read, and a use that is not written
            // must be found again by the next attempt.
            entry.mark_written(at);
        }
        Ok(())
    }
}

impl RefreshState {
    /// Reports the state of reading. The same error is logged only once.
    fn tell(&mut self, error: Option<String>, health: &Reporter) {
        match &error {
            None => health.up(),
            Some(error) => health.degraded(format!(
                "the table of tokens cannot be read: {error}; known tokens stay valid, requests with other tokens \
                 are answered with 503"
            )),
        }
        if error != self.told
            && let Some(error) = &error
        {
            limited!(
                warn,
                "the table of tokens cannot be read: {error}; known tokens stay valid, requests with \
                 other tokens are answered with 503",
            );
        }
        self.told = error;
    }
}
