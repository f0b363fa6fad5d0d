//! Interned names of flags, environments and variants of a batch.

use std::sync::Arc;

use ahash::AHashMap;

use super::Count;

/// Names of a batch, each stored once and referred to by its index.
#[derive(Debug, Default)]
pub struct Flags {
    environments: Vec<Arc<str>>,
    flags: Vec<(usize, Arc<str>)>,
    known: AHashMap<Arc<str>, (usize, Numbers)>,
    variants: Vec<Arc<str>>,
    known_variants: AHashMap<Arc<str>, u32>,
}

/// Indexes of an environment's flags, by name.
type Numbers = AHashMap<Arc<str>, usize>;

impl Flags {
    /// Number of flags.
    pub(super) fn len(&self) -> usize {
        self.flags.len()
    }

    pub(super) fn environments(&self) -> &[Arc<str>] {
        &self.environments
    }

    pub(super) fn clear(&mut self) {
        self.environments.clear();
        self.flags.clear();
        self.known.clear();
        self.variants.clear();
        self.known_variants.clear();
    }

    /// Returns a count of zero evaluations for the flag.
    pub(super) fn count(&self, flag: usize, evaluated_at: i64) -> Count {
        let (environment, flag) = self
            .flag(flag)
            .map(|(environment, flag)| (environment.clone(), flag.clone()))
            .unwrap_or_default();
        let (last_evaluated_at, first_evaluated_at) = (evaluated_at, evaluated_at);
        Count { environment, flag, evaluations: 0, last_evaluated_at, first_evaluated_at, last_off_at: None }
    }

    /// Returns the environment and the name of the flag with this index.
    pub(in crate::audit) fn flag(&self, number: usize) -> Option<(&Arc<str>, &Arc<str>)> {
        let (environment, flag) = self.flags.get(number)?;
        Some((self.environments.get(*environment)?, flag))
    }

    pub(in crate::audit) fn variant_name(&self, number: u32) -> Option<&Arc<str>> {
        self.variants.get(number as usize)
    }

    pub(super) fn variant(&mut self, name: &str) -> u32 {
        if let Some(known) = self.known_variants.get(name) {
            return *known;
        }
        let (shared, number): (Arc<str>, _) =
            (name.into(), u32::try_from(self.variants.len()).unwrap_or(u32::MAX));
        self.variants.push(Arc::clone(&shared));
        self.known_variants.insert(shared, number);
        number
    }

    pub(super) fn environment(&mut self, name: &str) -> usize {
        if let Some((index, _)) = self.known.get(name) {
            return *index;
        }
        let shared: Arc<str> = name.into();
        self.environments.push(Arc::clone(&shared));
        let index = self.environments.len() - 1;
        self.known.insert(shared, (index, AHashMap::default()));
        index
    }

    /// Returns the indexes of an environment and of a flag in it, and adds those that are new.
    pub(super) fn index(&mut self, environment: &str, flag: &str) -> (usize, usize) {
        let index = self.environment(environment);
        let Some((_, flags)) = self.known.get_mut(environment) else {
            return (index, 0);
        };
        if let Some(known) = flags.get(flag) {
            return (index, *known);
        }
        let shared: Arc<str> = flag.into();
        self.flags.push((index, Arc::clone(&shared)));
        flags.insert(shared, self.flags.len() - 1);
        (index, self.flags.len() - 1)
    }
}
