//! Taps: topics whose records get flags. `[[taps]]` in the configuration file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;

use crate::message::request::MAX_FLAG_NAME_BYTES;

use super::parse::{self, Parsed};
use super::values::{TapContent, TapEntry, TapValue, Values};
use super::{InputFormat, TopicsConfig};

/// Maximum number of taps of one process.
const MAX_TAPS_COUNT: usize = 64;
/// Maximum number of flags of one tap.
const MAX_TAP_FLAGS_COUNT: usize = 100;
/// Maximum number of context attributes of one tap.
const MAX_TAP_CONTEXT_COUNT: usize = 100;
/// Maximum number of topics that one tap routes to.
const MAX_ROUTE_TOPICS_COUNT: usize = 32;
/// Maximum length of a tap's name in bytes.
const MAX_TAP_NAME_BYTES: usize = 64;
/// Maximum number of parts of a JSON pointer.
const MAX_POINTER_PARTS: usize = 32;

/// Context attributes that have separate settings, or another meaning in Unleash's context.
const RESERVED_ATTRIBUTES: [&str; 7] =
    ["userId", "user_id", "targetingKey", "sessionId", "session_id", "environment", "properties"];

/// One tap.
#[derive(Debug, Clone, PartialEq)]
pub struct TapConfig {
    pub name: String,
    /// Topic that is read.
    pub source: String,
    /// Topic that receives every record that is not routed elsewhere.
    pub target: String,
    /// Flags in the order in which they are evaluated and written.
    pub flags: Vec<String>,
    /// `None`: the default environment.
    pub environment: Option<String>,
    /// Format of the values, if a selector reads them.
    pub format: InputFormat,
    pub user: Option<Selector>,
    pub session: Option<Selector>,
    /// Attributes of the context, by name.
    pub context: Vec<(String, Selector)>,
    pub write: TapWrite,
    pub audit: TapAudit,
    pub on_missing_user: OnMissingUser,
    /// Routes in the order of `flags`. The first one that applies decides.
    pub routes: Vec<TapRoute>,
}

/// Part of a record that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Key,
    Header(CString),
    /// Parts of a JSON pointer (RFC 6901), without escapes. At least one.
    Value(Vec<String>),
}

/// Place where the values of the flags are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapWrite {
    /// A header `flag-<name>` for each flag.
    Headers,
    /// A member of this name in the JSON object.
    Member(String),
}

/// Evaluations that become events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapAudit {
    All,
    /// Evaluations of flags with an experiment.
    Exposures,
    None,
}

/// Processing of a record without a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissingUser {
    Evaluate,
    /// The record is forwarded unchanged.
    Pass,
    DeadLetter,
}

/// Topics by the result of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapRoute {
    pub flag: String,
    /// Topics by the name of a variant, or by `on` or `off`. A variant takes precedence.
    pub topics: BTreeMap<String, String>,
}

impl TapConfig {
    /// The topics that records are written to, the target first. Each is named once.
    pub fn outputs(&self) -> Vec<&str> {
        let mut outputs = vec![self.target.as_str()];
        for topic in self.routes.iter().flat_map(|route| route.topics.values()) {
            if !outputs.contains(&topic.as_str()) {
                outputs.push(topic);
            }
        }
        outputs
    }

    /// Whether the records' values have to be read.
    pub fn reads_value(&self) -> bool {
        let selectors =
            self.user.iter().chain(&self.session).chain(self.context.iter().map(|(_, from)| from));
        matches!(self.write, TapWrite::Member(_))
            || selectors.into_iter().any(|selector| matches!(selector, Selector::Value(_)))
    }
}

pub(super) fn config(values: &mut Values, topics: Option<&TopicsConfig>) -> Option<Vec<TapConfig>> {
    let entries = values.taps.clone();
    let mut problems = Vec::new();
    let mut taps: Vec<TapConfig> = Vec::new();
    if entries.len() > MAX_TAPS_COUNT {
        problems.push(format!("taps: expected at most {MAX_TAPS_COUNT} entries, got {}", entries.len()));
    }
    for entry in entries {
        let mut fields = Fields::new(&entry);
        let tap = fields.tap(topics);
        if let Some(tap) = &tap
            && taps.iter().any(|known| known.name == tap.name)
        {
            let problem = format!("`{}` is also the name of another tap", tap.name);
            let _: Option<()> = fields.refuse(entry.line, "name", &problem);
        }
        problems.append(&mut fields.problems);
        taps.extend(tap);
    }
    if let Some(cycle) = cycle(&taps) {
        problems.push(format!("taps: {cycle}: records would be read again without end"));
    }
    let is_valid = problems.is_empty();
    problems.into_iter().for_each(|problem| values.problem(problem));
    is_valid.then_some(taps)
}

/// The tap whose records come back to its own source through the other taps, in words.
fn cycle(taps: &[TapConfig]) -> Option<String> {
    taps.iter().find_map(|tap| {
        let (mut open, mut seen) = (tap.outputs(), BTreeSet::new());
        while let Some(topic) = open.pop() {
            if topic == tap.source {
                return Some(format!("what tap {} writes comes back to its source {topic}", tap.name));
            }
            if seen.insert(topic) {
                open.extend(taps.iter().filter(|next| next.source == topic).flat_map(TapConfig::outputs));
            }
        }
        None
    })
}

/// The values of one entry. Problems are collected, each with file, line and name.
struct Fields<'e> {
    entry: &'e TapEntry,
    name: String,
    problems: Vec<String>,
}

impl<'e> Fields<'e> {
    fn new(entry: &'e TapEntry) -> Self {
        let name = match entry.values.get("name").map(|value| &value.content) {
            Some(TapContent::Text(name)) => name.clone(),
            _ => String::new(),
        };
        Self { entry, name, problems: Vec::new() }
    }

    fn tap(&mut self, topics: Option<&TopicsConfig>) -> Option<TapConfig> {
        self.refuse_unknown();
        let name = self.required("name", tap_name);
        let source = self.topic("source", topics);
        let target = self.topic("target", topics);
        let flags = self.flags();
        let environment = self.text("environment", parse::environment);
        let formats = [("auto", InputFormat::Auto), ("json", InputFormat::Json), ("avro", InputFormat::Avro)];
        let format = self.text("format", |text| parse::word(text, &formats));
        let (user, session) = (self.text("user", selector), self.text("session", selector));
        let context = self.context();
        let write = self.write();
        let audits = [("all", TapAudit::All), ("exposures", TapAudit::Exposures), ("none", TapAudit::None)];
        let audit = self.text("audit", |text| parse::word(text, &audits));
        let missing = [
            ("evaluate", OnMissingUser::Evaluate),
            ("pass", OnMissingUser::Pass),
            ("dead_letter", OnMissingUser::DeadLetter),
        ];
        let missing = self.text("on_missing_user", |text| parse::word(text, &missing));
        let routes = self.routes(flags.as_deref().unwrap_or_default(), topics);
        let tap = TapConfig {
            name: name?,
            source: source?,
            target: target?,
            flags: flags?,
            environment: environment?,
            format: format?.unwrap_or(InputFormat::Auto),
            user: user?,
            session: session?,
            context: context?,
            write: write?,
            audit: audit?.unwrap_or(TapAudit::All),
            on_missing_user: missing?.unwrap_or(OnMissingUser::Evaluate),
            routes: routes?,
        };
        self.consistent(tap)
    }

    /// Checks that need several values.
    fn consistent(&mut self, tap: TapConfig) -> Option<TapConfig> {
        if tap.user.is_none() && tap.on_missing_user != OnMissingUser::Evaluate {
            return self.refuse(self.entry.line, "user", "must be set, because on_missing_user is set");
        }
        if matches!(tap.write, TapWrite::Member(_)) && tap.format == InputFormat::Avro {
            let problem = "a member can be added to JSON only; write headers, or set format to `json`";
            return self.refuse(self.entry.line, "write", problem);
        }
        Some(tap)
    }

    fn refuse_unknown(&mut self) {
        const KNOWN: [&str; 13] = [
            "name",
            "source",
            "target",
            "flags",
            "environment",
            "format",
            "user",
            "session",
            "context",
            "write",
            "audit",
            "on_missing_user",
            "route",
        ];
        let entry = self.entry;
        for (key, value) in entry.values.iter().filter(|(key, _)| !KNOWN.contains(&key.as_str())) {
            let problem = format!("unknown key; known are {}", KNOWN.join(", "));
            let _: Option<()> = self.refuse(value.line, key, &problem);
        }
    }

    fn refuse<T>(&mut self, line: usize, key: &str, problem: &str) -> Option<T> {
        let (file, name) = (&self.entry.file, &self.name);
        let tap = if name.is_empty() { String::new() } else { format!(".{name}") };
        self.problems.push(format!("{file}:{line}: taps{tap}.{key}: {problem}"));
        None
    }

    fn required<T>(&mut self, key: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        match self.text(key, parse)? {
            Some(value) => Some(value),
            None => self.refuse(self.entry.line, key, "must be set"),
        }
    }

    /// Reads an optional text; `Some(None)` if it is not set.
    fn text<T>(&mut self, key: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<Option<T>> {
        let entry = self.entry;
        let Some(value) = entry.values.get(key) else { return Some(None) };
        let TapContent::Text(text) = &value.content else {
            return self.refuse(value.line, key, "expected a string");
        };
        match parse(text) {
            Ok(parsed) => Some(Some(parsed)),
            Err(problem) => self.refuse(value.line, key, &format!("{problem}, not `{text}`")),
        }
    }

    fn topic(&mut self, key: &str, own: Option<&TopicsConfig>) -> Option<String> {
        self.required(key, |text| foreign_topic(text, own))
    }

    fn flags(&mut self) -> Option<Vec<String>> {
        let entry = self.entry;
        let Some(value) = entry.values.get("flags") else {
            return self.refuse(entry.line, "flags", "must be set");
        };
        let TapContent::List(flags) = &value.content else {
            return self.refuse(value.line, "flags", "expected a list of names");
        };
        if !(1..=MAX_TAP_FLAGS_COUNT).contains(&flags.len()) {
            let problem = format!("expected 1 to {MAX_TAP_FLAGS_COUNT} names, got {}", flags.len());
            return self.refuse(value.line, "flags", &problem);
        }
        let mut seen = BTreeSet::new();
        for flag in flags {
            let is_valid = (1..=MAX_FLAG_NAME_BYTES).contains(&flag.len()) && !flag.contains('\0');
            if !is_valid || !seen.insert(flag) {
                let problem = format!("expected names of flags, each once, not `{flag}`");
                return self.refuse(value.line, "flags", &problem);
            }
        }
        Some(flags.clone())
    }

    /// The table at `key`; empty if it is not set.
    fn table(&mut self, key: &str) -> Option<&'e BTreeMap<String, TapValue>> {
        static NONE: BTreeMap<String, TapValue> = BTreeMap::new();
        let entry = self.entry;
        let Some(value) = entry.values.get(key) else { return Some(&NONE) };
        match &value.content {
            TapContent::Table(table) => Some(table),
            _ => self.refuse(value.line, key, "expected a table"),
        }
    }

    fn context(&mut self) -> Option<Vec<(String, Selector)>> {
        let table = self.table("context")?;
        if table.len() > MAX_TAP_CONTEXT_COUNT {
            let problem = format!("expected at most {MAX_TAP_CONTEXT_COUNT} attributes, got {}", table.len());
            return self.refuse(self.entry.line, "context", &problem);
        }
        let mut context = Vec::new();
        for (name, value) in table {
            let key = format!("context.{name}");
            if RESERVED_ATTRIBUTES.contains(&name.as_str()) {
                let problem = "expected an attribute; use `user`, `session` and `environment` for those";
                return self.refuse(value.line, &key, problem);
            }
            let TapContent::Text(text) = &value.content else {
                return self.refuse(value.line, &key, "expected a string");
            };
            match selector(text) {
                Ok(selector) => context.push((name.clone(), selector)),
                Err(problem) => return self.refuse(value.line, &key, &format!("{problem}, not `{text}`")),
            }
        }
        Some(context)
    }

    fn write(&mut self) -> Option<TapWrite> {
        let entry = self.entry;
        let Some(value) = entry.values.get("write") else { return Some(TapWrite::Headers) };
        let member = match &value.content {
            TapContent::Text(text) if text == "headers" => return Some(TapWrite::Headers),
            TapContent::Table(table) if table.len() == 1 => table.get("member").map(|value| &value.content),
            _ => None,
        };
        match member {
            Some(TapContent::Text(name)) if (1..=MAX_FLAG_NAME_BYTES).contains(&name.len()) => {
                Some(TapWrite::Member(name.clone()))
            }
            _ => self.refuse(value.line, "write", "expected `\"headers\"` or `{ member = \"NAME\" }`"),
        }
    }

    fn routes(&mut self, flags: &[String], own: Option<&TopicsConfig>) -> Option<Vec<TapRoute>> {
        let table = self.table("route")?;
        let mut routes = Vec::new();
        for (flag, value) in table {
            let key = format!("route.{flag}");
            if !flags.contains(flag) {
                return self.refuse(value.line, &key, "expected one of `flags`");
            }
            let TapContent::Table(results) = &value.content else {
                return self.refuse(
                    value.line,
                    &key,
                    "expected a table of `on`, `off` or variants, with topics",
                );
            };
            let mut topics = BTreeMap::new();
            for (result, value) in results {
                let key = format!("{key}.{result}");
                let TapContent::Text(text) = &value.content else {
                    return self.refuse(value.line, &key, "expected the name of a topic");
                };
                match foreign_topic(text, own) {
                    Ok(topic) => topics.insert(result.clone(), topic),
                    Err(problem) => {
                        return self.refuse(value.line, &key, &format!("{problem}, not `{text}`"));
                    }
                };
            }
            routes.push(TapRoute { flag: flag.clone(), topics });
        }
        routes.sort_by_key(|route| flags.iter().position(|flag| *flag == route.flag));
        let distinct: BTreeSet<_> = routes.iter().flat_map(|route| route.topics.values()).collect();
        if distinct.len() > MAX_ROUTE_TOPICS_COUNT {
            let problem = format!("expected at most {MAX_ROUTE_TOPICS_COUNT} topics, got {}", distinct.len());
            return self.refuse(self.entry.line, "route", &problem);
        }
        Some(routes)
    }
}

fn tap_name(text: &str) -> Parsed<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if (1..=MAX_TAP_NAME_BYTES).contains(&text.len()) && text.chars().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err(format!("expected 1 to {MAX_TAP_NAME_BYTES} letters, digits, `-` and `_`"))
}

/// The name of a topic that belongs neither to flagstream nor to Kafka itself.
fn foreign_topic(text: &str, own: Option<&TopicsConfig>) -> Parsed<String> {
    let topic = parse::topic(text)?;
    if topic.starts_with("__") {
        return Err("expected a topic that is not internal to Kafka".to_owned());
    }
    let own = own.map(TopicsConfig::names).into_iter().flatten().find(|(_, name)| *name == topic);
    match own {
        Some((setting, _)) => Err(format!("expected a topic other than flagstream's own ({setting})")),
        None => Ok(topic),
    }
}

fn selector(text: &str) -> Parsed<Selector> {
    const EXPECTED: &str = "expected a JSON pointer such as `/customer/id`, `header:NAME` or `key`";
    if text == "key" {
        return Ok(Selector::Key);
    }
    if let Some(name) = text.strip_prefix("header:").filter(|name| !name.is_empty()) {
        return CString::new(name).map(Selector::Header).map_err(|_| EXPECTED.to_owned());
    }
    let Some(pointer) = text.strip_prefix('/') else { return Err(EXPECTED.to_owned()) };
    let parts: Option<Vec<String>> = pointer.split('/').map(unescape).collect();
    match parts {
        Some(parts) if parts.len() <= MAX_POINTER_PARTS => Ok(Selector::Value(parts)),
        Some(_) => Err(format!("expected a JSON pointer of at most {MAX_POINTER_PARTS} parts")),
        None => Err("expected `~0` or `~1` after `~` in a JSON pointer".to_owned()),
    }
}

/// One part of a JSON pointer, decoded. `None` if an escape is invalid.
fn unescape(part: &str) -> Option<String> {
    let mut pieces = part.split('~');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (escape, rest) = piece.split_at_checked(1)?;
        decoded.push(match escape {
            "0" => '~',
            "1" => '/',
            _ => return None,
        });
        decoded.push_str(rest);
    }
    Some(decoded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "taps_tests.rs"]
mod tests;
