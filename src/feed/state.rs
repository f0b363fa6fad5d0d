//! Definitions in force according to the definitions topic, and the highest assigned version.

use std::collections::BTreeMap;

use crate::message::definition::{Definition, Source};
use crate::message::source_status::{SourceName, SourceStatus, is_status};

use super::answer::Digest;

/// Definition of a flag in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDefinition {
    pub version: u64,
    pub checksum: String,
    pub source: Source,
    /// Digest of the source's text of this definition; `None` until it was seen in this term.
    pub digest: Option<Digest>,
}

/// Flags of one environment by name.
pub type Environment = BTreeMap<String, KnownDefinition>;

/// State of all environments, and the highest version that was ever assigned.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct State {
    environments: BTreeMap<String, Environment>,
    highest: u64,
    sources: BTreeMap<SourceName, SourceStatus>,
}

/// Error: a key of the definitions topic is not `environment/flag`, or a body is not a definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRecord(String);

impl State {
    pub fn environment(&self, name: &str) -> Option<&Environment> {
        self.environments.get(name)
    }

    pub fn environment_mut(&mut self, name: &str) -> &mut Environment {
        self.environments.entry(name.to_owned()).or_default()
    }

    /// Environments that have flags of this source.
    pub fn environments_of(&self, source: Source) -> impl Iterator<Item = &str> {
        let has = move |flags: &Environment| flags.values().any(|known| known.source == source);
        self.environments.iter().filter(move |(_, flags)| has(flags)).map(|(name, _)| name.as_str())
    }

    /// Assigns the next version: Unix time in milliseconds, or one above the highest version if that is not
    /// lower. So versions increase even if clocks differ between instances or go backwards.
    pub fn next_version(&mut self, now_ms: u64) -> u64 {
        self.highest = self.highest.saturating_add(1).max(now_ms);
        self.highest
    }

    /// Applies one record of the definitions topic. On an error, a version that can be read still counts.
    pub fn apply(
        &mut self,
        key: &[u8],
        body: Option<&[u8]>,
        tombstone_version: Option<u64>,
    ) -> Result<(), BadRecord> {
        if is_status(Some(key)) {
            return self.apply_status(body);
        }
        let (environment, flag) = parse_key(key)?;
        let Some(body) = body else {
            self.highest = self.highest.max(tombstone_version.unwrap_or(0));
            self.environment_mut(environment).remove(flag);
            return Ok(());
        };
        let definition: Definition = serde_json::from_slice(body).map_err(|error| {
            // The flag is removed, so that the next diff replaces the invalid record.
            self.environment_mut(environment).remove(flag);
            BadRecord(format!("{environment}/{flag}: not a definition: {error}"))
        })?;
        self.highest = self.highest.max(definition.version);
        let Definition { version, checksum, source, .. } = definition;
        let known = KnownDefinition { version, checksum, source, digest: None };
        self.environment_mut(environment).insert(flag.to_owned(), known);
        Ok(())
    }
}

impl State {
    /// Status of a source in the topic.
    pub fn source(&self, name: &SourceName) -> Option<&SourceStatus> {
        self.sources.get(name)
    }

    /// Records a status that was written.
    pub fn set_source(&mut self, status: SourceStatus) {
        self.sources.insert(status.name(), status);
    }

    /// Whether the topic has a definition with this key.
    pub fn has(&self, key: &str) -> bool {
        let known = |(environment, flag): (&str, &str)| self.environments.get(environment)?.get(flag);
        key.split_once('/').and_then(known).is_some()
    }

    /// Whether flags show that this source was synced although the topic contains no statuses, because an
    /// earlier version of flagstream wrote it.
    pub fn shows_sync_of(&self, name: &SourceName) -> bool {
        let has_flags =
            |environment: &str| !self.environments.get(environment).is_none_or(BTreeMap::is_empty);
        self.sources.is_empty()
            && match name.source {
                Source::Local => self.environments.keys().any(|environment| has_flags(environment)),
                _ => has_flags(&name.environment),
            }
    }

    fn apply_status(&mut self, body: Option<&[u8]>) -> Result<(), BadRecord> {
        let Some(body) = body else { return Ok(()) };
        let status: SourceStatus = serde_json::from_slice(body)
            .map_err(|error| BadRecord(format!("not the status of a source: {error}")))?;
        self.set_source(status);
        Ok(())
    }
}

/// Key of a flag's records on the definitions, events and updates topics.
pub fn key_of(environment: &str, flag: &str) -> String {
    format!("{environment}/{flag}")
}

fn parse_key(key: &[u8]) -> Result<(&str, &str), BadRecord> {
    let text = std::str::from_utf8(key).ok();
    text.and_then(|text| text.split_once('/'))
        .ok_or_else(|| BadRecord(format!("key {:?} is not environment/flag", String::from_utf8_lossy(key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of flags, and the highest version.
    fn sums(state: &State) -> (usize, u64) {
        (state.environments.values().map(BTreeMap::len).sum(), state.highest)
    }

    fn body(version: u64) -> Vec<u8> {
        let text = r#"{"environment":"dev","flag_name":"a/b","source":"unleash","version":V,"checksum":"c","definition":{}}"#;
        text.replace('V', &version.to_string()).into_bytes()
    }

    #[test]
    fn versions_grow_whatever_the_clock_says() {
        let mut state = State::default();
        let given: Vec<u64> = [1000, 1000, 999, 5, 2000].map(|now| state.next_version(now)).into();
        assert_eq!(given, [1000, 1001, 1002, 1003, 2000]);
    }

    #[test]
    fn a_tombstone_removes_the_flag_and_keeps_its_version() {
        let mut state = State::default();
        state.apply(b"dev/a/b", Some(&body(10)), None).unwrap();
        assert_eq!(state.environment("dev").unwrap().get("a/b").unwrap().version, 10);
        state.apply(b"dev/a/b", None, Some(11)).unwrap();
        assert_eq!(sums(&state), (0, 11));
        assert_eq!(state.next_version(0), 12);
    }

    #[test]
    fn a_broken_record_is_an_error_and_its_flag_unknown() {
        let mut state = State::default();
        state.apply(b"dev/a", Some(&body(10)), None).unwrap();
        assert!(state.apply(b"dev", Some(&body(11)), None).is_err());
        assert!(state.apply(b"\xff/a", None, None).is_err());
        assert_eq!(sums(&state), (1, 10));
        assert!(state.apply(b"dev/a", Some(b"{}"), None).is_err());
        assert_eq!(sums(&state), (0, 10));
    }
}
