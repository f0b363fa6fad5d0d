//! Settings of a program that embeds the store. They have the names, the defaults and the rules of the service's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::kafka::KafkaConfig;
use crate::kafka::parse::{self, Parsed};
use crate::kafka::properties::{self, Invalid};

const SERVERS: &str = "KAFKA_BOOTSTRAP_SERVERS";
/// Prefix of the settings of the Kafka clients. Unlike other variables, an unknown one is an error.
const KAFKA: &str = "FLAGSTREAM_KAFKA__";
const GROUP: &str = "FLAGSTREAM_KAFKA__GROUP_ID";
/// Prefix of librdkafka's properties.
const PROPERTY: &str = "FLAGSTREAM_KAFKA__CLIENT__";
const DEFINITIONS: &str = "FLAGSTREAM_TOPICS__DEFINITIONS";
const OVERRIDES: &str = "FLAGSTREAM_TOPICS__OVERRIDES";
const ENVIRONMENT: &str = "UNLEASH_ENVIRONMENT";
const APP_NAME: &str = "UNLEASH_APP_NAME";
const START_WITHOUT_SOURCE: &str = "FLAGSTREAM_FEED__START_WITHOUT_SOURCE";
const STATE_DIR: &str = "FLAGSTREAM_STATE_DIR";

/// The settings that are used, except those with the prefix [`KAFKA`]. All others are ignored, so a program may pass its
/// whole environment.
const NAMES: [&str; 7] =
    [SERVERS, DEFINITIONS, OVERRIDES, ENVIRONMENT, APP_NAME, START_WITHOUT_SOURCE, STATE_DIR];

/// Name of the process, a part of the Kafka clients' ids.
const INSTANCE: &str = "embedded";

/// All problems of the settings, each with the setting's name.
#[derive(Debug, thiserror::Error)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [problem] => write!(f, "configuration: {problem}"),
            problems => {
                write!(f, "configuration: {} problems", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// Configuration of [`Embedded`](crate::embed::Embedded).
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    pub kafka: KafkaConfig,
    /// Topic of definitions.
    pub definitions: String,
    /// Topic of kill switches.
    pub overrides: String,
    /// Environment of requests that name none.
    pub environment: String,
    /// Unleash's `appName` in contexts that have none.
    pub app_name: String,
    /// Whether the flags count as complete before every source was read for the first time.
    pub start_without_source: bool,
    /// Folder of the snapshot, which no other process uses; `None` if nothing is saved.
    pub state_dir: Option<PathBuf>,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            kafka: KafkaConfig { instance: INSTANCE.to_owned(), ..KafkaConfig::default() },
            definitions: "feature-flag-definitions".to_owned(),
            overrides: "feature-flag-overrides".to_owned(),
            environment: "development".to_owned(),
            app_name: "flagstream".to_owned(),
            start_without_source: false,
            state_dir: None,
        }
    }
}

/// The values that were set, and the problems found so far.
struct Values {
    set: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl EmbeddedConfig {
    /// Reads environment variables. An empty variable counts as unset. The error has all problems.
    pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, SettingsError> {
        let mut values = Values { set: BTreeMap::new(), problems: Vec::new() };
        let mut client = BTreeMap::new();
        for (name, text) in variables {
            // A name that is not UTF-8 is never a setting.
            let Ok(name) = name.into_string() else { continue };
            if !NAMES.contains(&name.as_str()) && !name.starts_with(KAFKA) {
                continue;
            }
            let property = name.strip_prefix(PROPERTY).filter(|property| !property.is_empty());
            match (property, text.into_string()) {
                (_, Err(_)) => values.problems.push(format!("{name}: not UTF-8")),
                (None, _) if name.starts_with(KAFKA) && name != GROUP => {
                    values.problems.push(format!("{name}: unknown setting"));
                }
                (_, Ok(text)) if text.is_empty() => {}
                (Some(property), Ok(text)) => {
                    drop(client.insert(properties::property_of(property), (name, text)))
                }
                (None, Ok(text)) => drop(values.set.insert(name, text)),
            }
        }
        let mut config = Self::default();
        values.read(SERVERS, parse::servers, &mut config.kafka.bootstrap_servers);
        values.read(GROUP, parse::group, &mut config.kafka.group_id);
        values.read(DEFINITIONS, parse::topic, &mut config.definitions);
        values.read(OVERRIDES, parse::topic, &mut config.overrides);
        values.read(ENVIRONMENT, environment, &mut config.environment);
        values.read(APP_NAME, token, &mut config.app_name);
        values.read(START_WITHOUT_SOURCE, parse::flag, &mut config.start_without_source);
        values.read(STATE_DIR, |text| parse::text(text).map(|text| Some(text.into())), &mut config.state_dir);
        if config.definitions == config.overrides {
            let name = &config.overrides;
            values.problems.push(format!(
                "{OVERRIDES}: `{name}` is also the topic of {DEFINITIONS}; every topic needs its own name"
            ));
        }
        values.client(&client, &mut config.kafka);
        if values.problems.is_empty() { Ok(config) } else { Err(SettingsError(values.problems)) }
    }
}

impl Values {
    /// Replaces `target` if the setting is set.
    fn read<T>(&mut self, name: &str, parse: impl Fn(&str) -> Parsed<T>, target: &mut T) {
        let Some(text) = self.set.get(name) else { return };
        match parse(text) {
            Ok(value) => *target = value,
            Err(problem) => self.problems.push(format!("{name}: {problem}, not `{text}`")),
        }
    }

    /// Reads librdkafka's properties: names of variables and values, by the names of the properties.
    fn client(&mut self, set: &BTreeMap<String, (String, String)>, kafka: &mut KafkaConfig) {
        let pairs = set.iter().map(|(property, (_, text))| (property.clone(), text.clone()));
        match properties::checked(pairs) {
            Ok(properties) => kafka.client = properties,
            Err(problems) => {
                self.problems.extend(problems.into_iter().map(|Invalid { property, problem }| {
                    let variable = property
                        .and_then(|property| set.get(&property))
                        .map(|(variable, _)| variable.as_str());
                    format!("{}: {problem}", variable.unwrap_or(PROPERTY))
                }))
            }
        }
    }
}

/// An environment name. `/` would make keys (`environment/flag`) ambiguous.
pub fn environment(text: &str) -> Parsed<String> {
    let name = text.trim();
    let valid = |c: char| !c.is_control() && !c.is_whitespace() && c != '/';
    if (1..=100).contains(&name.len()) && name.chars().all(valid) {
        Ok(name.to_owned())
    } else {
        Err("expected an environment's name of 1 to 100 bytes, without spaces and `/`".into())
    }
}

/// A token or another secret that is sent in a header.
pub fn token(text: &str) -> Parsed<String> {
    let token = text.trim();
    if !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()) {
        Ok(token.to_owned())
    } else {
        Err("expected a token without spaces".into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<EmbeddedConfig, SettingsError> {
        EmbeddedConfig::read(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn settings_replace_defaults_and_an_empty_one_does_not() {
        let config = read(&[
            (SERVERS, "a:1, b:2"),
            (GROUP, "shop"),
            (DEFINITIONS, "flags"),
            (OVERRIDES, ""),
            (START_WITHOUT_SOURCE, "yes"),
            (STATE_DIR, "/var/lib/shop"),
            ("FLAGSTREAM_KAFKA__CLIENT__SECURITY_PROTOCOL", "plaintext"),
            ("FLAGSTREAM_HTTP__LISTEN", "not read"),
        ]);
        let config = config.unwrap();
        assert_eq!(
            (config.kafka.bootstrap_servers.as_str(), config.kafka.group_id.as_str()),
            ("a:1,b:2", "shop")
        );
        assert_eq!(
            (config.definitions.as_str(), config.overrides.as_str()),
            ("flags", "feature-flag-overrides")
        );
        assert!(config.start_without_source && config.state_dir.is_some());
        assert_eq!(
            config.kafka.client.get("security.protocol").map(|value| value.expose()),
            Some("plaintext")
        );
    }

    #[test]
    fn all_problems_are_reported_together_with_the_names_of_their_settings() {
        let error = read(&[
            (SERVERS, "a b"),
            (ENVIRONMENT, "a/b"),
            (DEFINITIONS, "feature-flag-overrides"),
            ("FLAGSTREAM_KAFKA__NO_SUCH", "1"),
            ("FLAGSTREAM_KAFKA__CLIENT__ACKS", "0"),
            ("FLAGSTREAM_KAFKA__CLIENT__SASL_PASSWORD", "hidden"),
        ]);
        let error = error.unwrap_err();
        assert_eq!(error.0.len(), 5, "{error}");
        let text = error.to_string();
        for name in
            [SERVERS, ENVIRONMENT, OVERRIDES, "FLAGSTREAM_KAFKA__NO_SUCH", "FLAGSTREAM_KAFKA__CLIENT__ACKS"]
        {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(!text.contains("hidden"), "{text}");
    }
}
