//! Pollers: one task per source, which polls it repeatedly.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::look::{LookError, Seen};
use super::origin::Origin;
use super::pace::{Looked, Pace, Wait};

/// Capacity per poller. Each poller waits for its verdict, so never more than one result of it is queued.
const LOOKS_PER_POLLER: usize = 1;

/// Result of a poll, for the leader to process.
#[derive(Debug)]
pub struct Look {
    /// Position of the source among the origins.
    pub place: usize,
    pub result: Result<Seen, LookError>,
    pub verdict: oneshot::Sender<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the response is in force and need not be returned again.
    pub accepted: bool,
    /// Whether a hint is being followed, so that the next poll should come soon.
    pub following: bool,
}

/// Pollers of one leader's term. Dropping them stops the tasks.
#[derive(Debug)]
pub struct Pollers {
    looks: mpsc::Receiver<Look>,
    wakes: Vec<Arc<Notify>>,
    _tasks: JoinSet<()>,
}

impl Pollers {
    /// Starts polling all sources at once, without any previous state.
    pub fn start(origins: &[Origin], refresh: Duration) -> Self {
        let (sender, looks) = mpsc::channel(LOOKS_PER_POLLER * origins.len().max(1));
        let mut tasks = JoinSet::new();
        let mut wakes = Vec::new();
        for (place, origin) in origins.iter().cloned().enumerate() {
            let wake = Arc::new(Notify::new());
            let pace = Pace::new(origin.refresh_interval(refresh));
            wakes.push(Arc::clone(&wake));
            tasks.spawn(poll(place, origin, pace, sender.clone(), wake));
        }
        Self { looks, wakes, _tasks: tasks }
    }

    /// The next poll result. Never returns if there are no sources.
    pub async fn next(&mut self) -> Look {
        match self.looks.recv().await {
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
    mut origin: Origin,
    mut pace: Pace,
    looks: mpsc::Sender<Look>,
    wake: Arc<Notify>,
) {
    loop {
        let result = origin.look().await;
        let failed = result.as_ref().err().map(LookError::retry_after);
        let (sender, verdict) = oneshot::channel();
        let look = Look { place, result, verdict: sender };
        if looks.send(look).await.is_err() {
            return;
        }
        let Ok(Verdict { accepted, following }) = verdict.await else {
            return;
        };
        origin.settled(accepted);
        // A scheduled change does not shorten the wait for a source that fails.
        let due = origin.until_due().filter(|_| failed.is_none()).unwrap_or(Duration::MAX);
        let mut wait = pace.after(match failed {
            Some(retry_after) => Looked::Failed { retry_after },
            None if following => Looked::Following,
            None => Looked::Fine,
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
