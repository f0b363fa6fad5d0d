//! Verifies that each entry of a change log matches its link, and that none is missing.

use std::collections::HashMap;
use std::fmt::Write as _;

use futures_util::TryStreamExt;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Row};

use crate::database::PostgresDatabase;

use super::super::chain::{Digest, GENESIS};
use super::{ProblemKind, Verified, VerifyError, digest};

/// Change logs: the table, and its columns in the order in which the trigger writes them (`audit_text` in the
/// migrations).
const LOGS: [(&str, &str); 2] = [
    (
        "feature_flag_changes",
        "c.id::text, c.environment, c.flag_name, c.action, c.actor, c.reason, c.before::text, c.after::text, \
         to_char(c.changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), c.change_id, c.version::text",
    ),
    (
        "audited_changes",
        "c.id::text, c.kind, c.subject, c.action, c.actor, c.reason, c.before::text, c.after::text, \
         to_char(c.changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')",
    ),
];

/// Number of link columns in front of the entry's columns.
const LINK_COLUMNS: usize = 4;

pub(super) async fn verify(database: &PostgresDatabase, verified: &mut Verified) -> Result<(), VerifyError> {
    for (log, columns) in LOGS {
        verify_log(database, log, columns, verified).await?;
    }
    Ok(())
}

async fn verify_log(
    database: &PostgresDatabase,
    log: &'static str,
    columns: &str,
    verified: &mut Verified,
) -> Result<(), VerifyError> {
    let mut transaction = database.pool.begin().await?;
    // One snapshot of both tables, because entries may be added meanwhile.
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *transaction)
        .await?;
    let erased = "SELECT row_id, row_digest FROM audit_erased_changes WHERE log = $1";
    let mut replaced: HashMap<i64, Vec<Digest>> = HashMap::new();
    for row in sqlx::query(erased).bind(log).fetch_all(&mut *transaction).await? {
        let now = digest(row.try_get(1)?).unwrap_or(GENESIS);
        replaced.entry(row.try_get(0)?).or_default().push(now);
    }
    verified.erased_changes += replaced.len() as u64;
    // Table and columns are constants, so interpolation is safe.
    let links = format!(
        "SELECT l.number, l.row_id, l.row_digest, l.hash, {columns}
         FROM audit_change_links l LEFT JOIN {log} c ON c.id = l.row_id WHERE l.log = '{log}' ORDER BY l.number"
    );
    let (mut number, mut previous) = (0, GENESIS);
    {
        let mut rows = sqlx::query(AssertSqlSafe(links)).fetch(&mut *transaction);
        while let Some(row) = rows.try_next().await? {
            let found: i64 = row.try_get(0)?;
            if found != number + 1 {
                let detail = format!("links {} to {} are missing", number + 1, found - 1);
                verified.add(ProblemKind::Missing, log, number + 1, detail);
            }
            let (id, linked): (i64, Option<Digest>) = (row.try_get(1)?, digest(row.try_get(2)?));
            let hash = digest(row.try_get(3)?);
            let expected = linked.map(|linked| follow(&previous, &linked));
            if found == number + 1 && hash != expected {
                verified.add(
                    ProblemKind::BrokenChain,
                    log,
                    found,
                    "the link's hash does not match the previous link: one of the two was changed",
                );
            }
            compare(log, found, id, linked, entry(&row)?, replaced.get(&id), verified);
            verified.changes += 1;
            (number, previous) = (found, hash.unwrap_or(GENESIS));
        }
    }
    ends(&mut transaction, log, number, &previous, verified).await
}

/// Compares the end of the chain with its head, and reports entries without a link.
async fn ends(
    connection: &mut sqlx::PgConnection,
    log: &'static str,
    number: i64,
    hash: &Digest,
    verified: &mut Verified,
) -> Result<(), VerifyError> {
    let head = "SELECT number, hash FROM audit_change_heads WHERE log = $1";
    let head = sqlx::query(head).bind(log).fetch_optional(&mut *connection).await?;
    let (last, head_hash) = match &head {
        Some(row) => (row.try_get(0)?, digest(row.try_get(1)?)),
        None => (0_i64, None),
    };
    if last != number || (number > 0 && head_hash.as_ref() != Some(hash)) {
        let detail = format!("the chain ends with link {number}, but its head records link {last}");
        verified.add(ProblemKind::Missing, log, last, detail);
    }
    let unlinked = format!(
        "SELECT count(*) FROM {log} c WHERE NOT EXISTS (SELECT 1 FROM audit_change_links l WHERE l.log = '{log}' AND l.row_id = c.id)"
    );
    let unlinked: i64 = sqlx::query_scalar(AssertSqlSafe(unlinked)).fetch_one(connection).await?;
    if unlinked > 0 {
        verified.add(
            ProblemKind::Added,
            log,
            0,
            format!("{unlinked} entries have no link: they were not written by flagstream"),
        );
    }
    Ok(())
}

fn compare(
    log: &str,
    number: i64,
    id: i64,
    linked: Option<Digest>,
    entry: Option<Digest>,
    replaced: Option<&Vec<Digest>>,
    verified: &mut Verified,
) {
    let Some(entry) = entry else {
        return verified.add(ProblemKind::Missing, log, number, format!("entry {id} was removed"));
    };
    let is_erased = replaced.is_some_and(|digests| digests.contains(&entry));
    if linked != Some(entry) && !is_erased {
        verified.add(ProblemKind::Changed, log, number, format!("entry {id} was changed"));
    }
}

fn follow(previous: &Digest, linked: &Digest) -> Digest {
    Sha256::new().chain_update(previous).chain_update(linked).finalize().into()
}

/// Digest of the entry as it is now; `None` if it is gone.
fn entry(row: &sqlx::postgres::PgRow) -> Result<Option<Digest>, sqlx::Error> {
    let mut text = String::new();
    for column in LINK_COLUMNS..row.len() {
        let value: Option<String> = row.try_get(column)?;
        if column == LINK_COLUMNS && value.is_none() {
            return Ok(None);
        }
        match value {
            Some(value) => drop(write!(text, "{}:{value}", value.len())),
            None => text.push('-'),
        }
    }
    Ok(Some(Sha256::digest(text.as_bytes()).into()))
}
