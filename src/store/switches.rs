//! The kill switches as their topic has them. No I/O.

use std::sync::Arc;

use ahash::AHashMap;

use crate::flag::CompiledFlag;
use crate::message::kill_switch::KillSwitch;

use super::record::{Key, Refusal, decode_switch};

/// Of all flags, whether these exist or not.
#[derive(Debug, Default)]
pub(super) struct Switches {
    /// Shared with whoever looks at them; a change copies it, and switches are few.
    known: Arc<AHashMap<Box<str>, Arc<KillSwitch>>>,
    values: AHashMap<Box<str>, (Arc<[u8]>, u64)>,
    reading: u64,
}

impl Switches {
    /// Takes one record; whether anything is different now. Records of the topic are taken in its order, whatever
    /// their versions: one writer at a time gives them.
    pub(super) fn take(&mut self, key: &Key<'_>, value: Option<&[u8]>) -> Result<bool, Refusal> {
        let Some(value) = value else {
            self.values.remove(key.text);
            return Ok(self.forget(key.text));
        };
        let switch = decode_switch(key, value)?;
        self.values.insert(key.text.into(), (value.into(), self.reading));
        if self.known.get(key.text).is_some_and(|known| **known == switch) {
            return Ok(false);
        }
        Arc::make_mut(&mut self.known).insert(key.text.into(), Arc::new(switch));
        Ok(true)
    }

    /// The flag under its switch, if it has one.
    pub(super) fn put_on(&self, key: &str, flag: CompiledFlag) -> CompiledFlag {
        match self.known.get(key) {
            Some(switch) => flag.switched(Arc::clone(switch)),
            None => flag,
        }
    }

    pub(super) fn all(&self) -> Arc<AHashMap<Box<str>, Arc<KillSwitch>>> {
        Arc::clone(&self.known)
    }

    pub(super) fn saved(&self) -> Vec<Arc<[u8]>> {
        self.values.values().map(|(value, _)| Arc::clone(value)).collect()
    }

    pub(super) fn begin_reading(&mut self) {
        self.reading += 1;
    }

    /// The keys of the switches that the current reading has not shown.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &str> {
        let unseen = self.values.iter().filter(|(_, (_, seen))| *seen != self.reading);
        unseen.map(|(key, _)| &**key)
    }

    /// Forgets what the current reading has not shown, and says what that was.
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
        // Asked first, so that what is not there copies nothing.
        self.known.contains_key(key) && Arc::make_mut(&mut self.known).remove(key).is_some()
    }
}
