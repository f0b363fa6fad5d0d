//! Starts parts, and stops them in order under one deadline.

mod signals;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout_at};

pub use signals::StopSignals;
pub use tokio_util::sync::CancellationToken as Shutdown;

/// Interval of the checks for failed threads.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Interval of the shutdown checks of a waiting thread.
const PAUSE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Blocks a thread for `length`. `false` if `shutdown` came first.
pub fn pause(length: Duration, shutdown: &Shutdown) -> bool {
    let until = std::time::Instant::now() + length;
    while std::time::Instant::now() < until && !shutdown.is_cancelled() {
        std::thread::park_timeout(PAUSE_POLL_INTERVAL);
    }
    !shutdown.is_cancelled()
}

/// The stage in which a part stops. Stages stop one after another, the parts of one stage together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Parts that accept work and finish what they have accepted.
    Intake,
    /// Parts that the intake needs until its end, and parts that report state.
    Base,
    /// Parts that send what all others have produced.
    Outlet,
}

/// A part that runs on its own threads.
pub trait Threads: Send + 'static {
    /// Whether a thread has ended. Before shutdown that means a failure.
    fn has_failed(&self) -> bool;
    /// Waits for all threads; `false` if one panicked. Blocks.
    fn join(self) -> bool;
}

/// All running parts of the process.
#[derive(Debug, Default)]
pub struct Supervisor {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    stage: Stage,
    shutdown: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Part {
    /// Ends the threads of a part that is dropped without being stopped, as after a failed start.
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Supervisor {
    /// Starts a part, which runs until its token is cancelled.
    pub fn start<F>(&mut self, stage: Stage, name: &'static str, part: impl FnOnce(Shutdown) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = Shutdown::new();
        let task = tokio::spawn(part(shutdown.clone()));
        self.parts.push(Part { name, stage, shutdown, task });
    }

    /// Waits until a part ends without being stopped. Returns its name and the reason, and removes it from the parts.
    pub async fn failure(&mut self) -> anyhow::Error {
        let (index, ended) = poll_fn(|context| {
            let ended = self.parts.iter_mut().enumerate().find_map(|(index, part)| {
                match Pin::new(&mut part.task).poll(context) {
                    Poll::Ready(ended) => Some((index, ended)),
                    Poll::Pending => None,
                }
            });
            ended.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let part = self.parts.remove(index);
        match result(part.name, ended) {
            Ok(()) => anyhow!("{} ended unexpectedly", part.name),
            Err(error) => error,
        }
    }

    /// Stops all parts, stage after stage. The error names the parts that failed or did not stop in time.
    pub async fn stop(mut self, deadline: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.parts.sort_by_key(|part| part.stage);
        let mut problems = Vec::new();
        for stage in self.parts.chunk_by_mut(|a, b| a.stage == b.stage) {
            stage.iter().for_each(|part| part.shutdown.cancel());
            // Part of the time is reserved for the later stages, in case the intake hangs.
            let until = match stage.first().map(|part| part.stage) {
                Some(Stage::Intake) => begun + deadline * 6 / 10,
                Some(Stage::Base) => begun + deadline * 7 / 10,
                _ => begun + deadline,
            };
            for part in stage {
                tracing::debug!(part = part.name, "stopping");
                match timeout_at(until, &mut part.task).await {
                    Ok(ended) => {
                        problems.extend(result(part.name, ended).err().map(|error| format!("{error:#}")))
                    }
                    Err(_) => problems.push(format!("{} did not stop in time", part.name)),
                }
            }
        }
        if !problems.is_empty() {
            bail!(problems.join("; "));
        }
        Ok(())
    }
}

/// Runs the threads of a part, and stops and joins them at shutdown. An error if a thread fails.
pub async fn run_threads(threads: impl Threads, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = ticks.tick() => {}
        }
        // After the shutdown request, threads may end at any time.
        if threads.has_failed() && !shutdown.is_cancelled() {
            bail!("a thread ended unexpectedly");
        }
    }
    let well = tokio::task::spawn_blocking(move || threads.join()).await?;
    if !well {
        bail!("a thread panicked");
    }
    Ok(())
}

fn result(name: &str, ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    match ended {
        Ok(result) => result.with_context(|| name.to_owned()),
        Err(error) if error.is_panic() => Err(anyhow!("{name} panicked")),
        Err(error) => Err(anyhow!("{name}: {error}")),
    }
}

#[cfg(test)]
#[path = "shutdown_tests.rs"]
mod tests;
