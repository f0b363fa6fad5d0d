//! Repeats recorded evaluations with the versions that were in force at the time, with those of another time, or with
//! proposed definitions.
//!
//! ```text
//!  feature_flag_versions, kill switches ──► History ──► Scenes ──┐ a flag and its parents at some version
//!                                                                ▼
//!  recorded evaluations (Postgres, SQLite, a topic) ──────────► Session ──► Report
//! ```
//!
//! A record contains the version of its flag and of the snapshot, the value type and the time, so the evaluation can be
//! repeated with the same input. An evaluation with missing input cannot be repeated; it is counted by reason
//! ([`Unrepeatable`]) and never reported as a difference. Nothing is written.

mod compare;
mod historical_snapshot;
mod history;
mod properties_read;
pub mod proposal;
mod reconstruct;
mod report;
pub(crate) mod rows;
pub mod topics;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::audit::evaluation::Evaluation;
use crate::config::Config;
use crate::database::DatabaseError;
use crate::flag::Moment;
use crate::kafka::tail::FollowError;
use crate::privacy::Privacy;

pub use compare::{ReplayedResult, Unrepeatable};
pub use historical_snapshot::at_version;
pub use history::History;
pub use proposal::Proposal;
pub use report::{Example, FlagReport, Report};
pub use rows::{Progress, RowFilter, copied_bytes, database};

use compare::Comparison;
use historical_snapshot::{HistoricalSnapshots, Own};

/// Reason why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(
        "all versions of the definitions together are larger than the limit of {0} bytes; replay fewer flags"
    )]
    HistoryTooLarge(usize),
    #[error("the database returned rows in an unexpected format")]
    Format,
    #[error(transparent)]
    Kafka(#[from] FollowError),
    #[error("the schema registry: {0}")]
    Registry(String),
    #[error("interrupted by shutdown")]
    Ended,
}

impl From<sqlx::Error> for ReplayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Versions with which evaluations are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// The versions in force at the time of the evaluation.
    Then,
    /// The versions in force at this time.
    AsOf(DateTime<Utc>),
    /// Proposed definitions, and otherwise the versions in force at the time of the evaluation.
    Proposed,
}

/// Repeats evaluations one by one and counts the results.
#[derive(Debug)]
pub struct Session {
    scenes: HistoricalSnapshots,
    with: With,
    app_name: String,
    /// Time of the last evaluation, in microseconds since 1970 and as text. The evaluations of a batch share one.
    now: (i64, String),
    /// Whether lists and objects in contexts lack their original text, as in `jsonb` columns.
    is_reworded: bool,
    pub report: Report,
}

impl Session {
    pub fn new(config: &Config, history: History, with: With, proposals: &[Proposal]) -> Self {
        let mut scenes = HistoricalSnapshots::new(history, Privacy::of(&config.privacy));
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

    /// Repeats one evaluation and counts the result.
    pub fn take(&mut self, row: &Evaluation<'_>) {
        if self.now.0 != row.evaluated_at {
            let at = DateTime::from_timestamp_micros(row.evaluated_at).unwrap_or_default();
            self.now = (row.evaluated_at, at.to_rfc3339_opts(SecondsFormat::Micros, true));
        }
        let number = self.scenes.history.number(&row.environment, &row.flag_name);
        let is_untouched =
            self.with == With::Proposed && !number.is_some_and(|number| self.scenes.is_touched(number));
        let flags_version = row.flags_version.and_then(unsigned);
        let verdict = match (self.with, flags_version) {
            _ if is_untouched => Comparison::Untouched,
            _ if row.error_code.as_deref() == Some("PROVIDER_NOT_READY") => {
                Comparison::Not(Unrepeatable::NotReady)
            }
            (_, None) => Comparison::Not(Unrepeatable::Unrecorded),
            (With::Then, Some(version)) => self.then(row, number, version),
            (With::AsOf(moment), _) => self.as_of(row, number, moment.timestamp_millis()),
            (With::Proposed, Some(version)) => self.proposed(row, number, version),
        };
        let verdict = match verdict {
            Comparison::Different(_) if row.amended => Comparison::Not(Unrepeatable::Amended),
            Comparison::Different(_) if self.is_reworded && has_depth(&row.context) => {
                Comparison::Not(Unrepeatable::Context)
            }
            verdict => verdict,
        };
        self.report.count(row, verdict);
    }

    /// Repeats an evaluation with the flag version in the record, and the other flags at the version of the recorded
    /// snapshot.
    fn then(&mut self, row: &Evaluation<'_>, number: Option<usize>, flags_version: u64) -> Comparison {
        let Some(version) = row.flag_version.and_then(unsigned) else {
            return match number.and_then(|number| self.scenes.get(number, Own::Latest, flags_version)) {
                // The flag was created or deleted at about that time.
                Some(_) => Comparison::Not(Unrepeatable::VersionUnrecorded),
                None => compare::missing(row),
            };
        };
        let known =
            number.filter(|number| self.scenes.history.flag(*number).is_some_and(|flag| flag.has(version)));
        let Some(number) = known else { return Comparison::Not(Unrepeatable::VersionUnknown) };
        let first = match self.scenes.get(number, Own::Pinned(version), flags_version) {
            Some(historical) => compare::again(&historical, row, self.moment()),
            None => Comparison::Not(Unrepeatable::VersionUnknown),
        };
        let is_excused =
            matches!(first, Comparison::Different(_)) && self.is_near(row, number, version, flags_version);
        if is_excused { Comparison::Not(Unrepeatable::Parents) } else { first }
    }

    /// Whether a slightly older or newer version of the parents or of the kill switch gives the recorded result.
    fn is_near(&mut self, row: &Evaluation<'_>, number: usize, version: u64, flags_version: u64) -> bool {
        let near = self.scenes.near(number, version, flags_version);
        [Own::Pinned(version), Own::Behind(version)].into_iter().any(|own| {
            near.iter().any(|at| {
                let historical = self.scenes.get(number, own, *at);
                historical.is_some_and(|historical| {
                    matches!(compare::again(&historical, row, self.moment()), Comparison::Same)
                })
            })
        })
    }

    /// Repeats an evaluation with all flags as of the time `moment_ms`.
    fn as_of(&mut self, row: &Evaluation<'_>, number: Option<usize>, moment_ms: i64) -> Comparison {
        let Some(number) = number else { return compare::missing(row) };
        let version = self.scenes.version_at(number, moment_ms);
        match self.scenes.get(number, Own::Latest, version) {
            Some(historical) => compare::again(&historical, row, self.moment()),
            None => compare::missing(row),
        }
    }

    /// Repeats an evaluation with the proposed definitions, and the other flags at the recorded version.
    fn proposed(&mut self, row: &Evaluation<'_>, number: Option<usize>, flags_version: u64) -> Comparison {
        let Some(number) = number else { return Comparison::Untouched };
        let own = row.flag_version.and_then(unsigned).filter(|_| !self.scenes.is_proposed(number));
        match self.scenes.get(number, own.map_or(Own::Latest, Own::Pinned), flags_version) {
            Some(historical) => compare::again(&historical, row, self.moment()),
            None => Comparison::Not(Unrepeatable::VersionUnknown),
        }
    }

    fn moment(&self) -> Moment<'_> {
        Moment { now: &self.now.1, hostname: "", app_name: &self.app_name }
    }
}

/// Whether an attribute is a list or an object. Rules compare the text of such an attribute.
fn has_depth(context: &str) -> bool {
    context.get(1..).is_some_and(|inside| inside.contains(['{', '[']))
}

fn unsigned(version: i64) -> Option<u64> {
    u64::try_from(version).ok()
}
