//! Additional records of the leader: the statuses of sources, and definitions that the topic has lost.

use chrono::{DateTime, TimeDelta, Utc};

use crate::feed::health::EnvironmentHealth;
use crate::feed::publish::{PublishError, Record};
use crate::log_limit::limited;
use crate::message::source_status::{SourceFailure, SourceName, SourceStatus};
use crate::store::Missing;

use super::{DefinitionWriter, TRANSACTION_BYTES_MAX, TRANSACTION_CHANGES_MAX};

/// Interval at which an unchanged status of a source is written.
const STATUS_INTERVAL: TimeDelta = TimeDelta::minutes(5);

impl DefinitionWriter {
    /// Writes a status for each source that has none. This must happen before the first definition, so that
    /// readers do not take the flags of an unfinished first sync for complete.
    pub fn begin_sources(&mut self, sources: &[SourceName], now: DateTime<Utc>) -> Result<(), PublishError> {
        let unreported = sources.iter().filter(|name| self.state.source(name).is_none());
        let begun: Vec<_> = unreported
            .map(|name| SourceStatus {
                source: name.source,
                environment: name.environment.clone(),
                synced_at: self.state.shows_sync_of(name).then_some(now),
                last_success: None,
                error: None,
                leader: self.config.instance.clone(),
                reported_at: now,
            })
            .collect();
        self.write_statuses(begun)
    }

    /// Writes the status of a source if it has changed or is old. `is_synced`: all its flags are in the
    /// topic.
    pub fn report(
        &mut self,
        name: &SourceName,
        health: &EnvironmentHealth,
        is_synced: bool,
        now: DateTime<Utc>,
    ) -> Result<(), PublishError> {
        let error = health.error.as_ref().map(|error| SourceFailure {
            reason: error.reason.to_owned(),
            message: error.message.clone(),
            since: error.since,
        });
        let before = self.state.source(name);
        let reason = |error: Option<&SourceFailure>| error.map(|error| error.reason.clone());
        let is_old = before.is_none_or(|before| {
            before.leader != self.config.instance
                || reason(before.error.as_ref()) != reason(error.as_ref())
                || (is_synced && before.synced_at.is_none())
                || now - before.reported_at >= STATUS_INTERVAL
        });
        if !is_old {
            return Ok(());
        }
        let synced_at = before.and_then(|before| before.synced_at);
        let status = SourceStatus {
            source: name.source,
            environment: name.environment.clone(),
            synced_at: synced_at.or(is_synced.then_some(now)),
            last_success: health.last_success.or(before.and_then(|before| before.last_success)),
            error,
            leader: self.config.instance.clone(),
            reported_at: now,
        };
        self.write_statuses(vec![status])
    }

    /// Writes definitions again that are in force in this instance but were lost from the topic. They keep
    /// their versions and cause no events, because nothing changed. Returns the number of flags.
    pub fn restore(&mut self, missing: &Missing) -> Result<usize, PublishError> {
        let lost: Vec<_> = missing
            .definitions
            .iter()
            .filter(|(key, _)| !self.state.has(key))
            .map(|(key, value)| (key.to_string(), value.to_vec()))
            .collect();
        if lost.is_empty() {
            return Ok(0);
        }
        // The sources are marked as not synced until all lost definitions are written. A term that began before the
        // loss was noticed has done so already.
        let is_unsynced = |status: &&SourceStatus| {
            let reported = self.state.source(&status.name());
            reported.is_none_or(|reported| reported.synced_at.is_none() && status.synced_at.is_some())
        };
        let known: Vec<_> = missing.sources.values().filter(is_unsynced).cloned().collect();
        self.write_statuses(
            known.iter().map(|status| SourceStatus { synced_at: None, ..status.clone() }).collect(),
        )?;
        let flags = lost.len();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (key, value) in lost {
            if batch.len() == TRANSACTION_CHANGES_MAX || bytes + value.len() > TRANSACTION_BYTES_MAX {
                self.write_lost(std::mem::take(&mut batch))?;
                bytes = 0;
            }
            bytes += value.len();
            batch.push((key, value));
        }
        self.write_lost(batch)?;
        self.write_statuses(known)?;
        Ok(flags)
    }

    fn write_lost(&mut self, lost: Vec<(String, Vec<u8>)>) -> Result<(), PublishError> {
        let topic = self.config.topics.definitions.as_str();
        let record = |(key, body): &(String, Vec<u8>)| Record {
            topic,
            key: key.clone(),
            body: Some(body.clone()),
            tombstone: None,
        };
        let repository: Vec<_> = lost.iter().map(record).collect();
        self.publisher.transaction(&repository, None)?;
        for (key, body) in &lost {
            if let Err(error) = self.state.apply(key.as_bytes(), Some(body), None) {
                limited!(warn, key, %error, "a restored definition cannot be decoded");
            }
        }
        Ok(())
    }

    fn write_statuses(&mut self, statuses: Vec<SourceStatus>) -> Result<(), PublishError> {
        if statuses.is_empty() {
            return Ok(());
        }
        let topic = self.config.topics.definitions.as_str();
        let record = |status: &SourceStatus| {
            let body = serde_json::to_vec(status).map_err(|error| PublishError::Other(error.to_string()))?;
            Ok(Record { topic, key: status.name().key(), body: Some(body), tombstone: None })
        };
        let repository: Vec<_> = statuses.iter().map(record).collect::<Result<_, PublishError>>()?;
        self.publisher.transaction(&repository, None)?;
        statuses.into_iter().for_each(|status| self.state.set_source(status));
        Ok(())
    }
}
