//! Database errors, grouped by how a caller or an operator responds to them.

use std::time::Duration;

use sqlx::migrate::MigrateError;

use super::{pooler, sessions};

/// Reason why a database operation failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("DATABASE_URL: {0}")]
    Url(sqlx::Error),
    #[error("no database at {0}")]
    NoFile(String),
    #[error("the database does not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error(
        "the database is read-only (a standby, or default_transaction_read_only is on): nothing can be written; let \
         DATABASE_URL name the primary"
    )]
    ReadOnly,
    #[error(
        "the clock of this machine and that of the database are {0} s apart: nothing is removed by age until they agree"
    )]
    ClockSkew(u64),
    #[error("{0}")]
    Migrate(#[from] MigrateError),
    #[error("{}", described(.0))]
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        if trouble(&error) == Trouble::ReadOnly {
            sessions::note_read_only();
        }
        Self::Sql(error)
    }
}

/// Text of the error, with advice where the error itself does not contain any.
fn described(error: &sqlx::Error) -> String {
    match trouble(error) {
        Trouble::Pooler => format!("{error}: {}", pooler::ADVICE),
        _ => error.to_string(),
    }
}

/// Kind of a database error, derived from its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Unreachable, refusing connections, shutting down, or not responding.
    Unreachable,
    /// Reachable but read-only: a standby, or a read-only setting.
    ReadOnly,
    /// Out of disk space, memory or connections.
    Full,
    /// A lock was held for too long, or a statement took too long.
    Blocked,
    /// No partition accepts the row.
    NoPartition,
    /// The tables are missing, or this user may not write to them.
    Schema,
    /// A connection pooler shares its session with other clients.
    Pooler,
    /// The data is invalid, so that a retry would fail too.
    Data,
    Other,
}

impl Trouble {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::ReadOnly => "read_only",
            Self::Full => "full",
            Self::Blocked => "blocked",
            Self::NoPartition => "no_partition",
            Self::Schema => "schema",
            Self::Pooler => "pooler",
            Self::Data => "data",
            Self::Other => "other",
        }
    }
}

impl DatabaseError {
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Silent(_) => Trouble::Unreachable,
            Self::ReadOnly => Trouble::ReadOnly,
            Self::ClockSkew(_) => Trouble::Other,
            Self::Migrate(MigrateError::Execute(error)) => trouble(error),
            Self::Url(_) | Self::Migrate(_) | Self::NoFile(_) => Trouble::Schema,
            Self::Sql(error) => trouble(error),
        }
    }

    /// Whether the data is invalid, so that a retry with the same data would fail too.
    pub fn is_about_data(&self) -> bool {
        self.trouble() == Trouble::Data
    }
}

fn trouble(error: &sqlx::Error) -> Trouble {
    match error {
        sqlx::Error::Database(database) => {
            // Postgres reports a row without a partition as a check violation without a constraint.
            let code = database.code().unwrap_or_default();
            match code.as_ref() {
                // PgBouncer itself refuses a connection with this code.
                "08P01" if database.message().contains("startup parameter") => Trouble::Pooler,
                "23514" if database.constraint().is_none() => Trouble::NoPartition,
                code if code.len() == 5 => of_sqlstate(code),
                code => of_sqlite(code),
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            Trouble::Unreachable
        }
        // The connection was lost in the middle of a response.
        sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Trouble::Unreachable,
        _ => Trouble::Other,
    }
}

/// Maps SQLSTATE codes and classes (appendix A of the Postgres manual).
fn of_sqlstate(code: &str) -> Trouble {
    match code {
        "25006" => Trouble::ReadOnly,
        // A prepared statement exists already or is missing, because the session was another client's.
        "42P05" | "26000" => Trouble::Pooler,
        "57014" | "55P03" | "40P01" | "40001" | "25P03" => Trouble::Blocked,
        // The server responds, but not for this user: wrong password, or no such database.
        _ => match code.get(..2) {
            Some("08" | "57") => Trouble::Unreachable,
            Some("53") => Trouble::Full,
            Some("22" | "23" | "54") => Trouble::Data,
            Some("42" | "28" | "3D" | "3F") => Trouble::Schema,
            _ => Trouble::Other,
        },
    }
}

/// Maps SQLite's result codes.
fn of_sqlite(code: &str) -> Trouble {
    // The low byte of an extended code is the primary code.
    match code.parse::<u32>().map(|code| code & 0xFF) {
        Ok(5 | 6) => Trouble::Blocked,
        Ok(8) => Trouble::ReadOnly,
        Ok(7 | 13) => Trouble::Full,
        Ok(10 | 14) => Trouble::Unreachable,
        Ok(18..=20) => Trouble::Data,
        Ok(1) => Trouble::Schema,
        _ => Trouble::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_there_is_to_do() {
        let cases = [
            ("57P01", Trouble::Unreachable),
            ("08006", Trouble::Unreachable),
            ("53100", Trouble::Full),
            ("53300", Trouble::Full),
            ("25006", Trouble::ReadOnly),
            ("57014", Trouble::Blocked),
            ("22P05", Trouble::Data),
            ("54000", Trouble::Data),
            ("23502", Trouble::Data),
            ("42P01", Trouble::Schema),
            ("42P05", Trouble::Pooler),
            ("26000", Trouble::Pooler),
            ("XX000", Trouble::Other),
        ];
        for (code, expected) in cases {
            assert_eq!(of_sqlstate(code), expected, "{code}");
        }
        assert_eq!(of_sqlite("2067"), Trouble::Data);
        assert_eq!(of_sqlite("5"), Trouble::Blocked);
        assert_eq!(of_sqlite("13"), Trouble::Full);
    }
}
