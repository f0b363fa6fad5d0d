//! Reads values from `flagstream.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::layer::CLIENT;
use super::settings::{self, Mask};
use super::values::{EnvironmentEntry, Origin, Raw, TapContent, TapEntry, TapValue, Values};

type Table<'t> = DeTable<'t>;
type Item<'t> = Spanned<DeValue<'t>>;

const ENVIRONMENTS: &str = "unleash.environments";
const TAPS: &str = "taps";

/// Reads the text of a file. `path` is only used in messages.
pub(super) fn read(path: &Path, text: &str, values: &mut Values) {
    let file = path.display().to_string();
    let mut reader = Reader { file, text, values };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = reader.line(error.span().map_or(0, |span| span.start));
        reader.values.problem(format!("{}:{line}: {}", reader.file, error.message()));
    }
    // After a syntax error, the recovered content would cause misleading problems.
    if errors.is_empty() {
        reader.table("", table.get_ref());
    }
}

struct Reader<'r> {
    file: String,
    text: &'r str,
    values: &'r mut Values,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn origin(&self, offset: usize) -> Origin {
        Origin::File { file: self.file.clone(), line: self.line(offset) }
    }

    fn problem(&mut self, offset: usize, problem: String) {
        let line = self.line(offset);
        self.values.problem(format!("{}:{line}: {problem}", self.file));
    }

    fn table(&mut self, path: &str, table: &Table<'_>) {
        for (key, item) in table {
            let key_offset = key.span().start;
            let path =
                if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
            self.item(&path, key_offset, item);
        }
    }

    fn item(&mut self, path: &str, offset: usize, item: &Item<'_>) {
        if path == ENVIRONMENTS {
            return self.environments(item);
        }
        if path == TAPS {
            return self.taps(item);
        }
        let property = path.strip_prefix(CLIENT).and_then(|rest| rest.strip_prefix('.'));
        let setting = settings::at(path).filter(|setting| setting.mask != Mask::Group);
        let section = is_section(path) || path == CLIENT || property.is_some();
        let origin = self.origin(offset);
        match (item.get_ref(), raw(item.get_ref())) {
            // `security.protocol` without quotes is a nested table in TOML.
            (DeValue::Table(table), _) if section => self.table(path, table),
            (_, Some(raw)) if setting.is_some() || property.is_some() => match (setting, property) {
                (Some(setting), _) => self.values.put(setting, raw, origin),
                (None, property) => {
                    let property = property.unwrap_or_default().to_owned();
                    self.values.put_client(&property, raw, origin);
                }
            },
            _ if setting.is_some() || property.is_some() => {
                self.problem(offset, format!("{path}: expected a value or a list of values"));
            }
            _ if section => self.problem(offset, format!("{path}: expected a table")),
            _ => self.problem(offset, format!("unknown key `{path}`{}", suggestion(path))),
        }
    }

    fn environments(&mut self, item: &Item<'_>) {
        let offset = item.span().start;
        let Some(entries) = item.get_ref().as_array() else {
            return self.problem(offset, format!("{ENVIRONMENTS}: expected `[[{ENVIRONMENTS}]]` entries"));
        };
        for entry in entries.iter() {
            let offset = entry.span().start;
            let Some(table) = entry.get_ref().as_table() else {
                self.problem(offset, format!("{ENVIRONMENTS}: expected `name` and `token`"));
                continue;
            };
            let mut found = EnvironmentEntry { name: None, token: None, origin: self.origin(offset) };
            for (key, value) in table {
                let text = value.get_ref().as_str().map(str::to_owned);
                match (key.get_ref().as_ref(), text) {
                    ("name", Some(text)) => found.name = Some(text),
                    ("token", Some(text)) => found.token = Some(text),
                    (key @ ("name" | "token"), None) => {
                        self.problem(offset, format!("{ENVIRONMENTS}.{key}: expected a string"));
                    }
                    (key, _) => {
                        let known = "known are `name` and `token`";
                        self.problem(
                            value.span().start,
                            format!("unknown key `{ENVIRONMENTS}.{key}`; {known}"),
                        );
                    }
                }
            }
            self.values.environments.push(found);
        }
    }
}

impl Reader<'_> {
    fn taps(&mut self, item: &Item<'_>) {
        let entries = item.get_ref().as_array().map(|entries| entries.iter().collect::<Vec<_>>());
        let Some(entries) = entries else {
            return self.problem(item.span().start, format!("{TAPS}: expected `[[{TAPS}]]` entries"));
        };
        for entry in entries {
            let offset = entry.span().start;
            let Some(table) = entry.get_ref().as_table() else {
                self.problem(offset, format!("{TAPS}: expected a table"));
                continue;
            };
            let (file, line) = (self.file.clone(), self.line(offset));
            let values = self.tap_values(table);
            self.values.taps.push(TapEntry { file, line, values });
        }
    }

    fn tap_values(&mut self, table: &Table<'_>) -> BTreeMap<String, TapValue> {
        let values = table.iter().map(|(key, item)| {
            let line = self.line(key.span().start);
            let content = match (item.get_ref(), raw(item.get_ref())) {
                (DeValue::Table(inner), _) => TapContent::Table(self.tap_values(inner)),
                (_, Some(Raw::One(text))) => TapContent::Text(text),
                (_, Some(Raw::Many(items))) => TapContent::List(items),
                // A list of tables or lists. No setting of a tap has one, so that it is refused by its name.
                (_, None) => TapContent::List(Vec::new()),
            };
            (key.get_ref().to_string(), TapValue { line, content })
        });
        values.collect()
    }
}

/// Whether `path` is a section that contains settings.
fn is_section(path: &str) -> bool {
    let below = |known: &str| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    settings::SETTINGS.iter().any(|setting| below(setting.path))
}

/// The written text of a scalar, or the list of an array of scalars; `None` for anything deeper.
fn raw(value: &DeValue<'_>) -> Option<Raw> {
    match value {
        DeValue::Array(items) => {
            items.iter().map(|item| scalar(item.get_ref())).collect::<Option<_>>().map(Raw::Many)
        }
        value => scalar(value).map(Raw::One),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Datetime(moment) => Some(moment.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Suggests the same key in another section, which is the most common mistake, or a similar key.
fn suggestion(path: &str) -> String {
    let last = path.rsplit('.').next().unwrap_or(path);
    let squeezed =
        |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase().trim_end_matches('s').to_owned();
    let alike = |known: &str| {
        let known_last = known.rsplit('.').next().unwrap_or(known);
        squeezed(known_last) == squeezed(last) || squeezed(known) == squeezed(path)
    };
    let known = settings::SETTINGS.iter().find(|setting| alike(setting.path));
    known.map(|setting| format!("; did you mean `{}`?", setting.path)).unwrap_or_default()
}
