//! Times at which the latest changes took effect in this instance, for its report to the others.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::message::instance::{AppliedChange, WarmedChange};

/// Maximum changes that are remembered.
pub const KEPT_CHANGES_COUNT: usize = 64;

/// Latest changes of this instance, the oldest first.
#[derive(Debug, Default)]
pub struct Propagation(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    applied: VecDeque<AppliedChange>,
    warmed: VecDeque<WarmedChange>,
}

impl Propagation {
    /// Records that these versions are in force from now on.
    pub(super) fn applied(&self, versions: impl IntoIterator<Item = u64>, at: DateTime<Utc>) {
        let mut kept = self.lock();
        for version in versions {
            if !kept.applied.iter().any(|known| known.version == version) {
                push(&mut kept.applied, AppliedChange { version, at });
            }
        }
    }

    /// Records that readers of Redis ignore values from before this version.
    pub fn announced(&self, version: u64) {
        let mut kept = self.lock();
        if !kept.warmed.iter().any(|known| known.version == version) {
            let announced_at = Utc::now();
            push(&mut kept.warmed, WarmedChange { version, announced_at, refreshed_at: None });
        }
    }

    /// Records that all raw keys of the changed flag are correct.
    pub fn refreshed(&self, version: u64) {
        let now = Utc::now();
        if let Some(known) = self.lock().warmed.iter_mut().find(|known| known.version == version) {
            known.refreshed_at = Some(now);
        }
    }

    /// Changes that came into force, and changes whose cached values were invalidated.
    pub fn latest(&self) -> (Vec<AppliedChange>, Vec<WarmedChange>) {
        let kept = self.lock();
        (kept.applied.iter().copied().collect(), kept.warmed.iter().copied().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push<T>(kept: &mut VecDeque<T>, item: T) {
    if kept.len() >= KEPT_CHANGES_COUNT {
        kept.pop_front();
    }
    kept.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_changes_are_kept_each_with_its_first_time() {
        let propagation = Propagation::default();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        propagation.applied([7], at(1));
        propagation.applied([7, 8], at(2));
        let (applied, _) = propagation.latest();
        assert_eq!(
            applied,
            [AppliedChange { version: 7, at: at(1) }, AppliedChange { version: 8, at: at(2) }]
        );
        propagation.applied(100..100 + KEPT_CHANGES_COUNT as u64, at(3));
        let (applied, _) = propagation.latest();
        assert_eq!((applied.len(), applied[0].version), (KEPT_CHANGES_COUNT, 100));
    }

    #[test]
    fn a_change_is_announced_before_it_is_refreshed() {
        let propagation = Propagation::default();
        propagation.refreshed(5);
        propagation.announced(5);
        assert!(propagation.latest().1.iter().all(|warmed| warmed.refreshed_at.is_none()));
        propagation.refreshed(5);
        let warmed = propagation.latest().1[0];
        assert!(warmed.refreshed_at.is_some_and(|at| at >= warmed.announced_at));
    }
}
