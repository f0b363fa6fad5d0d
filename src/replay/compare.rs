//! Repeats one recorded evaluation and compares the result with the record.

use serde::Serialize;

use crate::audit::evaluation::Evaluation;
use crate::flag::value::Lookup;
use crate::flag::{Answer, Moment};
use crate::message::request;

use super::historical_snapshot::HistoricalSnapshot;
use super::reconstruct::ReconstructedCall;

/// Reason why a recorded evaluation cannot be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unrepeatable {
    /// The variant or rollout was drawn at random, because the context has no value for the stickiness.
    Random,
    /// The rules use the name of the host that evaluated.
    Host,
    /// The rules use an attribute that is dropped or hashed before anything is stored.
    Privacy,
    /// The evaluator had no flags, or not those of this environment.
    NotReady,
    /// The flag version in the record is not in the database.
    VersionUnknown,
    /// The record has no flag version, and the flag was created or deleted at about that time.
    VersionUnrecorded,
    /// The result agrees with slightly older or newer versions of the flag's parents or kill switch. An instance that
    /// catches up with two topics, or with a compacted topic, does not see every version in between.
    Parents,
    /// The record is older than the columns for the versions and the value type.
    Unrecorded,
    /// The database could not hold the original values, or the user was erased.
    Amended,
    /// The context contains a list or an object, whose original text the database does not keep.
    Context,
}

/// Result of repeating one evaluation.
#[derive(Debug)]
pub enum Comparison {
    Same,
    Different(ReplayedResult),
    Not(Unrepeatable),
    /// No proposal affects this evaluation.
    Untouched,
}

/// Result of an evaluation in printable form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayedResult {
    /// Value as JSON text.
    pub value: String,
    pub enabled: bool,
    pub variant: Option<String>,
    pub reason: String,
    pub error_code: Option<String>,
}

impl Unrepeatable {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Host => "host",
            Self::Privacy => "privacy",
            Self::NotReady => "not_ready",
            Self::VersionUnknown => "version_unknown",
            Self::VersionUnrecorded => "version_unrecorded",
            Self::Parents => "parents",
            Self::Unrecorded => "unrecorded",
            Self::Amended => "amended",
            Self::Context => "context",
        }
    }
}

impl ReplayedResult {
    pub fn of_row(row: &Evaluation<'_>) -> Self {
        let value = match (row.result, &row.evaluated_value) {
            (Some(result), _) => result.to_string(),
            (None, Some(value)) => value.clone().into_owned(),
            (None, None) => "null".to_owned(),
        };
        Self {
            value,
            enabled: row.enabled,
            variant: row.variant.as_deref().map(str::to_owned),
            reason: row.reason.clone().into_owned(),
            error_code: row.error_code.as_deref().map(str::to_owned),
        }
    }

    fn of(answer: &Answer<'_>) -> Self {
        let mut value = Vec::new();
        answer.value.write_json(&mut value);
        Self {
            value: String::from_utf8_lossy(&value).into_owned(),
            enabled: answer.enabled,
            variant: answer.variant.map(str::to_owned),
            reason: answer.reason.as_str().to_owned(),
            error_code: answer.error_code.map(|code| code.as_str().to_owned()),
        }
    }
}

/// Repeats the evaluation of `row` with the flags of `historical`.
pub fn again(historical: &HistoricalSnapshot, row: &Evaluation<'_>, moment: Moment<'_>) -> Comparison {
    let Some(flag) = historical.flags.get(&row.flag_name) else { return missing(row) };
    let (user, session) = (row.user_id.as_deref(), row.session_id.as_deref());
    let Ok(context) = request::recorded_context(&row.context, user, session) else {
        return Comparison::Not(Unrepeatable::Context);
    };
    match historical.flags.unrepeatable(flag, &context, row.evaluated_at.div_euclid(1_000)) {
        Some("host") => return Comparison::Not(Unrepeatable::Host),
        Some(_) => return Comparison::Not(Unrepeatable::Random),
        None if historical.is_hidden => return Comparison::Not(Unrepeatable::Privacy),
        None => {}
    }
    match historical.flags.evaluate(&row.flag_name, &context, &moment) {
        Some(outcome) => compare(row, Lookup::Found(outcome)),
        None => missing(row),
    }
}

/// Repeats the evaluation of `row` as that of an unknown flag.
pub fn missing(row: &Evaluation<'_>) -> Comparison {
    compare(row, Lookup::NotFound)
}

fn compare(row: &Evaluation<'_>, lookup: Lookup<'_>) -> Comparison {
    let asked = ReconstructedCall::of(row);
    let answer = asked.answer(lookup);
    if asked.agrees(row, &answer) {
        Comparison::Same
    } else {
        Comparison::Different(ReplayedResult::of(&answer))
    }
}
