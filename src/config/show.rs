//! The configuration in force, in printable form.

use serde::Serialize;

use crate::kafka::properties::secret_name;

use super::settings::{Mask, SETTINGS};
use super::values::{Origin, TapContent, TapEntry, Values};
use super::{Config, mask, unleash};

/// One setting with its value in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingInForce {
    /// The environment variable; empty if only the file can contain the setting.
    pub variable: String,
    /// The path in `flagstream.toml`.
    pub path: String,
    /// The value with secrets masked; `None` if it is not set.
    pub value: Option<String>,
    /// `default`, `file:line` or `environment (…)`.
    pub origin: String,
}

/// All settings in the order of the documentation; librdkafka properties and environments are listed individually.
pub(super) fn in_force(values: &Values) -> Vec<SettingInForce> {
    let mut shown = Vec::new();
    for setting in SETTINGS {
        match (setting.mask, setting.path) {
            (Mask::Group, "kafka.client") => shown.extend(client(values)),
            (Mask::Group, "taps") => shown.extend(taps(values)),
            (Mask::Group, _) => shown.extend(environments(values)),
            (mask, path) => {
                let value = values.set.get(path);
                shown.push(SettingInForce {
                    variable: setting.variable.to_owned(),
                    path: path.to_owned(),
                    value: value.map(|value| mask::shown(mask, &value.raw.text())),
                    origin: value.map_or(Origin::Default, |value| value.origin.clone()).to_string(),
                });
            }
        }
    }
    shown
}

fn client(values: &Values) -> impl Iterator<Item = SettingInForce> {
    values.client.iter().map(|(property, value)| {
        let mask = if secret_name(property) { Mask::Secret } else { Mask::Open };
        SettingInForce {
            variable: match &value.origin {
                Origin::Environment(variable) => variable.clone(),
                _ => format!("FLAGSTREAM_KAFKA__CLIENT__{}", property.to_ascii_uppercase().replace('.', "_")),
            },
            path: format!("kafka.client.\"{property}\""),
            value: Some(mask::shown(mask, &value.raw.text())),
            origin: value.origin.to_string(),
        }
    })
}

fn environments(values: &Values) -> impl Iterator<Item = SettingInForce> {
    values.environments.iter().map(|entry| SettingInForce {
        variable: String::new(),
        path: format!("unleash.environments.{}", entry.name.as_deref().unwrap_or_default()),
        value: Some(mask::shown(Mask::Secret, "")),
        origin: entry.origin.to_string(),
    })
}

fn taps(values: &Values) -> impl Iterator<Item = SettingInForce> {
    let text = |entry: &TapEntry, name: &str| match entry.values.get(name).map(|value| &value.content) {
        Some(TapContent::Text(text)) => text.clone(),
        _ => String::new(),
    };
    values.taps.iter().map(move |entry| SettingInForce {
        variable: String::new(),
        path: format!("taps.{}", text(entry, "name")),
        value: Some(format!("{} to {}", text(entry, "source"), text(entry, "target"))),
        origin: Origin::File { file: entry.file.clone(), line: entry.line }.to_string(),
    })
}

/// Warnings about settings that are accepted but look like a mistake.
pub(super) fn notices(config: &Config) -> Vec<String> {
    let mut notices = Vec::new();
    let served = &config.unleash.environments;
    for environment in served {
        if let Some(named) =
            unleash::environment_of(&environment.token).filter(|named| *named != environment.name)
        {
            let name = &environment.name;
            notices.push(format!("the Unleash token of environment `{name}` names environment `{named}`"));
        }
    }
    let default = &config.unleash.default_environment;
    if !served.is_empty() && !served.iter().any(|environment| environment.name == *default) {
        notices.push(format!("UNLEASH_ENVIRONMENT: no token is given for `{default}`"));
    }
    notices.extend(config.anonymous_warning());
    notices
}
