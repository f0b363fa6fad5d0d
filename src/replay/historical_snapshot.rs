//! Reconstructs a flag and its parents at some version.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};

use crate::flag::{CompiledFlag, EnvironmentFlags, FlagChange, Snapshot};
use crate::privacy::Privacy;

use super::history::{ANCESTORS_MAX_COUNT, FlagHistory, History, Turn, Version, parents};
use super::properties_read;

/// Number of earlier and of later versions that are tried before a difference is reported.
const NEAR_MAX: usize = 8;
/// Upper bound of cached historical snapshots.
const SCENES_MAX_COUNT: usize = 20_000;

/// Version of the flag itself, independently of its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Own {
    /// The version in the record.
    Pinned(u64),
    /// The version in the record, but with the previous definition or kill switch state. The two come from different
    /// topics, and the instance may not have received one of them yet.
    Behind(u64),
    /// The flag's latest version up to the snapshot's version.
    Latest,
}

/// Flags for one evaluation.
#[derive(Debug)]
pub struct HistoricalSnapshot {
    pub flags: Arc<EnvironmentFlags>,
    /// Whether the rules read an attribute that was dropped or hashed by the privacy settings.
    pub is_hidden: bool,
}

/// Returns a flag at exactly this version with its parents as of the snapshot `flags_version`, and its definition.
/// `None`: the version is not recorded.
pub fn at_version(
    history: History,
    environment: &str,
    name: &str,
    version: u64,
    flags_version: u64,
) -> Option<(Arc<EnvironmentFlags>, String)> {
    let number = history.number(environment, name)?;
    let defined = history.flag(number)?.definitions(version).next()?;
    let definition = defined.definition.as_deref()?.to_owned();
    let mut snapshots = HistoricalSnapshots::new(history, None);
    let historical = snapshots.get(number, Own::Pinned(version), flags_version)?;
    Some((Arc::clone(&historical.flags), definition))
}

/// Flags that any version of a flag depends on, directly or indirectly.
#[derive(Debug, Default)]
struct Ancestry {
    flags: AHashSet<usize>,
    /// Versions of the definitions and kill switch changes, ascending, with their times in milliseconds since 1970.
    steps: Vec<(u64, i64)>,
}

/// Reconstructs historical snapshots and caches them.
#[derive(Debug)]
pub struct HistoricalSnapshots {
    pub history: History,
    /// Proposed definitions, by flag; each replaces all recorded definitions.
    proposed: AHashMap<usize, Arc<str>>,
    privacy: Option<Arc<Privacy>>,
    kept: AHashMap<(usize, Own, u64), Option<Arc<HistoricalSnapshot>>>,
    ancestries: AHashMap<usize, Arc<Ancestry>>,
}

impl HistoricalSnapshots {
    pub fn new(history: History, privacy: Option<Arc<Privacy>>) -> Self {
        let (proposed, kept, ancestries) = Default::default();
        Self { history, proposed, privacy, kept, ancestries }
    }

    /// Replaces all definitions of a flag by a proposed one.
    pub fn propose(&mut self, environment: &str, name: &str, definition: &str) {
        let number = self.history.known(environment, name);
        self.proposed.insert(number, definition.into());
    }

    pub fn is_proposed(&self, flag: usize) -> bool {
        self.proposed.contains_key(&flag)
    }

    /// Whether a proposal affects this flag or one of its parents.
    pub fn is_touched(&mut self, flag: usize) -> bool {
        if self.proposed.contains_key(&flag) {
            return true;
        }
        let ancestry = self.ancestry(flag);
        self.proposed.keys().any(|proposed| ancestry.flags.contains(proposed))
    }

    /// Returns the flag with its parents at `version`. `None`: the flag did not exist.
    pub fn get(&mut self, flag: usize, own: Own, version: u64) -> Option<Arc<HistoricalSnapshot>> {
        let ancestry = self.ancestry(flag);
        // Only the versions of these flags make a difference, so the cache key ignores all others.
        let relevant = match own {
            Own::Latest => self.last_step(flag, version),
            Own::Pinned(_) | Own::Behind(_) => 0,
        };
        let key = (flag, own, relevant.max(ancestry.last(version)));
        if let Some(kept) = self.kept.get(&key) {
            return kept.clone();
        }
        if self.kept.len() >= SCENES_MAX_COUNT {
            self.kept.clear();
        }
        let made = self.make(flag, own, version).map(Arc::new);
        self.kept.insert(key, made.clone());
        made
    }

    /// Versions of the flag's parents nearest to `version`, while the flag itself was at version `own`; includes `own`.
    pub fn near(&mut self, flag: usize, own: u64, version: u64) -> Vec<u64> {
        let ancestry = self.ancestry(flag);
        let steps = self.history.flag(flag).into_iter().flat_map(FlagHistory::steps);
        let next = steps.map(|(step, _)| step).filter(|step| *step > own).min().unwrap_or(u64::MAX);
        let steps = ancestry.steps.iter().map(|(step, _)| *step).filter(|step| (own..next).contains(step));
        let mut near: Vec<u64> = std::iter::once(own).chain(steps).collect();
        let at = near.iter().rposition(|step| *step <= version).unwrap_or_default();
        let from = at.saturating_sub(NEAR_MAX);
        near.drain(..from);
        near.truncate(2 * NEAR_MAX + 1);
        near
    }

    /// Latest version of this flag and its parents at a time in milliseconds since 1970.
    pub fn version_at(&mut self, flag: usize, at_ms: i64) -> u64 {
        let ancestry = self.ancestry(flag);
        let own = self.history.flag(flag).into_iter().flat_map(FlagHistory::steps);
        let all = own.chain(ancestry.steps.iter().copied());
        all.filter(|(_, ms)| *ms <= at_ms).map(|(version, _)| version).max().unwrap_or_default()
    }

    fn last_step(&self, flag: usize, version: u64) -> u64 {
        let steps = self.history.flag(flag).into_iter().flat_map(FlagHistory::steps);
        steps.map(|(step, _)| step).filter(|step| *step <= version).max().unwrap_or_default()
    }

    fn ancestry(&mut self, flag: usize) -> Arc<Ancestry> {
        if let Some(known) = self.ancestries.get(&flag) {
            return Arc::clone(known);
        }
        let mut ancestry = Ancestry::default();
        let mut next = vec![flag];
        while let Some(number) = next.pop() {
            let Some(history) = self.history.flag(number) else { continue };
            let proposed = self.proposed.get(&number).map(|text| text.as_ref());
            let texts = history.versions.iter().filter_map(|version| version.definition.as_deref());
            for name in
                texts.chain(proposed).filter(|text| text.contains("\"dependencies\"")).flat_map(parents)
            {
                if let Some(parent) = self.history.number(&history.environment, &name)
                    && parent != flag
                    && ancestry.flags.len() < ANCESTORS_MAX_COUNT
                    && ancestry.flags.insert(parent)
                {
                    next.push(parent);
                }
            }
        }
        let flags = ancestry.flags.iter().filter_map(|number| self.history.flag(*number));
        ancestry.steps = flags.flat_map(FlagHistory::steps).collect();
        ancestry.steps.sort_unstable();
        let ancestry = Arc::new(ancestry);
        self.ancestries.insert(flag, Arc::clone(&ancestry));
        ancestry
    }

    fn make(&self, number: usize, own: Own, version: u64) -> Option<HistoricalSnapshot> {
        let flag = self.history.flag(number)?;
        let (first, mut is_hidden) = match own {
            Own::Latest => self.latest(number, version)?,
            Own::Pinned(pinned) => self.pinned(number, pinned, 0)?,
            Own::Behind(pinned) => self.pinned(number, pinned, 1)?,
        };
        let mut names: Vec<String> = first.parents().map(str::to_owned).collect();
        let mut changes = vec![FlagChange::Set(Arc::new(first))];
        let mut next = 0;
        while let Some(name) = names.get(next) {
            next += 1;
            let parent = self.history.number(&flag.environment, name).filter(|parent| *parent != number);
            let Some((parent, hidden)) = parent.and_then(|parent| self.latest(parent, version)) else {
                continue;
            };
            is_hidden |= hidden;
            for above in parent.parents() {
                if names.len() < ANCESTORS_MAX_COUNT && !names.iter().any(|name| name == above) {
                    names.push(above.to_owned());
                }
            }
            changes.push(FlagChange::Set(Arc::new(parent)));
        }
        let snapshot = Snapshot::default().with(changes);
        let flags = Arc::clone(snapshot.environment(&flag.environment)?);
        Some(HistoricalSnapshot { flags, is_hidden })
    }

    /// Returns the flag at its latest version up to `version`. A definition that does not compile was never in force
    /// and is skipped.
    fn latest(&self, number: usize, version: u64) -> Option<(CompiledFlag, bool)> {
        let flag = self.history.flag(number)?;
        let turn = flag.turns(version).next();
        if self.proposed.contains_key(&number) {
            return self.compile(number, version, "", turn);
        }
        for defined in flag.definitions(version) {
            let text = defined.definition.as_deref()?;
            if let Some(compiled) = self.compile(number, defined.version, text, turn) {
                return Some(compiled);
            }
        }
        None
    }

    /// Returns the flag at exactly this version, which is that of a definition or of a kill switch change. The other
    /// one is `behind` steps older than the latest.
    fn pinned(&self, number: usize, version: u64, behind: usize) -> Option<(CompiledFlag, bool)> {
        let flag = self.history.flag(number)?;
        let is_defined = |it: &&Version| it.version == version;
        let own = flag.definitions(version).next().filter(is_defined);
        let (defined, turn) = match own {
            Some(own) => (own, flag.turns(version).nth(behind)),
            None => {
                let turn = flag.turns(version).next().filter(|turn| turn.version == version)?;
                (flag.definitions(version).nth(behind)?, Some(turn))
            }
        };
        self.compile(number, defined.version, defined.definition.as_deref()?, turn)
    }

    fn compile(
        &self,
        number: usize,
        version: u64,
        definition: &str,
        turn: Option<&Turn>,
    ) -> Option<(CompiledFlag, bool)> {
        let flag = self.history.flag(number)?;
        let definition = self.proposed.get(&number).map_or(definition, |proposed| proposed.as_ref());
        let compiled = CompiledFlag::compile(&flag.environment, version, definition).ok()?;
        let is_hidden = self
            .privacy
            .as_ref()
            .is_some_and(|privacy| properties_read::any(definition, |it| privacy.hides(it)));
        Some((
            match turn {
                Some(turn) => compiled.switched(Arc::clone(&turn.switch)),
                None => compiled,
            },
            is_hidden,
        ))
    }
}

impl Ancestry {
    /// Latest version up to `version`, or 0.
    fn last(&self, version: u64) -> u64 {
        let end = self.steps.partition_point(|(step, _)| *step <= version);
        end.checked_sub(1).and_then(|at| self.steps.get(at)).map_or(0, |(step, _)| *step)
    }
}
