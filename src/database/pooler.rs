//! Detects a connection pooler that shares one server session between clients (PgBouncer with `pool_mode=transaction`
//! or `statement`). Prepared statements and session settings do not work with such a pooler.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::{DatabaseError, PostgresDatabase};

/// Timeout of one query. With a pool of one session, the second client waits for the first one.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Advice to an operator whose `DATABASE_URL` names such a pooler.
pub const ADVICE: &str = "DATABASE_URL leads to a connection pooler that shares sessions between clients (PgBouncer with \
    pool_mode=transaction or statement): set it to Postgres itself, or to a pool with pool_mode=session (and \
    ignore_startup_parameters=extra_float_digits)";

/// Whether two connections share a server session, which only a pooler makes possible. Changes nothing.
pub async fn shares_sessions(database: &PostgresDatabase) -> Result<bool, DatabaseError> {
    let (mut first, mut second) = (database.connect().await?, database.connect().await?);
    let Some(before) = session_of(&mut first).await? else { return Ok(true) };
    sqlx::raw_sql("BEGIN").execute(&mut second).await?;
    let Some(held) = session_of(&mut second).await? else { return Ok(true) };
    // While the second connection holds a session, the first one gets its own session again, or any other.
    Ok(held == before || session_of(&mut first).await? != Some(before))
}

/// Process id of the server session. `None`: no response within [`QUESTION_TIMEOUT`].
async fn session_of(connection: &mut PgConnection) -> Result<Option<i32>, DatabaseError> {
    let asked = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection);
    match tokio::time::timeout(QUESTION_TIMEOUT, asked).await {
        Ok(row) => Ok(Some(row?.try_get(0)?)),
        Err(_) => Ok(None),
    }
}
