//! The audit trail of the benchmark: a sink in this process, with a database of its own.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::setup::Bench;
use crate::sink::postgres::Own;
use crate::sink::{Running, start};
use flagstream::config::Secret;

/// Timeout for the sink to write the events of one measurement.
const DEADLINE: Duration = Duration::from_secs(300);

/// A running sink.
pub(super) struct Audit {
    own: Own,
    running: Running,
}

impl Audit {
    pub(super) async fn start(bench: &Bench, database: &Secret) -> anyhow::Result<Self> {
        let own = Own::create(database).await?;
        let running = start(bench, &own, "http")?;
        Ok(Self { own, running })
    }

    /// Waits until there are at least `rows` rows, and returns their number.
    pub(super) async fn wait_for(&self, rows: u64) -> anyhow::Result<u64> {
        let deadline = Instant::now() + DEADLINE;
        while self.running.written() < rows {
            ensure!(Instant::now() < deadline, "{} of {rows} rows", self.running.written());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(self.running.written())
    }

    pub(super) async fn end(self) -> anyhow::Result<()> {
        tokio::task::block_in_place(|| self.running.stop());
        self.own.drop().await
    }
}
