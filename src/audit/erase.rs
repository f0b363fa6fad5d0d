//! Removes a user from the audit trail, and from experiments.
//!
//! Rows only. Evaluations that are in Kafka, and no rows yet, become rows afterwards; `evaluation_count` counts what
//! was evaluated, whoever asked, and stays.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::database::{Database, DatabaseError, in_transaction};
use crate::experiment::key::key;

/// Rows of one statement: more would hold locks for longer than a sink should wait.
const ROWS_PER_STATEMENT: i64 = 10_000;

/// What becomes of a user's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    Remove,
    /// The evaluation stays, nothing in it tells of whom.
    Anonymise,
}

/// Erases all rows of a user; `users` are the texts that this user is written as. How many rows that were.
pub async fn rows(database: &Database, users: &[String], how: Erasure) -> Result<u64, DatabaseError> {
    let mut erased = 0;
    for user in users {
        loop {
            let some = match database {
                Database::Postgres(postgres) => {
                    let query =
                        sqlx::query(AssertSqlSafe(in_postgres(how))).bind(user).bind(ROWS_PER_STATEMENT);
                    query.execute(&postgres.pool).await?.rows_affected()
                }
                Database::Sqlite(sqlite) => {
                    let query = sqlx::query(in_sqlite(how)).bind(user);
                    query.execute(&sqlite.pool).await?.rows_affected()
                }
            };
            erased += some;
            if some == 0 {
                break;
            }
        }
        erased += of_experiments(database, user, how).await?;
    }
    Ok(erased)
}

/// Exposures and conversions. Anonymised they are somebody's still, whom nobody knows.
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

fn in_postgres(how: Erasure) -> String {
    let change = match how {
        Erasure::Remove => "DELETE FROM feature_flag_evaluations",
        Erasure::Anonymise => {
            "UPDATE feature_flag_evaluations SET user_id = NULL, session_id = NULL, request_id = NULL, context = '{}',
                amended = true"
        }
    };
    // The condition is that of the index on users.
    format!(
        "{change} WHERE (evaluated_at, id) IN (SELECT evaluated_at, id FROM feature_flag_evaluations
            WHERE hashtextextended(user_id, 0) = hashtextextended($1, 0) AND user_id = $1 LIMIT $2)"
    )
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
