//! Database errors, grouped by how a caller or an operator responds to them.

use std::time::Duration;

use sqlx::migrate::MigrateError;

use super::{pooler, sessions};

/// Reason why a database operation failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("DATABASE_URL: {0}")]
    Url(sqlx::Error),
    #[error("there is no SQLite file at {0}")]
    NoFile(String),
    #[error("the database did not respond within {} s", .0.as_secs())]
    Silent(Duration),
    #[error(
        "the database is read-only (a standby, or default_transaction_read_only is on): set DATABASE_URL to the \
         primary"
    )]
    ReadOnly,
    #[error(
        "the clocks of this machine and of the database differ by {0} s: retention is suspended until they agree"
    )]
    ClockSkew(u64),
    #[error("{}", pooler::ADVICE)]
    Pooler,
    #[error("{0}")]
    Migrate(#[from] MigrateError),
    #[error("{}", described(.0))]
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        if trouble(&error) == DatabaseFault::ReadOnly {
            sessions::note_read_only();
        }
        Self::Sql(error)
    }
}

/// Text of the error, with advice where the error itself does not contain any.
fn described(error: &sqlx::Error) -> String {
    match trouble(error) {
        DatabaseFault::Pooler => format!("{error}: {}", pooler::ADVICE),
        _ => error.to_string(),
    }
}

/// Kind of a database error, derived from its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseFault {
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

impl DatabaseFault {
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
    pub fn trouble(&self) -> DatabaseFault {
        match self {
            Self::Silent(_) => DatabaseFault::Unreachable,
            Self::ReadOnly => DatabaseFault::ReadOnly,
            Self::Pooler => DatabaseFault::Pooler,
            Self::ClockSkew(_) => DatabaseFault::Other,
            Self::Migrate(MigrateError::Execute(error)) => trouble(error),
            Self::Url(_) | Self::Migrate(_) | Self::NoFile(_) => DatabaseFault::Schema,
            Self::Sql(error) => trouble(error),
        }
    }

    /// Whether the data is invalid, so that a retry with the same data would fail too.
    pub fn is_about_data(&self) -> bool {
        self.trouble() == DatabaseFault::Data
    }
}

fn trouble(error: &sqlx::Error) -> DatabaseFault {
    match error {
        sqlx::Error::Database(database) => {
            // Postgres reports a row without a partition as a check violation without a constraint.
            let code = database.code().unwrap_or_default();
            match code.as_ref() {
                // PgBouncer itself refuses a connection with this code.
                "08P01" if database.message().contains("startup parameter") => DatabaseFault::Pooler,
                "23514" if database.constraint().is_none() => DatabaseFault::NoPartition,
                code if code.len() == 5 => of_sqlstate(code),
                code => of_sqlite(code),
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            DatabaseFault::Unreachable
        }
        // The connection was lost in the middle of a response.
        sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => DatabaseFault::Unreachable,
        _ => DatabaseFault::Other,
    }
}

/// Maps SQLSTATE codes and classes (appendix A of the Postgres manual).
fn of_sqlstate(code: &str) -> DatabaseFault {
    match code {
        "25006" => DatabaseFault::ReadOnly,
        // A prepared statement exists already or is missing, because the session was another client's.
        "42P05" | "26000" => DatabaseFault::Pooler,
        "57014" | "55P03" | "40P01" | "40001" | "25P03" => DatabaseFault::Blocked,
        // The server responds, but not for this user: wrong password, or no such database.
        _ => match code.get(..2) {
            Some("08" | "57") => DatabaseFault::Unreachable,
            Some("53") => DatabaseFault::Full,
            Some("22" | "23" | "54") => DatabaseFault::Data,
            Some("42" | "28" | "3D" | "3F") => DatabaseFault::Schema,
            _ => DatabaseFault::Other,
        },
    }
}

/// Maps SQLite's result codes.
fn of_sqlite(code: &str) -> DatabaseFault {
    // The low byte of an extended code is the primary code.
    match code.parse::<u32>().map(|code| code & 0xFF) {
        Ok(5 | 6) => DatabaseFault::Blocked,
        Ok(8) => DatabaseFault::ReadOnly,
        Ok(7 | 13) => DatabaseFault::Full,
        Ok(10 | 14) => DatabaseFault::Unreachable,
        Ok(18..=20) => DatabaseFault::Data,
        Ok(1) => DatabaseFault::Schema,
        _ => DatabaseFault::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_there_is_to_do() {
        let cases = [
            ("57P01", DatabaseFault::Unreachable),
            ("08006", DatabaseFault::Unreachable),
            ("53100", DatabaseFault::Full),
            ("53300", DatabaseFault::Full),
            ("25006", DatabaseFault::ReadOnly),
            ("57014", DatabaseFault::Blocked),
            ("22P05", DatabaseFault::Data),
            ("54000", DatabaseFault::Data),
            ("23502", DatabaseFault::Data),
            ("42P01", DatabaseFault::Schema),
            ("42P05", DatabaseFault::Pooler),
            ("26000", DatabaseFault::Pooler),
            ("XX000", DatabaseFault::Other),
        ];
        for (code, expected) in cases {
            assert_eq!(of_sqlstate(code), expected, "{code}");
        }
        assert_eq!(of_sqlite("2067"), DatabaseFault::Data);
        assert_eq!(of_sqlite("5"), DatabaseFault::Blocked);
        assert_eq!(of_sqlite("13"), DatabaseFault::Full);
    }
}
