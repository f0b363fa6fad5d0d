//! Pollers: one task per source, which polls it repeatedly.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::fetch::{FetchError, FetchResult};
use super::pace::{Pace, PollOutcome, Wait};
use super::source::FlagSource;

/// Capacity per poller. Each poller waits for its verdict, so never more than one result of it is queued.
const POLLS_PER_POLLER: usize = 1;

/// Result of a poll, for the leader to process.
#[derive(Debug)]
pub struct PolledResult {
    /// Position of the source among the origins.
    pub place: usize,
    pub result: Result<FetchResult, FetchError>,
    pub decision: oneshot::Sender<Decision>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the response is in force and need not be returned again.
    pub accepted: bool,
    /// Whether a hint is being followed, so that the next poll should come soon.
    pub following: bool,
}

/// Pollers of one leader's term. Dropping them stops the tasks.
#[derive(Debug)]
pub struct Pollers {
    polls: mpsc::Receiver<PolledResult>,
    wakes: Vec<Arc<Notify>>,
    _tasks: JoinSet<()>,
}

impl Pollers {
    /// Starts polling all sources at once, without any previous state.
    pub fn start(flag_sources: &[FlagSource], refresh: Duration) -> Self {
        let (sender, polls) = mpsc::channel(POLLS_PER_POLLER * flag_sources.len().max(1));
        let mut tasks = JoinSet::new();
        let mut wakes = Vec::new();
        for (place, flag_source) in flag_sources.iter().cloned().enumerate() {
            let wake = Arc::new(Notify::new());
            let pace = Pace::new(flag_source.refresh_interval(refresh));
            wakes.push(Arc::clone(&wake));
            tasks.spawn(poll(place, flag_source, pace, sender.clone(), wake));
        }
        Self { polls, wakes, _tasks: tasks }
    }

    /// The next poll result. Never returns if there are no sources.
    pub async fn next(&mut self) -> PolledResult {
        match self.polls.recv().await {
            Some(look) => look,
            None => std::future::pending().await,
        }
    }

    /// Triggers a poll. Calls are coalesced: a poller that is busy polls once more afterwards.
    pub fn wake(&self, place: usize) {
        if let Some(wake) = self.wakes.get(place) {
            wake.notify_one();
        }
    }
}

async fn poll(
    place: usize,
    mut flag_source: FlagSource,
    mut pace: Pace,
    polls: mpsc::Sender<PolledResult>,
    wake: Arc<Notify>,
) {
    loop {
        let result = flag_source.look().await;
        let failed = result.as_ref().err().map(FetchError::retry_after);
        let (sender, decision) = oneshot::channel();
        let look = PolledResult { place, result, decision: sender };
        if polls.send(look).await.is_err() {
            return;
        }
        let Ok(Decision { accepted, following }) = decision.await else {
            return;
        };
        flag_source.settled(accepted);
        // A scheduled change does not shorten the wait for a source that fails.
        let due = flag_source.until_due().filter(|_| failed.is_none()).unwrap_or(Duration::MAX);
        let mut wait = pace.after(match failed {
            Some(retry_after) => PollOutcome::Failed { retry_after },
            None if following => PollOutcome::Following,
            None => PollOutcome::Fine,
        });
        wait.at_most = wait.at_most.min(due).max(wait.at_least);
        pause(wait, &wake).await;
    }
}

async fn pause(Wait { at_least, at_most }: Wait, wake: &Notify) {
    tokio::time::sleep(at_least).await;
    tokio::select! {
        () = tokio::time::sleep(at_most.saturating_sub(at_least)) => {}
        () = wake.notified() => {}
    }
}
