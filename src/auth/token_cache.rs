//! All valid tokens in memory, as they were in the table moments ago.
//!
//! One task reads the table's revision every second, and the tokens when the revision has changed. A request finds its
//! token in memory. A request with an unknown token waits for a read that begins after the request, so that a new token
//! works at once. Reads follow each other no faster than [`REFRESH_INTERVAL`], only a limited number of requests wait, and
//! tokens that were not found are remembered. While the database is unreachable, known tokens stay valid for
//! `FLAGSTREAM_AUTH__TOKENS_MAX_AGE`, and unknown ones are answered with [`TokenLookup::Unavailable`].

mod refresh;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::config::AuthConfig;
use crate::database::Database;

use super::rate_limit::RateLimit;
use super::table::Valid;
use super::{Token, TokenId, TooFast};

/// Interval between reads of the table. A change takes effect within this time plus the duration of a read.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum pause between two reads that requests have triggered.
pub const REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum requests that wait for a read at the same time.
pub const WAITING_CALLS_MAX: usize = 64;
/// Timeout of a request that waits for a read.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Tokens that expire within this time are reported.
pub const EXPIRY_NOTICE: TimeDelta = TimeDelta::days(7);
/// Tokens that live no longer are replaced all the time, and not reported.
pub const SHORT_LIFE: TimeDelta = TimeDelta::days(30);
const DAY: Duration = Duration::from_secs(86_400);
/// Maximum remembered tokens that were not found. They are forgotten when the table changes.
pub const ABSENT_TOKENS_MAX: usize = 4_096;

/// Valid tokens known to this instance.
#[derive(Debug)]
pub struct TokenCache {
    database: Database,
    calls_per_second: Option<NonZeroU32>,
    max_age: Duration,
    known: ArcSwap<Tokens>,
    /// Start of the last successful read, in milliseconds since `started`; negative if there was none.
    as_of_ms: AtomicI64,
    started: Instant,
    absent: Mutex<HashSet<TokenId, ahash::RandomState>>,
    waiting: Semaphore,
    /// Notified when a request waits for a read.
    asked: Notify,
    looks: watch::Sender<Looks>,
    /// Incremented with every change of the known tokens.
    changes: watch::Sender<u64>,
}

type Tokens = HashMap<TokenId, Arc<CachedToken>, ahash::RandomState>;

/// Counters of reads of the table.
#[derive(Debug, Clone, Copy, Default)]
struct Looks {
    begun: u64,
    ended: u64,
    failing: bool,
}

/// A valid token. The entry is replaced when the token's permissions change.
#[derive(Debug)]
pub struct CachedToken {
    pub valid: Valid,
    rate_limit: RateLimit,
    /// Time of the last use in Unix milliseconds; 0 if it was not used since the last write to the table.
    used_ms: AtomicI64,
}

impl Valid {
    /// Whether the token expires within [`EXPIRY_NOTICE`], and lives longer than [`SHORT_LIFE`].
    fn expires_soon(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at - now < EXPIRY_NOTICE && at - self.created_at > SHORT_LIFE)
    }
}

/// Result of a lookup.
#[derive(Debug, Clone)]
pub enum TokenLookup {
    Valid(Arc<CachedToken>),
    Unknown,
    /// The table cannot be read.
    Unavailable,
}

impl TokenCache {
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

    /// Database with the table, for the management of tokens.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Number of known tokens.
    pub fn len(&self) -> usize {
        self.known.load().len()
    }

    /// Number of tokens that expire within [`EXPIRY_NOTICE`], of those that live longer than [`SHORT_LIFE`].
    pub fn expiring(&self, now: DateTime<Utc>) -> usize {
        let known = self.known.load();
        known.values().filter(|entry| entry.valid.expires_soon(now)).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks up a caller's token.
    pub async fn find(&self, token: &Token) -> TokenLookup {
        match self.find_known(token) {
            Some(found) => found,
            None => self.find_anew(token).await,
        }
    }

    /// Looks up a token that is not in memory, by waiting for a read of the table.
    pub async fn find_anew(&self, token: &Token) -> TokenLookup {
        if self.is_absent(token.id) {
            return TokenLookup::Unknown;
        }
        if !self.look_anew().await {
            return TokenLookup::Unavailable;
        }
        self.find_known(token).unwrap_or_else(|| {
            self.note_absent(token.id);
            TokenLookup::Unknown
        })
    }

    /// Marks the table as missing: until the first read, requests do not wait for one.
    pub fn cannot_look_yet(&self) {
        self.looks.send_modify(|looks| looks.failing = looks.ended == 0);
    }

    /// Completes when this token, as it was found, is no longer valid.
    pub async fn until_void(&self, entry: &Arc<CachedToken>) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let id = &entry.valid.id;
            let still = self.known.load().get(id).is_some_and(|known| Arc::ptr_eq(known, entry));
            if !still || entry.is_expired() {
                return;
            }
            let left = entry.valid.expires_at.map(|at| (at - Utc::now()).to_std().unwrap_or_default());
            // Capped at one day, because timers do not support durations as long as a token's lifetime.
            let _ = timeout(left.unwrap_or(DAY).min(DAY), changes.changed()).await;
        }
    }

    /// Waits for a new read of the table, for example after a change. Returns whether it succeeded.
    pub async fn look_anew(&self) -> bool {
        let Ok(_place) = self.waiting.try_acquire() else { return false };
        let mut looks = self.looks.subscribe();
        let before = *looks.borrow_and_update();
        // While reads fail, the task keeps retrying, and requests do not queue up.
        if before.failing {
            return false;
        }
        self.asked.notify_one();
        // A read already in progress may have missed the change that this request is about.
        let wanted = before.begun + 1;
        let ended = timeout(LOOKUP_TIMEOUT, looks.wait_for(|looks| looks.ended >= wanted)).await;
        ended.is_ok_and(|looks| looks.is_ok_and(|looks| !looks.failing))
    }

    /// Looks up a token in memory. `None`: it is unknown, and the table may contain it.
    pub fn find_known(&self, token: &Token) -> Option<TokenLookup> {
        let known = self.known.load();
        let entry = known.get(&token.id)?;
        if !entry.valid.hash.is_of(token) || entry.is_expired() {
            return Some(TokenLookup::Unknown);
        }
        if self.age() > self.max_age {
            return Some(TokenLookup::Unavailable);
        }
        Some(TokenLookup::Valid(Arc::clone(entry)))
    }

    /// Looks up a token by its id, for a caller that has proved otherwise that it has the token.
    pub fn find_by_id(&self, id: TokenId) -> Option<Arc<CachedToken>> {
        let known = self.known.load();
        let entry = known.get(&id).filter(|entry| !entry.is_expired() && self.age() <= self.max_age)?;
        Some(Arc::clone(entry))
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

    /// Replaces the known tokens by those of the table. Unchanged tokens keep their rate limit state, and changed ones
    /// the use that is not written yet.
    fn replace(&self, valid: Vec<Valid>, as_of: Instant) {
        let before = self.known.load();
        let tokens = valid.into_iter().map(|valid| {
            let known = before.get(&valid.id);
            let entry = match known {
                Some(same) if same.valid == valid => Arc::clone(same),
                _ => {
                    let used_ms = known.map_or(0, |known| known.used_ms.load(Ordering::Relaxed));
                    Arc::new(CachedToken::new(valid, self.calls_per_second, used_ms))
                }
            };
            (entry.valid.id, entry)
        });
        self.known.store(Arc::new(tokens.collect()));
        self.confirm(as_of);
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Records that the known tokens matched the table at `as_of`.
    fn confirm(&self, as_of: Instant) {
        let since = as_of.duration_since(self.started).as_millis();
        self.as_of_ms.store(i64::try_from(since).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Time since the known tokens were confirmed; `Duration::MAX` before the first read.
    fn age(&self) -> Duration {
        match u64::try_from(self.as_of_ms.load(Ordering::Relaxed)) {
            Ok(as_of) => self.started.elapsed().saturating_sub(Duration::from_millis(as_of)),
            Err(_) => Duration::MAX,
        }
    }
}

impl CachedToken {
    fn new(valid: Valid, calls_per_second: Option<NonZeroU32>, used_ms: i64) -> Self {
        Self { valid, rate_limit: RateLimit::new(calls_per_second), used_ms: AtomicI64::new(used_ms) }
    }

    /// Records one use of the token and checks its rate limit.
    pub fn call(&self) -> Result<(), TooFast> {
        self.used_ms.store(Utc::now().timestamp_millis(), Ordering::Relaxed);
        self.rate_limit.check()
    }

    fn is_expired(&self) -> bool {
        self.valid.expires_at.is_some_and(|at| at <= Utc::now())
    }

    /// Time of the last use, if it is not in the table yet.
    fn unwritten_use(&self) -> Option<DateTime<Utc>> {
        match self.used_ms.load(Ordering::Relaxed) {
            0 => None,
            used_ms => DateTime::from_timestamp_millis(used_ms),
        }
    }

    /// Records that the use at `at` is in the table. A later use stays unwritten.
    fn mark_written(&self, at: DateTime<Utc>) {
        let _ = self.used_ms.compare_exchange(at.timestamp_millis(), 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
