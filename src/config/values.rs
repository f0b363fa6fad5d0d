//! The values that were set, with their origins and problems.

use std::collections::BTreeMap;
use std::fmt;

use super::ConfigError;
use super::layer::{CLIENT, Layer};
use super::parse::Parsed;
use super::settings::{self, Mask, Setting};

/// The origin of a value. Its text can be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { file: String, line: usize },
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment(variable) => write!(f, "environment ({variable})"),
        }
    }
}

impl Origin {
    /// The origin with this text.
    pub(super) fn of(text: &str) -> Self {
        let variable = text.strip_prefix("environment (").and_then(|rest| rest.strip_suffix(')'));
        let file = text.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse().ok()?)));
        match (variable, file) {
            (Some(variable), _) => Self::Environment(variable.to_owned()),
            (None, Some((file, line))) => Self::File { file: file.to_owned(), line },
            (None, None) => Self::Default,
        }
    }
}

/// A value as it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    One(String),
    /// An array in the file.
    Many(Vec<String>),
}

impl Raw {
    pub(super) fn text(&self) -> String {
        match self {
            Self::One(text) => text.clone(),
            Self::Many(items) => items.join(","),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// An entry of `[[unleash.environments]]`.
#[derive(Debug, Clone)]
pub(super) struct EnvironmentEntry {
    pub(super) name: Option<String>,
    pub(super) token: Option<String>,
    pub(super) origin: Origin,
}

/// A value in an entry of `[[taps]]`, with the line of its key.
#[derive(Debug, Clone)]
pub(super) struct TapValue {
    pub(super) line: usize,
    pub(super) content: TapContent,
}

#[derive(Debug, Clone)]
pub(super) enum TapContent {
    Text(String),
    List(Vec<String>),
    Table(BTreeMap<String, TapValue>),
}

/// An entry of `[[taps]]`.
#[derive(Debug, Clone)]
pub(super) struct TapEntry {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) values: BTreeMap<String, TapValue>,
}

/// All values that were set. Reading a value validates it; problems are collected, so that all of them are reported
/// together.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// The sources that were read so far, the one that counts most last.
    layers: Vec<Layer>,
    /// Values by path, after [`Values::merge`].
    pub(super) set: BTreeMap<&'static str, Value>,
    /// librdkafka properties by name, after [`Values::merge`].
    pub(super) client: BTreeMap<String, Value>,
    pub(super) environments: Vec<EnvironmentEntry>,
    pub(super) taps: Vec<TapEntry>,
    problems: Vec<String>,
}

impl Values {
    pub(super) fn new(dev: bool) -> Self {
        Self { layers: vec![Layer::defaults(dev)], ..Self::default() }
    }

    /// Begins a source whose values override those of the sources before.
    pub(super) fn begin_layer(&mut self) {
        self.layers.push(Layer::default());
    }

    pub(super) fn put(&mut self, setting: &'static Setting, raw: Raw, origin: Origin) {
        if let Some(layer) = self.layers.last_mut() {
            layer.put(setting.path, &Value { raw, origin });
        }
    }

    pub(super) fn put_client(&mut self, property: &str, raw: Raw, origin: Origin) {
        if let Some(layer) = self.layers.last_mut() {
            layer.put_client(property, &Value { raw, origin });
        }
    }

    /// Ignores the librdkafka properties of all sources so far.
    pub(super) fn clear_client(&mut self) {
        self.layers.iter_mut().for_each(Layer::clear_client);
    }

    /// Merges the sources: of several values of a setting the one of the last source counts.
    pub(super) fn merge(&mut self) {
        let layers = std::mem::take(&mut self.layers);
        let merged =
            layers.into_iter().fold(::config::Config::builder(), |merged, layer| merged.add_source(layer));
        let merged = match merged.build() {
            Ok(merged) => merged.cache,
            Err(error) => return self.problem(error.to_string()),
        };
        for setting in settings::SETTINGS.iter().filter(|setting| setting.mask != Mask::Group) {
            if let Some(value) = Layer::value(&merged, setting.path) {
                self.set.insert(setting.path, value);
            }
        }
        self.client = Layer::values(&merged, CLIENT);
    }

    /// Records a problem that concerns no known setting.
    pub(super) fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// Records a problem of the value at `path`. Returns `None`, so that `return values.refuse(…)` fits wherever a
    /// value is expected.
    pub(super) fn refuse<T>(&mut self, path: &str, problem: impl fmt::Display) -> Option<T> {
        let name = settings::at(path).map_or(path, |setting| setting.name());
        self.problems.push(match self.set.get(path).map(|value| &value.origin) {
            Some(Origin::File { file, line }) => format!("{file}:{line}: {path} ({name}): {problem}"),
            _ => format!("{name}: {problem}"),
        });
        None
    }

    /// Reads a setting that always has a value. `None`: the value is invalid, and the problem is recorded.
    pub(super) fn required<T>(&mut self, path: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        match self.optional(path, parse)? {
            Some(value) => Some(value),
            None => self.refuse(path, "must be set"),
        }
    }

    /// Reads an optional setting; `Some(None)` if it is not set. `None`: the value is invalid, and the problem is
    /// recorded.
    pub(super) fn optional<T>(
        &mut self,
        path: &'static str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<Option<T>> {
        let Some(text) = self.text_of(path)? else {
            return Some(None);
        };
        match parse(&text) {
            Ok(value) => Some(Some(value)),
            Err(problem) => {
                let mask = settings::at(path).map_or(Mask::Secret, |setting| setting.mask);
                // An invalid secret is still secret.
                let quoted = if mask == Mask::Open { format!(", not `{text}`") } else { String::new() };
                self.refuse(path, format!("{problem}{quoted}"))
            }
        }
    }

    fn text_of(&mut self, path: &'static str) -> Option<Option<String>> {
        match self.value_of(path) {
            Some(Raw::Many(_)) => self.refuse(path, "expected one value, not several"),
            Some(Raw::One(text)) => Some(Some(text)),
            None => Some(None),
        }
    }

    /// Reads a list: an array in the file, or text separated by commas. `none` is an empty list.
    pub(super) fn list<T>(
        &mut self,
        path: &'static str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<Vec<T>> {
        let items = match self.value_of(path) {
            Some(Raw::Many(items)) => items,
            Some(Raw::One(text)) if text.trim() == "none" => Vec::new(),
            Some(Raw::One(text)) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            None => Vec::new(),
        };
        let mut values = Vec::new();
        let before = self.problems.len();
        for item in items {
            match parse(&item) {
                Ok(value) => values.push(value),
                Err(problem) => {
                    let open = settings::at(path).is_some_and(|setting| setting.mask == Mask::Open);
                    let quoted = if open { format!("`{item}`: ") } else { String::new() };
                    let _: Option<T> = self.refuse(path, format!("{quoted}{problem}"));
                }
            }
        }
        (self.problems.len() == before).then_some(values)
    }

    fn value_of(&self, path: &str) -> Option<Raw> {
        self.set.get(path).map(|value| value.raw.clone())
    }

    /// Records the computed value of a default.
    pub(super) fn computed(&mut self, path: &'static str, text: impl Into<String>) {
        self.set.insert(path, Value { raw: Raw::One(text.into()), origin: Origin::Default });
    }

    /// Whether the setting was set explicitly, and not by default.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.set.get(path).is_some_and(|value| value.origin != Origin::Default)
    }

    /// Returns `built`, or all problems if there are any.
    pub(super) fn finish<T>(&mut self, built: Option<T>) -> Result<T, ConfigError> {
        match built {
            Some(built) if self.problems.is_empty() => Ok(built),
            _ => Err(ConfigError(std::mem::take(&mut self.problems))),
        }
    }
}
