//! SQL that is written once, for Postgres, and runs on both databases.
//!
//! SQLite supports neither casts (`$1::jsonb`) nor `FOR UPDATE`, and needs neither: its columns accept text, and it has
//! one writer at a time. Everything else in such a statement must mean the same on both.

use sqlx::AssertSqlSafe;

/// Converts a statement to the dialect of a database.
pub type Sql = fn(&'static str) -> AssertSqlSafe<String>;

pub fn postgres(text: &'static str) -> AssertSqlSafe<String> {
    AssertSqlSafe(text.to_owned())
}

pub fn sqlite(text: &'static str) -> AssertSqlSafe<String> {
    let mut pieces = text.split("::");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_'));
    }
    AssertSqlSafe(plain.replace(" FOR UPDATE", ""))
}

/// Runs `$body` with the pool of the open database. `$sql` is bound to its [`Sql`] function.
macro_rules! on_pool {
    ($database:expr, |$pool:ident, $sql:ident| $body:expr) => {
        match $database {
            $crate::database::Database::Postgres(database) => {
                let ($pool, $sql) =
                    (&database.pool, $crate::database::dialect::postgres as $crate::database::Sql);
                $body
            }
            $crate::database::Database::Sqlite(database) => {
                let ($pool, $sql) =
                    (&database.pool, $crate::database::dialect::sqlite as $crate::database::Sql);
                $body
            }
        }
    };
}

/// Runs `$body` in a transaction of the open database, and commits it unless `$body` fails.
macro_rules! in_transaction {
    ($database:expr, |$transaction:ident, $sql:ident| $body:expr) => {
        match $database {
            $crate::database::Database::Postgres(database) => {
                let $sql = $crate::database::dialect::postgres as $crate::database::Sql;
                let mut $transaction = database.pool.begin().await?;
                let value = $body;
                $transaction.commit().await?;
                value
            }
            $crate::database::Database::Sqlite(database) => {
                let $sql = $crate::database::dialect::sqlite as $crate::database::Sql;
                // Takes the write lock at once, because upgrading a read transaction later can fail.
                let mut $transaction = database.pool.begin_with("BEGIN IMMEDIATE").await?;
                let value = $body;
                $transaction.commit().await?;
                value
            }
        }
    };
}

pub(crate) use {in_transaction, on_pool};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_gets_no_casts_and_no_locks() {
        let text = "SELECT a::text, $1::jsonb FROM t WHERE b = $2::timestamptz FOR UPDATE";
        assert_eq!(sqlite(text).0, "SELECT a, $1 FROM t WHERE b = $2");
        assert_eq!(postgres(text).0, text);
    }
}
