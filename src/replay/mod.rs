//! What was evaluated, evaluated again: with the versions that were in force then, with those of another moment, or
//! with proposed ones.
//!
//! ```text
//!  feature_flag_versions, kill switches ──► History ──► Scenes ──┐ a flag and those it depends on, as they were
//!                                                                ▼
//!  recorded evaluations (Postgres, SQLite, a topic) ──────────► Session ──► Report
//! ```
//!
//! A result names the version of its flag, so that is what it is evaluated with; and the time at which it was evaluated,
//! so the clock is what it was. What it does not tell cannot be evaluated again, and is counted by reason
//! ([`Unrepeatable`]): never is it told as a difference. Nothing is written anywhere.

mod again;
mod asked;
mod history;
pub mod proposal;
mod reads;
mod report;
mod rows;
mod scene;
pub mod topics;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::audit::evaluation::Evaluation;
use crate::config::Config;
use crate::database::DatabaseError;
use crate::flag::Moment;
use crate::kafka::follow::FollowError;
use crate::privacy::Privacy;

pub use again::{Told, Unrepeatable};
pub use history::History;
pub use proposal::Proposal;
pub use report::{Example, FlagReport, Report};
pub use rows::{Progress, Wanted, database};

use again::Verdict;
use scene::{Own, Scenes};

/// Other versions of what a flag depends on that are tried before a difference is told.
const CANDIDATES_MAX: usize = 64;

/// Why a replay ends early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the definitions of all versions are larger than {0} bytes")]
    HistoryTooLarge(usize),
    #[error("the database sends rows in a format that is not known")]
    Format,
    #[error(transparent)]
    Kafka(#[from] FollowError),
    #[error("the process is ending")]
    Ended,
}

impl From<sqlx::Error> for ReplayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// With which versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// Those in force when it was evaluated.
    Then,
    /// Those in force at this moment.
    AsOf(DateTime<Utc>),
    /// Proposed ones, among those in force when it was evaluated.
    Proposed,
}

/// Takes evaluations one by one, and counts what becomes of them.
#[derive(Debug)]
pub struct Session {
    scenes: Scenes,
    with: With,
    app_name: String,
    /// The last moment, in microseconds since 1970 and as text: those of a batch share one.
    now: (i64, String),
    /// Contexts come with the members of their objects in another order than they were asked with.
    is_reworded: bool,
    pub report: Report,
}

impl Session {
    pub fn new(config: &Config, history: History, with: With, proposals: &[Proposal]) -> Self {
        let mut scenes = Scenes::new(history, Privacy::of(&config.privacy));
        for proposal in proposals {
            scenes.propose(&proposal.environment, &proposal.flag, &proposal.definition);
        }
        let app_name = config.unleash.app_name.clone();
        Self {
            scenes,
            with,
            app_name,
            now: (i64::MIN, String::new()),
            is_reworded: false,
            report: Report::default(),
        }
    }

    /// Evaluates it again, and counts what comes of it.
    pub fn take(&mut self, row: &Evaluation<'_>) {
        if self.now.0 != row.evaluated_at {
            let at = DateTime::from_timestamp_micros(row.evaluated_at).unwrap_or_default();
            self.now = (row.evaluated_at, at.to_rfc3339_opts(SecondsFormat::Micros, true));
        }
        let verdict = match self.with {
            With::Then => self.then(row),
            With::AsOf(moment) => self.as_of(row, moment.timestamp_millis()),
            With::Proposed => self.proposed(row),
        };
        let verdict = match verdict {
            Verdict::Different(_) if row.amended => Verdict::Not(Unrepeatable::Amended),
            Verdict::Different(_) if self.is_reworded && has_object(&row.context) => {
                Verdict::Not(Unrepeatable::Context)
            }
            verdict => verdict,
        };
        self.report.count(row, verdict);
    }

    /// With the version that the result names.
    fn then(&mut self, row: &Evaluation<'_>) -> Verdict {
        let at_ms = row.evaluated_at.div_euclid(1_000);
        let number = self.scenes.history.number(&row.environment, &row.flag_name);
        let Some(version) = row.flag_version.and_then(|version| u64::try_from(version).ok()) else {
            return self.not_found(row, number, at_ms);
        };
        let known =
            number.filter(|number| self.scenes.history.flag(*number).is_some_and(|flag| flag.has(version)));
        let Some(number) = known else { return Verdict::Not(Unrepeatable::VersionUnknown) };
        let mut first = None;
        for (own, is_sure) in [(Own::Pinned(version), true), (Own::Behind(version), false)] {
            for (index, at) in
                self.scenes.candidates(number, version, at_ms, CANDIDATES_MAX).into_iter().enumerate()
            {
                let Some(scene) = self.scenes.get(number, own, at) else { continue };
                match again::again(&scene, row, self.moment(), again::Question::Any) {
                    Verdict::Different(told) => {
                        first.get_or_insert(told);
                    }
                    // What it was evaluated with is not recorded; that it may have been this is all there is to say.
                    Verdict::Same if index > 0 || !is_sure => return Verdict::Not(Unrepeatable::Parents),
                    verdict => return verdict,
                }
            }
        }
        first.map_or(Verdict::Not(Unrepeatable::VersionUnknown), Verdict::Different)
    }

    /// A result without a version: no such flag, or no flags at all.
    fn not_found(&mut self, row: &Evaluation<'_>, number: Option<usize>, at_ms: i64) -> Verdict {
        match row.error_code.as_deref() {
            Some("FLAG_NOT_FOUND") => {}
            Some("PROVIDER_NOT_READY") => return Verdict::Not(Unrepeatable::NotReady),
            _ => return Verdict::Not(Unrepeatable::VersionUnrecorded),
        }
        let scene = number.and_then(|number| {
            let version = self.scenes.version_at(number, at_ms);
            self.scenes.get(number, Own::Latest, version)
        });
        match scene {
            // It came, or went, at about that time.
            Some(_) => Verdict::Not(Unrepeatable::VersionUnrecorded),
            None => again::missing(row),
        }
    }

    /// With everything as of a moment.
    fn as_of(&mut self, row: &Evaluation<'_>, moment_ms: i64) -> Verdict {
        if row.error_code.as_deref() == Some("PROVIDER_NOT_READY") {
            return Verdict::Not(Unrepeatable::NotReady);
        }
        let Some(number) = self.scenes.history.number(&row.environment, &row.flag_name) else {
            return again::missing(row);
        };
        let version = self.scenes.version_at(number, moment_ms);
        match self.scenes.get(number, Own::Latest, version) {
            Some(scene) => again::again(&scene, row, self.moment(), again::Question::Guessed),
            None => again::missing(row),
        }
    }

    /// With proposed definitions among those of then.
    fn proposed(&mut self, row: &Evaluation<'_>) -> Verdict {
        let Some(number) = self.scenes.history.number(&row.environment, &row.flag_name) else {
            return Verdict::Untouched;
        };
        if !self.scenes.is_touched(number) {
            return Verdict::Untouched;
        }
        if row.error_code.as_deref() == Some("PROVIDER_NOT_READY") {
            return Verdict::Not(Unrepeatable::NotReady);
        }
        let version = self.scenes.version_at(number, row.evaluated_at.div_euclid(1_000));
        let own = row.flag_version.and_then(|version| u64::try_from(version).ok());
        let own = own.filter(|_| !self.scenes.is_proposed(number));
        let scene = match own {
            Some(own) => self.scenes.get(number, Own::Pinned(own), version.max(own)),
            None => self.scenes.get(number, Own::Latest, version),
        };
        match scene {
            Some(scene) => again::again(&scene, row, self.moment(), again::Question::Guessed),
            None => Verdict::Not(Unrepeatable::VersionUnknown),
        }
    }

    fn moment(&self) -> Moment<'_> {
        Moment { now: &self.now.1, hostname: "", app_name: &self.app_name }
    }
}

/// Whether an attribute is an object, or has one in it: rules see its text.
fn has_object(context: &str) -> bool {
    context.get(1..).is_some_and(|inside| inside.contains('{'))
}
