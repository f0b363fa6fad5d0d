//! Tokens in memory: those that Unleash has validated, and those that it does not know.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Secret;

use super::{Access, TokenHash};

/// Maximum tokens of each kind, valid and invalid, that are remembered.
pub const MAX_CACHED_TOKENS: usize = 65_536;
/// Time for which a token that Unleash does not know is refused without asking again.
pub const INVALID_TIMEOUT: Duration = Duration::from_secs(300);

/// A token that Unleash has validated.
#[derive(Debug)]
pub struct Known {
    pub hash: TokenHash,
    pub access: Access,
    /// Time of the last validation, in milliseconds since 1970.
    validated_ms: AtomicI64,
    /// The token itself, which is needed to validate it again; absent until it is used after a restart.
    text: OnceLock<Secret>,
    /// Cancelled when the token is revoked.
    revoked: CancellationToken,
}

/// Result of a look-up in memory.
#[derive(Debug)]
pub(super) enum Lookup {
    Valid(Arc<Known>),
    Invalid,
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Cache {
    valid: RwLock<HashMap<TokenHash, Arc<Known>, ahash::RandomState>>,
    /// Times at which refusals end.
    invalid: RwLock<HashMap<TokenHash, Instant, ahash::RandomState>>,
    /// Whether valid tokens have changed since they were last saved.
    changed: AtomicBool,
}

impl Known {
    pub fn new(hash: TokenHash, access: Access, validated_ms: i64, text: Option<&str>) -> Arc<Self> {
        let known = Self {
            hash,
            access,
            validated_ms: AtomicI64::new(validated_ms),
            text: OnceLock::new(),
            revoked: CancellationToken::new(),
        };
        if let Some(text) = text {
            known.text.get_or_init(|| Secret::new(text));
        }
        Arc::new(known)
    }

    /// Time of the last validation, in milliseconds since 1970.
    pub fn validated_ms(&self) -> i64 {
        self.validated_ms.load(Ordering::Relaxed)
    }

    pub(super) fn confirm(&self, now_ms: i64) {
        self.validated_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn text(&self) -> Option<&Secret> {
        self.text.get()
    }

    /// Completes when the token is revoked.
    pub async fn until_revoked(self: Arc<Self>) {
        self.revoked.cancelled().await;
    }
}

impl Cache {
    pub fn find(&self, hash: &TokenHash, text: &str) -> Lookup {
        self.find_at(hash, text, Instant::now())
    }

    fn find_at(&self, hash: &TokenHash, text: &str, now: Instant) -> Lookup {
        let valid = self.valid.read().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
        if let Some(known) = valid {
            known.text.get_or_init(|| Secret::new(text));
            return Lookup::Valid(known);
        }
        let until = self.invalid.read().unwrap_or_else(PoisonError::into_inner).get(hash).copied();
        if until.is_some_and(|until| now < until) { Lookup::Invalid } else { Lookup::Unknown }
    }

    pub fn all(&self) -> Vec<Arc<Known>> {
        self.valid.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.valid.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Adds tokens that were saved by an earlier process.
    pub fn restore(&self, saved: Vec<Arc<Known>>) {
        let mut valid = self.valid.write().unwrap_or_else(PoisonError::into_inner);
        for known in saved.into_iter().take(MAX_CACHED_TOKENS) {
            valid.entry(known.hash).or_insert(known);
        }
    }

    /// Adds a validated token. One with other permissions replaces the former, whose streams end.
    pub fn add(&self, known: Arc<Known>) -> Arc<Known> {
        self.changed.store(true, Ordering::Relaxed);
        self.invalid.write().unwrap_or_else(PoisonError::into_inner).remove(&known.hash);
        let mut valid = self.valid.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = valid.get(&known.hash) {
            if former.access == known.access {
                former.confirm(known.validated_ms());
                return Arc::clone(former);
            }
            former.revoked.cancel();
        } else if valid.len() >= MAX_CACHED_TOKENS {
            forget_oldest(&mut valid);
        }
        valid.insert(known.hash, Arc::clone(&known));
        known
    }

    /// Removes a token that Unleash does not know, and remembers that.
    pub fn refuse(&self, hash: TokenHash) -> bool {
        let removed = self.valid.write().unwrap_or_else(PoisonError::into_inner).remove(&hash);
        if let Some(known) = &removed {
            self.changed.store(true, Ordering::Relaxed);
            known.revoked.cancel();
        }
        let now = Instant::now();
        let mut invalid = self.invalid.write().unwrap_or_else(PoisonError::into_inner);
        if invalid.len() >= MAX_CACHED_TOKENS {
            invalid.retain(|_, until| now < *until);
        }
        // All of them are recent: forgetting them only costs further calls to Unleash, which are limited.
        if invalid.len() >= MAX_CACHED_TOKENS {
            invalid.clear();
        }
        invalid.insert(hash, now + INVALID_TIMEOUT);
        removed.is_some()
    }

    /// Valid tokens whose last validation is older than `age`, as far as their texts are known; at most `limit`.
    pub fn due(&self, age: Duration, limit: usize) -> Vec<Arc<Known>> {
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let before = Utc::now().timestamp_millis().saturating_sub(age_ms);
        let valid = self.valid.read().unwrap_or_else(PoisonError::into_inner);
        let due = valid.values().filter(|known| known.validated_ms() <= before && known.text().is_some());
        due.take(limit).cloned().collect()
    }

    /// Whether valid tokens have changed since the last call.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }
}

/// Forgets the sixteenth part that was validated first.
fn forget_oldest(valid: &mut HashMap<TokenHash, Arc<Known>, ahash::RandomState>) {
    let mut times: Vec<i64> = valid.values().map(|known| known.validated_ms()).collect();
    let part = times.len() / 16;
    let (_, limit, _) = times.select_nth_unstable(part);
    let limit = *limit;
    let mut left = part + 1;
    valid.retain(|_, known| {
        let is_old = left > 0 && known.validated_ms() <= limit;
        left -= usize::from(is_old);
        !is_old
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::config::TokenKind;
    use crate::unleash_api::selection::Selection;

    use super::super::hash;
    use super::*;

    fn known(text: &str, environment: &str, validated_ms: i64) -> Arc<Known> {
        let selection = Selection::of_projects(environment, None);
        let access = Access { kind: Some(TokenKind::Frontend), selection };
        Known::new(hash(text), access, validated_ms, Some(text))
    }

    #[tokio::test]
    async fn a_token_is_valid_until_it_is_refused() {
        let cache = Cache::default();
        assert!(matches!(cache.find(&hash("a"), "a"), Lookup::Unknown));
        let added = cache.add(known("a", "e", 1));
        assert!(matches!(cache.find(&hash("a"), "a"), Lookup::Valid(_)));
        assert!(Arc::ptr_eq(&added, &cache.add(known("a", "e", 2))), "unchanged");
        assert_eq!(added.validated_ms(), 2);
        cache.add(known("a", "other", 3));
        Arc::clone(&added).until_revoked().await;
        let Lookup::Valid(changed) = cache.find(&hash("a"), "a") else { panic!("unknown") };
        assert!(cache.refuse(changed.hash) && cache.take_changed() && !cache.take_changed());
        changed.until_revoked().await;
        assert!(matches!(cache.find(&hash("a"), "a"), Lookup::Invalid));
        cache.add(known("a", "e", 4));
        assert!(matches!(cache.find(&hash("a"), "a"), Lookup::Valid(_)), "valid after all");
    }

    #[test]
    fn a_refusal_ends_after_a_while() {
        let (cache, before) = (Cache::default(), Instant::now());
        cache.refuse(hash("a"));
        assert!(matches!(
            cache.find_at(&hash("a"), "a", before + INVALID_TIMEOUT - Duration::from_secs(1)),
            Lookup::Invalid
        ));
        let after = Instant::now() + INVALID_TIMEOUT;
        assert!(matches!(cache.find_at(&hash("a"), "a", after), Lookup::Unknown));
    }

    #[test]
    fn memory_is_bounded() {
        let cache = Cache::default();
        for number in 0..MAX_CACHED_TOKENS + 10 {
            cache.add(known(&number.to_string(), "e", i64::try_from(number).unwrap()));
            cache.refuse(hash(&format!("no-{number}")));
        }
        assert!(cache.len() <= MAX_CACHED_TOKENS);
        assert!(cache.invalid.read().unwrap().len() <= MAX_CACHED_TOKENS);
        assert!(matches!(cache.find(&hash("0"), "0"), Lookup::Unknown), "the oldest is forgotten");
        let newest = (MAX_CACHED_TOKENS + 9).to_string();
        assert!(matches!(cache.find(&hash(&newest), &newest), Lookup::Valid(_)));
        assert_eq!(cache.due(Duration::ZERO, 5).len(), 5);
    }
}
