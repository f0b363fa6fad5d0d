//! Recent changes of the flags in force: one bounded ring buffer shared by all followers.
//!
//! A follower has a position in the ring and no queue of its own. A follower that falls behind the oldest
//! change has missed changes and gets an error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::flag::{CompiledFlag, FlagChange, Snapshot};
use crate::message::change::ChangeKind;

/// Maximum number of changes in the ring.
pub const KEPT_CHANGES: usize = 10_000;

/// Change that came into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub kind: ChangeKind,
    pub environment: Arc<str>,
    pub flag: Arc<str>,
    pub version: u64,
    pub previous_version: Option<u64>,
    /// Project and owner before the change; `None` if the flag was not in force.
    pub before: Option<Belonging>,
    /// Project and owner after the change; `None` if the flag is no longer in force.
    pub after: Option<Belonging>,
}

/// Project and owner of a flag, which restrictions of a listener's token are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belonging {
    pub project: Option<Box<str>>,
    pub owner: Option<Box<str>>,
}

/// Error: changes were missed, so any flag may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed;

#[derive(Debug)]
pub struct Changes {
    ring: Mutex<Ring>,
    /// Position after the last change.
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Arc<Changed>>,
    /// Position of the oldest change in the ring.
    first: u64,
    /// All changes up to this version are no longer in the ring.
    floor: u64,
}

/// Position of a follower in the ring.
#[derive(Debug)]
pub struct Follower {
    next: u64,
    end: watch::Receiver<u64>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { ring: Mutex::default(), end: watch::Sender::new(0) }
    }
}

impl Changes {
    /// Follows all changes from now on.
    pub fn follow(&self) -> Follower {
        let end = self.end.subscribe();
        let next = *end.borrow();
        Follower { next, end }
    }

    /// Follows all changes after `version`; an error if some of them are no longer in the ring.
    pub fn follow_after(&self, version: u64) -> Result<Follower, Missed> {
        let end = self.end.subscribe();
        let ring = self.lock();
        if version < ring.floor {
            return Err(Missed);
        }
        let known = ring.kept.partition_point(|change| change.version <= version);
        Ok(Follower { next: ring.first + known as u64, end })
    }

    /// Adds the differences that `changes` make to the snapshot `before`.
    pub(super) fn add(&self, before: &Snapshot, changes: &[FlagChange]) {
        let mut changed: Vec<_> = changes.iter().filter_map(|change| changed(before, change)).collect();
        changed.sort_unstable_by_key(|change| change.version);
        if changed.is_empty() {
            return;
        }
        let mut ring = self.lock();
        ring.kept.extend(changed.into_iter().map(Arc::new));
        while ring.kept.len() > KEPT_CHANGES {
            if let Some(oldest) = ring.kept.pop_front() {
                ring.floor = ring.floor.max(oldest.version);
                ring.first += 1;
            }
        }
        let end = ring.first + ring.kept.len() as u64;
        drop(ring);
        self.end.send_replace(end);
    }

    /// Marks all changes up to `version` as not available.
    pub(super) fn begin_at(&self, version: u64) {
        let mut ring = self.lock();
        ring.floor = ring.floor.max(version);
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Waits for changes and returns them in the order of their versions. Dropping the future loses no
    /// change.
    pub async fn next(&mut self, changes: &Changes) -> Result<Vec<Arc<Changed>>, Missed> {
        let next = self.next;
        // The sender exists as long as `changes`.
        if self.end.wait_for(|end| *end > next).await.is_err() {
            return std::future::pending().await;
        }
        let ring = changes.lock();
        let skipped = self.next.checked_sub(ring.first).ok_or(Missed)?;
        let found: Vec<_> =
            ring.kept.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)).cloned().collect();
        self.next = ring.first + ring.kept.len() as u64;
        Ok(found)
    }
}

impl From<&CompiledFlag> for Belonging {
    fn from(flag: &CompiledFlag) -> Self {
        let summary = flag.summary();
        Self { project: summary.project.clone(), owner: summary.owner.clone() }
    }
}

fn changed(before: &Snapshot, change: &FlagChange) -> Option<Changed> {
    let (environment, flag, version, after) = match change {
        FlagChange::Set(flag) => {
            (&flag.environment, &flag.name, flag.version, Some(Belonging::from(&**flag)))
        }
        FlagChange::Remove { environment, name, version } => (environment, name, *version, None),
    };
    let previous = before.environment(environment).and_then(|flags| flags.get(flag));
    let kind = match (&after, previous) {
        (None, None) => return None,
        (None, Some(_)) => ChangeKind::Deleted,
        (Some(_), None) => ChangeKind::Created,
        (Some(_), Some(_)) => ChangeKind::Updated,
    };
    Some(Changed {
        kind,
        environment: Arc::clone(environment),
        flag: Arc::clone(flag),
        version,
        previous_version: previous.map(|flag| flag.version),
        before: previous.map(|flag| Belonging::from(&**flag)),
        after,
    })
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    fn removed(version: u64) -> FlagChange {
        FlagChange::Remove { environment: "e".into(), name: "f".into(), version }
    }

    fn set(version: u64) -> FlagChange {
        let definition = r#"{"name":"f","enabled":true}"#;
        FlagChange::Set(Arc::new(CompiledFlag::compile("e", version, definition).unwrap()))
    }

    fn kinds(found: &[Arc<Changed>]) -> Vec<(ChangeKind, u64, Option<u64>)> {
        found.iter().map(|change| (change.kind, change.version, change.previous_version)).collect()
    }

    #[tokio::test]
    async fn a_life_is_followed_and_can_be_asked_for_again() {
        let changes = Changes::default();
        changes.begin_at(10);
        let mut follower = changes.follow();
        let mut snapshot = Snapshot::default();
        for change in [set(11), set(12), removed(13), removed(14)] {
            changes.add(&snapshot, std::slice::from_ref(&change));
            snapshot = snapshot.with([change]);
        }
        let life = [
            (ChangeKind::Created, 11, None),
            (ChangeKind::Updated, 12, Some(11)),
            (ChangeKind::Deleted, 13, Some(12)),
        ];
        assert_eq!(kinds(&follower.next(&changes).await.unwrap()), life);
        let mut again = changes.follow_after(11).unwrap();
        assert_eq!(kinds(&again.next(&changes).await.unwrap()), life.get(1..).unwrap());
        assert!(changes.follow_after(10).is_ok());
        assert_eq!(changes.follow_after(9).err(), Some(Missed));
    }

    #[tokio::test]
    async fn a_change_says_whose_the_flag_was_and_is() {
        let of = |version, project: &str| {
            let definition = format!(r#"{{"name":"f","enabled":true,"project":"{project}"}}"#);
            FlagChange::Set(Arc::new(CompiledFlag::compile("e", version, &definition).unwrap()))
        };
        let (changes, mut snapshot) = (Changes::default(), Snapshot::default());
        let mut follower = changes.follow();
        for change in [of(1, "a"), of(2, "b"), removed(3)] {
            changes.add(&snapshot, std::slice::from_ref(&change));
            snapshot = snapshot.with([change]);
        }
        let project = |whose: &Option<Belonging>| {
            whose.as_ref().and_then(|it| it.project.as_deref().map(str::to_owned))
        };
        let found = follower.next(&changes).await.unwrap();
        let told: Vec<_> = found.iter().map(|it| (project(&it.before), project(&it.after))).collect();
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        assert_eq!(told, [(None, a.clone()), (a, b.clone()), (b, None)]);
    }

    #[tokio::test]
    async fn who_falls_behind_has_missed_something() {
        let changes = Changes::default();
        let mut slow = changes.follow();
        let before = Snapshot::default();
        for version in 1..=KEPT_CHANGES as u64 + 1 {
            changes.add(&before, &[set(version)]);
        }
        assert_eq!(slow.next(&changes).await.err(), Some(Missed));
        assert_eq!(changes.follow_after(0).err(), Some(Missed));
        let mut follower = changes.follow_after(1).unwrap();
        assert_eq!(follower.next(&changes).await.unwrap().len(), KEPT_CHANGES);
    }
}
