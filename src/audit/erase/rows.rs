//! Erases a user's evaluations, exposures and conversions.

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::audit::evaluation::Evaluation;
use crate::audit::postgres::copy;
use crate::database::{Database, DatabaseError, PostgresDatabase, in_transaction};
use crate::experiment::key::key;
use crate::experiment::wait_for_backfills;
use crate::replay::rows::{Copied, each_row};

use super::super::chain::{Digest, Hasher};
use super::Erasure;

/// Rows per statement. A larger statement would hold its locks for longer than a sink should wait.
const ROWS_PER_STATEMENT: i64 = 10_000;

/// Erases all rows of a user. Returns how many there were.
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
    // A backfill may have read the user's evaluations before they were erased.
    wait_for_backfills(database).await?;
    Ok(erased + of_experiments(database, user, how).await?)
}

/// Erases exposures and conversions. Anonymised rows of a user share one random key, so that they still count as one
/// user.
async fn of_experiments(database: &Database, user: &str, how: Erasure) -> Result<u64, DatabaseError> {
    let nobody = key(&Uuid::new_v4().to_string());
    Ok(in_transaction!(database, |transaction, _sql| {
        let mut erased = 0;
        for table in ["experiment_exposures", "experiment_conversions"] {
            let change = match how {
                Erasure::Remove => format!("DELETE FROM {table}"),
                Erasure::Anonymise if table == "experiment_conversions" => {
                    format!("UPDATE {table} SET user_key = $2, metadata = NULL")
                }
                Erasure::Anonymise => format!("UPDATE {table} SET user_key = $2, attributes = NULL"),
            };
            // The primary key of the exposures begins with the experiment, so the condition names all experiments.
            let change = format!(
                "{change} WHERE user_key = $1 AND user_key <> $2 AND experiment_id IN (SELECT id FROM experiments)"
            );
            let change = sqlx::query(AssertSqlSafe(change)).bind(key(user).to_vec()).bind(nobody.to_vec());
            erased += change.execute(&mut *transaction).await?.rows_affected();
        }
        // Events of exposures that are not in Kafka yet are no rows of their own.
        let events = sqlx::query("DELETE FROM experiment_exposure_events WHERE user_key = $1");
        events.bind(key(user).to_vec()).execute(&mut *transaction).await?;
        erased
    }))
}

/// Erases up to [`ROWS_PER_STATEMENT`] rows and stores the digests that their blocks of the hash chain need, in one
/// transaction.
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

/// Runs a `COPY` that changes rows, and passes each row in its original form to `take`. Returns the number of rows.
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

/// The anonymised form of a row, which must match the `UPDATE` in [`statement`].
fn anonymous<'a>(row: &Evaluation<'a>) -> Evaluation<'a> {
    Evaluation {
        user_id: None,
        session_id: None,
        request_id: None,
        context: "{}".into(),
        attributes: None,
        assignment: None,
        amended: true,
        ..row.clone()
    }
}

/// SQL text that erases one batch of rows and returns them in their original form. `COPY` takes no parameters, so the
/// user's id is quoted.
fn statement(user: &str, how: Erasure) -> String {
    let user = user.replace('\0', "").replace('\'', "''");
    let columns = copy::COLUMN_NAMES;
    // The same condition as in the index on users.
    let picked = format!(
        "SELECT evaluated_at, id FROM feature_flag_evaluations
            WHERE hashtextextended(user_id, 0) = hashtextextended('{user}', 0) AND user_id = '{user}' LIMIT {ROWS_PER_STATEMENT}"
    );
    match how {
        Erasure::Remove => format!(
            "COPY (DELETE FROM feature_flag_evaluations WHERE (evaluated_at, id) IN ({picked}) RETURNING {columns})
                TO STDOUT (FORMAT binary)"
        ),
        // The outer query reads the snapshot from before the inner `UPDATE`.
        Erasure::Anonymise => format!(
            "COPY (WITH picked AS MATERIALIZED ({picked} FOR UPDATE), changed AS (
                UPDATE feature_flag_evaluations SET user_id = NULL, session_id = NULL, request_id = NULL, context = '{{}}',
                    attributes = NULL, amended = true WHERE (evaluated_at, id) IN (SELECT evaluated_at, id FROM picked))
                SELECT {columns} FROM feature_flag_evaluations WHERE (evaluated_at, id) IN (SELECT evaluated_at, id FROM picked))
                TO STDOUT (FORMAT binary)"
        ),
    }
}

/// Rows of `audit_erased_rows`, one vector per column.
#[derive(Default)]
struct KeptDigests {
    blocks: Vec<i64>,
    digests: Vec<Vec<u8>>,
    replaced_by: Vec<Option<Vec<u8>>>,
}

impl KeptDigests {
    /// Adds a row. Rows outside the chain need no digest and are skipped.
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
                attributes = NULL, amended = true
                WHERE user_id = $1"
        }
    }
}
