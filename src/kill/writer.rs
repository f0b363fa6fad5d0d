//! Writes one change of a kill switch as a transaction that is serialized with all others. All functions here
//! block.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use rand::Rng;
use rdkafka::Message;
use tracing::debug;
use uuid::Uuid;

use crate::config::Config;
use crate::feed::publish::{PublishError, Publisher, Record, Tombstone};
use crate::kafka::compacted::read_to_end;
use crate::log_limit::limited;
use crate::message::avro::Kind;
use crate::message::change::{Change, ChangeKind};
use crate::message::kill_switch::{
    KillSwitch, SERVICE_ACTOR, SwitchAction, SwitchEvent, SwitchState, Switched,
};
use crate::schema_registry::Formats;
use crate::store::record::header_version;

use super::{KillError, STORED_SWITCHES_MAX, SWITCHES_MAX};

/// Time limit for a change, including conflicts with other writers and temporary broker errors.
const WRITE_TIMEOUT: Duration = Duration::from_secs(8);
/// Upper bound of the random delay between two attempts to write a switch, in milliseconds.
const MAX_BACKOFF_MS: u64 = 100;
/// Hours after which the lifted switch of a flag that no longer exists is removed.
const REMEMBERED_HOURS: i64 = 24;

/// Requested change of a kill switch.
#[derive(Debug)]
pub(super) struct PendingChange {
    pub(super) environment: String,
    pub(super) flag: String,
    pub(super) action: Action,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) change_id: Uuid,
    /// Version of the definition in force; `None` if the flag does not exist.
    pub(super) definition_version: Option<u64>,
    /// Highest version in force in this instance.
    pub(super) seen_version: u64,
    /// Switch in force in this instance, if it is to be reinstated.
    pub(super) lost: Option<KillSwitch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Kill {
        expires_at: Option<DateTime<Utc>>,
    },
    Restore,
    /// Records an expired switch as lifted.
    Expire,
    /// Writes the unchanged switch with a version above that of a definition that was published concurrently.
    Renew,
    /// Removes a lifted switch whose version no longer matters.
    Forget,
    /// Writes a switch again that the topic has lost but that is still in force here.
    Reinstate,
}

/// Content of the kill switch topic.
#[derive(Debug, Default)]
struct TopicContents {
    switches: BTreeMap<String, KillSwitch>,
    highest: u64,
}

impl TopicContents {
    /// Checks the limits of a kill. Other changes add no switch that the limits do not already count.
    fn admits(&self, pending: &PendingChange, now: DateTime<Utc>) -> Result<(), KillError> {
        if !matches!(pending.action, Action::Kill { .. }) {
            return Ok(());
        }
        let before = self.switches.get(&pending.key());
        if before.is_some_and(|before| before.is_on(now)) {
            return Ok(());
        }
        let killed = self.switches.values().filter(|switch| switch.is_on(now)).count();
        if killed >= SWITCHES_MAX {
            return Err(KillError::TooMany);
        }
        if before.is_none() && self.switches.len() >= STORED_SWITCHES_MAX {
            return Err(KillError::TooManyStored);
        }
        Ok(())
    }
}

/// Record to write.
enum NextWrite {
    Nothing,
    Switch(KillSwitch, Option<SwitchAction>),
    Tombstone,
}

/// Writer that has fenced all previous writers and knows the content of the topic. If another writer has
/// written since, this producer is fenced and its transactions fail. So what it has read and written itself
/// is the current state.
#[derive(Debug)]
pub(super) struct KillSwitchWriter {
    publisher: Publisher,
    known: TopicContents,
}

/// Writes the change, unless there is nothing to write. On success the writer is stored in `kept` for the
/// next change.
pub(super) fn write(
    kept: &mut Option<KillSwitchWriter>,
    config: &Config,
    formats: &Formats,
    pending: &PendingChange,
) -> Written {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    if pending.action == Action::Reinstate {
        // The known content is no longer in the topic.
        *kept = None;
    }
    loop {
        let (is_kept, opened) = match kept.take() {
            Some(writer) => (true, Ok(writer)),
            None => (false, KillSwitchWriter::open(config)),
        };
        let error = match opened.and_then(|writer| writer.write(config, formats, pending)) {
            // Only a commit proves that no other writer has written since this one was opened.
            Ok((_, _, Committed(false))) if is_kept => continue,
            Ok((writer, written, _)) => {
                *kept = Some(writer);
                return written;
            }
            Err(error) => error,
        };
        let is_hopeless = matches!(error, PublishError::TooLarge(_));
        if is_hopeless || Instant::now() >= deadline {
            return Err(KillError::Kafka(error.to_string()));
        }
        if !matches!(error, PublishError::Fenced(_)) {
            limited!(warn, flag = pending.flag, %error, "a kill switch is not written yet");
        }
        let pause = rand::rng().random_range(MAX_BACKOFF_MS / 10..MAX_BACKOFF_MS);
        std::thread::sleep(Duration::from_millis(pause));
    }
}

type Written = Result<Option<KillSwitch>, KillError>;

/// Whether a transaction was committed.
struct Committed(bool);

impl KillSwitchWriter {
    fn open(config: &Config) -> Result<Self, PublishError> {
        let (topics, started) = (&config.topics, Instant::now());
        // The fence comes first: only then no other writer can add what this one has not read.
        let publisher =
            Publisher::open(config, "overrides", [&topics.overrides, &topics.events, &topics.updates])?;
        let known = read(config)?;
        debug!(took = ?started.elapsed(), switches = known.switches.len(), "the kill switches are read");
        Ok(Self { publisher, known })
    }

    /// Writes one change. An error consumes the writer; the next one reads whether the change was committed.
    fn write(
        mut self,
        config: &Config,
        formats: &Formats,
        pending: &PendingChange,
    ) -> Result<(Self, Written, Committed), PublishError> {
        let (started, key) = (Instant::now(), pending.key());
        let before = self.known.switches.get(&key);
        if let Some(mine) = before.filter(|before| before.change_id == pending.change_id) {
            // An earlier attempt was committed, although its confirmation was lost.
            let mine = mine.clone();
            return Ok((self, Ok(Some(mine)), Committed(true)));
        }
        // Microseconds, the precision of all recorded times.
        let now = Utc::now().trunc_subsecs(6);
        if let Err(error) = self.known.admits(pending, now) {
            return Ok((self, Err(error), Committed(false)));
        }
        let now_ms = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        let version = (self.known.highest.max(pending.seen_version) + 1).max(now_ms);
        let (records, next) = match pending.next(before, version, now) {
            NextWrite::Nothing => return Ok((self, Ok(None), Committed(false))),
            NextWrite::Tombstone => (vec![tombstone(config, pending, version)], None),
            NextWrite::Switch(next, action) => {
                let records = records((config, formats), before, &next, action, now);
                (records.map_err(|error| PublishError::Other(error.to_string()))?, Some(next))
            }
        };
        self.publisher.transaction(&records, None)?;
        debug!(took = ?started.elapsed(), version, "a kill switch is written");
        self.known.highest = version;
        match next.clone() {
            Some(next) => drop(self.known.switches.insert(key, next)),
            None => drop(self.known.switches.remove(&key)),
        }
        Ok((self, Ok(next), Committed(true)))
    }
}

fn read(config: &Config) -> Result<TopicContents, PublishError> {
    let mut known = TopicContents::default();
    let read = read_to_end(&config.kafka, &config.topics.overrides, "overrides-state", |message| {
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        let Some(body) = message.payload() else {
            known.highest = known.highest.max(header_version(message).unwrap_or(0));
            known.switches.remove(&key);
            return;
        };
        match serde_json::from_slice::<KillSwitch>(body) {
            Ok(switch) => {
                known.highest = known.highest.max(switch.version);
                known.switches.insert(key, switch);
            }
            // The stores refuse the record too.
            Err(error) => {
                limited!(warn, key, offset = message.offset(), %error, "not a kill switch")
            }
        }
    });
    read.map_err(|error| PublishError::Other(error.to_string()))?;
    Ok(known)
}

impl PendingChange {
    fn key(&self) -> String {
        format!("{}/{}", self.environment, self.flag)
    }

    fn next(&self, before: Option<&KillSwitch>, version: u64, now: DateTime<Utc>) -> NextWrite {
        let made = |state, expires_at| KillSwitch {
            environment: self.environment.clone(),
            flag_name: self.flag.clone(),
            state,
            version,
            definition_version: self.definition_version,
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            changed_at: now,
            expires_at,
            change_id: self.change_id,
        };
        let lifted = || made(SwitchState::Lifted, None);
        match (self.action, before) {
            (Action::Kill { expires_at }, _) => {
                NextWrite::Switch(made(SwitchState::Killed, expires_at), Some(SwitchAction::Killed))
            }
            (Action::Restore, Some(before)) if before.is_on(now) => {
                NextWrite::Switch(lifted(), Some(SwitchAction::Restored))
            }
            (Action::Expire, Some(before)) if is_expired(before, now) => {
                let reason = "its time is up".to_owned();
                let lifted = KillSwitch { actor: SERVICE_ACTOR.to_owned(), reason, ..lifted() };
                NextWrite::Switch(lifted, Some(SwitchAction::Expired))
            }
            (Action::Renew, Some(before)) if is_overtaken(before, self.definition_version) => {
                let definition_version = self.definition_version;
                NextWrite::Switch(KillSwitch { version, definition_version, ..before.clone() }, None)
            }
            (Action::Forget, Some(before)) if is_forgettable(before, self.definition_version, now) => {
                NextWrite::Tombstone
            }
            (Action::Reinstate, None) => match self.lost.clone() {
                // A new version is required, because answers of instances without the switch are outdated.
                Some(lost) => NextWrite::Switch(KillSwitch { version, ..lost }, None),
                None => NextWrite::Nothing,
            },
            _ => NextWrite::Nothing,
        }
    }
}

/// Whether the switch has expired and the expiry is not recorded yet.
pub(super) fn is_expired(switch: &KillSwitch, now: DateTime<Utc>) -> bool {
    switch.state == SwitchState::Killed && switch.expires_at.is_some_and(|at| at <= now)
}

/// Whether a definition that the switch's writer did not know has a version that is not higher than the
/// switch's. It was written at the same time, or by a leader with a slow clock. Outcomes based on either
/// would have the same version.
pub(super) fn is_overtaken(switch: &KillSwitch, definition: Option<u64>) -> bool {
    definition.is_some_and(|version| version <= switch.version) && definition != switch.definition_version
}

/// Whether the lifted switch can be removed: the flag's definition has a higher version, or the flag has been
/// gone for [`REMEMBERED_HOURS`].
pub(super) fn is_forgettable(switch: &KillSwitch, definition: Option<u64>, now: DateTime<Utc>) -> bool {
    let is_old = now - switch.changed_at > TimeDelta::hours(REMEMBERED_HOURS);
    switch.state == SwitchState::Lifted && definition.map_or(is_old, |version| version > switch.version)
}

fn tombstone<'c>(config: &'c Config, pending: &PendingChange, version: u64) -> Record<'c> {
    let tombstone = Some(Tombstone { version, actor: pending.actor.clone() });
    Record { topic: &config.topics.overrides, key: pending.key(), body: None, tombstone }
}

/// The records of a change: the switch, the event for the change log, and the invalidation.
fn records<'c>(
    (config, formats): (&'c Config, &Formats),
    before: Option<&KillSwitch>,
    next: &KillSwitch,
    action: Option<SwitchAction>,
    now: DateTime<Utc>,
) -> anyhow::Result<Vec<Record<'c>>> {
    let topics = &config.topics;
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let invalidation = Change {
        event_type: ChangeKind::Updated,
        flag_name: next.flag_name.clone(),
        environment: next.environment.clone(),
        version: next.version,
        previous_version: next.definition_version.max(before.map(|before| before.version)),
        changed_at: text(now),
        published_at: text(now),
        actor: next.actor.clone(),
    };
    let change = Change { previous_version: None, ..invalidation.clone() };
    let event = match action {
        Some(action) => serde_json::to_vec(&SwitchEvent {
            change,
            switched: Switched {
                change_id: next.change_id,
                action,
                actor: next.actor.clone(),
                reason: next.reason.clone(),
                changed_at: now,
                before: before.filter(|before| before.state == SwitchState::Killed).map(KillSwitch::as_on),
                after: next.position(now),
            },
        })?,
        None => serde_json::to_vec(&change)?,
    };
    let key = format!("{}/{}", next.environment, next.flag_name);
    let record = |topic, body| Record { topic, key: key.clone(), body: Some(body), tombstone: None };
    Ok(vec![
        record(topics.overrides.as_str(), serde_json::to_vec(next)?),
        record(topics.events.as_str(), formats.changed.message(Kind::Changed, event)?),
        record(
            topics.updates.as_str(),
            formats.updated.message(Kind::Changed, serde_json::to_vec(&invalidation)?)?,
        ),
    ])
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
