//! Answers that are kept until they are old or an invalidation overtakes them.
//!
//! An answer carries the newest version that the service knew when it gave it. An invalidation of any flag of its
//! environment with a higher version makes it old: flags depend on each other, and only the service knows how. So an
//! answer that was on its way meanwhile is not kept either.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::client::Evaluation;

/// Beyond so many an invalidation counts for all environments.
const MAX_ENVIRONMENTS: usize = 1_000;
/// Answers to longer questions are not kept.
const MAX_QUESTION_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Cache {
    /// 0: nothing is kept.
    max_entries: usize,
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    entries: LruCache<String, (Evaluation, Instant)>,
    /// The newest version, by environment; under "" that of all.
    announced: HashMap<String, u64>,
}

impl Cache {
    pub(super) fn new(max_entries: usize, ttl: Duration) -> Self {
        // Room for all at once is what the crate would make, told how many there may be.
        let entries = LruCache::unbounded();
        Self { max_entries, ttl, state: Mutex::new(State { entries, announced: HashMap::new() }) }
    }

    /// The newest version that was announced.
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

    /// Answers of this environment (`""`: of any) that don't know of this version are old.
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
