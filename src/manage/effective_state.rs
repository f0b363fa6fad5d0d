//! State of a flag in the snapshot in force, and waiting for it to change.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::flag::CompiledFlag;
use crate::message::definition::Source;

use super::Manager;

/// Timeout for a change to come into force. It normally takes well under 100 ms, and longer while a new leader is
/// elected. The value is well below the timeouts of clients.
pub(super) const IN_FORCE_TIMEOUT: Duration = Duration::from_secs(5);

/// Owner of the definition that is in force.
#[derive(Debug, Clone)]
pub(super) enum EffectiveState {
    /// There is no flag of this name.
    Nobody,
    /// A local flag with this revision.
    Local(Option<i64>, Arc<CompiledFlag>),
    Elsewhere(Source, Arc<CompiledFlag>),
}

impl Manager {
    pub(super) fn effective_state(&self, environment: &str, name: &str) -> EffectiveState {
        let snapshot = self.store.load();
        let flag = snapshot.environment(environment).and_then(|flags| flags.get(name));
        let Some(flag) = flag else {
            return EffectiveState::Nobody;
        };
        match flag.provenance.as_ref().map(|provenance| (provenance.source, provenance.revision)) {
            Some((Source::Local, revision)) => EffectiveState::Local(revision, Arc::clone(flag)),
            Some((source, _)) => EffectiveState::Elsewhere(source, Arc::clone(flag)),
            None => EffectiveState::Elsewhere(Source::Unleash, Arc::clone(flag)),
        }
    }

    /// Waits until `holds` is true for the flag in force. Returns `false` on timeout.
    pub(super) async fn wait_until(
        &self,
        environment: &str,
        name: &str,
        holds: impl Fn(&EffectiveState) -> bool,
    ) -> bool {
        let deadline = Instant::now() + IN_FORCE_TIMEOUT;
        // Subscribes first, so that no change between the check and the wait is missed.
        let mut versions = self.store.versions();
        loop {
            versions.mark_unchanged();
            if holds(&self.effective_state(environment, name)) {
                return true;
            }
            if !matches!(timeout_at(deadline, versions.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }
}

impl EffectiveState {
    /// Whether this or a later revision of the local flag is in force.
    pub(super) fn has(&self, request: i64) -> bool {
        matches!(self, Self::Local(Some(revision), _) if *revision >= request)
    }

    /// Whether no revision of the local flag up to this one is in force.
    pub(super) fn is_rid_of(&self, revision: i64) -> bool {
        !matches!(self, Self::Local(Some(known), _) if *known <= revision)
            && !matches!(self, Self::Local(None, _))
    }
}
