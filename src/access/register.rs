//! All valid tokens in memory, as the table had them a moment ago.
//!
//! One task looks at the table's revision every second, and reads the tokens again when it has changed. A call finds
//! its token here. One that is not here waits for a look that begins after it came, so that a token made a moment ago
//! works; looks follow one another no faster than [`LOOK_PAUSE`] however many wait, only so many wait, and what was
//! not found is remembered. While the database cannot be asked, known tokens go on counting for
//! `FLAGSTREAM_AUTH__TOKENS_MAX_AGE`, and of others nobody can say anything: [`Found::Unavailable`].

mod look;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::config::AuthConfig;
use crate::database::Database;

use super::pace::Pace;
use super::table::Valid;
use super::{Token, TokenId, TooFast};

/// How late a change of the table is seen, at most (and as long again for the look itself).
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks that calls have asked for.
pub const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Calls that wait for a look at the same time.
pub const WAITING_CALLS_MAX: usize = 64;
/// How long each of them does.
const WAITING_PATIENCE: Duration = Duration::from_secs(3);
const DAY: Duration = Duration::from_secs(86_400);
/// Tokens that were not found; forgotten when the table changes.
pub const ABSENT_TOKENS_MAX: usize = 4_096;

/// The valid tokens that this instance knows.
#[derive(Debug)]
pub struct Register {
    database: Database,
    calls_per_second: Option<NonZeroU32>,
    max_age: Duration,
    known: ArcSwap<Tokens>,
    /// When the last look that succeeded began, in milliseconds since `started`; negative: there was none.
    as_of_ms: AtomicI64,
    started: Instant,
    absent: Mutex<HashSet<TokenId, ahash::RandomState>>,
    waiting: Semaphore,
    /// Somebody waits for a look.
    asked: Notify,
    looks: watch::Sender<Looks>,
    /// Grows with every change of what is known.
    changes: watch::Sender<u64>,
}

type Tokens = HashMap<TokenId, Arc<Entry>, ahash::RandomState>;

/// Numbers of looks at the table.
#[derive(Debug, Clone, Copy, Default)]
struct Looks {
    begun: u64,
    ended: u64,
    failing: bool,
}

/// A valid token. It is replaced when what it may do changes.
#[derive(Debug)]
pub struct Entry {
    pub valid: Valid,
    pace: Pace,
    /// Unix milliseconds; 0: not since the last note.
    used_ms: AtomicI64,
}

/// What is known of a token.
#[derive(Debug, Clone)]
pub enum Found {
    Valid(Arc<Entry>),
    Unknown,
    /// The table cannot be asked.
    Unavailable,
}

impl Register {
    pub fn new(database: Database, config: &AuthConfig) -> Arc<Self> {
        Arc::new(Self {
            database,
            calls_per_second: config.token_calls_per_second,
            max_age: config.tokens_max_age,
            known: ArcSwap::default(),
            as_of_ms: AtomicI64::new(-1),
            started: Instant::now(),
            absent: Mutex::default(),
            waiting: Semaphore::new(WAITING_CALLS_MAX),
            asked: Notify::new(),
            looks: watch::Sender::default(),
            changes: watch::Sender::default(),
        })
    }

    /// The table itself, for those who manage tokens.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// How many tokens are known.
    pub fn len(&self) -> usize {
        self.known.load().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a caller's token is.
    pub async fn find(&self, token: &Token) -> Found {
        match self.find_known(token) {
            Some(found) => found,
            None => self.find_anew(token).await,
        }
    }

    /// The same for a token that is not known: what the table says now.
    pub async fn find_anew(&self, token: &Token) -> Found {
        if self.is_absent(token.id) {
            return Found::Unknown;
        }
        if !self.look_anew().await {
            return Found::Unavailable;
        }
        self.find_known(token).unwrap_or_else(|| {
            self.note_absent(token.id);
            Found::Unknown
        })
    }

    /// The table is not there yet: until there was a look, calls with a token are not kept waiting for one.
    pub fn cannot_look_yet(&self) {
        self.looks.send_modify(|looks| looks.failing = looks.ended == 0);
    }

    /// Waits until this token, as it was found, counts no more.
    pub async fn until_void(&self, entry: &Arc<Entry>) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let id = &entry.valid.id;
            let still = self.known.load().get(id).is_some_and(|known| Arc::ptr_eq(known, entry));
            if !still || entry.is_expired() {
                return;
            }
            let left = entry.valid.expires_at.map(|at| (at - Utc::now()).to_std().unwrap_or_default());
            // Timers do not reach as far as tokens may.
            let _ = timeout(left.unwrap_or(DAY).min(DAY), changes.changed()).await;
        }
    }

    /// Looks at the table now; for who has just changed it. Whether that worked.
    pub async fn look_anew(&self) -> bool {
        let Ok(_place) = self.waiting.try_acquire() else { return false };
        let mut looks = self.looks.subscribe();
        let before = *looks.borrow_and_update();
        // It goes on trying by itself, and calls do not pile up meanwhile.
        if before.failing {
            return false;
        }
        self.asked.notify_one();
        // One that has begun already may have missed what this call is about.
        let wanted = before.begun + 1;
        let ended = timeout(WAITING_PATIENCE, looks.wait_for(|looks| looks.ended >= wanted)).await;
        ended.is_ok_and(|looks| looks.is_ok_and(|looks| !looks.failing))
    }

    /// What is known of a token in memory. `None`: nothing, and the table may know more.
    pub fn find_known(&self, token: &Token) -> Option<Found> {
        let known = self.known.load();
        let entry = known.get(&token.id)?;
        if !entry.valid.hash.is_of(token) || entry.is_expired() {
            return Some(Found::Unknown);
        }
        if self.age() > self.max_age {
            return Some(Found::Unavailable);
        }
        Some(Found::Valid(Arc::clone(entry)))
    }

    fn is_absent(&self, id: TokenId) -> bool {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn note_absent(&self, id: TokenId) {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        if absent.len() >= ABSENT_TOKENS_MAX {
            absent.clear();
        }
        absent.insert(id);
    }

    /// Puts in force what the table holds; tokens that are as they were keep their pace.
    fn replace(&self, valid: Vec<Valid>, as_of: Instant) {
        let before = self.known.load();
        let tokens = valid.into_iter().map(|valid| {
            let same = before.get(&valid.id).filter(|entry| entry.valid == valid);
            let entry = same.map_or_else(|| Arc::new(Entry::new(valid, self.calls_per_second)), Arc::clone);
            (entry.valid.id, entry)
        });
        self.known.store(Arc::new(tokens.collect()));
        self.confirm(as_of);
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// What is known is what the table holds.
    fn confirm(&self, as_of: Instant) {
        let since = as_of.duration_since(self.started).as_millis();
        self.as_of_ms.store(i64::try_from(since).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// How old what is known is; forever, if there was no look yet.
    fn age(&self) -> Duration {
        match u64::try_from(self.as_of_ms.load(Ordering::Relaxed)) {
            Ok(as_of) => self.started.elapsed().saturating_sub(Duration::from_millis(as_of)),
            Err(_) => Duration::MAX,
        }
    }
}

impl Entry {
    fn new(valid: Valid, calls_per_second: Option<NonZeroU32>) -> Self {
        Self { valid, pace: Pace::new(calls_per_second), used_ms: AtomicI64::new(0) }
    }

    /// One call with it.
    pub fn call(&self) -> Result<(), TooFast> {
        self.used_ms.store(Utc::now().timestamp_millis(), Ordering::Relaxed);
        self.pace.check()
    }

    fn is_expired(&self) -> bool {
        self.valid.expires_at.is_some_and(|at| at <= Utc::now())
    }

    /// When it was used, unless that was taken before.
    fn take_use(&self) -> Option<DateTime<Utc>> {
        match self.used_ms.swap(0, Ordering::Relaxed) {
            0 => None,
            used_ms => DateTime::from_timestamp_millis(used_ms),
        }
    }
}

#[cfg(test)]
mod tests;
