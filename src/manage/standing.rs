//! What is in force here of a flag, and waiting for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::flag::CompiledFlag;
use crate::message::definition::Source;

use super::Manager;

/// For a change to be in force: normally well under a tenth of a second, and longer than that where the leader is
/// just being replaced. Well below the time in which clients give up.
pub(super) const IN_FORCE_PATIENCE: Duration = Duration::from_secs(5);

/// Whose definition is in force.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    /// No flag of this name.
    Nobody,
    /// A local flag, of this revision.
    Local(Option<i64>, Arc<CompiledFlag>),
    Elsewhere(Source, Arc<CompiledFlag>),
}

impl Manager {
    pub(super) fn standing(&self, environment: &str, name: &str) -> Standing {
        let snapshot = self.store.load();
        let flag = snapshot.environment(environment).and_then(|flags| flags.get(name));
        let Some(flag) = flag else {
            return Standing::Nobody;
        };
        match flag.provenance.as_ref().map(|provenance| (provenance.source, provenance.revision)) {
            Some((Source::Local, revision)) => Standing::Local(revision, Arc::clone(flag)),
            Some((source, _)) => Standing::Elsewhere(source, Arc::clone(flag)),
            None => Standing::Elsewhere(Source::Unleash, Arc::clone(flag)),
        }
    }

    /// Waits until `holds` of what is in force of a flag. `false`: not in time.
    pub(super) async fn wait_until(
        &self,
        environment: &str,
        name: &str,
        holds: impl Fn(&Standing) -> bool,
    ) -> bool {
        let deadline = Instant::now() + IN_FORCE_PATIENCE;
        // Subscribed first, so that no change between the look and the wait is missed.
        let mut versions = self.store.versions();
        loop {
            versions.mark_unchanged();
            if holds(&self.standing(environment, name)) {
                return true;
            }
            if !matches!(timeout_at(deadline, versions.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }
}

impl Standing {
    /// Whether a revision of the local flag, or a later one, is in force.
    pub(super) fn has(&self, wanted: i64) -> bool {
        matches!(self, Self::Local(Some(revision), _) if *revision >= wanted)
    }

    /// Whether nothing of a local flag is in force up to this revision.
    pub(super) fn is_rid_of(&self, revision: i64) -> bool {
        !matches!(self, Self::Local(Some(known), _) if *known <= revision)
            && !matches!(self, Self::Local(None, _))
    }
}
