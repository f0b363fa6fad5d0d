//! Body of an evaluation call over HTTP: a request with the additional fields of the HTTP API.
//!
//! Unlike for Kafka requests, all problems of a body are reported, not only the first.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::json::{Kind, Scanner};
use flagstream_evaluation::{EvaluationContext, ValueType};

use super::fields::{Expectations, Fields};
use super::read::{string_list, version};
use super::refusal::{Problems, check_flag_name, conflict, expected, not_json, refuse};
use super::{Ask, Asks, MAX_DEPTH_LEVELS, Refusal, RefusalCode, text};

/// Maximum number of contexts in one call.
pub const MAX_CONTEXTS_COUNT: usize = 1_000;

/// Subject of an evaluation: the context that answers are for.
#[derive(Debug, Default)]
pub struct Subject<'a> {
    pub context: EvaluationContext<'a>,
    /// JSON text of the context, as it is repeated in events.
    pub context_json: Cow<'a, str>,
}

/// Evaluation call over HTTP.
#[derive(Debug)]
pub struct Query<'a> {
    pub request_id: Option<Cow<'a, str>>,
    pub environment: Option<Cow<'a, str>>,
    /// The answer is delayed until this version is in force.
    pub min_version: Option<u64>,
    pub asked: Asked<'a>,
    pub subjects: Subjects<'a>,
}

/// Requested flags.
#[derive(Debug)]
pub enum Asked<'a> {
    These(Asks<'a>),
    /// All flags of the environment.
    All(AllFlags<'a>),
}

/// Defaults and requested types for a call that requests all flags.
#[derive(Debug, Default)]
pub struct AllFlags<'a>(Expectations<'a>);

impl<'a> AllFlags<'a> {
    /// The default and type for one of the flags.
    pub fn ask<'f>(&self, flag: &'f str) -> Ask<'f>
    where
        'a: 'f,
    {
        self.0.ask(Cow::Borrowed(flag))
    }
}

/// Subjects of a call: a single one, or a list of contexts.
#[derive(Debug)]
pub enum Subjects<'a> {
    One(Subject<'a>),
    Many(Vec<Subject<'a>>),
}

impl<'a> Subjects<'a> {
    pub fn as_slice(&self) -> &[Subject<'a>] {
        match self {
            Self::One(subject) => std::slice::from_ref(subject),
            Self::Many(subjects) => subjects,
        }
    }
}

impl<'a> Query<'a> {
    /// Reads a call for one flag. `of` is the type that the route answers with; `None` if it supports all
    /// types.
    pub fn one(payload: &'a [u8], of: Option<ValueType>) -> Result<Self, Vec<Refusal>> {
        Self::read(payload, |fields, problems| {
            if let Some(kind) = of {
                fields.expect_type(kind, problems)?;
            }
            fields.only_one(problems)
        })
    }

    /// Reads a call for many flags and one or many contexts.
    pub fn many(payload: &'a [u8]) -> Result<Self, Vec<Refusal>> {
        Self::read(payload, |fields, problems| fields.many_or_all(problems))
    }

    fn read(
        payload: &'a [u8],
        asked: impl FnOnce(&mut Fields<'a>, &mut Problems) -> Result<Option<Asked<'a>>, Refusal>,
    ) -> Result<Self, Vec<Refusal>> {
        let mut problems = Problems::all();
        match Self::read_noting(payload, asked, &mut problems) {
            Ok(Some(query)) if problems.is_empty() => Ok(query),
            Ok(_) => Err(problems.into_found()),
            Err(last) => Err(problems.into_found().into_iter().chain([last]).collect()),
        }
    }

    fn read_noting(
        payload: &'a [u8],
        asked: impl FnOnce(&mut Fields<'a>, &mut Problems) -> Result<Option<Asked<'a>>, Refusal>,
        problems: &mut Problems,
    ) -> Result<Option<Self>, Refusal> {
        let (mut min_version, mut contexts) = (None, None);
        // Problems of the contexts. They are collected separately because `problems` is borrowed while the
        // body is read.
        let mut inner = Problems::all();
        let mut more = |key: &str, scanner: &mut Scanner<'a>| match key {
            "min_version" => Some(version(scanner, key).map(|version| min_version = version)),
            "contexts" => Some(subjects(scanner, &mut inner).map(|subjects| contexts = subjects)),
            _ => None,
        };
        let mut fields = Fields::read(text(payload)?, &mut more, problems)?;
        problems.extend(inner);
        if let (Some(_), Some(field)) = (&contexts, fields.subject_field()) {
            problems.note(conflict("contexts", field))?;
        }
        let asked = asked(&mut fields, problems)?;
        let (request_id, environment) = fields.take_names();
        let subject = fields.into_subject();
        Ok(asked.map(|asked| Self {
            request_id,
            environment,
            min_version,
            asked,
            subjects: contexts.map_or(Subjects::One(subject), Subjects::Many),
        }))
    }
}

/// Reads a plain list of flag names. Repeated names are removed.
pub fn flag_names(payload: &[u8]) -> Result<Vec<Cow<'_, str>>, Vec<Refusal>> {
    let read = || {
        let mut scanner = Scanner::new(text(payload)?, MAX_DEPTH_LEVELS);
        let names = string_list(&mut scanner, "flag_names")?;
        scanner.end().map_err(not_json)?;
        Ok(names)
    };
    let names: Vec<_> = read().map_err(|refusal: Refusal| vec![refusal])?;
    let mut problems: Vec<_> = names
        .iter()
        .enumerate()
        .filter_map(|(index, name)| check_flag_name(&format!("flag_names[{index}]"), name).err())
        .collect();
    if names.is_empty() {
        let message = "expected at least one flag, got an empty list";
        problems.push(refuse(RefusalCode::MissingField, "flag_names", message.into()));
    }
    if problems.is_empty() { Ok(without_repeated(names, |name| name)) } else { Err(problems) }
}

/// Removes items with a repeated name and keeps the first of each.
pub(super) fn without_repeated<T>(mut items: Vec<T>, name: impl Fn(&T) -> &str) -> Vec<T> {
    let mut seen = HashSet::with_capacity_and_hasher(items.len(), ahash::RandomState::new());
    let first: Vec<bool> = items.iter().map(|item| seen.insert(name(item))).collect();
    drop(seen);
    if first.iter().all(|first| *first) {
        return items;
    }
    let mut first = first.into_iter();
    items.retain(|_| first.next().unwrap_or(true));
    items
}

impl<'a> Subject<'a> {
    /// Reads the body of a call in OpenFeature's protocol: `{"context": {"targetingKey": …}}`.
    pub fn of_openfeature(payload: &'a [u8]) -> Result<Self, Refusal> {
        // Providers without a context send an empty context or no body at all.
        if payload.is_empty() {
            return Ok(Self { context_json: Cow::Borrowed("{}"), ..Self::default() });
        }
        let text = text(payload)?;
        let mut scanner = Scanner::new(text, MAX_DEPTH_LEVELS);
        let kind = scanner.peek().map_err(not_json)?;
        if kind != Kind::Object {
            scanner.value().and_then(|_| scanner.end()).map_err(not_json)?;
            return Err(expected("request", "an object", kind));
        }
        let mut fields = Fields::default();
        scanner.begin_object().map_err(not_json)?;
        let mut first = true;
        while let Some(key) = scanner.next_key(&mut first).map_err(not_json)? {
            if key == "context" {
                fields.only_context(&mut scanner)?;
            } else {
                scanner.value().map_err(not_json)?;
            }
        }
        scanner.end().map_err(not_json)?;
        fields.into_openfeature_subject()
    }
}

fn subjects<'a>(
    scanner: &mut Scanner<'a>,
    problems: &mut Problems,
) -> Result<Option<Vec<Subject<'a>>>, Refusal> {
    match scanner.peek().map_err(not_json)? {
        Kind::Array => {}
        Kind::Null => return scanner.value().map(|_| None).map_err(not_json),
        other => return Err(expected("contexts", "a list of objects", other)),
    }
    scanner.begin_array().map_err(not_json)?;
    let (mut subjects, mut first) = (Vec::new(), true);
    while scanner.next_element(&mut first).map_err(not_json)? {
        if subjects.len() == MAX_CONTEXTS_COUNT {
            let message = format!("expected at most {MAX_CONTEXTS_COUNT} contexts, got more");
            return Err(refuse(RefusalCode::TooManyFlags, "contexts", message));
        }
        let place = format!("contexts[{}]", subjects.len());
        let kind = scanner.peek().map_err(not_json)?;
        if kind != Kind::Object {
            problems.note(expected(&place, "an object", kind))?;
            scanner.value().map_err(not_json)?;
            subjects.push(Subject::default());
            continue;
        }
        let mut own = Problems::all();
        let fields = Fields::object(scanner, &mut |_, _| None, &mut own)?;
        problems.extend_within(own, &place);
        subjects.push(fields.into_subject());
    }
    if subjects.is_empty() {
        let message = "expected at least one context, got an empty list";
        problems.note(refuse(RefusalCode::MissingField, "contexts", message.into()))?;
    }
    Ok(Some(subjects))
}

impl<'a> Fields<'a> {
    /// Exactly one flag; `None` if a problem was recorded.
    fn only_one(&mut self, problems: &mut Problems) -> Result<Option<Asked<'a>>, Refusal> {
        if self.names_no_flag() {
            // A value of the wrong type has been recorded as a problem already.
            if !problems.has("flag_name") {
                let missing = refuse(RefusalCode::MissingField, "flag_name", "expected a string".into());
                problems.note(missing)?;
            }
            return Ok(None);
        }
        let asks = self.asks();
        Ok(problems.take(asks)?.map(Asked::These))
    }

    /// The flags of `flag_names` without duplicates; all flags if the field is absent.
    fn many_or_all(&mut self, problems: &mut Problems) -> Result<Option<Asked<'a>>, Refusal> {
        if problems.has("flag_names") {
            return Ok(None);
        }
        if self.names_nothing() {
            return Ok(Some(Asked::All(AllFlags(self.expectations()))));
        }
        let asks = self.asks();
        Ok(problems.take(asks)?.map(|asks| {
            Asked::These(match asks {
                Asks::Many(asks) => Asks::Many(without_repeated(asks, |ask| &ask.flag)),
                one => one,
            })
        }))
    }
}
