//! Kill switches as they are in their topic. No I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;

use crate::flag::CompiledFlag;
use crate::message::kill_switch::KillSwitch;

use super::record::{Key, Refusal, decode_switch};

/// Maximum number of recent changes of kill switches that are remembered.
pub(super) const RECENT_MAX: usize = 1_000;

/// A change of a kill switch that this process has applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentSwitch {
    /// The switch before the change; `None` if there was none, or none was known here.
    pub before: Option<Arc<KillSwitch>>,
    pub after: Arc<KillSwitch>,
}

/// Kill switches by key, including those of flags that do not exist.
#[derive(Debug, Default)]
pub(super) struct Switches {
    /// Shared with readers. A change copies the map, which is acceptable because there are few switches.
    known: Arc<AHashMap<Box<str>, Arc<KillSwitch>>>,
    /// The latest changes, the oldest first. At most [`RECENT_MAX`].
    recent: Arc<VecDeque<RecentSwitch>>,
    values: AHashMap<Box<str>, (Arc<[u8]>, u64)>,
    reading: u64,
}

impl Switches {
    /// Processes one record and returns whether the switches changed. Records are applied in the order of the
    /// topic, whatever their versions, because only one writer at a time assigns them.
    pub(super) fn take(&mut self, key: &Key<'_>, value: Option<&[u8]>) -> Result<bool, Refusal> {
        let Some(value) = value else {
            self.values.remove(key.text);
            return Ok(self.forget(key.text));
        };
        let switch = decode_switch(key, value)?;
        self.values.insert(key.text.into(), (value.into(), self.reading));
        let before = self.known.get(key.text).cloned();
        if before.as_deref() == Some(&switch) {
            return Ok(false);
        }
        let after = Arc::new(switch);
        self.remember(before, &after);
        Arc::make_mut(&mut self.known).insert(key.text.into(), after);
        Ok(true)
    }

    /// Remembers a change. A switch that was only written again, with a new version, has the same change id.
    fn remember(&mut self, before: Option<Arc<KillSwitch>>, after: &Arc<KillSwitch>) {
        if before.as_ref().is_some_and(|before| before.change_id == after.change_id) {
            return;
        }
        let recent = Arc::make_mut(&mut self.recent);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(RecentSwitch { before, after: Arc::clone(after) });
    }

    /// The flag with its kill switch applied, if it has one.
    pub(super) fn put_on(&self, key: &str, flag: CompiledFlag) -> CompiledFlag {
        match self.known.get(key) {
            Some(switch) => flag.switched(Arc::clone(switch)),
            None => flag,
        }
    }

    pub(super) fn all(&self) -> Arc<AHashMap<Box<str>, Arc<KillSwitch>>> {
        Arc::clone(&self.known)
    }

    pub(super) fn recent(&self) -> Arc<VecDeque<RecentSwitch>> {
        Arc::clone(&self.recent)
    }

    pub(super) fn saved(&self) -> Vec<Arc<[u8]>> {
        self.values.values().map(|(value, _)| Arc::clone(value)).collect()
    }

    pub(super) fn begin_reading(&mut self) {
        self.reading += 1;
    }

    /// Keys of the switches that the current reading has not contained.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &str> {
        let unseen = self.values.iter().filter(|(_, (_, seen))| *seen != self.reading);
        unseen.map(|(key, _)| &**key)
    }

    /// Removes the switches that the current reading has not contained, and returns their keys.
    pub(super) fn sweep(&mut self) -> Vec<Box<str>> {
        let reading = self.reading;
        let swept: Vec<_> =
            self.values.extract_if(|_, (_, seen)| *seen != reading).map(|(key, _)| key).collect();
        for key in &swept {
            self.forget(key);
        }
        swept
    }

    fn forget(&mut self, key: &str) -> bool {
        // Checked first, so that the removal of an absent switch does not copy the map.
        self.known.contains_key(key) && Arc::make_mut(&mut self.known).remove(key).is_some()
    }
}
