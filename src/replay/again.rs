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
    /// It agrees with other versions of the flags it depends on (or of its kill switch) than those of its time: which
    /// ones an instance had is not recorded.
    Parents,
    /// The database could not hold it as it was, or the user was erased from it.
    Amended,
    /// Its context has an object in it, of which the database keeps what it means and not how it was written.
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

/// What may have been asked for: the type is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whatever agrees with what was recorded.
    Any,
    /// The type that the default and the value suggest.
    Guessed,
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
pub fn again(scene: &Scene, row: &Evaluation<'_>, moment: Moment<'_>, question: Question) -> Verdict {
    let Some(flag) = scene.flags.get(&row.flag_name) else { return missing(row) };
    let Ok(mut context) = request::context(&row.context) else {
        return Verdict::Not(Unrepeatable::Context);
    };
    // As the request gave them: both win over what stands in the context.
    context.user_id = row.user_id.as_deref().map(Into::into).or(context.user_id);
    context.session_id = row.session_id.as_deref().map(Into::into).or(context.session_id);
    match scene.flags.unrepeatable(flag, &context, row.evaluated_at.div_euclid(1_000)) {
        Some("host") => return Verdict::Not(Unrepeatable::Host),
        Some(_) => return Verdict::Not(Unrepeatable::Random),
        None if scene.is_hidden => return Verdict::Not(Unrepeatable::Privacy),
        None => {}
    }
    let Some(outcome) = scene.flags.evaluate(&row.flag_name, &context, &moment) else { return missing(row) };
    compare(row, question, || Lookup::Found(outcome))
}

/// The same where there is no such flag.
pub fn missing(row: &Evaluation<'_>) -> Verdict {
    compare(row, Question::Any, || Lookup::NotFound)
}

fn compare<'a>(row: &'a Evaluation<'_>, question: Question, lookup: impl Fn() -> Lookup<'a>) -> Verdict {
    let asked = Asked::of(row);
    let first = asked.guess(row, lookup());
    if asked.agrees(row, &first) {
        return Verdict::Same;
    }
    let may_agree = first.enabled == row.enabled && first.variant == row.variant.as_deref();
    if question == Question::Any && may_agree && asked.others(lookup).any(|answer| asked.agrees(row, &answer))
    {
        return Verdict::Same;
    }
    Verdict::Different(Told::of(&first))
}
