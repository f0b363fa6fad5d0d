//! Tracks which sources of flags were ever read completely, based on the definitions topic. It does no I/O.
//!
//! Before the first successful sync of a source the topic lacks its flags, and a store that counted as ready
//! would answer `FLAG_NOT_FOUND` for flags that exist. So the store waits for the expected sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::message::definition::Source;
use crate::message::source_status::{SourceName, SourceStatus};

/// Last status of each source that the leader published, by name.
pub type Statuses = BTreeMap<SourceName, SourceStatus>;

/// Sources that a store waits for before it is ready.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Sources that are configured for this process.
    pub sources: Vec<SourceName>,
    /// Whether the operator accepts the topic's content as complete (setting `start_without_source`).
    pub start_without_source: bool,
}

/// Statuses from the topic and from the disk.
#[derive(Debug, Default)]
pub(super) struct Sources {
    expected: Expected,
    known: Arc<Statuses>,
}

impl Sources {
    pub(super) fn new(expected: Expected) -> Self {
        Self { expected, known: Arc::default() }
    }

    pub(super) fn known(&self) -> Arc<Statuses> {
        Arc::clone(&self.known)
    }

    /// Restores saved statuses.
    pub(super) fn restore(&mut self, saved: &[SourceStatus]) {
        let known = saved.iter().map(|status| (status.name(), status.clone()));
        self.known = Arc::new(known.collect());
    }

    /// Processes the value of a status record. A source that was synced once stays synced: after a loss of
    /// the topic it starts again, while the flags of this process are still valid.
    pub(super) fn take(&mut self, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let Some(value) = value else { return Ok(()) };
        let mut status: SourceStatus = serde_json::from_slice(value)?;
        let known = Arc::make_mut(&mut self.known);
        let before = known.get(&status.name()).and_then(|before| before.synced_at);
        status.synced_at = before.or(status.synced_at);
        known.insert(status.name(), status);
        Ok(())
    }

    /// Sources that the store must wait for, each with a description; empty if there are none. `has_flags_of`
    /// returns whether an environment has flags (`None`: any environment); `is_empty` states whether the
    /// topic never had a record.
    ///
    /// With `without_unreported`, sources that the leader does not report are skipped if it reports others.
    /// This happens in a rolling update that adds an environment: the leader does not know the new source,
    /// and it is only replaced after new instances have become ready.
    pub(super) fn waiting_for(
        &self,
        has_flags_of: impl Fn(Option<&str>) -> bool,
        is_empty: bool,
        without_unreported: bool,
    ) -> Vec<String> {
        if self.expected.start_without_source {
            return Vec::new();
        }
        if self.expected.sources.is_empty() {
            return self.waiting_without_source(is_empty && !has_flags_of(None));
        }
        let is_led = !self.known.is_empty() || has_flags_of(None);
        let is_passed_over =
            |name: &SourceName| without_unreported && is_led && !self.known.contains_key(name);
        // Topics written by an earlier version contain no statuses; there, flags show that their source was
        // synced.
        let is_synced = |name: &&SourceName| match self.known.is_empty() {
            true if name.source == Source::Local => has_flags_of(None),
            true => has_flags_of(Some(&name.environment)),
            false => self.known.get(*name).is_some_and(|status| status.synced_at.is_some()),
        };
        let waiting = self.expected.sources.iter();
        let waiting = waiting.filter(|name| !is_synced(name) && !is_passed_over(name));
        waiting.map(|name| self.describe(name)).collect()
    }

    /// Sources to wait for in a process without its own source: all sources that have begun, unless one was
    /// synced.
    fn waiting_without_source(&self, is_empty: bool) -> Vec<String> {
        if self.known.is_empty() && is_empty {
            return vec![
                "any flag: the definitions topic is empty, and this instance has no source of flags"
                    .to_owned(),
            ];
        }
        let unsynced = self.known.values().filter(|status| status.synced_at.is_none());
        let is_synced = self.known.values().any(|status| status.synced_at.is_some());
        // Otherwise a source that was configured once and then abandoned would be waited for forever.
        unsynced.filter(|_| !is_synced).map(|status| self.describe(&status.name())).collect()
    }

    fn describe(&self, name: &SourceName) -> String {
        let error = self.known.get(name).and_then(|status| status.error.as_ref());
        match error {
            Some(error) => {
                format!("the first successful sync of {name}; the last attempt failed: {}", error.message)
            }
            None => format!("the first successful sync of {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    fn name(source: Source, environment: &str) -> SourceName {
        SourceName { source, environment: environment.to_owned() }
    }

    fn status(name: &SourceName, synced: bool) -> Vec<u8> {
        let status = SourceStatus {
            source: name.source,
            environment: name.environment.clone(),
            synced_at: synced.then(Utc::now),
            last_success: None,
            error: None,
            leader: "one".to_owned(),
            reported_at: Utc::now(),
        };
        serde_json::to_vec(&status).unwrap_or_default()
    }

    fn expecting(sources: &[&SourceName]) -> Sources {
        let sources = sources.iter().map(|name| (*name).clone()).collect();
        Sources::new(Expected { sources, start_without_source: false })
    }

    fn waits(sources: &Sources, environments: &[&str]) -> usize {
        let has = |wanted: Option<&str>| match wanted {
            Some(wanted) => environments.contains(&wanted),
            None => !environments.is_empty(),
        };
        sources.waiting_for(has, environments.is_empty(), false).len()
    }

    #[test]
    fn a_source_that_the_leader_does_not_know_holds_up_nobody_for_long() {
        let (dev, new) = (name(Source::Unleash, "dev"), name(Source::Unleash, "new"));
        let mut sources = expecting(&[&dev, &new]);
        let waits = |sources: &Sources, later| sources.waiting_for(|_| false, true, later).len();
        assert_eq!((waits(&sources, false), waits(&sources, true)), (2, 2), "nobody leads");
        sources.take(Some(&status(&dev, true))).unwrap_or_default();
        assert_eq!((waits(&sources, false), waits(&sources, true)), (1, 0));
        sources.take(Some(&status(&new, false))).unwrap_or_default();
        assert_eq!(
            (waits(&sources, false), waits(&sources, true)),
            (1, 1),
            "it is read, without success so far"
        );
    }

    #[test]
    fn every_configured_source_is_waited_for_until_it_was_synced() {
        let (dev, local) = (name(Source::Unleash, "dev"), name(Source::Local, "*"));
        let mut sources = expecting(&[&dev, &local]);
        assert_eq!(waits(&sources, &[]), 2);
        sources.take(Some(&status(&dev, false))).unwrap_or_default();
        assert_eq!(waits(&sources, &["dev"]), 2, "flags of a first sync that is not finished");
        sources.take(Some(&status(&dev, true))).unwrap_or_default();
        assert_eq!(waits(&sources, &["dev"]), 1);
        sources.take(Some(&status(&local, true))).unwrap_or_default();
        assert_eq!(waits(&sources, &[]), 0, "an environment without flags");
        sources.take(Some(&status(&dev, false))).unwrap_or_default();
        assert_eq!(waits(&sources, &[]), 0, "a topic that was made anew");
    }

    #[test]
    fn flags_in_a_topic_of_an_earlier_version_show_that_there_was_a_sync() {
        let (dev, prod, local) =
            (name(Source::Unleash, "dev"), name(Source::Unleash, "prod"), name(Source::Local, "*"));
        let sources = expecting(&[&dev, &prod, &local]);
        assert_eq!(waits(&sources, &["dev"]), 1, "a new environment");
        assert_eq!(waits(&sources, &["dev", "prod"]), 0);
    }

    #[test]
    fn without_a_source_of_its_own_a_process_waits_for_those_of_others() {
        let mut sources = expecting(&[]);
        assert_eq!(waits(&sources, &[]), 1, "nothing at all");
        assert_eq!(waits(&sources, &["dev"]), 0, "flags that anybody wrote");
        sources.take(Some(&status(&name(Source::Unleash, "dev"), false))).unwrap_or_default();
        assert_eq!(waits(&sources, &["dev"]), 1);
        sources.take(Some(&status(&name(Source::Unleash, "prod"), true))).unwrap_or_default();
        assert_eq!(waits(&sources, &["dev"]), 0, "others go on");
    }

    #[test]
    fn an_operator_may_start_without() {
        let sources = [name(Source::Unleash, "dev")].to_vec();
        let sources = Sources::new(Expected { sources, start_without_source: true });
        assert_eq!(waits(&sources, &[]), 0);
    }
}
