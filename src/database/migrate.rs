//! Applies the numbered migrations of `migrations/`, which are built into the binary.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;
use sqlx::{Connection, SqlSafeStr};

use super::{Database, DatabaseError, PostgresDatabase, pooler};

/// Number, name and text of each migration. A new file must be added here.
type Files = &'static [(i64, &'static str, &'static str)];

const POSTGRES: Files = &[
    (1, "audit", include_str!("../../migrations/postgres/0001_audit.sql")),
    (10, "tokens", include_str!("../../migrations/postgres/0010_tokens.sql")),
    (20, "local_flags", include_str!("../../migrations/postgres/0020_local_flags.sql")),
    (30, "sink_streams", include_str!("../../migrations/postgres/0030_sink_streams.sql")),
    (40, "dependencies", include_str!("../../migrations/postgres/0040_dependencies.sql")),
    (50, "changes", include_str!("../../migrations/postgres/0050_changes.sql")),
    (51, "usage", include_str!("../../migrations/postgres/0051_usage.sql")),
    (52, "outcomes", include_str!("../../migrations/postgres/0052_outcomes.sql")),
    (60, "experiments", include_str!("../../migrations/postgres/0060_experiments.sql")),
    (70, "replay", include_str!("../../migrations/postgres/0070_replay.sql")),
    (80, "sink_generations", include_str!("../../migrations/postgres/0080_sink_generations.sql")),
    (90, "token_makers", include_str!("../../migrations/postgres/0090_token_makers.sql")),
    (100, "audit_chain", include_str!("../../migrations/postgres/0100_audit_chain.sql")),
    (110, "token_restrictions", include_str!("../../migrations/postgres/0110_token_restrictions.sql")),
    (120, "experiment_backfill", include_str!("../../migrations/postgres/0120_experiment_backfill.sql")),
    (
        135,
        "experiment_assignments",
        include_str!("../../migrations/postgres/0135_experiment_assignments.sql"),
    ),
    (140, "unleash_tokens", include_str!("../../migrations/postgres/0140_unleash_tokens.sql")),
    (180, "console", include_str!("../../migrations/postgres/0180_console.sql")),
    (210, "attributes", include_str!("../../migrations/postgres/0210_attributes.sql")),
    (220, "exposure_events", include_str!("../../migrations/postgres/0220_exposure_events.sql")),
    (221, "experiment_dimensions", include_str!("../../migrations/postgres/0221_experiment_dimensions.sql")),
];

const SQLITE: Files = &[
    (1, "audit", include_str!("../../migrations/sqlite/0001_audit.sql")),
    (10, "tokens", include_str!("../../migrations/sqlite/0010_tokens.sql")),
    (20, "local_flags", include_str!("../../migrations/sqlite/0020_local_flags.sql")),
    (30, "sink_streams", include_str!("../../migrations/sqlite/0030_sink_streams.sql")),
    (40, "dependencies", include_str!("../../migrations/sqlite/0040_dependencies.sql")),
    (50, "changes", include_str!("../../migrations/sqlite/0050_changes.sql")),
    (51, "usage", include_str!("../../migrations/sqlite/0051_usage.sql")),
    (52, "outcomes", include_str!("../../migrations/sqlite/0052_outcomes.sql")),
    (60, "experiments", include_str!("../../migrations/sqlite/0060_experiments.sql")),
    (70, "replay", include_str!("../../migrations/sqlite/0070_replay.sql")),
    (80, "sink_generations", include_str!("../../migrations/sqlite/0080_sink_generations.sql")),
    (90, "token_makers", include_str!("../../migrations/sqlite/0090_token_makers.sql")),
    (100, "audit_chain", include_str!("../../migrations/sqlite/0100_audit_chain.sql")),
    (110, "token_restrictions", include_str!("../../migrations/sqlite/0110_token_restrictions.sql")),
    (120, "experiment_backfill", include_str!("../../migrations/sqlite/0120_experiment_backfill.sql")),
    (135, "experiment_assignments", include_str!("../../migrations/sqlite/0135_experiment_assignments.sql")),
    (140, "unleash_tokens", include_str!("../../migrations/sqlite/0140_unleash_tokens.sql")),
    (180, "console", include_str!("../../migrations/sqlite/0180_console.sql")),
    (210, "attributes", include_str!("../../migrations/sqlite/0210_attributes.sql")),
    (220, "exposure_events", include_str!("../../migrations/sqlite/0220_exposure_events.sql")),
    (221, "experiment_dimensions", include_str!("../../migrations/sqlite/0221_experiment_dimensions.sql")),
];

const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success";

/// Result of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Migrated {
    /// Number of the newest migration in this binary.
    pub version: i64,
    /// Number of migrations applied during this run, including those that another process applied concurrently.
    pub applied: usize,
}

pub(super) async fn postgres(database: &PostgresDatabase) -> Result<Migrated, DatabaseError> {
    // Behind such a pooler the migrations might succeed, and everything after them would fail now and then.
    if pooler::shares_sessions(database).await? {
        return Err(DatabaseError::Pooler);
    }
    // A dedicated connection: if a migration fails, closing the connection also releases the advisory lock.
    let mut connection = database.connect().await?;
    let count = "SELECT count(*) FROM _sqlx_migrations WHERE success";
    // Without the table, nothing was applied before.
    let before = sqlx::query_scalar::<_, i64>(count).fetch_one(&mut connection).await.unwrap_or(0);
    let migrator = migrator(POSTGRES);
    migrator.run_direct(None, &mut connection, false).await?;
    let after: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await?;
    let _ = connection.close().await;
    Ok(migrated(POSTGRES, before, after))
}

pub(super) async fn sqlite(pool: &SqlitePool) -> Result<Migrated, DatabaseError> {
    let count = "SELECT count(*) FROM _sqlx_migrations WHERE success";
    let before = sqlx::query_scalar::<_, i64>(count).fetch_one(pool).await.unwrap_or(0);
    migrator(SQLITE).run(pool).await?;
    let after: i64 = sqlx::query_scalar(count).fetch_one(pool).await?;
    Ok(migrated(SQLITE, before, after))
}

pub(super) async fn pending_postgres(pool: &PgPool) -> Result<usize, DatabaseError> {
    let is_there: bool =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(pool).await?;
    if !is_there {
        return Ok(POSTGRES.len());
    }
    let applied: Vec<i64> = sqlx::query_scalar(APPLIED).fetch_all(pool).await?;
    Ok(pending(POSTGRES, &applied))
}

pub(super) async fn pending_sqlite(pool: &SqlitePool) -> Result<usize, DatabaseError> {
    let is_there = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
    if sqlx::query_scalar::<_, i64>(is_there).fetch_one(pool).await? == 0 {
        return Ok(SQLITE.len());
    }
    let applied: Vec<i64> = sqlx::query_scalar(APPLIED).fetch_all(pool).await?;
    Ok(pending(SQLITE, &applied))
}

/// Number of migrations in this binary.
pub(super) fn count(database: &Database) -> usize {
    match database {
        Database::Postgres(_) => POSTGRES.len(),
        Database::Sqlite(_) => SQLITE.len(),
    }
}

fn pending(files: Files, applied: &[i64]) -> usize {
    files.iter().filter(|(version, ..)| !applied.contains(version)).count()
}

fn migrated(files: Files, before: i64, after: i64) -> Migrated {
    let version = files.iter().map(|(version, ..)| *version).max().unwrap_or_default();
    Migrated { version, applied: usize::try_from(after - before).unwrap_or_default() }
}

fn migrator(files: Files) -> Migrator {
    let migration = |(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, (*sql).into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(files.iter().map(migration).collect());
    // During a rolling update, an older binary runs next to a newer one.
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_built_in() {
        for (folder, files) in [("postgres", POSTGRES), ("sqlite", SQLITE)] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let mut found: Vec<_> = std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            let built: Vec<_> =
                files.iter().map(|(version, name, _)| format!("{version:04}_{name}.sql")).collect();
            assert_eq!(found, built, "{folder}");
        }
    }

    #[tokio::test]
    async fn sqlite_is_migrated_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let database = Database::open(&crate::config::Secret::new(url), "test").unwrap();
        let first = database.migrate().await.unwrap();
        let newest = SQLITE.iter().map(|(version, ..)| *version).max().unwrap();
        assert_eq!(first, Migrated { version: newest, applied: SQLITE.len() });
        assert_eq!(database.migrate().await.unwrap().applied, 0);
    }
}
