//! Connects the topics with the store: collects changes from records and applies them in one swap. It also
//! decides when the store is ready, and what happens to flags that a complete reading of the topic did not
//! contain.

mod disk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use chrono::{DateTime, Utc};
use tracing::{debug, info};

use super::metrics::{OutcomeLabels, StoreMetrics};
use crate::flag::FlagChange;
use crate::kafka::log_limit::limited;
use crate::message::source_status::is_status;

use super::definition_table::{ApplyOutcome, DefinitionTable};
use super::disk::Disk;
use super::record::{Key, Record};
use super::snapshot_writer::SnapshotWriter;
use super::sources::{Expected, Sources};
use super::status::{LoadedFrom, MAX_REFUSED_SHOWN};
use super::{Missing, Store};

/// Delay before many flags that a reading did not contain are removed, in case the topic is just being
/// refilled.
pub(super) const MISSING_CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of flags that may be removed without the delay; the same rule as for responses of Unleash.
const FEW_FLAGS: usize = 10;
/// Time without contact to the broker after which the flags in force may be outdated.
const CONTACT_MAX: Duration = Duration::from_secs(5);
/// Maximum age of the flags in force for detecting losses. A topic keeps the tombstone of a deleted flag for
/// a day (`delete.retention.ms`), so a process that followed it more recently has seen every deletion;
/// anything else that the topic lacks was lost.
const LOSS_WINDOW: Duration = Duration::from_secs(12 * 60 * 60);
/// Time that the leader has for its first report on a source of flags.
const UNREPORTED_SOURCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Part of the reader that is independent of Kafka.
#[derive(Debug)]
pub(super) struct StoreUpdater {
    store: Arc<Store>,
    metrics: Arc<StoreMetrics>,
    table: DefinitionTable,
    sources: Sources,
    /// Writer of snapshots; `None` if nothing is saved on disk.
    snapshot_writer: Option<SnapshotWriter>,
    topic: String,
    /// The latest change of each key that is not in force yet.
    pending: AHashMap<Box<str>, FlagChange>,
    /// Whether this reading has reached the end of both topics. Until then nothing is put in force.
    live: bool,
    /// Whether this reading has reached the end of the kill switches.
    has_switches: bool,
    /// Whether the definitions are read completely and only the kill switches are not.
    at_end: bool,
    /// Number of records in this reading.
    records: u64,
    offset: i64,
    /// Whether records were taken since the last flush.
    touched: bool,
    /// Whether anything changed since the last save.
    unsaved: bool,
    started: Instant,
    sweep_at: Option<Instant>,
    /// Whether this process followed the topics recently, before this reading. If so, anything that the
    /// topics lack was lost.
    follows: bool,
    /// Whether records were removed from the beginning of a topic. If so, a flag that it lacks was not
    /// necessarily deleted.
    is_cut: bool,
    /// Time at which the end of the topics was reached for the first time.
    read_at: Option<Instant>,
    /// Whether something in force is missing in the topics.
    is_lacking: bool,
}

impl StoreUpdater {
    pub(super) fn new(
        store: Arc<Store>,
        metrics: Arc<StoreMetrics>,
        disk: Option<Disk>,
        topic: &str,
        expected: Expected,
    ) -> std::io::Result<Self> {
        Ok(Self {
            snapshot_writer: disk
                .map(|disk| SnapshotWriter::start(disk, Arc::clone(&metrics)))
                .transpose()?,
            store,
            metrics,
            table: DefinitionTable::default(),
            sources: Sources::new(expected),
            topic: topic.to_owned(),
            pending: AHashMap::default(),
            live: false,
            has_switches: false,
            at_end: false,
            records: 0,
            offset: 0,
            touched: false,
            unsaved: false,
            started: Instant::now(),
            sweep_at: None,
            follows: false,
            is_cut: false,
            read_at: None,
            is_lacking: false,
        })
    }

    /// Begins a reading of the topics from their beginning.
    pub(super) fn begin_reading(&mut self) {
        let age = self.store.status().age(Utc::now());
        self.follows = self.read_at.is_some() && age.is_some_and(|age| age < LOSS_WINDOW);
        self.is_cut = false;
        self.table.begin_reading();
        self.table.begin_reading_switches();
        (self.live, self.has_switches, self.at_end) = (false, false, false);
        self.records = 0;
        self.sweep_at = None;
    }

    /// Processes one record of the definitions topic. Its change is in force after the next
    /// [`StoreUpdater::flush`].
    pub(super) fn take(&mut self, record: &Record<'_>, offset: i64, timestamp_ms: Option<i64>) {
        self.records += 1;
        self.offset = offset + 1;
        self.touched = true;
        self.compare_clocks(timestamp_ms);
        if is_status(record.key) {
            return self.take_status(record, offset);
        }
        let outcome = match self.table.take(record) {
            ApplyOutcome::Changed(change) => {
                if let Ok(key) = Key::parse(record.key) {
                    self.log_problems(key.text, &change, offset);
                    self.pending.insert(key.text.into(), change);
                }
                self.unsaved = true;
                if self.live {
                    self.note_propagation(timestamp_ms);
                }
                "applied"
            }
            ApplyOutcome::Same => "same",
            ApplyOutcome::Stale => "stale",
            ApplyOutcome::Refused(key, refusal) => {
                let topic = &self.topic;
                limited!(
                    warn,
                    key = &key,
                    topic,
                    offset,
                    key,
                    %refusal,
                    "definition refused; the last valid version stays in force",
                );
                "refused"
            }
        };
        self.metrics.records.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Compares this machine's clock with that of the leader, which gave the record its timestamp. A record of the past
    /// proves nothing: it may have been written long ago.
    fn compare_clocks(&self, timestamp_ms: Option<i64>) {
        let Some(timestamp_ms) = timestamp_ms.filter(|_| self.live) else { return };
        self.metrics.records_ahead.note(timestamp_ms.saturating_sub(Utc::now().timestamp_millis()));
    }

    fn take_status(&mut self, record: &Record<'_>, offset: i64) {
        self.unsaved = true;
        if let Err(error) = self.sources.take(record.value) {
            limited!(
                warn,
                topic = self.topic,
                offset,
                %error,
                "the status record of a source cannot be decoded; it is ignored",
            );
        }
    }

    /// Notes that one of the topics lost records from its beginning.
    pub(super) fn note_cut(&mut self) {
        self.is_cut = true;
    }

    /// Processes one record of the kill switch topic. Its change is in force after the next
    /// [`StoreUpdater::flush`].
    pub(super) fn take_switch(&mut self, record: &Record<'_>, offset: i64) {
        self.touched = true;
        let outcome = match self.table.take_switch(record) {
            ApplyOutcome::Changed(change) => {
                if let Ok(key) = Key::parse(record.key) {
                    self.pending.insert(key.text.into(), change);
                }
                "applied"
            }
            ApplyOutcome::Same => "same",
            ApplyOutcome::Stale => "stale",
            ApplyOutcome::Refused(key, refusal) => {
                limited!(
                    warn,
                    key = &key,
                    offset,
                    key,
                    %refusal,
                    "kill switch record refused; the last valid record stays in force",
                );
                "refused"
            }
        };
        self.unsaved = true;
        self.metrics.records.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Whether this reading has reached the end of both topics.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Whether this reading has not yet reached the end of the kill switches.
    pub(super) fn waits_for_switches(&self) -> bool {
        !self.has_switches
    }

    /// Ends the reading of kill switches. `had_records`: the topic has been written at some time, so switches
    /// that it lacks are removed. A topic that was never written may have been recreated, so it lifts no
    /// switch.
    pub(super) fn switches_read(&mut self, had_records: bool) {
        if had_records && !self.follows && !self.is_cut {
            for (key, change) in self.table.sweep_switches() {
                info!(%key, "kill switch removed, because it is no longer in its topic");
                self.pending.insert(key, change);
                (self.touched, self.unsaved) = (true, true);
            }
        }
        self.has_switches = true;
        if std::mem::take(&mut self.at_end) {
            self.reached_end();
        }
    }

    /// Puts all collected changes in force in one swap.
    pub(super) fn flush(&mut self) {
        if !self.live || !self.touched {
            return;
        }
        // Switches come first: when a version is announced, everything that belongs to it must be visible.
        self.store.switches.store(self.table.switches());
        self.store.recent_switches.store(self.table.recent_switches());
        if !self.pending.is_empty() {
            self.store.apply(self.pending.drain().map(|(_, change)| change));
        }
        self.touched = false;
        self.note_missing();
        self.note_sums();
        self.note_ready();
    }

    /// Handles the end of the definitions topic.
    pub(super) fn reached_end(&mut self) {
        if self.live {
            return;
        }
        // A killed flag must not be on for the short time until its kill switch is read.
        if !self.has_switches {
            self.at_end = true;
            return;
        }
        self.live = true;
        let unseen = self.table.unseen();
        if unseen > 0 && (self.follows || self.is_cut) {
            let topic = &self.topic;
            limited!(
                warn,
                topic,
                unseen,
                "the topic has lost records; flags in force that it lacks stay in force",
            );
        } else if self.records > 0 && (unseen <= FEW_FLAGS || unseen * 2 <= self.table.len()) {
            self.sweep();
        } else if unseen > 0 {
            let topic = &self.topic;
            limited!(
                warn,
                topic,
                unseen,
                "the topic lacks most of the flags in force; they stay in force for a while, in case the \
                 topic is being filled",
            );
            self.sweep_at = Some(Instant::now() + MISSING_CHECK_TIMEOUT);
        }
        self.read_at = self.read_at.or_else(|| Some(Instant::now()));
        self.touched = true;
        self.flush();
        let (flags, version) = (self.table.len(), self.store.version());
        info!(flags, version, records = self.records, "definitions read");
        let filled = self.records > 0 || unseen == 0;
        self.store.set_status(|status| {
            if filled {
                status.loaded_from = LoadedFrom::Kafka;
                status.as_of = Some(Utc::now());
                status.follow_error = None;
            } else {
                status.follow_error =
                    Some("the definitions topic is empty; the last known flags stay in force".to_owned());
            }
        });
    }

    /// Updates the age of the flags. `at` is the time of the last contact with the broker.
    pub(super) fn contact(&mut self, at: DateTime<Utc>) {
        if !self.live {
            return;
        }
        let status = self.store.status();
        let age = (Utc::now() - at).to_std().unwrap_or_default();
        if age > CONTACT_MAX && status.follow_error.is_none() {
            limited!(
                warn,
                last_heard = %at,
                "no contact with the Kafka broker; the flags in force may be outdated",
            );
            let follow_error = Some(format!("no contact with the Kafka broker since {at}"));
            self.store.set_status(|status| status.follow_error = follow_error);
        }
        let kept_without_topic = self.records == 0 && !self.table.is_empty();
        if status.as_of.is_none_or(|as_of| as_of < at) && !kept_without_topic {
            self.metrics.as_of.set(at);
            self.store.set_status(|status| {
                status.as_of = Some(at);
                status.follow_error = None;
            });
        }
    }

    /// Marks the store as ready once nothing is left to wait for. It then stays ready, because flags in force
    /// are never lost.
    fn note_ready(&mut self) {
        if self.store.status().ready {
            return;
        }
        let waiting_for = self.waiting_for();
        if waiting_for.is_empty() || waiting_for != self.store.status().waiting_for {
            if !waiting_for.is_empty() {
                info!(
                    waits_for = waiting_for.join("; "),
                    "not ready: waiting for the first complete sync of the flag sources"
                );
            }
            self.store.set_status(|status| {
                status.ready = waiting_for.is_empty();
                status.waiting_for = waiting_for;
            });
        }
    }

    /// Sources that the store waits for before its flags are complete, each with a description.
    fn waiting_for(&self) -> Vec<String> {
        let has_flags_of = |environment: Option<&str>| self.table.has_flags_of(environment);
        let is_late = self.read_at.is_some_and(|at| at.elapsed() >= UNREPORTED_SOURCE_TIMEOUT);
        self.sources.waiting_for(has_flags_of, self.records == 0, is_late)
    }

    /// Reports flags and kill switches that are in force but missing in the topics, if this process knows
    /// that they were there.
    fn note_missing(&mut self) {
        if !(self.follows || self.is_lacking) {
            return;
        }
        let missing = Missing {
            definitions: self.table.unseen_values(),
            switches: self.table.unseen_switches(),
            sources: self.sources.known(),
        };
        let count = missing.len();
        if count == 0 && self.is_lacking {
            info!(topic = self.topic, "all flags and kill switches in force are in their topics again");
        }
        self.is_lacking = count > 0;
        self.follows = false;
        self.store.missing.send_if_modified(|before| {
            let is_news = before.len() != count;
            *before = Arc::new(missing);
            is_news
        });
        self.store.set_status(|status| status.missing = count);
    }

    /// Reports a problem that prevents reading the topic. `lasting`: it is not expected to end soon.
    pub(super) fn follow_error(&mut self, follow_error: String, lasting: bool) {
        if lasting {
            self.trust_disk(&follow_error);
        }
        self.store.set_status(|status| status.follow_error = Some(follow_error));
    }

    /// Performs periodic work.
    pub(super) fn tick(&mut self) {
        self.trust_disk_in_time();
        if self.live {
            self.note_ready();
        }
        if self.sweep_at.is_some_and(|at| at <= Instant::now()) {
            if self.records == 0 {
                // The topic is still empty, which never removes a flag.
                self.sweep_at = Some(Instant::now() + MISSING_CHECK_TIMEOUT);
            } else {
                self.sweep();
                self.flush();
            }
        }
        self.save_now_and_then();
    }

    fn sweep(&mut self) {
        self.sweep_at = None;
        let swept = self.table.sweep();
        if swept.is_empty() {
            return;
        }
        info!(
            topic = self.topic,
            flags = swept.len(),
            "flags removed, because they are no longer in the topic"
        );
        for change in swept {
            if let FlagChange::Remove { environment, name, .. } = &change {
                debug!(%environment, flag = %name, "removed");
                self.pending.insert(format!("{environment}/{name}").into(), change);
            }
        }
        self.unsaved = true;
        self.touched = true;
    }

    fn log_problems(&self, key: &str, change: &FlagChange, offset: i64) {
        let FlagChange::Set(flag) = change else { return };
        let topic = &self.topic;
        if let Some(reason) = flag.unusable_because() {
            limited!(
                warn,
                key = key,
                topic,
                offset,
                key,
                reason,
                "the flag cannot be evaluated; callers receive the reason as an error",
            );
        }
        for problem in flag.problems() {
            limited!(
                warn,
                key = key,
                topic,
                offset,
                key,
                problem,
                "a constraint cannot be evaluated; its strategy matches no user",
            );
        }
    }

    fn note_sums(&self) {
        let refused = self.table.refused();
        let shown = refused.iter().take(MAX_REFUSED_SHOWN);
        let shown = shown.map(|(key, refused)| (key.to_string(), refused.message.clone())).collect();
        self.metrics.note(&self.store.load(), refused.len());
        let (switches, now) = (self.table.switches(), Utc::now());
        let killed = switches.values().filter(|switch| switch.is_on(now)).count();
        self.metrics.killed.set(i64::try_from(killed).unwrap_or(i64::MAX));
        self.store.sources.store(self.sources.known());
        self.store.set_status(|status| {
            status.offset = self.offset;
            status.flags = self.table.len();
            status.refused_total = refused.len();
            status.refused = shown;
        });
    }

    fn note_propagation(&self, timestamp_ms: Option<i64>) {
        let since = timestamp_ms.and_then(DateTime::from_timestamp_millis);
        let latency = since.and_then(|since| (Utc::now() - since).to_std().ok());
        if let Some(latency) = latency {
            self.metrics.propagation.0.observe(latency.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests;
