//! One change of one switch, as a transaction that follows upon all others. Everything here blocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::Rng;
use rdkafka::Message;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::config::Config;
use crate::feed::definitions::{header_version, read_topic};
use crate::feed::publish::{PublishError, Publisher, Record, Tombstone};
use crate::message::change::{Change, ChangeKind};
use crate::message::kill_switch::{KillSwitch, SwitchAction, SwitchEvent, SwitchState, Switched};

use super::{KillError, SWITCHES_MAX};

/// For a change to be written, other writers and a broker that stumbles included.
const WRITE_PATIENCE: Duration = Duration::from_secs(8);
const MAX_PAUSE_MS: u64 = 100;
/// Who writes down that a switch has expired.
const KEEPER: &str = "flagstream";
/// A lifted switch of a flag that is gone is remembered for so long.
const REMEMBERED_HOURS: i64 = 24;

/// A change on its way.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) environment: String,
    pub(super) flag: String,
    pub(super) action: Action,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) change_id: Uuid,
    /// Of the flag in force; `None` where there is none.
    pub(super) definition_version: Option<u64>,
    /// The highest version that is in force here.
    pub(super) seen_version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Kill {
        expires_at: Option<DateTime<Utc>>,
    },
    Restore,
    /// What has expired is written down as lifted.
    Expire,
    /// The switch as it is gets a higher version than the definition that came beside it.
    Renew,
    /// A lifted switch whose version no longer matters.
    Forget,
}

/// The topic as it was read.
#[derive(Debug, Default)]
struct Known {
    switches: BTreeMap<String, KillSwitch>,
    highest: u64,
}

/// What is to be written.
enum Next {
    Nothing,
    Switch(KillSwitch, Option<SwitchAction>),
    Tombstone,
}

/// Writes the change, unless there is nothing to write.
pub(super) fn write(config: &Config, wanted: &Wanted) -> Result<Option<KillSwitch>, KillError> {
    let deadline = Instant::now() + WRITE_PATIENCE;
    loop {
        let error = match attempt(config, wanted) {
            Ok(written) => return written,
            Err(error) => error,
        };
        let is_hopeless = matches!(error, PublishError::TooLarge(_));
        if is_hopeless || Instant::now() >= deadline {
            return Err(KillError::Kafka(error.to_string()));
        }
        if !matches!(error, PublishError::Fenced(_)) {
            warn!(flag = wanted.flag, %error, "a kill switch is not written yet");
        }
        let pause = rand::rng().random_range(MAX_PAUSE_MS / 10..MAX_PAUSE_MS);
        std::thread::sleep(Duration::from_millis(pause));
    }
}

fn attempt(config: &Config, wanted: &Wanted) -> Result<Result<Option<KillSwitch>, KillError>, PublishError> {
    let (topics, started) = (&config.topics, Instant::now());
    // First the fence: only then nobody else can write what is not read.
    let publisher =
        Publisher::open(config, "overrides", [&topics.overrides, &topics.events, &topics.updates])?;
    let opened = started.elapsed();
    let known = read(config)?;
    let read = started.elapsed();
    let key = wanted.key();
    let before = known.switches.get(&key);
    if let Some(mine) = before.filter(|before| before.change_id == wanted.change_id) {
        // Committed before, though nobody said so.
        return Ok(Ok(Some(mine.clone())));
    }
    let now = Utc::now();
    let now_ms = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    let version = (known.highest.max(wanted.seen_version) + 1).max(now_ms);
    if before.is_none() && known.switches.len() >= SWITCHES_MAX {
        return Ok(Err(KillError::TooMany));
    }
    let (next, action) = match wanted.next(before, version, now) {
        Next::Nothing => return Ok(Ok(None)),
        Next::Tombstone => {
            let tombstone = Tombstone { version, actor: wanted.actor.clone() };
            let record = Record { topic: &topics.overrides, key, body: None, tombstone: Some(tombstone) };
            publisher.transaction(&[record], None)?;
            return Ok(Ok(None));
        }
        Next::Switch(next, action) => (next, action),
    };
    let records = records(config, before, &next, action, now);
    let records = records.map_err(|error| PublishError::Other(error.to_string()))?;
    publisher.transaction(&records, None)?;
    debug!(?opened, ?read, committed = ?started.elapsed(), version = next.version, "a kill switch is written");
    Ok(Ok(Some(next)))
}

fn read(config: &Config) -> Result<Known, PublishError> {
    let mut known = Known::default();
    let read = read_topic(config, &config.topics.overrides, "overrides-state", |message| {
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
            // The stores refuse it too.
            Err(error) => warn!(key, offset = message.offset(), %error, "not a kill switch"),
        }
    });
    read.map_err(|error| PublishError::Other(error.to_string()))?;
    Ok(known)
}

impl Wanted {
    fn key(&self) -> String {
        format!("{}/{}", self.environment, self.flag)
    }

    fn next(&self, before: Option<&KillSwitch>, version: u64, now: DateTime<Utc>) -> Next {
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
                Next::Switch(made(SwitchState::Killed, expires_at), Some(SwitchAction::Killed))
            }
            (Action::Restore, Some(before)) if before.is_on(now) => {
                Next::Switch(lifted(), Some(SwitchAction::Restored))
            }
            (Action::Expire, Some(before)) if is_expired(before, now) => {
                let reason = "its time is up".to_owned();
                let lifted = KillSwitch { actor: KEEPER.to_owned(), reason, ..lifted() };
                Next::Switch(lifted, Some(SwitchAction::Expired))
            }
            (Action::Renew, Some(before)) if is_overtaken(before, self.definition_version) => {
                let definition_version = self.definition_version;
                Next::Switch(KillSwitch { version, definition_version, ..before.clone() }, None)
            }
            (Action::Forget, Some(before)) if is_forgettable(before, self.definition_version, now) => {
                Next::Tombstone
            }
            _ => Next::Nothing,
        }
    }
}

/// Nobody has written down yet that its time is up.
pub(super) fn is_expired(switch: &KillSwitch, now: DateTime<Utc>) -> bool {
    switch.state == SwitchState::Killed && switch.expires_at.is_some_and(|at| at <= now)
}

/// A definition that the switch's writer did not know came with a version that is not higher: written at the same time,
/// or by a leader whose clock is behind. What was derived from either would have the same version.
pub(super) fn is_overtaken(switch: &KillSwitch, definition: Option<u64>) -> bool {
    definition.is_some_and(|version| version <= switch.version) && definition != switch.definition_version
}

/// The flag's own version is higher by now, or the flag is gone for long.
pub(super) fn is_forgettable(switch: &KillSwitch, definition: Option<u64>, now: DateTime<Utc>) -> bool {
    let is_old = now - switch.changed_at > TimeDelta::hours(REMEMBERED_HOURS);
    switch.state == SwitchState::Lifted && definition.map_or(is_old, |version| version > switch.version)
}

/// The switch, the event that becomes the change log's entry, and the invalidation.
fn records<'c>(
    config: &'c Config,
    before: Option<&KillSwitch>,
    next: &KillSwitch,
    action: Option<SwitchAction>,
    now: DateTime<Utc>,
) -> Result<Vec<Record<'c>>, serde_json::Error> {
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
        record(topics.events.as_str(), event),
        record(topics.updates.as_str(), serde_json::to_vec(&invalidation)?),
    ])
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
