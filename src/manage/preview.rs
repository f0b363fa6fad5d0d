//! Preview of a proposed definition: repeats the latest evaluations of a flag with it. Writes nothing.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::flag::definition::Segments;
use crate::replay::{
    self, History, Progress, Proposal, ReplayError, Report, RowFilter, Session, With, proposal,
};

use super::{ManageError, Manager, compile};

/// Maximum previews that run or wait. Further ones are refused.
pub(super) const MAX_PREVIEWS: usize = 4;

/// Proposed definition as JSON.
#[derive(Debug, Clone, Copy)]
pub enum Proposed<'p> {
    /// A feature in the format of Unleash's client API.
    Unleash(&'p str),
    /// A local flag.
    Local(&'p str),
}

/// Owned form of [`Proposed`], to be sent to another thread.
enum OwnedProposed {
    Unleash(String),
    Local(String),
}

impl OwnedProposed {
    fn of(proposed: Proposed<'_>) -> Self {
        match proposed {
            Proposed::Unleash(text) => Self::Unleash(text.to_owned()),
            Proposed::Local(text) => Self::Local(text.to_owned()),
        }
    }

    fn borrowed(&self) -> Proposed<'_> {
        match self {
            Self::Unleash(text) => Proposed::Unleash(text),
            Self::Local(text) => Proposed::Local(text),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Preview {
    pub flag_name: String,
    pub environment: String,
    #[serde(flatten)]
    pub report: Report,
}

impl Manager {
    /// Repeats the last `count` evaluations of a flag with a proposed definition. Only one preview runs at a time.
    pub async fn preview(
        &self,
        environment: &str,
        name: &str,
        proposed: Proposed<'_>,
        count: u32,
    ) -> Result<Preview, ManageError> {
        let database = &self.repository()?.database;
        let now = Utc::now();
        let _place = self
            .preview_places
            .try_acquire()
            .map_err(|_| ManageError::Busy("too many previews are being computed"))?;
        // The semaphore is never closed, so this cannot fail.
        let _turn = self.previews.acquire().await;
        let (expected, text) = ((environment.to_owned(), name.to_owned()), OwnedProposed::of(proposed));
        let read = move || read(&expected.0, &expected.1, text.borrowed(), now);
        let proposal = compile::apart(read).await??;
        let failed = |error: ReplayError| match error {
            ReplayError::Database(error) => ManageError::from(error),
            error => ManageError::field("definition", error.to_string()),
        };
        let history = History::of_flag(database, environment, name, &proposal.definition);
        let history = history.await.map_err(failed)?;
        let session = Session::new(&self.config, history, With::Proposed, std::slice::from_ref(&proposal));
        let filter = RowFilter {
            from: now - TimeDelta::days(self.config.audit.retention_days.into()),
            // Clocks of other instances may be ahead.
            to: now + TimeDelta::hours(1),
            environments: vec![environment.to_owned()],
            flags: vec![name.to_owned()],
            last: Some(count),
        };
        let progress = Arc::new(Progress::default());
        let replaying = replay::database(database, &filter, session, &progress);
        let report = replaying.await.map_err(failed)?.report;
        Ok(Preview { flag_name: name.to_owned(), environment: environment.to_owned(), report })
    }
}

fn read(
    environment: &str,
    name: &str,
    proposed: Proposed<'_>,
    now: DateTime<Utc>,
) -> Result<Proposal, ManageError> {
    let (field, read) = match proposed {
        Proposed::Unleash(text) => {
            ("definition", proposal::unleash_flag(text, &Segments::default(), environment))
        }
        Proposed::Local(text) => ("flag", proposal::local_flag(text, now)),
    };
    let proposal = read.map_err(|message| ManageError::field(field, message))?;
    for (member, given, expected) in
        [("name", &proposal.flag, name), ("environment", &proposal.environment, environment)]
    {
        if given != expected {
            let message = format!("expected {expected} as in the URL, got {given}");
            return Err(ManageError::field(&format!("{field}.{member}"), message));
        }
    }
    Ok(proposal)
}
