//! Erases a user from the change log, from recorded flag versions and from deleted flags.

use serde_json::Value;
use sqlx::PgConnection;

use crate::database::{Database, DatabaseError, in_transaction};

use super::redact::redact;

/// Rows per query.
const PAGE_ROWS: i64 = 500;

/// Result of erasing the user from the history.
#[derive(Debug, Default)]
pub(super) struct Erased {
    pub changes: u64,
    pub versions: u64,
    pub flags_in_force: Vec<String>,
}

const CHANGES: &str = "SELECT id, before::text, after::text FROM feature_flag_changes
    WHERE id > $1 AND (before IS NOT NULL OR after IS NOT NULL) ORDER BY id LIMIT $2";
const SET_CHANGE: &str =
    "UPDATE feature_flag_changes SET before = $2::jsonb, after = $3::jsonb WHERE id = $1";
const NOTE_CHANGE: &str = "INSERT INTO audit_erased_changes (log, row_id, row_digest, erasure_id)
    SELECT 'feature_flag_changes', c.id, sha256(convert_to(audit_text(c), 'UTF8')), $2 FROM feature_flag_changes c WHERE c.id = $1";
const VERSIONS: &str = "SELECT environment, name, version, definition::text FROM feature_flag_versions v
    WHERE definition IS NOT NULL AND (environment, name, version) > ($1, $2, $3)
    ORDER BY environment, name, version LIMIT $4";
const SET_VERSION: &str = "UPDATE feature_flag_versions SET definition = $4::jsonb
    WHERE environment = $1 AND name = $2 AND version = $3";
const IS_IN_FORCE: &str = "SELECT count(*) FROM feature_flags
    WHERE environment = $1 AND name = $2 AND version = $3 AND deleted_at IS NULL";
const LOCAL: &str = "SELECT environment, name, document::text FROM local_flags WHERE deleted_at IS NOT NULL";
const SET_LOCAL: &str = "UPDATE local_flags SET document = $3::jsonb WHERE environment = $1 AND name = $2";
const TARGETED: &str = "SELECT environment, name, target_users::text FROM feature_flags
    WHERE deleted_at IS NOT NULL AND target_users::text <> '[]'";
const SET_TARGETED: &str =
    "UPDATE feature_flags SET target_users = $3::jsonb WHERE environment = $1 AND name = $2";

pub(super) async fn erase(
    database: &Database,
    user: &str,
    erasure_id: &str,
) -> Result<Erased, DatabaseError> {
    let mut erased = Erased { changes: changes(database, user, erasure_id).await?, ..Erased::default() };
    versions(database, user, &mut erased).await?;
    deleted_flags(database, user).await?;
    Ok(erased)
}

/// Returns the JSON without the user, or `None` if it does not list the user.
fn without(text: Option<&str>, user: &str) -> Option<String> {
    let mut value: Value = serde_json::from_str(text?).ok()?;
    redact(&mut value, user).then(|| value.to_string())
}

async fn changes(database: &Database, user: &str, erasure_id: &str) -> Result<u64, DatabaseError> {
    let (mut last, mut changed) = (0, 0);
    loop {
        let page = in_transaction!(database, |transaction, sql| {
            allow(&mut *transaction).await?;
            let rows: Vec<(i64, Option<String>, Option<String>)> =
                sqlx::query_as(sql(CHANGES)).bind(last).bind(PAGE_ROWS).fetch_all(&mut *transaction).await?;
            for (id, before, after) in &rows {
                let (now_before, now_after) =
                    (without(before.as_deref(), user), without(after.as_deref(), user));
                if now_before.is_none() && now_after.is_none() {
                    continue;
                }
                let query = sqlx::query(sql(SET_CHANGE)).bind(id).bind(now_before.or_else(|| before.clone()));
                query.bind(now_after.or_else(|| after.clone())).execute(&mut *transaction).await?;
                note(&mut *transaction, *id, erasure_id).await?;
                changed += 1;
            }
            rows.last().map(|(id, ..)| *id)
        });
        match page {
            Some(id) => last = id,
            None => return Ok(changed),
        }
    }
}

/// Steps that only Postgres needs: `allow` permits changes of the change log within this transaction, and `note`
/// records the new digest of a changed entry for the hash chain.
trait Guarded {
    async fn allow(&mut self) -> Result<(), DatabaseError>;
    async fn note(&mut self, id: i64, erasure_id: &str) -> Result<(), DatabaseError>;
}

impl Guarded for PgConnection {
    async fn allow(&mut self) -> Result<(), DatabaseError> {
        sqlx::raw_sql("SET LOCAL flagstream.erasure = 'on'").execute(self).await?;
        Ok(())
    }

    async fn note(&mut self, id: i64, erasure_id: &str) -> Result<(), DatabaseError> {
        sqlx::query(NOTE_CHANGE).bind(id).bind(erasure_id).execute(self).await?;
        Ok(())
    }
}

impl Guarded for sqlx::SqliteConnection {
    async fn allow(&mut self) -> Result<(), DatabaseError> {
        Ok(())
    }

    async fn note(&mut self, _: i64, _: &str) -> Result<(), DatabaseError> {
        Ok(())
    }
}

async fn allow(connection: &mut impl Guarded) -> Result<(), DatabaseError> {
    connection.allow().await
}

async fn note(connection: &mut impl Guarded, id: i64, erasure_id: &str) -> Result<(), DatabaseError> {
    connection.note(id, erasure_id).await
}

/// Removes the user from past versions. A version that is in force is reported and not changed.
async fn versions(database: &Database, user: &str, erased: &mut Erased) -> Result<(), DatabaseError> {
    let mut last = (String::new(), String::new(), 0_i64);
    loop {
        let page = in_transaction!(database, |transaction, sql| {
            let query =
                sqlx::query_as(sql(VERSIONS)).bind(&last.0).bind(&last.1).bind(last.2).bind(PAGE_ROWS);
            let rows: Vec<(String, String, i64, String)> = query.fetch_all(&mut *transaction).await?;
            for (environment, name, version, definition) in &rows {
                let Some(redacted) = without(Some(definition), user) else { continue };
                let query = sqlx::query_scalar(sql(IS_IN_FORCE)).bind(environment).bind(name).bind(version);
                let in_force: i64 = query.fetch_one(&mut *transaction).await?;
                if in_force > 0 {
                    erased.flags_in_force.push(format!("{environment}/{name}"));
                    continue;
                }
                let query = sqlx::query(sql(SET_VERSION)).bind(environment).bind(name).bind(version);
                query.bind(redacted).execute(&mut *transaction).await?;
                erased.versions += 1;
            }
            rows.into_iter().next_back().map(|(environment, name, version, _)| (environment, name, version))
        });
        match page {
            Some(next) => last = next,
            None => return Ok(()),
        }
    }
}

/// Removes the user from deleted flags. Their rows are kept, because a missing row would look like a lost flag.
async fn deleted_flags(database: &Database, user: &str) -> Result<(), DatabaseError> {
    in_transaction!(database, |transaction, sql| {
        let rows: Vec<(String, String, String)> =
            sqlx::query_as(sql(LOCAL)).fetch_all(&mut *transaction).await?;
        for (environment, name, document) in rows {
            if let Some(redacted) = without(Some(&document), user) {
                let query = sqlx::query(sql(SET_LOCAL)).bind(environment).bind(name).bind(redacted);
                query.execute(&mut *transaction).await?;
            }
        }
        // Compared here and not by a pattern of SQL, whose escape and case rules differ between the databases.
        let rows: Vec<(String, String, String)> =
            sqlx::query_as(sql(TARGETED)).fetch_all(&mut *transaction).await?;
        for (environment, name, users) in rows {
            if let Some(others) = others(&users, user) {
                let query = sqlx::query(sql(SET_TARGETED)).bind(environment).bind(name).bind(others);
                query.execute(&mut *transaction).await?;
            }
        }
    });
    Ok(())
}

/// The list of users without this one, as JSON; `None` if it does not contain the user.
fn others(users: &str, user: &str) -> Option<String> {
    let mut users: Vec<Value> = serde_json::from_str(users).ok()?;
    let before = users.len();
    users.retain(|listed| listed.as_str() != Some(user));
    (users.len() < before).then(|| Value::from(users).to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[tokio::test]
    async fn any_user_is_taken_out_of_deleted_flags_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let database = Database::open(&Secret::new(url), "test").unwrap();
        database.migrate().await.unwrap();
        let Database::Sqlite(sqlite) = &database else { unreachable!() };
        let users = ["a_b", "a%b", r"a\b", "a\"b", "axb", "A_B", "ünï", "a_b_c", "a\u{1}b", ""];
        let listed = serde_json::to_string(&users).unwrap();
        for (name, deleted_at) in [("deleted", Some("2026-01-15T10:30:00Z")), ("in-force", None)] {
            let insert = "INSERT INTO feature_flags (environment, name, target_users, deleted_at)
                VALUES ('e', $1, $2, $3)";
            let insert = sqlx::query(insert).bind(name).bind(&listed).bind(deleted_at);
            insert.execute(&sqlite.pool).await.unwrap();
        }
        let left = async |name: &str| {
            let select = sqlx::query_scalar("SELECT target_users FROM feature_flags WHERE name = $1");
            let text: String = select.bind(name).fetch_one(&sqlite.pool).await.unwrap();
            serde_json::from_str::<Vec<String>>(&text).unwrap()
        };
        for (index, user) in users.iter().enumerate() {
            deleted_flags(&database, user).await.unwrap();
            assert_eq!(left("deleted").await, users[index + 1..], "{user:?}");
        }
        assert_eq!(left("in-force").await, users, "changed where the flag is managed");
    }
}
