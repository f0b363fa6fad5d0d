//! Evaluations as they are committed, for people who watch them.
//!
//! ```text
//!  feature-flag-events (its end) ─► follower, one thread while anyone watches ─► per watcher: filter ─► at most 200
//!                                                                                a second, the rest counted ─► queue
//! ```
//!
//! All watchers of an instance share one consumer. It reads from the end of the topic, joins no group, and ends with the
//! last watcher.

mod event;
mod filter;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Message;
use tokio::sync::{mpsc, watch};

use crate::audit::evaluation::Event;
use crate::config::{Config, InputFormat};
use crate::kafka::tail::{FollowError, Follower, Start};
use crate::log_limit::limited;
use crate::message::avro::Subject;
use crate::schema_registry::{Formats, MAX_EVENT_BYTES};
use crate::shutdown::{Shutdown, pause};

pub use event::LiveEvent;
pub use filter::LiveFilter;

/// Maximum watchers of one instance.
pub const WATCHERS_MAX_COUNT: usize = 32;
/// Evaluations per second that one watcher receives at most. The others are counted.
pub const EVENTS_PER_SECOND: u32 = 200;
/// Evaluations that wait for a watcher that reads slowly. Further ones are counted as left out.
const QUEUE_EVENTS: usize = 400;
/// How long a poll waits for a record, which is also how soon the thread notices that the last watcher has left.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Delay before a failed consumer is opened again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Watchers of the events topic.
#[derive(Debug)]
pub struct Live {
    config: Arc<Config>,
    formats: Arc<Formats>,
    shutdown: Shutdown,
    watchers: Mutex<Watchers>,
    /// Whether the consumer has its positions, so that no later evaluation is missed.
    is_positioned: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Watchers {
    all: Vec<Arc<Watcher>>,
    /// Whether the thread runs. It is changed under the lock, so that a new watcher either finds the thread or starts it.
    is_followed: bool,
}

/// Receiver of the evaluations that a filter selects.
#[derive(Debug)]
struct Watcher {
    filter: LiveFilter,
    queue: mpsc::Sender<LiveEvent>,
    /// Evaluations that matched and were not sent.
    left_out: AtomicU64,
    matched: AtomicU64,
    budget: Mutex<Budget>,
}

/// Evaluations that may still be sent in the current second.
#[derive(Debug)]
struct Budget {
    second: Instant,
    left: u32,
}

/// Handle of one watcher, which stops watching when it is dropped.
#[derive(Debug)]
pub struct Watching {
    live: Arc<Live>,
    watcher: Arc<Watcher>,
    events: mpsc::Receiver<LiveEvent>,
}

impl Live {
    pub fn new(config: Arc<Config>, formats: Arc<Formats>, shutdown: Shutdown) -> Arc<Self> {
        let (is_positioned, _) = watch::channel(false);
        Arc::new(Self { config, formats, shutdown, watchers: Mutex::default(), is_positioned })
    }

    /// Watches from now on. `None`: the limit of watchers is reached.
    pub fn watch(self: &Arc<Self>, filter: LiveFilter) -> Option<Watching> {
        let (queue, events) = mpsc::channel(QUEUE_EVENTS);
        let budget = Mutex::new(Budget { second: Instant::now(), left: EVENTS_PER_SECOND });
        let (left_out, matched) = Default::default();
        let watcher = Arc::new(Watcher { filter, queue, left_out, matched, budget });
        let mut watchers = self.lock();
        if watchers.all.len() >= WATCHERS_MAX_COUNT {
            return None;
        }
        watchers.all.push(Arc::clone(&watcher));
        if !watchers.is_followed {
            let live = Arc::clone(self);
            let started = std::thread::Builder::new().name("live".to_owned()).spawn(move || live.follow());
            watchers.is_followed = started.is_ok();
        }
        drop(watchers);
        Some(Watching { live: Arc::clone(self), watcher, events })
    }

    /// Follows the topic until the last watcher has left.
    fn follow(&self) {
        while self.is_watched() {
            if let Err(error) = self.session() {
                self.is_positioned.send_replace(false);
                limited!(warn, %error, "the events topic cannot be followed for watchers of evaluations; retrying");
                pause(RETRY_DELAY, &self.shutdown);
            }
        }
    }

    fn session(&self) -> Result<(), FollowError> {
        let topic = &self.config.topics.events;
        let follower = Follower::open(&self.config.kafka, "live", topic, Start::End)?;
        self.is_positioned.send_replace(true);
        let mut reader = self.formats.reader(Subject::EVENTS, InputFormat::Auto);
        let mut text = Vec::new();
        while self.is_watched() {
            let Some(record) = follower.next(POLL_INTERVAL)? else { continue };
            let Ok(json) = reader.read(record.payload().unwrap_or_default(), &mut text, MAX_EVENT_BYTES)
            else {
                continue;
            };
            let Ok(event) = Event::read(json) else { continue };
            let watchers = self.lock().all.clone();
            for evaluation in event.evaluations() {
                for watcher in watchers.iter().filter(|watcher| watcher.filter.matches(evaluation)) {
                    watcher.take(|| LiveEvent::of(evaluation, watcher.filter.with_users));
                }
            }
        }
        Ok(())
    }

    /// Whether anyone watches. If not, the next watcher starts a new thread.
    fn is_watched(&self) -> bool {
        let mut watchers = self.lock();
        watchers.is_followed = !watchers.all.is_empty() && !self.shutdown.is_cancelled();
        if !watchers.is_followed {
            self.is_positioned.send_replace(false);
        }
        watchers.is_followed
    }

    fn lock(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Queues an evaluation, or counts it as left out. `event` is only called if it is queued.
    fn take(&self, event: impl FnOnce() -> LiveEvent) {
        self.matched.fetch_add(1, Ordering::Relaxed);
        let sent = self.may_send() && self.queue.try_send(event()).is_ok();
        if !sent {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn may_send(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(budget.second) >= Duration::from_secs(1) {
            *budget = Budget { second: now, left: EVENTS_PER_SECOND };
        }
        let left = budget.left.checked_sub(1);
        budget.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl Watching {
    /// Waits until every evaluation that is committed from now on is seen, or until the service stops.
    pub async fn positioned(&self) {
        let mut is_positioned = self.live.is_positioned.subscribe();
        tokio::select! {
            () = self.live.shutdown.cancelled() => {}
            _ = is_positioned.wait_for(|is_positioned| *is_positioned) => {}
        }
    }

    /// The next evaluation. `None`: the service stops.
    pub async fn next(&mut self) -> Option<LiveEvent> {
        let shutdown = self.live.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => None,
            event = self.events.recv() => event,
        }
    }

    /// Number of evaluations that matched, and number of those that were left out, since the last call.
    pub fn counts(&self) -> (u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.watcher.matched), take(&self.watcher.left_out))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.live.lock().all.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
    }
}

#[cfg(test)]
mod tests;
