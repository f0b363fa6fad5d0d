//! Kill switches: a flag off for everybody, whatever its source says, until somebody lifts it or its time is up.
//!
//! ```text
//!  call at any instance ─► fence all other writers ─► read all switches ─► one Kafka transaction
//!                                                                            ├─► feature-flag-overrides (compacted)
//!  every store ◄─────────────────────────────────────────────────────────────┤
//!                                 who, why, before, after: change log ◄──────┼─► feature-flag-events
//!                                                                            └─► feature-flag-updates (invalidation)
//! ```
//!
//! Kafka is all it needs. A topic of its own, so that neither a leader's transactions nor its successor's can undo a
//! switch, nor hold it up: the end of the definitions topic waits for an open transaction of a dead leader, this one
//! does not. Any instance may write, one at a time: a common transactional id fences whoever wrote before, and what is
//! in force is read after that. So versions grow, and no two changes are made from the same state.
//!
//! That a switch has expired is seen by every instance at its own time. The [`keeper`] writes it down afterwards, so
//! that it gets a version and is announced.

mod desk;
pub mod keeper;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::config::Config;
use crate::message::kill_switch::KillSwitch;
use crate::registry::Formats;
use crate::store::Store;

use desk::{Action, Desk, Wanted};

/// Flags that may be under a switch at once.
pub const SWITCHES_MAX: usize = 10_000;

/// Writes the kill switches, of one instance.
#[derive(Debug)]
pub struct KillSwitches {
    config: Arc<Config>,
    formats: Arc<Formats>,
    store: Arc<Store>,
    /// Two writers of one process would only fence each other.
    desk: Arc<Mutex<Option<Desk>>>,
}

/// Whose switch, who turns it, and why.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'t> {
    pub environment: &'t str,
    pub flag: &'t str,
    pub actor: &'t str,
    pub reason: &'t str,
}

/// Why a switch is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    #[error("the flag is not killed")]
    NotKilled,
    #[error("{SWITCHES_MAX} flags are killed already, as many as there may be")]
    TooMany,
    /// It may have been turned: the last word of a transaction may be lost.
    #[error("Kafka does not take it: {0}")]
    Kafka(String),
}

impl KillSwitches {
    pub fn new(config: Arc<Config>, formats: Arc<Formats>, store: Arc<Store>) -> Self {
        Self { config, formats, store, desk: Arc::default() }
    }

    /// Kills a flag, or changes why and until when it is killed.
    pub async fn kill(
        &self,
        turn: Turn<'_>,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<KillSwitch, KillError> {
        let written = self.write(turn, Action::Kill { expires_at }).await?;
        written.ok_or_else(|| KillError::Kafka("no switch was written".to_owned()))
    }

    /// Lifts the switch of a flag that is killed.
    pub async fn restore(&self, turn: Turn<'_>) -> Result<KillSwitch, KillError> {
        self.write(turn, Action::Restore).await?.ok_or(KillError::NotKilled)
    }

    fn lost(&self, action: &Action, turn: Turn<'_>) -> Option<KillSwitch> {
        let key = format!("{}/{}", turn.environment, turn.flag);
        let lost = (*action == Action::Reinstate).then(|| self.store.switches().get(key.as_str()).cloned());
        lost.flatten().map(|switch| KillSwitch::clone(&switch))
    }

    /// `None`: there is nothing to be written.
    async fn write(&self, turn: Turn<'_>, action: Action) -> Result<Option<KillSwitch>, KillError> {
        let snapshot = self.store.load_full();
        let flag = snapshot.environment(turn.environment).and_then(|flags| flags.get(turn.flag));
        let wanted = Wanted {
            environment: turn.environment.to_owned(),
            flag: turn.flag.to_owned(),
            action,
            actor: turn.actor.to_owned(),
            reason: turn.reason.to_owned(),
            change_id: Uuid::now_v7(),
            definition_version: flag.map(|flag| flag.definition_version),
            seen_version: snapshot.version(),
            lost: self.lost(&action, turn),
        };
        // Held to the end of the writing, whatever becomes of the call.
        let mut desk = Arc::clone(&self.desk).lock_owned().await;
        let (config, formats) = (Arc::clone(&self.config), Arc::clone(&self.formats));
        let writing = tokio::task::spawn_blocking(move || desk::write(&mut desk, &config, &formats, &wanted));
        writing.await.map_err(|error| KillError::Kafka(error.to_string()))?
    }
}
