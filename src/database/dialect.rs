//! Questions that are written once, for Postgres, and asked of both databases.
//!
//! SQLite knows neither casts (`$1::jsonb`) nor `FOR UPDATE`, and needs neither: its columns take texts, and it has one
//! writer. Everything else in such a question must mean the same to both.

use sqlx::AssertSqlSafe;

/// A question as a database wants it.
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

/// Does the same with the pool of either database; `$sql` is its [`Sql`].
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

/// Does the same in a transaction of either database, and commits it unless `$body` fails.
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
                // The right to write at once: a reader that becomes a writer later may find that it cannot.
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
