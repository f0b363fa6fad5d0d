//! Removal of a user's data: from the attributes, from the database and from Redis, with a list of the places that are not changed.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::attributes::{AttributeWriter, WriteError};
use crate::audit;
use crate::audit::erase::{self, Erasure, ErasureRequest};
use crate::config::Config;
use crate::database::audited::{self, Actor, Entry, Kind};
use crate::database::{Database, DatabaseError, in_transaction};
use crate::privacy::Privacy;
use crate::redis_cache::{self, EraseError};

use super::Manager;

/// Number of erased items per storage, and storages that may still contain data about the user.
#[derive(Debug, Serialize)]
pub struct UserErasure {
    #[serde(flatten)]
    pub database: erase::ErasureReport,
    /// Number of keys removed from Redis.
    pub keys: u64,
    /// Number of rows removed from the table of users' attributes: one, also if there was none.
    pub attributes: u64,
    pub kept: Vec<KeptPlace>,
}

/// A storage that an erasure does not change.
#[derive(Debug, Serialize)]
pub struct KeptPlace {
    pub place: String,
    pub why: String,
}

/// Reason why an erasure failed. It may have removed a part of the data, and can be repeated.
#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    #[error("{0}")]
    Database(#[from] DatabaseError),
    #[error("Redis: {0}")]
    Redis(EraseError),
    #[error("{0}")]
    Attributes(#[from] WriteError),
}

/// Erases a user from the attributes, from the database and from Redis. `user` is the id as services send it.
pub async fn erase_user(
    config: &Config,
    database: Option<&Database>,
    user: &str,
    how: Erasure,
    author: Actor<'_>,
) -> Result<UserErasure, ErasureError> {
    let users = &written_as(config, user);
    // First, so that evaluations that are erased below are not followed by others with the same attributes.
    let mut attributes = 0;
    if let Some(table) = config.attributes.tables.first() {
        AttributeWriter::new(config).erase(table, user).await?;
        attributes = 1;
    }
    let order = ErasureRequest { users, how, author };
    let erased = match database {
        Some(database) => erase::user(database, &audit::hasher(config), &order).await?,
        None => erase::ErasureReport::default(),
    };
    let mut keys = 0;
    if let Some(url) = &config.redis.url {
        for user in users {
            keys += redis_cache::erase(url.expose(), user).await.map_err(ErasureError::Redis)?;
        }
    }
    Ok(UserErasure { kept: kept(config, &erased), database: erased, keys, attributes })
}

/// Storages that an erasure does not change, each with what removes the data there.
pub fn kept(config: &Config, database: &erase::ErasureReport) -> Vec<KeptPlace> {
    let topics = &config.topics;
    let days = |time: std::time::Duration| time.as_secs() / 86_400;
    let kept = |place: String, why: String| KeptPlace { place, why };
    let mut places: Vec<KeptPlace> = database
        .flags_in_force
        .iter()
        .map(|flag| {
            kept(
                format!("flag {flag}"),
                "its rules contain the user id: change the flag in the system that manages it".into(),
            )
        })
        .collect();
    for topic in [&topics.requests, &topics.events, &topics.conversions] {
        places.push(kept(
            format!("topic {topic}"),
            format!("records expire after {} days (as set by `topics apply`)", days(topics.retention)),
        ));
    }
    places.push(kept(
        format!("topic {}", topics.dead_letters),
        format!(
            "refused records are stored unchanged and expire after {} days",
            days(topics.dead_letters_retention)
        ),
    ));
    for (index, table) in config.attributes.tables.iter().enumerate() {
        let why = match index {
            0 => "earlier records of the user are removed when Kafka compacts the topic".to_owned(),
            _ => format!(
                "its rows belong to {}; remove those about the user with DELETE /api/v1/attributes/KEY?table={}",
                table.field, table.name
            ),
        };
        places.push(kept(format!("topic {}", table.topic), why));
    }
    places.push(kept(
        "reply topics".into(),
        "they belong to the requesting services; their records expire by their own retention".into(),
    ));
    places.push(kept(
        "state folders of instances".into(),
        "events are deleted from the spool once Kafka has acknowledged them; the snapshot contains flags only".into(),
    ));
    if config.unleash.url.is_some() {
        places.push(kept(
            "Unleash".into(),
            "change user ids in its strategies and in its event log there".into(),
        ));
    }
    if config.privacy.hash_user_ids || config.privacy.hash_key.is_some() {
        places.push(kept(
            "rows under an earlier FLAGSTREAM_PRIVACY__HASH_KEY".into(),
            "they can only be found with that key: run the command again with it".into(),
        ));
    }
    places
}

/// The forms in which a user id is stored: unchanged, and hashed if a key is configured, because the setting may have
/// changed.
pub fn written_as(config: &Config, user: &str) -> Vec<String> {
    let hashed = config.privacy.hash_key.as_ref().and_then(|_| {
        let mut privacy = config.privacy.clone();
        privacy.hash_user_ids = true;
        Some(Privacy::of(&privacy)?.user(Cow::Borrowed(user)).into_owned())
    });
    // The database cannot store NUL, so rows contain the replacement character instead.
    [Some(user.replace('\0', "\u{FFFD}")), hashed].into_iter().flatten().collect()
}

impl Manager {
    /// Erases a user from the attributes, from the database and from Redis, and adds an entry to the change log.
    pub async fn erase_user(
        &self,
        user: &str,
        how: Erasure,
        author: Actor<'_>,
    ) -> Result<UserErasure, ErasureError> {
        let database = self.repository.as_ref().map(|repository| &repository.database);
        erase_user(&self.config, database, user, how, author).await
    }

    /// Adds an entry to the change log of everything except flags. Without a database there is none.
    pub async fn note(
        &self,
        kind: Kind,
        subject: &str,
        action: &'static str,
        author: Actor<'_>,
        after: Option<serde_json::Value>,
        at: DateTime<Utc>,
    ) -> Result<(), DatabaseError> {
        let Some(repository) = &self.repository else { return Ok(()) };
        let entry = Entry { kind, subject, action, author, before: None, after, at };
        in_transaction!(&repository.database, |transaction, sql| {
            audited::enter!(transaction, sql, &entry);
        });
        Ok(())
    }
}
