//! One task per environment that looks at its source, again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::look::{LookError, Seen};
use super::origin::Origin;
use super::pace::{Looked, Pace, Wait};

/// Each poller waits for its verdict, so that more than one look each never queues.
const LOOKS_PER_POLLER: usize = 1;

/// What a poller saw, for the leader to judge.
#[derive(Debug)]
pub struct Look {
    /// The environment, by its place among the origins.
    pub place: usize,
    pub result: Result<Seen, LookError>,
    pub verdict: oneshot::Sender<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What the answer says is in force: it need not be seen again.
    pub accepted: bool,
    /// A hint is being followed: look again soon.
    pub following: bool,
}

/// The pollers of one leader's term; dropping them stops them.
#[derive(Debug)]
pub struct Pollers {
    looks: mpsc::Receiver<Look>,
    wakes: Vec<Arc<Notify>>,
    _tasks: JoinSet<()>,
}

impl Pollers {
    /// Starts looking at once, everywhere, as if nothing had been seen before.
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

    /// The next look. Never returns if there is nothing to look at.
    pub async fn next(&mut self) -> Look {
        match self.looks.recv().await {
            Some(look) => look,
            None => std::future::pending().await,
        }
    }

    /// Look now. Coalesces: a poller that is looking looks once more afterwards.
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
        // A source that fails is not asked more often because of what is due.
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
