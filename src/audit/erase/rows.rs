//! A user's evaluations, exposures and conversions.

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::audit::evaluation::Evaluation;
use crate::audit::postgres::copy;
use crate::database::{Database, DatabaseError, PostgresDatabase, in_transaction};
use crate::experiment::key::key;
use crate::replay::rows::{Copied, each_row};

use super::super::chain::{Digest, Hasher};
use super::Erasure;

/// Rows of one statement: more would hold locks for longer than a sink should wait.
const ROWS_PER_STATEMENT: i64 = 10_000;

/// Erases all rows of a user; returns how many there were.
pub(super) async fn erase(
    database: &Database,
    hasher: &Hasher,
    user: &str,
    how: Erasure,
    erasure_id: &str,
) -> Result<u64, DatabaseError> {
    let mut erased = 0;
    loop {
        let some = match database {
            Database::Postgres(postgres) => in_postgres(postgres, hasher, user, how, erasure_id).await?,
            Database::Sqlite(sqlite) => {
                sqlx::query(in_sqlite(how)).bind(user).execute(&sqlite.pool).await?.rows_affected()
            }
        };
        erased += some;
        if some == 0 {
            break;
        }
    }
    Ok(erased + of_experiments(database, user, how).await?)
}

/// Exposures and conversions. Anonymised, they are somebody's still, whom nobody knows.
async fn of_experiments(database: &Database, user: &str, how: Erasure) -> Result<u64, DatabaseError> {
    let nobody = key(&Uuid::new_v4().to_string());
    Ok(in_transaction!(database, |transaction, _sql| {
        let mut erased = 0;
        for table in ["experiment_exposures", "experiment_conversions"] {
            let change = match how {
                Erasure::Remove => format!("DELETE FROM {table}"),
                Erasure::Anonymise => format!("UPDATE {table} SET user_key = $2"),
            };
            // Exposures are found by their key, experiment by experiment.
            let change = format!(
                "{change} WHERE user_key = $1 AND user_key <> $2 AND experiment_id IN (SELECT id FROM experiments)"
            );
            let change = sqlx::query(AssertSqlSafe(change)).bind(key(user).to_vec()).bind(nobody.to_vec());
            erased += change.execute(&mut *transaction).await?.rows_affected();
        }
        erased
    }))
}

/// Erases some rows and keeps the digests that their blocks of the hash chain need, in one transaction.
async fn in_postgres(
    postgres: &PostgresDatabase,
    hasher: &Hasher,
    user: &str,
    how: Erasure,
    erasure_id: &str,
) -> Result<u64, DatabaseError> {
    let mut transaction = postgres.pool.begin().await?;
    let mut kept = KeptDigests::default();
    let mut buffer = Vec::new();
    let rows = erased_rows(&mut transaction, &statement(user, how), |row| {
        let digest = hasher.row(row, &mut buffer);
        let replaced_by = (how == Erasure::Anonymise).then(|| hasher.row(&anonymous(row), &mut buffer));
        kept.add(row.audit_block, digest, replaced_by);
    })
    .await?;
    kept.write(&mut transaction, erasure_id).await?;
    transaction.commit().await?;
    Ok(rows)
}

/// Runs a `COPY` that changes rows and returns them as they were.
async fn erased_rows(
    connection: &mut PgConnection,
    statement: &str,
    mut take: impl FnMut(&Evaluation<'_>),
) -> Result<u64, DatabaseError> {
    let unreadable = |error: crate::replay::ReplayError| sqlx::Error::Decode(error.into());
    let mut stream = connection.copy_out_raw(statement).await?;
    let (mut copied, mut rows) = (Copied::default(), 0);
    while let Some(chunk) = stream.try_next().await? {
        if let Some(block) = copied.add(&chunk).map_err(unreadable)? {
            rows += each_row(&block, &mut take).map_err(unreadable)?;
        }
    }
    rows += each_row(&copied.rest(), &mut take).map_err(unreadable)?;
    Ok(rows)
}

/// What an anonymised row says; as `UPDATE` in [`statement`] writes it.
fn anonymous<'a>(row: &Evaluation<'a>) -> Evaluation<'a> {
    Evaluation {
        user_id: None,
        session_id: None,
        request_id: None,
        context: "{}".into(),
        amended: true,
        ..row.clone()
    }
}

/// `COPY` takes no parameters: the user's id is quoted. Both forms return the rows as they were.
fn statement(user: &str, how: Erasure) -> String {
    let user = user.replace('\0', "").replace('\'', "''");
    let columns = copy::COLUMN_NAMES;
    // The condition is that of the index on users.
    let picked = format!(
        "SELECT evaluated_at, id FROM feature_flag_evaluations
            WHERE hashtextextended(user_id, 0) = hashtextextended('{user}', 0) AND user_id = '{user}' LIMIT {ROWS_PER_STATEMENT}"
    );
    match how {
        Erasure::Remove => format!(
            "COPY (DELETE FROM feature_flag_evaluations WHERE (evaluated_at, id) IN ({picked}) RETURNING {columns})
                TO STDOUT (FORMAT binary)"
        ),
        // The outer query does not see what the inner one changes.
        Erasure::Anonymise => format!(
            "COPY (WITH picked AS MATERIALIZED ({picked} FOR UPDATE), changed AS (
                UPDATE feature_flag_evaluations SET user_id = NULL, session_id = NULL, request_id = NULL, context = '{{}}',
                    amended = true WHERE (evaluated_at, id) IN (SELECT evaluated_at, id FROM picked))
                SELECT {columns} FROM feature_flag_evaluations WHERE (evaluated_at, id) IN (SELECT evaluated_at, id FROM picked))
                TO STDOUT (FORMAT binary)"
        ),
    }
}

/// Rows of `audit_erased_rows`, column by column.
#[derive(Default)]
struct KeptDigests {
    blocks: Vec<i64>,
    digests: Vec<Vec<u8>>,
    replaced_by: Vec<Option<Vec<u8>>>,
}

impl KeptDigests {
    /// Rows outside the chain need no digest.
    fn add(&mut self, block: Option<i64>, digest: Digest, replaced_by: Option<Digest>) {
        if let Some(block) = block {
            self.blocks.push(block);
            self.digests.push(digest.to_vec());
            self.replaced_by.push(replaced_by.map(|digest| digest.to_vec()));
        }
    }

    async fn write(self, connection: &mut PgConnection, erasure_id: &str) -> Result<(), DatabaseError> {
        let insert = "INSERT INTO audit_erased_rows (audit_block, digest, replaced_by, erasure_id)
            SELECT block, digest, replaced_by, $4 FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS n (block, digest, replaced_by)";
        let insert = sqlx::query(insert).bind(self.blocks).bind(self.digests).bind(self.replaced_by);
        insert.bind(erasure_id).execute(connection).await?;
        Ok(())
    }
}

fn in_sqlite(how: Erasure) -> &'static str {
    match how {
        Erasure::Remove => "DELETE FROM feature_flag_evaluations WHERE user_id = $1",
        Erasure::Anonymise => {
            "UPDATE feature_flag_evaluations SET user_id = NULL, session_id = NULL, request_id = NULL, context = '{}',
                amended = true
                WHERE user_id = $1"
        }
    }
}
