//! Kill switches: a killed flag is off for every context, whatever its source defines, until the switch is
//! lifted or expires.
//!
//! ```text
//!  call at any instance ─► fence all other writers ─► read all switches ─► one Kafka transaction
//!                                                                            ├─► feature-flag-overrides (compacted)
//!  every store ◄─────────────────────────────────────────────────────────────┤
//!                                 who, why, before, after: change log ◄──────┼─► feature-flag-events
//!                                                                            └─► feature-flag-updates (invalidation)
//! ```
//!
//! Kill switches depend only on Kafka. They have their own topic, so that transactions of the feeder's leader
//! or its successor can neither undo nor delay a switch: the end of the definitions topic waits for an open
//! transaction of a dead leader, this topic does not.
//!
//! Any instance may write, but only one at a time: a common transactional id fences the previous writer, and
//! the current state is read after that. So versions increase, and no two changes are based on the same
//! state.
//!
//! Each instance detects the expiry of a switch on its own. The module [`expiry`] records it afterwards, so that it
//! gets a version and is announced.

pub mod expiry;
mod writer;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::config::Config;
use crate::message::kill_switch::KillSwitch;
use crate::schema_registry::Formats;
use crate::store::Store;

use writer::{Action, KillSwitchWriter, PendingChange};

/// Maximum number of flags that are killed at the same time.
pub const SWITCHES_MAX: usize = 10_000;
/// Maximum number of flags with a switch in the topic, killed or lifted. A lifted switch is kept until its flag changes,
/// or for a day if there is no such flag, because it holds the flag's highest version.
pub const STORED_SWITCHES_MAX: usize = 2 * SWITCHES_MAX;

/// Interface of one instance for changing kill switches.
#[derive(Debug)]
pub struct KillSwitches {
    config: Arc<Config>,
    formats: Arc<Formats>,
    store: Arc<Store>,
    /// Current writer. The lock is needed because two writers of one process would only fence each other.
    writer: Arc<Mutex<Option<KillSwitchWriter>>>,
}

/// Change of a switch: the flag, the actor and the reason.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'t> {
    pub environment: &'t str,
    pub flag: &'t str,
    pub actor: &'t str,
    pub reason: &'t str,
}

/// Reason why a switch was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    #[error("the flag is not killed")]
    NotKilled,
    #[error("the limit of {SWITCHES_MAX} killed flags is reached; restore flags that need no kill switch")]
    TooMany,
    #[error(
        "{STORED_SWITCHES_MAX} flags have a kill switch that is set or was lifted recently, which is the limit: a lifted \
         one is removed when its flag changes, or a day later if the flag does not exist"
    )]
    TooManyStored,
    /// The outcome is unknown: the change may have been committed although its confirmation was lost.
    #[error(
        "the kill switch could not be written to Kafka: {0}; the outcome is unknown, check the flag and retry"
    )]
    Kafka(String),
}

impl KillSwitches {
    pub fn new(config: Arc<Config>, formats: Arc<Formats>, store: Arc<Store>) -> Self {
        Self { config, formats, store, writer: Arc::default() }
    }

    /// Kills a flag, or changes the reason and expiry of its kill switch.
    pub async fn kill(
        &self,
        turn: Turn<'_>,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<KillSwitch, KillError> {
        let written = self.write(turn, Action::Kill { expires_at }).await?;
        written.ok_or_else(|| KillError::Kafka("no switch was written".to_owned()))
    }

    /// Lifts the kill switch of a flag.
    pub async fn restore(&self, turn: Turn<'_>) -> Result<KillSwitch, KillError> {
        self.write(turn, Action::Restore).await?.ok_or(KillError::NotKilled)
    }

    fn lost(&self, action: &Action, turn: Turn<'_>) -> Option<KillSwitch> {
        let key = format!("{}/{}", turn.environment, turn.flag);
        let lost = (*action == Action::Reinstate).then(|| self.store.switches().get(key.as_str()).cloned());
        lost.flatten().map(|switch| KillSwitch::clone(&switch))
    }

    /// Writes a change; `None` if there is nothing to write.
    async fn write(&self, turn: Turn<'_>, action: Action) -> Result<Option<KillSwitch>, KillError> {
        let snapshot = self.store.load_full();
        let flag = snapshot.environment(turn.environment).and_then(|flags| flags.get(turn.flag));
        let pending = PendingChange {
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
        // The lock is held until the write has ended, even if the call is cancelled.
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let (config, formats) = (Arc::clone(&self.config), Arc::clone(&self.formats));
        let writing =
            tokio::task::spawn_blocking(move || writer::write(&mut writer, &config, &formats, &pending));
        writing.await.map_err(|error| KillError::Kafka(error.to_string()))?
    }
}
