//! One evaluation, again, and how what comes of it compares with what was recorded.

use serde::Serialize;

use crate::audit::evaluation::Evaluation;
use crate::flag::value::Lookup;
use crate::flag::{Answer, Moment};
use crate::message::request;

use super::asked::Asked;
use super::scene::Scene;

/// Why an evaluation cannot be done again as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unrepeatable {
    /// Drawn at random: there was nothing to make the draw for.
    Random,
    /// By the name of the host that evaluated it.
    Host,
    /// By an attribute that is dropped or hashed before anything is written.
    Privacy,
    /// There were no flags, or not this environment's.
    NotReady,
    /// The version that it names is not in the database.
    VersionUnknown,
    /// It names none, and the flag came or went.
    VersionUnrecorded,
    /// It agrees with versions of the flags it depends on (or of its kill switch) that came a moment before or after: an
    /// instance that catches up with two topics, or with a compacted one, does not have every version in between.
    Parents,
    /// It was recorded before it was noted which versions and what type it was about.
    Unrecorded,
    /// The database could not hold it as it was, or the user was erased from it.
    Amended,
    /// Its context has a list or an object in it, of which the database keeps what it means and not how it was written.
    Context,
}

/// What became of one.
#[derive(Debug)]
pub enum Verdict {
    Same,
    Different(Told),
    Not(Unrepeatable),
    /// None of the proposals is about it.
    Untouched,
}

/// What a result says, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// JSON text.
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

impl Told {
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

/// Evaluates what the row asked in this scene.
pub fn again(scene: &Scene, row: &Evaluation<'_>, moment: Moment<'_>) -> Verdict {
    let Some(flag) = scene.flags.get(&row.flag_name) else { return missing(row) };
    let (user, session) = (row.user_id.as_deref(), row.session_id.as_deref());
    let Ok(context) = request::recorded_context(&row.context, user, session) else {
        return Verdict::Not(Unrepeatable::Context);
    };
    match scene.flags.unrepeatable(flag, &context, row.evaluated_at.div_euclid(1_000)) {
        Some("host") => return Verdict::Not(Unrepeatable::Host),
        Some(_) => return Verdict::Not(Unrepeatable::Random),
        None if scene.is_hidden => return Verdict::Not(Unrepeatable::Privacy),
        None => {}
    }
    match scene.flags.evaluate(&row.flag_name, &context, &moment) {
        Some(outcome) => compare(row, Lookup::Found(outcome)),
        None => missing(row),
    }
}

/// The same where there is no such flag.
pub fn missing(row: &Evaluation<'_>) -> Verdict {
    compare(row, Lookup::NotFound)
}

fn compare(row: &Evaluation<'_>, lookup: Lookup<'_>) -> Verdict {
    let asked = Asked::of(row);
    let answer = asked.answer(lookup);
    if asked.agrees(row, &answer) { Verdict::Same } else { Verdict::Different(Told::of(&answer)) }
}
