//! Table of the definitions in force, and the changes that records make to it. It does no I/O.
//!
//! A higher version replaces a lower one, never the reverse. A record that cannot be read or compiled is
//! refused, and the last valid version stays in force. Flags that a complete reading of the topic did not
//! contain are removed by [`DefinitionTable::sweep`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ahash::AHashMap;

use crate::flag::{CompileError, CompiledFlag, FlagChange};
use crate::message::definition::Definition;
use crate::message::kill_switch::KillSwitch;

use super::record::{Key, Record, Refusal, compile, decode};
use super::switches::{RecentSwitch, Switches};

/// Maximum number of deleted flags that are remembered, so that an older record does not restore them.
const MAX_REMOVED_COUNT: usize = 100_000;
/// Maximum number of refused records that are listed by key.
const MAX_REFUSED_COUNT: usize = 1_000;
/// Maximum memory of the compiled regular expressions of one environment's flags, in bytes.
pub const MAX_EXPRESSIONS_BYTES: usize = 64 << 20;
/// Maximum length of the reason for a refusal, in characters.
const MAX_MESSAGE_CHARS: usize = 500;

/// The definitions in force, with their original texts.
#[derive(Debug, Default)]
pub struct DefinitionTable {
    entries: AHashMap<Box<str>, StoredFlag>,
    removed: AHashMap<Box<str>, u64>,
    switches: Switches,
    refused: BTreeMap<Box<str>, Refused>,
    /// Memory of the compiled regular expressions by environment, in bytes. Expressions that flags share are
    /// counted for each of them.
    expression_bytes: AHashMap<Box<str>, usize>,
    reading: u64,
}

/// Refused record with the reason.
#[derive(Debug, Clone)]
pub struct Refused {
    pub message: String,
    seen: u64,
}

#[derive(Debug)]
struct StoredFlag {
    version: u64,
    value: Arc<[u8]>,
    /// Number of the last reading that contained this flag; 0 if only the disk has it.
    seen: u64,
    /// Parts of the definition that cannot be evaluated, with the reasons; `None` if there are none.
    problems: Option<Arc<str>>,
    /// Memory of the flag's compiled regular expressions, in bytes.
    expression_bytes: usize,
}

/// Result of processing a record.
#[derive(Debug)]
pub enum ApplyOutcome {
    Changed(FlagChange),
    /// The content of the record is in force already.
    Same,
    /// A higher version is in force.
    Stale,
    /// The record is invalid. Contains the key as text for the log.
    Refused(String, Refusal),
}

/// Content of a snapshot: texts of definitions, and the versions of deletions.
#[derive(Debug, Default, Clone)]
pub struct Saved {
    pub values: Vec<Arc<[u8]>>,
    pub removed: BTreeMap<String, u64>,
    /// Kill switches as record values of their topic.
    pub switches: Vec<Arc<[u8]>>,
}

impl DefinitionTable {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Refused records, and flags that cannot be evaluated in part, with the reason by key. A key is removed
    /// from the list by the next valid record.
    pub fn refused(&self) -> &BTreeMap<Box<str>, Refused> {
        &self.refused
    }

    /// Processes one record. The caller must apply the resulting change.
    pub fn take(&mut self, record: &Record<'_>) -> ApplyOutcome {
        let key = match Key::parse(record.key) {
            Ok(key) => key,
            Err(refusal) => {
                let key = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
                return self.refuse(key, refusal);
            }
        };
        let outcome = match record.value {
            None => self.remove(&key, record.version),
            Some(value) => self.set(&key, value),
        };
        // The record shows that the flag still exists in the topic, whether or not its content is valid.
        if let Some(entry) = self.entries.get_mut(key.text) {
            entry.seen = self.reading;
        }
        outcome.unwrap_or_else(|refusal| self.refuse(key.text.to_owned(), refusal))
    }

    /// Processes a saved definition, given as a record value.
    pub fn take_saved(&mut self, value: &[u8]) -> ApplyOutcome {
        let definition: Definition = match serde_json::from_slice(value) {
            Ok(definition) => definition,
            Err(error) => return ApplyOutcome::Refused("?".to_owned(), Refusal::Body(error)),
        };
        let key = format!("{}/{}", definition.environment, definition.flag_name);
        self.take(&Record { key: Some(key.as_bytes()), value: Some(value), version: None })
    }

    /// Processes a saved kill switch, given as a record value.
    pub fn take_saved_switch(&mut self, value: &[u8]) -> ApplyOutcome {
        let switch: KillSwitch = match serde_json::from_slice(value) {
            Ok(switch) => switch,
            Err(error) => return ApplyOutcome::Refused("?".to_owned(), Refusal::Switch(error)),
        };
        let key = format!("{}/{}", switch.environment, switch.flag_name);
        self.take_switch(&Record { key: Some(key.as_bytes()), value: Some(value), version: None })
    }

    /// Begins a new reading of the topic, which determines again which flags exist.
    pub fn begin_reading(&mut self) {
        self.reading += 1;
    }

    /// Number of flags that the current reading has not contained.
    pub fn unseen(&self) -> usize {
        self.entries.values().filter(|entry| entry.seen != self.reading).count()
    }

    /// Keys and record values of the flags that the current reading has not contained.
    pub fn unseen_values(&self) -> Vec<(Box<str>, Arc<[u8]>)> {
        let unseen = self.entries.iter().filter(|(_, entry)| entry.seen != self.reading);
        unseen.map(|(key, entry)| (key.clone(), Arc::clone(&entry.value))).collect()
    }

    /// Keys of the kill switches that the current reading has not contained.
    pub fn unseen_switches(&self) -> Vec<Box<str>> {
        self.switches.unseen().map(Box::from).collect()
    }

    /// Whether the environment has flags; with `None`, whether any environment has.
    pub fn has_flags_of(&self, environment: Option<&str>) -> bool {
        let Some(environment) = environment else { return !self.entries.is_empty() };
        let is_of = |key: &str| key.split_once('/').is_some_and(|(of, _)| of == environment);
        self.entries.keys().any(|key| is_of(key))
    }

    /// Removes the flags that the current reading has not contained.
    pub fn sweep(&mut self) -> Vec<FlagChange> {
        let reading = self.reading;
        let swept: Vec<_> = self.entries.extract_if(|_, entry| entry.seen != reading).collect();
        let mut changes = Vec::with_capacity(swept.len());
        for (text, entry) in swept {
            // The deletion is not remembered, because the topic may be refilled with the same versions.
            let Ok(key) = Key::parse(Some(text.as_bytes())) else { continue };
            self.note_expressions(key.environment, Some(&entry), 0);
            changes.push(removal(&key, entry.version));
        }
        self.refused.retain(|_, refused| refused.seen == reading);
        changes
    }

    pub fn saved(&self) -> Saved {
        Saved {
            values: self.entries.values().map(|entry| Arc::clone(&entry.value)).collect(),
            removed: self.removed.iter().map(|(key, version)| (key.to_string(), *version)).collect(),
            switches: self.switches.saved(),
        }
    }

    /// Remembers a saved deletion.
    pub fn remember_removed(&mut self, key: &str, version: u64) {
        self.removed.insert(key.into(), version);
        self.bound_removed();
    }

    fn set(&mut self, key: &Key<'_>, value: &[u8]) -> Result<ApplyOutcome, Refusal> {
        let definition = decode(key, value)?;
        let version = definition.version;
        if self.removed.get(key.text).is_some_and(|removed| *removed >= version) {
            return Ok(ApplyOutcome::Stale);
        }
        match self.entries.get(key.text) {
            Some(known) if known.version > version => return Ok(ApplyOutcome::Stale),
            Some(known) if known.version == version && *known.value == *value => {
                let problems = known.problems.clone();
                self.list_problems(key.text, problems.as_deref());
                return Ok(ApplyOutcome::Same);
            }
            _ => {}
        }
        let compiled = compile(key, &definition).and_then(|flag| self.within_limits(key, flag));
        let flag = match compiled {
            Ok(flag) => flag,
            Err(refusal) if self.entries.contains_key(key.text) => return Err(refusal),
            // No valid version exists, so callers get the reason instead of an unknown flag.
            Err(refusal @ Refusal::Compile(_)) => unusable(key, version, &refusal),
            Err(refusal) => return Err(refusal),
        };
        let value: Arc<[u8]> = value.into();
        let mut flag = self.switches.put_on(key.text, flag);
        flag.record = Some(Arc::clone(&value));
        let problems = problems(&flag);
        self.list_problems(key.text, problems.as_deref());
        let expression_bytes = flag.expression_bytes();
        let entry = StoredFlag { version, value, seen: self.reading, problems, expression_bytes };
        let before = self.entries.insert(key.text.into(), entry);
        self.note_expressions(key.environment, before.as_ref(), expression_bytes);
        self.removed.remove(key.text);
        Ok(ApplyOutcome::Changed(FlagChange::Set(Arc::new(flag))))
    }

    /// Refuses a flag whose regular expressions would exceed the limit of its environment.
    fn within_limits(&self, key: &Key<'_>, flag: CompiledFlag) -> Result<CompiledFlag, Refusal> {
        let before = self.entries.get(key.text).map_or(0, |entry| entry.expression_bytes);
        let others = self.expression_bytes.get(key.environment).map_or(0, |all| all.saturating_sub(before));
        if flag.expression_bytes() == 0 || others + flag.expression_bytes() <= MAX_EXPRESSIONS_BYTES {
            return Ok(flag);
        }
        Err(Refusal::Compile(CompileError {
            flag: key.flag.to_owned(),
            field: "strategies".to_owned(),
            message: format!(
                "the compiled regular expressions of all flags of the environment take more than {MAX_EXPRESSIONS_BYTES} \
                 bytes together; simplify or remove some"
            ),
        }))
    }

    fn note_expressions(&mut self, environment: &str, before: Option<&StoredFlag>, now: usize) {
        let before = before.map_or(0, |entry| entry.expression_bytes);
        if before == 0 && now == 0 {
            return;
        }
        let all = self.expression_bytes.entry(environment.into()).or_default();
        *all = all.saturating_sub(before).saturating_add(now);
    }

    /// Adds a flag with problems to the list of refused records, or removes a flag without problems.
    fn list_problems(&mut self, key: &str, problems: Option<&str>) {
        match problems {
            Some(problems) => self.list_refused(key, problems.to_owned()),
            None => drop(self.refused.remove(key)),
        }
    }

    /// Removes a flag. A tombstone without a version deletes any version.
    fn remove(&mut self, key: &Key<'_>, version: Option<u64>) -> Result<ApplyOutcome, Refusal> {
        let known = self.entries.get(key.text).map(|entry| entry.version);
        let before = known.or_else(|| self.removed.get(key.text).copied());
        let version = version.or(before).unwrap_or(0);
        if before.is_some_and(|before| before > version) {
            return Ok(ApplyOutcome::Stale);
        }
        self.refused.remove(key.text);
        let before = self.entries.remove(key.text);
        self.note_expressions(key.environment, before.as_ref(), 0);
        let repeated = self.removed.insert(key.text.into(), version) == Some(version);
        self.bound_removed();
        if repeated && known.is_none() {
            return Ok(ApplyOutcome::Same);
        }
        Ok(ApplyOutcome::Changed(removal(key, version)))
    }

    /// Processes one record of the kill switch topic. The caller must apply the resulting change.
    pub fn take_switch(&mut self, record: &Record<'_>) -> ApplyOutcome {
        let key = match Key::parse(record.key) {
            Ok(key) => key,
            Err(refusal) => return ApplyOutcome::Refused("?".to_owned(), refusal),
        };
        match self.switches.take(&key, record.value) {
            Ok(true) => self.switched(&key),
            Ok(false) => ApplyOutcome::Same,
            Err(refusal) => ApplyOutcome::Refused(key.text.to_owned(), refusal),
        }
    }

    /// Begins a new reading of the kill switch topic.
    pub fn begin_reading_switches(&mut self) {
        self.switches.begin_reading();
    }

    /// Removes the switches that the current reading has not contained, and returns the changes of their
    /// flags.
    pub fn sweep_switches(&mut self) -> Vec<(Box<str>, FlagChange)> {
        let swept = self.switches.sweep();
        let changes = swept.into_iter().filter_map(|text| {
            let ApplyOutcome::Changed(change) = self.switched(&Key::parse(Some(text.as_bytes())).ok()?)
            else {
                return None;
            };
            Some((text, change))
        });
        changes.collect()
    }

    /// All kill switches by key.
    pub fn switches(&self) -> Arc<AHashMap<Box<str>, Arc<KillSwitch>>> {
        self.switches.all()
    }

    /// The latest changes of kill switches, the oldest first.
    pub fn recent_switches(&self) -> Arc<VecDeque<RecentSwitch>> {
        self.switches.recent()
    }

    /// The change that applies the current kill switch to a flag. The flag is compiled again, because a
    /// compiled flag cannot be copied.
    fn switched(&self, key: &Key<'_>) -> ApplyOutcome {
        let Some(entry) = self.entries.get(key.text) else {
            return ApplyOutcome::Same;
        };
        let compiled = decode(key, &entry.value).and_then(|definition| compile(key, &definition));
        // A definition that does not compile now did not compile before either, so no valid version is lost.
        let flag = compiled.unwrap_or_else(|refusal| unusable(key, entry.version, &refusal));
        let mut flag = self.switches.put_on(key.text, flag);
        flag.record = Some(Arc::clone(&entry.value));
        ApplyOutcome::Changed(FlagChange::Set(Arc::new(flag)))
    }

    fn refuse(&mut self, key: String, refusal: Refusal) -> ApplyOutcome {
        self.list_refused(&key, refusal.to_string());
        ApplyOutcome::Refused(key, refusal)
    }

    fn list_refused(&mut self, key: &str, message: String) {
        if self.refused.len() < MAX_REFUSED_COUNT || self.refused.contains_key(key) {
            let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
            self.refused.insert(key.into(), Refused { message, seen: self.reading });
        }
    }

    /// Forgets the half with the lower versions if there are too many deletions.
    fn bound_removed(&mut self) {
        if self.removed.len() > MAX_REMOVED_COUNT {
            forget_lower_half(&mut self.removed);
        }
    }
}

/// Removes the half of the entries with the lower versions. A version may occur many times, for example if an
/// environment was deleted at once, so entries of the median version are counted.
fn forget_lower_half(removed: &mut AHashMap<Box<str>, u64>) {
    let mut versions: Vec<u64> = removed.values().copied().collect();
    let half = versions.len() / 2;
    if half == 0 {
        return;
    }
    let (lower, median, _) = versions.select_nth_unstable(half);
    let median = *median;
    let mut of_median = half - lower.iter().filter(|version| **version < median).count();
    removed.retain(|_, version| match (*version).cmp(&median) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => {
            let is_forgotten = of_median > 0;
            of_median = of_median.saturating_sub(1);
            !is_forgotten
        }
    });
}

fn problems(flag: &CompiledFlag) -> Option<Arc<str>> {
    let problems: Vec<&str> = flag.unusable_because().into_iter().chain(flag.problems()).collect();
    (!problems.is_empty()).then(|| problems.join("; ").into())
}

fn unusable(key: &Key<'_>, version: u64, refusal: &Refusal) -> CompiledFlag {
    CompiledFlag::unusable(key.environment, key.flag, version, &refusal.to_string())
}

fn removal(key: &Key<'_>, version: u64) -> FlagChange {
    FlagChange::Remove { environment: key.environment.into(), name: key.flag.into(), version }
}

#[cfg(test)]
mod tests;
