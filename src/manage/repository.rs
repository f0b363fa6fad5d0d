//! Tables of local flags, which are the source of truth for them.

mod relations;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

pub(super) use crate::database::text_of as time;
use crate::database::{Database, DatabaseError, in_transaction, on_pool};
use crate::flag::local::{Family, LocalFlag};
use crate::message::change::ChangeKind;

/// Number of days for which a deleted flag is reported to the feeder as deleted. After that its absence counts as a
/// missing flag and goes through the deletion guard.
const DELETED_SHOWN_DAYS: i64 = 30;

/// Access to the tables. Clones share it.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) database: Database,
    migrated: watch::Receiver<bool>,
}

/// One local flag, for the feeder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRow {
    pub environment: String,
    pub name: String,
    pub revision: i64,
    /// A [`LocalFlag`] as JSON.
    pub document: String,
    pub actor: String,
    pub updated_at: DateTime<Utc>,
    pub deleted: bool,
}

/// Current state of a local flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    pub flag: LocalFlag,
    pub revision: i64,
    pub actor: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A change to be written.
#[derive(Debug, Clone, Copy)]
pub struct ChangeRequest<'w> {
    pub environment: &'w str,
    pub name: &'w str,
    pub kind: ChangeKind,
    /// Name of the action in the change log.
    pub action: &'static str,
    pub actor: &'w str,
    pub reason: Option<&'w str>,
}

/// Decision taken while the row is locked.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept")]
pub enum Decision<E> {
    /// Writes the flag; `None` deletes it.
    Write(Option<LocalFlag>),
    Leave(E),
}

/// Result of a change.
#[derive(Debug)]
pub enum Written<E> {
    /// Revision after the change and before it.
    ChangeResult {
        revision: i64,
        before: Option<i64>,
    },
    NoChange(E),
}

type Row = (i64, String, String, DateTime<Utc>, DateTime<Utc>, Option<DateTime<Utc>>);
type FeedRow = (String, String, i64, String, String, DateTime<Utc>, bool);

/// Number and total size of local flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LocalCount {
    pub flags: i64,
    pub environments: i64,
    pub bytes: i64,
    /// Number of flags in one environment.
    pub flags_here: i64,
    pub bytes_here: i64,
}

impl Repository {
    pub fn new(database: Database, migrated: watch::Receiver<bool>) -> Self {
        Self { database, migrated }
    }

    /// Waits until the tables exist.
    pub async fn ready(&self) {
        // An error means that the process is stopping.
        let _ = self.migrated.clone().wait_for(|migrated| *migrated).await;
    }

    /// The present time, by the database's clock if this machine's is wrong.
    pub fn now(&self) -> DateTime<Utc> {
        self.database.now()
    }

    /// Returns a number that grows with every committed change, in any order of commits.
    pub async fn mark(&self) -> Result<i64, DatabaseError> {
        let question = "SELECT coalesce(sum(revision), 0)::bigint FROM local_flags";
        Ok(on_pool!(&self.database, |pool, sql| sqlx::query_scalar(sql(question)).fetch_one(pool).await?))
    }

    /// Returns all local flags, and those that were deleted recently.
    pub async fn all(&self) -> Result<Vec<LocalRow>, DatabaseError> {
        let question = "SELECT environment, name, revision, document::text, actor, updated_at, deleted_at IS NOT NULL
            FROM local_flags WHERE deleted_at IS NULL OR deleted_at > $1::timestamptz ORDER BY environment, name";
        let since = time(Utc::now() - chrono::TimeDelta::days(DELETED_SHOWN_DAYS));
        let rows: Vec<FeedRow> = on_pool!(&self.database, |pool, sql| sqlx::query_as(sql(question))
            .bind(since)
            .fetch_all(pool)
            .await?);
        let row = |(environment, name, revision, document, actor, updated_at, deleted)| LocalRow {
            environment,
            name,
            revision,
            document,
            actor,
            updated_at,
            deleted,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Returns the number and size of local flags, in all environments and in this one.
    pub async fn count(&self, environment: &str) -> Result<LocalCount, DatabaseError> {
        let question = "SELECT count(*), count(DISTINCT environment), coalesce(sum(bytes), 0)::bigint,
                coalesce(sum(here), 0)::bigint, coalesce(sum(here * bytes), 0)::bigint
            FROM (
                SELECT environment, length(CAST(document AS text)) AS bytes,
                    CASE environment WHEN $1 THEN 1 ELSE 0 END AS here
                FROM local_flags WHERE deleted_at IS NULL
            ) AS flags";
        let (flags, environments, bytes, flags_here, bytes_here) = on_pool!(&self.database, |pool, sql| {
            sqlx::query_as(sql(question)).bind(environment).fetch_one(pool).await?
        });
        Ok(LocalCount { flags, environments, bytes, flags_here, bytes_here })
    }

    /// Changes a flag as `decide` says. The row is locked while `decide` sees the current flag (`None`: it does not
    /// exist). The change log entry is written in the same transaction.
    pub async fn change<E>(
        &self,
        request: ChangeRequest<'_>,
        decide: impl FnOnce(Option<&Local>) -> Decision<E>,
    ) -> Result<Written<E>, DatabaseError> {
        self.change_among(request, false, |before, _| decide(before)).await
    }

    /// Changes a flag like [`Self::change`]. With `related`, `decide` also gets the environment's local flags and their
    /// dependencies, which cannot change until the transaction ends.
    pub async fn change_among<E>(
        &self,
        request: ChangeRequest<'_>,
        related: bool,
        decide: impl FnOnce(Option<&Local>, Family) -> Decision<E>,
    ) -> Result<Written<E>, DatabaseError> {
        let ChangeRequest { environment, name, kind, action, actor, reason } = request;
        let now = Utc::now();
        Ok(in_transaction!(&self.database, |transaction, sql| {
            let mut family = Family::default();
            if related {
                sqlx::query(sql(relations::TURN)).execute(&mut *transaction).await?;
                let rows = sqlx::query_as(sql(relations::ALL)).bind(environment);
                family = relations::read(rows.fetch_all(&mut *transaction).await?);
            }
            if kind == ChangeKind::Created {
                // Inserts a row that can be locked. It is marked as deleted until the flag is written.
                sqlx::query(sql(PLACE))
                    .bind(environment)
                    .bind(name)
                    .bind(actor)
                    .bind(time(now))
                    .execute(&mut *transaction)
                    .await?;
            }
            let row: Option<Row> = sqlx::query_as(sql(LOCK))
                .bind(environment)
                .bind(name)
                .fetch_optional(&mut *transaction)
                .await?;
            let before = row.map(read).transpose()?.flatten();
            match decide(before.as_ref(), family) {
                Decision::Leave(why) => Written::NoChange(why),
                Decision::Write(flag) => {
                    let document = flag.as_ref().map(json).transpose()?;
                    let was = before.as_ref().map(|before| json(&before.flag)).transpose()?;
                    let revision: i64 = sqlx::query_scalar(sql(LOG))
                        .bind(environment)
                        .bind(name)
                        .bind(action)
                        .bind(actor)
                        .bind(reason)
                        .bind(was)
                        .bind(&document)
                        .bind(time(now))
                        .fetch_one(&mut *transaction)
                        .await?;
                    sqlx::query(sql(SET))
                        .bind(environment)
                        .bind(name)
                        .bind(revision)
                        .bind(&document)
                        .bind(actor)
                        .bind(time(now))
                        .bind(kind == ChangeKind::Created)
                        .bind(flag.is_none())
                        .execute(&mut *transaction)
                        .await?;
                    if flag.is_some() {
                        sqlx::query(sql(ENTER))
                            .bind(environment)
                            .bind(name)
                            .execute(&mut *transaction)
                            .await?;
                    }
                    Written::ChangeResult { revision, before: before.map(|before| before.revision) }
                }
            }
        }))
    }

    /// Returns the current state of a flag.
    pub async fn find(&self, environment: &str, name: &str) -> Result<Option<Local>, DatabaseError> {
        let row: Option<Row> = on_pool!(&self.database, |pool, sql| {
            sqlx::query_as(sql(FIND)).bind(environment).bind(name).fetch_optional(pool).await?
        });
        Ok(row.map(read).transpose()?.flatten())
    }
}

const FIND: &str =
    "SELECT revision, document::text, actor, created_at, updated_at, deleted_at FROM local_flags
    WHERE environment = $1 AND name = $2";
const LOCK: &str =
    "SELECT revision, document::text, actor, created_at, updated_at, deleted_at FROM local_flags
    WHERE environment = $1 AND name = $2 FOR UPDATE";
const PLACE: &str = "INSERT INTO local_flags
        (environment, name, revision, document, actor, created_at, updated_at, deleted_at)
    VALUES ($1, $2, 0, '{}', $3, $4::timestamptz, $4::timestamptz, $4::timestamptz) ON CONFLICT DO NOTHING";
const LOG: &str = "INSERT INTO feature_flag_changes
        (environment, flag_name, action, actor, reason, before, after, changed_at)
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8::timestamptz) RETURNING id";
const SET: &str =
    "UPDATE local_flags SET revision = $3, document = coalesce($4::jsonb, document), actor = $5,
        updated_at = $6::timestamptz, created_at = CASE WHEN $7 THEN $6::timestamptz ELSE created_at END,
        deleted_at = CASE WHEN $8 THEN $6::timestamptz END
    WHERE environment = $1 AND name = $2";
/// Adds the flag to the flag cache, which assigns its id and holds its evaluation count.
const ENTER: &str = "INSERT INTO feature_flags (environment, name) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// Reads a row; `None` if the flag is deleted.
fn read(
    (revision, document, actor, created_at, updated_at, deleted_at): Row,
) -> Result<Option<Local>, sqlx::Error> {
    if deleted_at.is_some() {
        return Ok(None);
    }
    let flag = serde_json::from_str(&document).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Some(Local { flag, revision, actor, created_at, updated_at }))
}

fn json(flag: &LocalFlag) -> Result<String, sqlx::Error> {
    serde_json::to_string(flag).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(super) fn action(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Created => "created",
        ChangeKind::Updated => "updated",
        ChangeKind::Deleted => "deleted",
    }
}
