//! The flags in force at one version. Immutable; a change makes a new one that shares all unchanged flags.

use std::sync::Arc;

use super::CompiledFlag;

/// All flags of all environments at one version.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    version: u64,
}

/// The flags of one environment.
#[derive(Debug, Default, Clone)]
pub struct EnvironmentFlags {}

/// One step from a snapshot to the next.
#[derive(Debug)]
pub enum FlagChange {
    Set(Arc<CompiledFlag>),
    Remove {
        environment: Arc<str>,
        name: Arc<str>,
        version: u64,
    },
}

impl Snapshot {
    /// The highest version applied; 0 when nothing was ever loaded.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Flags of one environment, or `None` if this deployment does not serve it.
    pub fn environment(&self, _name: &str) -> Option<&Arc<EnvironmentFlags>> {
        unimplemented!()
    }

    /// Like [`Snapshot::environment`], with the name as it is shared.
    pub fn environment_entry(&self, _name: &str) -> Option<(&Arc<str>, &Arc<EnvironmentFlags>)> {
        unimplemented!()
    }

    /// The snapshot after `changes`; `self` stays as it is. An environment once served stays served.
    pub fn with(&self, _changes: impl IntoIterator<Item = FlagChange>) -> Self {
        unimplemented!()
    }

    /// The same flags, with `environments` served even while they have no flag.
    pub fn serving<'e>(&self, _environments: impl IntoIterator<Item = &'e str>) -> Self {
        unimplemented!()
    }

    pub fn environments(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<EnvironmentFlags>)> {
        std::iter::empty()
    }
}

impl EnvironmentFlags {
    pub fn get(&self, _flag: &str) -> Option<&Arc<CompiledFlag>> {
        unimplemented!()
    }

    pub fn len(&self) -> usize {
        0
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledFlag>> {
        std::iter::empty()
    }
}
