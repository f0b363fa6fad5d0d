//! Change log of everything except flags. An entry is written in the transaction that makes the change.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Database, DatabaseError, on_pool};

/// User who makes a change, and the reason.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    pub actor: &'a str,
    pub reason: Option<&'a str>,
}

/// Kind of object that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Token,
    Experiment,
    /// A user was erased; the subject is the id of the erasure.
    Erasure,
    /// Evaluations were removed by retention.
    Retention,
    /// A dead letter was sent again; the subject is its position.
    DeadLetter,
    /// A replay was started or cancelled; the subject is its id.
    Replay,
}

/// New entry of the change log.
#[derive(Debug)]
pub struct Entry<'e> {
    pub kind: Kind,
    pub subject: &'e str,
    pub action: &'static str,
    pub author: Actor<'e>,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub at: DateTime<Utc>,
}

/// Stored entry of the change log.
#[derive(Debug, Serialize)]
pub struct Audited {
    pub id: i64,
    pub action: String,
    pub actor: String,
    pub reason: Option<String>,
    pub before: Option<Box<RawValue>>,
    pub after: Option<Box<RawValue>>,
    pub changed_at: DateTime<Utc>,
}

pub(crate) const ENTER: &str = "INSERT INTO audited_changes
        (kind, subject, action, actor, reason, before, after, changed_at)
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8::timestamptz)";
const ENTRIES: &str = "SELECT id, action, actor, reason, before::text, after::text, changed_at
    FROM audited_changes WHERE kind = $1 AND subject = $2 ORDER BY id DESC LIMIT $3";

/// Inserts an entry, within a transaction of either database.
macro_rules! enter {
    ($transaction:expr, $sql:expr, $entry:expr) => {{
        let entry = $entry;
        let text = |value: &Option<serde_json::Value>| value.as_ref().map(serde_json::Value::to_string);
        sqlx::query($sql($crate::database::audited::ENTER))
            .bind(entry.kind.as_str())
            .bind(entry.subject)
            .bind(entry.action)
            .bind(entry.author.actor)
            .bind(entry.author.reason)
            .bind(text(&entry.before))
            .bind(text(&entry.after))
            .bind($crate::database::text_of(entry.at))
            .execute(&mut *$transaction)
            .await?
    }};
}

pub(crate) use enter;

type Row = (i64, String, String, Option<String>, Option<String>, Option<String>, DateTime<Utc>);

/// Returns the latest changes of one object, newest first.
pub async fn entries(
    database: &Database,
    kind: Kind,
    subject: &str,
    limit: u32,
) -> Result<Vec<Audited>, DatabaseError> {
    let rows: Vec<Row> = on_pool!(database, |pool, sql| {
        let question = sqlx::query_as(sql(ENTRIES)).bind(kind.as_str()).bind(subject);
        question.bind(i64::from(limit)).fetch_all(pool).await?
    });
    let raw = |text: Option<String>| text.map(RawValue::from_string).transpose();
    let read = |(id, action, actor, reason, before, after, changed_at): Row| {
        Ok(Audited { id, action, actor, reason, before: raw(before)?, after: raw(after)?, changed_at })
    };
    let entries: Result<Vec<_>, serde_json::Error> = rows.into_iter().map(read).collect();
    entries.map_err(|error| sqlx::Error::Decode(error.into()).into())
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Experiment => "experiment",
            Self::Erasure => "erasure",
            Self::Retention => "retention",
            Self::DeadLetter => "dead_letter",
            Self::Replay => "replay",
        }
    }
}
