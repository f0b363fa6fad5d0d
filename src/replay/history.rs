//! All recorded versions of all flags, and the changes of their kill switches.

use std::sync::Arc;

use ahash::AHashMap;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::Deserialize;
use uuid::Uuid;

use crate::database::{Database, on_pool};
use crate::flag::definition::lenient_text;
use crate::message::kill_switch::{KillSwitch, Position, SwitchState};

use super::ReplayError;

/// Upper bound of all definitions in memory, in bytes.
const HISTORY_MAX_BYTES: usize = 1 << 30;
/// Upper bound of the flags that one flag depends on, directly or indirectly. Evaluation has a lower limit.
pub(super) const ANCESTORS_MAX_COUNT: usize = 500;

const VERSIONS: &str = "SELECT environment, name, version, in_force_at, definition::text
    FROM feature_flag_versions ORDER BY environment, name, version";
/// Changes of local flags are in the same table, but have no version.
const TURNS: &str =
    "SELECT environment, flag_name, version, changed_at, actor, coalesce(reason, ''), after::text
    FROM feature_flag_changes WHERE change_id IS NOT NULL AND version IS NOT NULL ORDER BY version";

const VERSIONS_OF: &str = "SELECT environment, name, version, in_force_at, definition::text
    FROM feature_flag_versions WHERE environment = $1 AND name = $2 ORDER BY version";
const TURNS_OF: &str =
    "SELECT environment, flag_name, version, changed_at, actor, coalesce(reason, ''), after::text
    FROM feature_flag_changes WHERE environment = $1 AND flag_name = $2 AND change_id IS NOT NULL
        AND version IS NOT NULL ORDER BY version";

type VersionRow = (String, String, i64, DateTime<Utc>, Option<String>);
type TurnRow = (String, String, i64, DateTime<Utc>, String, String, Option<String>);

/// History of all flags in all environments.
#[derive(Debug, Default)]
pub struct History {
    flags: Vec<FlagHistory>,
    /// Indexes into `flags`, by environment and name.
    numbers: AHashMap<Box<str>, AHashMap<Box<str>, usize>>,
    /// Total size of all definitions in bytes.
    bytes: usize,
}

/// Versions and kill switch changes of one flag, in ascending order.
#[derive(Debug)]
pub struct FlagHistory {
    pub environment: Arc<str>,
    pub name: Arc<str>,
    pub versions: Vec<Version>,
    pub turns: Vec<Turn>,
}

#[derive(Debug)]
pub struct Version {
    pub version: u64,
    pub in_force_ms: i64,
    /// Definition as JSON text. `None`: the flag was deleted.
    pub definition: Option<Box<str>>,
}

/// Change of a kill switch.
#[derive(Debug)]
pub struct Turn {
    pub version: u64,
    pub at_ms: i64,
    pub switch: Arc<KillSwitch>,
}

#[derive(Deserialize)]
struct Dependencies {
    #[serde(default)]
    dependencies: Option<Vec<Parent>>,
}

#[derive(Deserialize)]
struct Parent {
    /// Name of the parent flag: a string, or a number that evaluation reads as one.
    feature: serde_json::Value,
}

impl History {
    pub async fn load(database: &Database) -> Result<Self, ReplayError> {
        let mut history = Self::default();
        on_pool!(database, |pool, sql| {
            let mut rows = sqlx::query_as::<_, VersionRow>(sql(VERSIONS)).fetch(pool);
            while let Some(row) = rows.try_next().await? {
                history.version(row)?;
            }
            drop(rows);
            let mut rows = sqlx::query_as::<_, TurnRow>(sql(TURNS)).fetch(pool);
            while let Some(row) = rows.try_next().await? {
                history.turn(row);
            }
        });
        Ok(history)
    }

    /// Loads the history of one flag and of the flags that its versions or the proposed definition depend on.
    pub async fn of_flag(
        database: &Database,
        environment: &str,
        name: &str,
        proposed: &str,
    ) -> Result<Self, ReplayError> {
        let mut history = Self::default();
        let mut names = vec![name.to_owned()];
        names.extend(parents(proposed));
        let mut next = 0;
        while let Some(name) = names.get(next).cloned() {
            next += 1;
            on_pool!(database, |pool, sql| {
                let versions = sqlx::query_as(sql(VERSIONS_OF)).bind(environment).bind(&name);
                for row in versions.fetch_all(pool).await? {
                    history.version(row)?;
                }
                let turns = sqlx::query_as(sql(TURNS_OF)).bind(environment).bind(&name);
                turns.fetch_all(pool).await?.into_iter().for_each(|row| history.turn(row));
            });
            let number = history.known(environment, &name);
            let versions = history.flag(number).map(|flag| flag.versions.as_slice()).unwrap_or_default();
            for parent in versions.iter().filter_map(|it| it.definition.as_deref()).flat_map(parents) {
                if names.len() < ANCESTORS_MAX_COUNT && !names.contains(&parent) {
                    names.push(parent);
                }
            }
        }
        Ok(history)
    }

    fn version(
        &mut self,
        (environment, name, version, in_force_at, definition): VersionRow,
    ) -> Result<(), ReplayError> {
        let definition = definition.map(String::into_boxed_str);
        let in_force_ms = in_force_at.timestamp_millis();
        self.add(&environment, &name, Version { version: unsigned(version), in_force_ms, definition })
    }

    pub(super) fn add(&mut self, environment: &str, name: &str, version: Version) -> Result<(), ReplayError> {
        self.bytes += version.definition.as_ref().map_or(0, |definition| definition.len());
        if self.bytes > HISTORY_MAX_BYTES {
            return Err(ReplayError::HistoryTooLarge(HISTORY_MAX_BYTES));
        }
        let number = self.known(environment, name);
        if let Some(flag) = self.flags.get_mut(number) {
            flag.versions.push(version);
        }
        Ok(())
    }

    pub(super) fn turned(&mut self, environment: &str, name: &str, turn: Turn) {
        let number = self.known(environment, name);
        if let Some(flag) = self.flags.get_mut(number) {
            flag.turns.push(turn);
        }
    }

    /// Sorts versions and kill switch changes, and removes duplicates.
    pub(super) fn sort(&mut self) {
        for flag in &mut self.flags {
            flag.versions.sort_by_key(|it| it.version);
            flag.versions.dedup_by_key(|it| it.version);
            flag.turns.sort_by_key(|it| it.version);
            flag.turns.dedup_by_key(|it| it.version);
        }
    }

    fn turn(&mut self, (environment, name, version, changed_at, actor, reason, after): TurnRow) {
        let on: Option<Position> = after.and_then(|after| serde_json::from_str(&after).ok());
        let version = unsigned(version);
        let switch = KillSwitch {
            environment: environment.clone(),
            flag_name: name.clone(),
            state: if on.is_some() { SwitchState::Killed } else { SwitchState::Lifted },
            version,
            definition_version: None,
            actor,
            reason,
            changed_at,
            expires_at: on.and_then(|position| position.expires_at),
            change_id: Uuid::nil(),
        };
        let at_ms = changed_at.timestamp_millis();
        self.turned(&environment, &name, Turn { version, at_ms, switch: Arc::new(switch) });
    }

    /// Returns the index of a flag, and adds the flag if it is new.
    pub fn known(&mut self, environment: &str, name: &str) -> usize {
        if let Some(number) = self.number(environment, name) {
            return number;
        }
        let number = self.flags.len();
        self.numbers.entry(environment.into()).or_default().insert(name.into(), number);
        let (environment, name) = (environment.into(), name.into());
        self.flags.push(FlagHistory { environment, name, versions: Vec::new(), turns: Vec::new() });
        number
    }

    pub fn number(&self, environment: &str, name: &str) -> Option<usize> {
        self.numbers.get(environment)?.get(name).copied()
    }

    pub fn flag(&self, number: usize) -> Option<&FlagHistory> {
        self.flags.get(number)
    }
}

impl FlagHistory {
    /// Versions of the definitions and of the kill switch changes, with their times in milliseconds since 1970,
    /// unordered.
    pub fn steps(&self) -> impl Iterator<Item = (u64, i64)> {
        let versions = self.versions.iter().map(|version| (version.version, version.in_force_ms));
        versions.chain(self.turns.iter().map(|turn| (turn.version, turn.at_ms)))
    }

    /// Definitions up to this version, newest first.
    pub fn definitions(&self, upto: u64) -> impl Iterator<Item = &Version> {
        let end = self.versions.partition_point(|version| version.version <= upto);
        self.versions.get(..end).unwrap_or_default().iter().rev()
    }

    /// Kill switch changes up to this version, newest first.
    pub fn turns(&self, upto: u64) -> impl Iterator<Item = &Turn> {
        let end = self.turns.partition_point(|turn| turn.version <= upto);
        self.turns.get(..end).unwrap_or_default().iter().rev()
    }

    /// Whether a definition or a kill switch change has exactly this version.
    pub fn has(&self, version: u64) -> bool {
        let defined = self.versions.binary_search_by_key(&version, |it| it.version);
        defined.is_ok_and(|at| self.versions.get(at).is_some_and(|it| it.definition.is_some()))
            || self.turns.binary_search_by_key(&version, |it| it.version).is_ok()
    }
}

/// Names of the flags that a definition depends on.
pub fn parents(definition: &str) -> Vec<String> {
    let read: Option<Dependencies> = serde_json::from_str(definition).ok();
    let parents = read.and_then(|read| read.dependencies).unwrap_or_default();
    parents.iter().filter_map(|parent| lenient_text(&parent.feature)).collect()
}

fn unsigned(version: i64) -> u64 {
    u64::try_from(version).unwrap_or_default()
}
