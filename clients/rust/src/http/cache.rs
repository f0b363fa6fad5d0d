//! A cache of answers, which expire after a time or by an invalidation.
//!
//! An answer contains the newest version that the service knew when it answered. An invalidation of any flag in its
//! environment with a higher version makes it outdated: flags depend on each other, and only the service knows the
//! dependencies. For the same reason, an answer that was in flight during an invalidation is not cached.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::client::Evaluation;

/// Maximum number of tracked environments. Invalidations of further ones apply to all environments.
const MAX_ENVIRONMENTS: usize = 1_000;
/// Maximum size of a request in bytes; answers to larger ones are not cached.
const MAX_QUESTION_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Cache {
    /// Maximum number of entries; 0 disables the cache.
    max_entries: usize,
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    entries: LruCache<String, (Evaluation, Instant)>,
    /// The newest announced version by environment; the key "" applies to all environments.
    announced: HashMap<String, u64>,
}

impl Cache {
    pub(super) fn new(max_entries: usize, ttl: Duration) -> Self {
        // With a limit, the crate would allocate memory for all entries in advance.
        let entries = LruCache::unbounded();
        Self { max_entries, ttl, state: Mutex::new(State { entries, announced: HashMap::new() }) }
    }

    /// The newest announced version of all environments.
    pub(super) fn newest(&self) -> u64 {
        self.lock().announced.values().copied().max().unwrap_or_default()
    }

    pub(super) fn get(&self, question: &str, now: Instant) -> Option<Evaluation> {
        let mut state = self.lock();
        let (kept, since) = state.entries.get(question)?.clone();
        if now.duration_since(since) < self.ttl && state.is_new(&kept) {
            return Some(kept);
        }
        state.entries.pop(question);
        None
    }

    pub(super) fn put(&self, question: String, evaluation: &Evaluation, now: Instant) {
        let mut state = self.lock();
        let is_error = evaluation.said.reason == "ERROR";
        if self.max_entries == 0
            || is_error
            || question.len() > MAX_QUESTION_BYTES
            || !state.is_new(evaluation)
        {
            return;
        }
        state.entries.put(question, (evaluation.clone(), now));
        if state.entries.len() > self.max_entries {
            state.entries.pop_lru();
        }
    }

    /// Invalidates answers of this environment (`""`: of every environment) whose version is lower than `version`.
    pub(super) fn invalidate(&self, version: u64, environment: &str) {
        let mut state = self.lock();
        let is_full = state.announced.len() >= MAX_ENVIRONMENTS && !state.announced.contains_key(environment);
        let environment = if is_full { "" } else { environment };
        let announced = state.announced.entry(environment.to_owned()).or_default();
        *announced = version.max(*announced);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_new(&self, evaluation: &Evaluation) -> bool {
        let announced = |environment: &str| self.announced.get(environment).copied().unwrap_or_default();
        evaluation.flags_version >= announced("").max(announced(&evaluation.environment))
    }
}
