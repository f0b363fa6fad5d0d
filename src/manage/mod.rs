//! Management of flags: creates, changes and deletes local flags, and lists all flags.
//!
//! ```text
//!  request ─► database (flag, change log: one transaction) ─► hint ─► leader: poll, diff, one Kafka transaction
//!                │ source of truth for local flags                         │
//!                └── response ◄── in force in this process ◄── definition ◄┘
//! ```
//!
//! A request is reported as done when the definition made from its revision is in force on this instance, and as
//! accepted until then. A committed change comes into force even if the request or the hint is lost, because the leader
//! also polls. This module does not depend on HTTP.

mod activity;
mod belonging;
mod change;
mod cleanup;
mod compile;
mod effective_state;
mod erasure;
mod error;
mod explain;
mod flag_view;
mod history;
mod kill;
mod listing;
mod preview;
mod recent;
mod replays;
pub mod repository;
mod revert;
mod search;
mod stale;
mod sync;
mod synced;
mod usage;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::config::Config;
use crate::experiment::Experiments;
use crate::feed::{FlagSource, Hints};
use crate::kill::KillSwitches;
use crate::message::definition::Source;
use crate::schema_registry::Formats;
use crate::store::Store;

pub use activity::{Activity, ActivityFilter};
pub use change::{AuthorizedActor, ChangeResult, Expected, FlagRef};
pub use cleanup::{Cleaned, run_nightly_cleanup};
pub use erasure::{ErasureError, UserErasure, erase_user, kept, written_as};
pub use error::ManageError;
pub use explain::{ExplainRequest, Explained};
pub use flag_view::{FlagView, ShadowedFlag};
pub use history::{Before, Evaluated, Evaluations, FlagChanged, HistoryFilter};
pub use kill::Turned;
pub use listing::{FlagFilter, Page, Sort};
pub use preview::{Preview, Proposed};
pub use replays::{ReplayRequest, ReplayView};
pub use repository::Repository;
pub use revert::Target;
pub use search::{EvaluationSelection, Found, FoundEvaluation, SearchFilter};
pub use stale::{StaleFilter, StalePage};
pub use sync::Synced;
pub use usage::{FlagUsage, Period, Resolution};

/// State shared by management requests.
#[derive(Debug)]
pub struct Manager {
    config: Arc<Config>,
    store: Arc<Store>,
    /// `None` without a database.
    repository: Option<Repository>,
    pub hints: Hints,
    switches: Arc<KillSwitches>,
    experiments: Option<Experiments>,
    /// Limits previews to one at a time, because each holds evaluations and definitions in memory.
    previews: Semaphore,
    /// Limits the previews that run or wait.
    preview_places: Semaphore,
    /// Limits the replays that run.
    replay_places: Arc<Semaphore>,
    /// Sources of flags that are not local.
    flag_sources: Vec<FlagSource>,
}

impl Manager {
    pub fn new(
        config: Arc<Config>,
        formats: &Formats,
        store: Arc<Store>,
        repository: Option<Repository>,
        flag_sources: Vec<FlagSource>,
        switches: Arc<KillSwitches>,
    ) -> Self {
        let hints = Hints::new(Arc::clone(&config), formats);
        let experiments = repository.as_ref().map(|repository| {
            Experiments::new(repository.database.clone(), Arc::clone(&store), Arc::clone(&config), formats)
        });
        let flag_sources =
            flag_sources.into_iter().filter(|flag_source| flag_source.source() != Source::Local).collect();
        let (previews, preview_places) = (Semaphore::new(1), Semaphore::new(preview::MAX_PREVIEWS));
        Self {
            config,
            store,
            repository,
            hints,
            switches,
            experiments,
            previews,
            preview_places,
            replay_places: Arc::new(Semaphore::new(replays::RUNNING_MAX_COUNT)),
            flag_sources,
        }
    }

    /// Store whose changes the requests wait for.
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    pub fn experiments(&self) -> Result<&Experiments, ManageError> {
        self.experiments.as_ref().ok_or(ManageError::NoDatabase)
    }

    fn repository(&self) -> Result<&Repository, ManageError> {
        self.repository.as_ref().ok_or(ManageError::NoDatabase)
    }

    /// Name of the system or file that manages flags of `source` in an environment, for error messages.
    fn place(&self, environment: &str, source: Source) -> String {
        let here = |flag_source: &&FlagSource| {
            flag_source.environment() == Some(environment) && flag_source.source() == source
        };
        match (self.flag_sources.iter().find(here), source) {
            (Some(flag_source), _) => flag_source.place().into_owned(),
            (None, Source::File) => "a file".to_owned(),
            (None, _) => "Unleash".to_owned(),
        }
    }
}
