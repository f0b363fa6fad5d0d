//! Deletion guard: a response that would delete most flags is held until a second response confirms it.

use std::time::{Duration, Instant};

/// Maximum number of deletions at once that are never held.
pub const FREE_DELETIONS_MAX: usize = 10;

/// Minimum time between a held response and its confirmation, because a failing source may repeat a wrong
/// response.
pub const AGREEMENT_AFTER: Duration = Duration::from_secs(1);

/// Guard of one environment. Stores the last held response.
#[derive(Debug, Default)]
pub struct DeletionGuard {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    deletions: Vec<String>,
    since: Instant,
}

impl DeletionGuard {
    /// Whether a response that deletes `deletions` (in a fixed order) out of `flags` may be applied at `now`.
    pub fn admits<'a>(
        &mut self,
        flags: usize,
        deletions: impl Iterator<Item = &'a str>,
        now: Instant,
    ) -> bool {
        let deletions: Vec<String> = deletions.map(str::to_owned).collect();
        if deletions.len() <= FREE_DELETIONS_MAX || deletions.len() * 2 <= flags {
            self.held = None;
            return true;
        }
        match &self.held {
            Some(held) if held.deletions == deletions => {
                let agreed = now.saturating_duration_since(held.since) >= AGREEMENT_AFTER;
                if agreed {
                    self.held = None;
                }
                agreed
            }
            _ => {
                self.held = Some(Held { deletions, since: now });
                false
            }
        }
    }

    /// Discards the held response, because another result came in between.
    pub fn reset(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("flag-{n:03}")).collect()
    }

    fn admits(guard: &mut DeletionGuard, flags: usize, deleted: &[String], now: Instant) -> bool {
        guard.admits(flags, deleted.iter().map(String::as_str), now)
    }

    #[test]
    fn small_deletions_pass_at_once() {
        let (mut guard, now) = (DeletionGuard::default(), Instant::now());
        assert!(admits(&mut guard, 10, &names(0..10), now), "ten of ten");
        assert!(admits(&mut guard, 100, &names(0..50), now), "exactly half");
        assert!(!admits(&mut guard, 100, &names(0..51), now), "more than half");
        assert!(!admits(&mut guard, 11, &names(0..11), now), "eleven of eleven");
    }

    #[test]
    fn two_answers_in_a_row_must_agree() {
        let (mut guard, start) = (DeletionGuard::default(), Instant::now());
        let later = start + AGREEMENT_AFTER;
        assert!(!admits(&mut guard, 20, &names(0..20), start));
        assert!(!admits(&mut guard, 20, &names(0..15), later), "a different answer starts anew");
        assert!(!admits(&mut guard, 20, &names(0..15), later + AGREEMENT_AFTER / 2), "too soon");
        assert!(admits(&mut guard, 20, &names(0..15), later + AGREEMENT_AFTER));
    }

    #[test]
    fn what_comes_between_breaks_the_row() {
        let (mut guard, start) = (DeletionGuard::default(), Instant::now());
        assert!(!admits(&mut guard, 20, &names(0..20), start));
        guard.reset();
        assert!(!admits(&mut guard, 20, &names(0..20), start + AGREEMENT_AFTER));
        assert!(admits(&mut guard, 20, &[], start + AGREEMENT_AFTER));
        assert!(!admits(&mut guard, 20, &names(0..20), start + 2 * AGREEMENT_AFTER));
    }
}
