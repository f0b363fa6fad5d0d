//! The database: Postgres, or SQLite in the embedded mode.
//!
//! [`Database::open`] does not connect: connections are opened on demand, so that a process starts and evaluates while
//! its database is unavailable. `migrations/` documents the tables.

pub mod audited;
pub(crate) mod dialect;
mod error;
mod migrate;
pub mod pooler;
mod sessions;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::TryFutureExt;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Executor, PgConnection};

use crate::clock::CLOCK_SKEW_MAX;
use crate::config::Secret;
use crate::private_files;

pub use dialect::Sql;
pub(crate) use dialect::{in_transaction, on_pool};
pub use error::{DatabaseError, DatabaseFault};
pub use migrate::Migrated;

/// Upper bound of pooled connections per process; the sink has its own connection.
const MAX_CONNECTIONS: u32 = 8;
/// How long a query waits for a pooled connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for opening a connection to Postgres.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Runs on each new pooled connection. The plan of a query over many daily partitions has such a high estimated cost
/// that Postgres would compile it with JIT, which takes longer than the query itself.
const PREPARE: &str = "SET jit = off";
/// How long SQLite waits for another writer's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Database that is connected to on demand. Clones share its connections.
#[derive(Clone)]
pub enum Database {
    Postgres(PostgresDatabase),
    Sqlite(SqliteDatabase),
}

/// Postgres: a connection pool for queries, and the options for connections outside of the pool.
#[derive(Clone)]
pub struct PostgresDatabase {
    pub pool: PgPool,
    options: Arc<PgConnectOptions>,
    /// How far the database's clock was ahead of this machine's at the last comparison, in milliseconds.
    ahead_ms: Arc<AtomicI64>,
}

/// SQLite, in a file or in memory.
#[derive(Clone)]
pub struct SqliteDatabase {
    pub pool: SqlitePool,
    /// Path of the file. `None`: the database is in memory.
    file: Option<String>,
}

impl Database {
    /// Opens the database at `url` (`postgres://…`, `sqlite:FILE` or `sqlite::memory:`). `name` is the Postgres
    /// `application_name`.
    pub fn open(url: &Secret, name: &str) -> Result<Self, DatabaseError> {
        let text = url.expose();
        if text.starts_with("sqlite:") {
            return sqlite(text).map(Self::Sqlite).map_err(DatabaseError::Url);
        }
        let options = postgres_options(text).map_err(DatabaseError::Url)?.application_name(name);
        let sessions = sessions::Sessions::new();
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| Box::pin(connection.execute(PREPARE).map_ok(drop)))
            .before_acquire(move |session, metadata| {
                let sessions = Arc::clone(&sessions);
                Box::pin(async move { sessions.may_use(session, metadata).await })
            })
            .connect_lazy_with(options.clone());
        let ahead_ms = Arc::default();
        Ok(Self::Postgres(PostgresDatabase { pool, options: Arc::new(options), ahead_ms }))
    }

    /// Like [`Database::open`], but returns an error if the SQLite file does not exist.
    pub fn open_existing(url: &Secret, name: &str) -> Result<Self, DatabaseError> {
        let text = url.expose();
        if text.starts_with("sqlite:") && !text.contains(":memory:") {
            let options: SqliteConnectOptions = text.parse().map_err(DatabaseError::Url)?;
            let file = options.get_filename();
            if !file.exists() {
                return Err(DatabaseError::NoFile(file.display().to_string()));
            }
        }
        Self::open(url, name)
    }

    /// Whether any migration was applied.
    pub async fn has_tables(&self) -> Result<bool, DatabaseError> {
        Ok(self.pending().await? < migrate::count(self))
    }

    /// Checks that the database responds. Returns [`DatabaseError::ReadOnly`] if Postgres accepts no writes.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        match self {
            Self::Postgres(postgres) => {
                let mut session = postgres.pool.acquire().await?;
                if sessions::is_read_only(&mut session).await? {
                    return Err(DatabaseError::ReadOnly);
                }
                Ok(())
            }
            Self::Sqlite(sqlite) => Ok(sqlx::raw_sql("SELECT 1").execute(&sqlite.pool).await.map(drop)?),
        }
    }

    /// Returns the time of the database's clock, which decides what is past retention. Returns an error if this
    /// machine's clock differs too much, because then neither can be trusted.
    pub async fn checked_now(&self) -> Result<DateTime<Utc>, DatabaseError> {
        match self {
            Self::Postgres(postgres) => {
                let now = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&postgres.pool).await?;
                check_clocks(now, Utc::now())?;
                Ok(now)
            }
            // SQLite uses this machine's clock.
            Self::Sqlite(_) => Ok(Utc::now()),
        }
    }

    /// How far the database's clock is ahead of this machine's; zero for SQLite. The time of the request itself is taken
    /// into account.
    pub async fn clock_ahead(&self) -> Result<TimeDelta, DatabaseError> {
        let Self::Postgres(postgres) = self else { return Ok(TimeDelta::zero()) };
        let mut session = postgres.pool.acquire().await?;
        let asked = Utc::now();
        let now: DateTime<Utc> =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *session).await?;
        let ahead = now - (asked + (Utc::now() - asked) / 2);
        postgres.ahead_ms.store(ahead.num_milliseconds(), Ordering::Relaxed);
        Ok(ahead)
    }

    /// The present time. If this machine's clock was found to differ by more than [`CLOCK_SKEW_MAX`], it is the
    /// database's time, which all instances share.
    pub fn now(&self) -> DateTime<Utc> {
        let Self::Postgres(postgres) = self else { return Utc::now() };
        let ahead = TimeDelta::milliseconds(postgres.ahead_ms.load(Ordering::Relaxed));
        if ahead.abs() > CLOCK_SKEW_MAX { Utc::now() + ahead } else { Utc::now() }
    }

    /// Number of migrations in this binary that are not applied.
    pub async fn pending(&self) -> Result<usize, DatabaseError> {
        match self {
            Self::Postgres(postgres) => migrate::pending_postgres(&postgres.pool).await,
            Self::Sqlite(sqlite) => migrate::pending_sqlite(&sqlite.pool).await,
        }
    }

    /// Applies all pending migrations. Any number of processes may call this concurrently: the first applies them, the
    /// others wait.
    pub async fn migrate(&self) -> Result<Migrated, DatabaseError> {
        match self {
            Self::Postgres(postgres) => migrate::postgres(postgres).await,
            Self::Sqlite(sqlite) => migrate::sqlite(&sqlite.pool).await,
        }
    }
}

impl PostgresDatabase {
    /// Whether another host could impersonate this database: it is not on this machine, and the connection does not
    /// verify both its certificate and its host name.
    pub fn may_be_impersonated(&self) -> bool {
        let host = self.options.get_host();
        let is_address_here = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let is_here = self.options.get_socket().is_some() || host.starts_with('/') || host == "localhost";
        !is_here && !is_address_here && !matches!(self.options.get_ssl_mode(), PgSslMode::VerifyFull)
    }

    /// Opens a dedicated connection outside of the pool.
    pub async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        let connecting = PgConnection::connect_with(self.options.as_ref());
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(DatabaseError::Silent(CONNECT_TIMEOUT)),
        }
    }
}

/// Returns an error if the two clocks differ by more than [`CLOCK_SKEW_MAX`].
pub(crate) fn check_clocks(database: DateTime<Utc>, process: DateTime<Utc>) -> Result<(), DatabaseError> {
    let apart = (database - process).abs();
    if apart > CLOCK_SKEW_MAX {
        return Err(DatabaseError::ClockSkew(apart.num_seconds().unsigned_abs()));
    }
    Ok(())
}

/// Parses a Postgres URL the way libpq does.
fn postgres_options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    // In a URL an IPv6 address is enclosed in brackets, which are not part of the address.
    let host = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match host.map(str::to_owned) {
        Some(host) => Ok(options.host(&host)),
        None => Ok(options),
    }
}

/// Text form of a time in both databases. The texts sort in the order of the times.
pub(crate) fn text_of(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn sqlite(url: &str) -> Result<SqliteDatabase, sqlx::Error> {
    let options: SqliteConnectOptions = url.parse()?;
    let options = options.busy_timeout(BUSY_TIMEOUT).create_if_missing(true);
    let memory = url.contains(":memory:");
    let (options, pool) = if memory {
        // A database in memory is lost with its connection, so there is exactly one, which never closes.
        let pool = SqlitePoolOptions::new().max_connections(1).min_connections(1);
        (options, pool.idle_timeout(None).max_lifetime(None))
    } else {
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal);
        (options, SqlitePoolOptions::new().max_connections(MAX_CONNECTIONS))
    };
    if !memory {
        // SQLite would create the file with the default mode of the umask, and its journal files with the same mode. If
        // this fails, connecting reports why.
        let _ = private_files::create_if_missing(options.get_filename());
    }
    let file = (!memory).then(|| options.get_filename().display().to_string());
    Ok(SqliteDatabase { pool: pool.acquire_timeout(ACQUIRE_TIMEOUT).connect_lazy_with(options), file })
}

impl SqliteDatabase {
    /// Path of the file. `None`: the database is in memory.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref().map(Path::new)
    }
}

/// Shows the address without secrets.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(PostgresDatabase { options, .. }) => {
                let name = options.get_database().unwrap_or(options.get_username());
                let (host, port) = (options.get_host(), options.get_port());
                match host.contains(':') {
                    true => write!(f, "postgres://[{host}]:{port}/{name}"),
                    false => write!(f, "postgres://{host}:{port}/{name}"),
                }
            }
            Self::Sqlite(SqliteDatabase { file: Some(file), .. }) => write!(f, "sqlite:{file}"),
            Self::Sqlite(SqliteDatabase { file: None, .. }) => f.write_str("sqlite::memory:"),
        }
    }
}

impl fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options contain the password.
        write!(f, "{:?}", Database::Postgres(self.clone()))
    }
}

impl fmt::Debug for SqliteDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteDatabase").field("file", &self.file).finish_non_exhaustive()
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_address_is_told_without_secrets() {
        let open = |url: &str| Database::open(&Secret::new(url), "test").unwrap();
        let postgres = open("postgres://ann:hidden@db.example.com:5433/flags?sslmode=require");
        assert_eq!(postgres.to_string(), "postgres://db.example.com:5433/flags");
        assert!(!format!("{postgres:?}").contains("hidden"));
        assert_eq!(open("sqlite:./dev.db").to_string(), "sqlite:./dev.db");
        assert_eq!(open("sqlite::memory:").to_string(), "sqlite::memory:");
    }

    #[tokio::test]
    async fn urls_are_read_as_libpq_reads_them() {
        let cases = [
            ("postgres://[::1]:5433/flags", "::1", 5433, "postgres", "postgres://[::1]:5433/flags"),
            (
                "postgresql://ann:pw@[fe80::1]/flags",
                "fe80::1",
                5432,
                "ann",
                "postgres://[fe80::1]:5432/flags",
            ),
            ("postgres://an%40n:p%2Fw%5B@db:1/my%20db", "db", 1, "an@n", "postgres://db:1/my db"),
            ("postgres://ann@127.0.0.1/flags", "127.0.0.1", 5432, "ann", "postgres://127.0.0.1:5432/flags"),
            ("postgres://ann@ignored/flags?host=::1", "::1", 5432, "ann", "postgres://[::1]:5432/flags"),
            (
                "postgres://ann@ignored/flags?host=%5B::1%5D&port=7",
                "::1",
                7,
                "ann",
                "postgres://[::1]:7/flags",
            ),
        ];
        for (url, host, port, user, shown) in cases {
            let options = postgres_options(url).unwrap();
            assert_eq!((options.get_host(), options.get_port()), (host, port), "{url}");
            if user != "postgres" {
                assert_eq!(options.get_username(), user, "{url}");
            }
            assert_eq!(Database::open(&Secret::new(url), "test").unwrap().to_string(), shown);
        }
    }

    #[test]
    fn clocks_may_be_minutes_apart_and_no_more() {
        let now = Utc::now();
        for seconds in [-299, 0, 299] {
            assert!(check_clocks(now + TimeDelta::seconds(seconds), now).is_ok(), "{seconds}");
        }
        for seconds in [-301, 301, 8_640_000] {
            let error = check_clocks(now + TimeDelta::seconds(seconds), now).unwrap_err();
            assert!(error.to_string().contains(&format!("differ by {} s", seconds.abs())), "{error}");
        }
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_an_error_that_names_the_setting() {
        let error = Database::open(&Secret::new("postgres://host:notaport/db"), "test").unwrap_err();
        assert!(error.to_string().starts_with("DATABASE_URL"), "{error}");
    }

    #[tokio::test]
    async fn a_database_elsewhere_must_prove_who_it_is() {
        for (url, expected) in [
            ("postgres://u@db.example.com/x", true),
            ("postgres://u@db.example.com/x?sslmode=require", true),
            ("postgres://u@10.0.0.5/x?sslmode=verify-ca", true),
            ("postgres://u@db.example.com/x?sslmode=verify-full", false),
            ("postgres://u@localhost/x", false),
            ("postgres://u@127.0.0.1/x", false),
            ("postgres:///x?host=/run/postgresql", false),
        ] {
            let Ok(Database::Postgres(postgres)) = Database::open(&Secret::new(url), "test") else {
                panic!("{url}");
            };
            assert_eq!(postgres.may_be_impersonated(), expected, "{url}");
        }
    }
}
