//! Preserves kill switches and definitions over a restart, because the embedded broker stores nothing.
//!
//! While `dev` runs, the latest records of the two compacted topics are written to a file in the state folder. At the
//! next start they are produced again before any part of the service reads the topics. Kill switches stay in force,
//! versions continue, and unchanged flags are not announced again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rdkafka::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::kafka::client::{self, Logged};
use crate::kafka::tail::{Follower, Start};
use crate::private_files;
use crate::shutdown::Shutdown;

const FILE: &str = "kept.json";
/// Interval of the checks for new records and for a shutdown.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Timeout for producing all restored records.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(10);

/// The latest records of both topics, by key.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PersistedRecords {
    definitions: BTreeMap<String, String>,
    overrides: BTreeMap<String, String>,
}

/// The file with the records.
#[derive(Debug)]
pub struct PersistedTopics {
    path: PathBuf,
    kept: PersistedRecords,
}

impl PersistedTopics {
    /// Reads the file in `folder`. An unreadable file is ignored with a warning, because its content can be recreated.
    pub fn open(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let read = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(PersistedRecords::default()),
            Err(error) => Err(error.to_string()),
            Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
        };
        let kept = read.unwrap_or_else(|error| {
            let path = path.display();
            // Not limited: once at the start.
            tracing::warn!(%path, error, "the kill switches of the last run are not restored, because the file \
                cannot be read");
            PersistedRecords::default()
        });
        Self { path, kept }
    }

    /// Produces the stored records. Blocks until the broker has them.
    pub fn restore(&self, config: &Config) -> anyhow::Result<()> {
        let producer: BaseProducer<Logged> =
            client::base(&config.kafka, "restore").create_with_context(Logged)?;
        let topics = [
            (&config.topics.definitions, &self.kept.definitions),
            (&config.topics.overrides, &self.kept.overrides),
        ];
        for (topic, repository) in topics {
            for (key, body) in repository {
                let sent = producer.send(BaseRecord::to(topic).key(key).payload(body));
                sent.map_err(|(error, _)| error)?;
            }
        }
        producer
            .flush(RESTORE_TIMEOUT)
            .context("the flags and kill switches of the last run could not be restored")
    }

    /// Follows the topics until `shutdown`, and writes the file after each change. Blocks.
    pub fn follow(mut self, config: &Config, shutdown: &Shutdown) -> anyhow::Result<()> {
        let open = |topic| Follower::open(&config.kafka, "keep", topic, Start::Beginning);
        let definitions = open(&config.topics.definitions)?;
        let overrides = open(&config.topics.overrides)?;
        // One more iteration after the shutdown stores what other parts wrote in the meantime.
        let mut is_last = false;
        while !is_last {
            is_last = shutdown.is_cancelled();
            let changed = take(&definitions, &mut self.kept.definitions)?;
            if take(&overrides, &mut self.kept.overrides)? || changed {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&self) -> anyhow::Result<()> {
        let new = self.path.with_extension("new");
        private_files::write(&new, &serde_json::to_vec(&self.kept)?)?;
        std::fs::rename(&new, &self.path).with_context(|| self.path.display().to_string())
    }
}

/// Applies all waiting records to `kept`. Returns whether it changed.
fn take(topic: &Follower, kept: &mut BTreeMap<String, String>) -> anyhow::Result<bool> {
    let mut changed = false;
    let mut wait = POLL_INTERVAL;
    while let Some(record) = topic.next(wait)? {
        wait = Duration::ZERO;
        let Some(key) = record.key().and_then(|key| std::str::from_utf8(key).ok()) else { continue };
        match record.payload().map(std::str::from_utf8) {
            Some(Ok(body)) => {
                changed |= kept.insert(key.to_owned(), body.to_owned()).as_deref() != Some(body)
            }
            Some(Err(_)) => {}
            None => changed |= kept.remove(key).is_some(),
        }
    }
    Ok(changed)
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Profile, load_from};
    use crate::dev::{Broker, embed};

    fn scene(folder: &Path) -> (Broker, Config) {
        let mut config = load_from(None, [], Profile::Dev).unwrap().config;
        config.state_dir = folder.join("dev");
        let broker = Broker::start().unwrap();
        embed(&mut config, Some(broker.address())).unwrap();
        broker.create_topics(&config).unwrap();
        (broker, config)
    }

    #[test]
    fn the_latest_records_are_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        {
            let (_broker, config) = scene(folder.path());
            let producer: BaseProducer<Logged> =
                client::base(&config.kafka, "test").create_with_context(Logged).unwrap();
            for (key, body) in [("e/a", Some("1")), ("e/b", Some("1")), ("e/a", Some("2")), ("e/b", None)] {
                let record = BaseRecord::<str, str>::to(&config.topics.overrides).key(key);
                let record = BaseRecord { payload: body, ..record };
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(RESTORE_TIMEOUT).unwrap();
            let stopped = Shutdown::new();
            let (copy, config) = (stopped.clone(), config.clone());
            let path = folder.path().join(FILE);
            let file = PersistedTopics::open(folder.path());
            let following = std::thread::spawn(move || file.follow(&config, &copy));
            let deadline = std::time::Instant::now() + RESTORE_TIMEOUT;
            while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains(r#"{"e/a":"2"}"#)) {
                assert!(std::time::Instant::now() < deadline, "{:?}", std::fs::read_to_string(&path));
                std::thread::yield_now();
            }
            stopped.cancel();
            following.join().unwrap().unwrap();
        }
        let (_broker, config) = scene(folder.path());
        PersistedTopics::open(folder.path()).restore(&config).unwrap();
        let follower =
            Follower::open(&config.kafka, "test", &config.topics.overrides, Start::Beginning).unwrap();
        let mut found = BTreeMap::new();
        let deadline = std::time::Instant::now() + RESTORE_TIMEOUT;
        while found.is_empty() && std::time::Instant::now() < deadline {
            take(&follower, &mut found).unwrap();
        }
        assert_eq!(found, BTreeMap::from([("e/a".to_owned(), "2".to_owned())]));
    }

    #[test]
    fn a_broken_file_is_no_reason_not_to_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(PersistedTopics::open(folder.path()).kept, PersistedRecords::default());
    }
}
