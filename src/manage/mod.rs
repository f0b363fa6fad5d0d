//! Management of flags: local flags are created, changed and deleted here; all flags are listed.
//!
//! ```text
//!  call ─► database (flag, change log: one transaction) ─► hint ─► leader: look, diff, one Kafka transaction
//!            │ the truth about local flags                             │
//!            └── answered ◄── in force in our own store ◄── definition ┘
//! ```
//!
//! A call is answered as done when the definition made from its very revision is in force here; until then it is
//! accepted, no more. What was committed comes into force whatever happens to the call or to the hint: the leader
//! also looks by itself. Nothing here knows about HTTP.

mod change;
mod cleanup;
mod compile;
mod error;
mod history;
mod kill;
mod listing;
mod preview;
pub mod records;
mod revert;
mod shown;
mod stale;
mod standing;
mod sync;
mod synced;
mod usage;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::config::Config;
use crate::experiment::Experiments;
use crate::feed::{Hints, Origin};
use crate::kill::KillSwitches;
use crate::message::definition::Source;
use crate::registry::Formats;
use crate::store::Store;

pub use change::{Asked, By, Done, Expected};
pub use cleanup::{Cleaned, by_night};
pub use error::ManageError;
pub use history::{Before, Evaluated, Evaluations, FlagChanged, HistoryWanted};
pub use kill::Turned;
pub use listing::{ListAsked, Page, Sort};
pub use preview::{Preview, Proposed};
pub use records::Records;
pub use revert::Target;
pub use shown::{ShadowedFlag, Shown};
pub use stale::{StaleAsked, StalePage};
pub use sync::Synced;
pub use usage::{FlagUsage, Period, Resolution};

/// What the calls share.
#[derive(Debug)]
pub struct Manager {
    config: Arc<Config>,
    store: Arc<Store>,
    /// `None` without a database.
    records: Option<Records>,
    pub hints: Hints,
    switches: Arc<KillSwitches>,
    experiments: Option<Experiments>,
    /// One preview at a time: each holds evaluations and definitions.
    previews: Semaphore,
    /// Places for those that wait for their turn, and the one whose turn it is.
    preview_places: Semaphore,
    /// Of flags that are managed elsewhere.
    origins: Vec<Origin>,
}

impl Manager {
    pub fn new(
        config: Arc<Config>,
        formats: &Formats,
        store: Arc<Store>,
        records: Option<Records>,
        origins: Vec<Origin>,
        switches: Arc<KillSwitches>,
    ) -> Self {
        let hints = Hints::new(Arc::clone(&config), formats);
        let experiments = records.as_ref().map(|records| {
            Experiments::new(records.database.clone(), Arc::clone(&store), Arc::clone(&config), formats)
        });
        let origins = origins.into_iter().filter(|origin| origin.source() != Source::Local).collect();
        let (previews, preview_places) = (Semaphore::new(1), Semaphore::new(preview::MAX_PREVIEWS));
        Self { config, store, records, hints, switches, experiments, previews, preview_places, origins }
    }

    /// The store that its calls wait for.
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    pub fn experiments(&self) -> Result<&Experiments, ManageError> {
        self.experiments.as_ref().ok_or(ManageError::NoDatabase)
    }

    fn records(&self) -> Result<&Records, ManageError> {
        self.records.as_ref().ok_or(ManageError::NoDatabase)
    }

    /// Where the flags of an environment are managed that are not local.
    fn place(&self, environment: &str, source: Source) -> String {
        let here = |origin: &&Origin| origin.environment() == Some(environment) && origin.source() == source;
        match (self.origins.iter().find(here), source) {
            (Some(origin), _) => origin.place().into_owned(),
            (None, Source::File) => "a file".to_owned(),
            (None, _) => "Unleash".to_owned(),
        }
    }
}
