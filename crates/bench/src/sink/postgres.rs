//! A separate database for the run, and the arm with plain COPY.

use std::time::Instant;

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use flagstream::audit::chain::Hasher;
use flagstream::audit::postgres::{PostgresStore, copy};
use flagstream::audit::store::AuditStore;
use flagstream::config::Secret;
use flagstream::database::{Database, PostgresDatabase};

use super::{Rate, load, of};

pub(super) const BY_TIME: &str = "ALTER TABLE feature_flag_evaluations ADD PRIMARY KEY (evaluated_at, id)";
pub(super) const BY_FLAG: &str = "CREATE INDEX feature_flag_evaluations_flag
    ON feature_flag_evaluations (flag_name, environment, evaluated_at)";
pub(super) const BY_USER: &str = "CREATE INDEX feature_flag_evaluations_user
    ON feature_flag_evaluations (hashtextextended(user_id, 0), evaluated_at) WHERE user_id IS NOT NULL";

/// A database that is dropped at the end of the run.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) url: String,
    pub(crate) database: PostgresDatabase,
    server: PostgresDatabase,
    name: String,
    /// Process id of the Postgres main process, the parent of all its other processes. `None` if it runs on another
    /// machine.
    postmaster: Option<i32>,
}

impl Own {
    /// Creates a database with all tables on the same server as `server`.
    pub(crate) async fn create(server: &Secret) -> anyhow::Result<Self> {
        let name = format!("flagstream_bench_{}", uuid::Uuid::now_v7().simple());
        let (base, rest) =
            server.expose().rsplit_once('/').context("DATABASE_URL: expected a database's name")?;
        let query = rest.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
        let url = format!("{base}/{name}{query}");
        let server = of(&Database::open(server, "flagstream-bench")?)?;
        let mut connection = server.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        let opened = Database::open(&Secret::new(url.clone()), "flagstream-bench")?;
        opened.migrate().await?;
        let database = of(&opened)?;
        PostgresStore::new(database.clone(), Hasher::default()).maintain(90, chrono::Utc::now()).await?;
        Ok(Self { url, database, server, name, postmaster: stat(pid).map(|stat| stat.parent) })
    }

    /// Records the definitions of `flags` flags.
    pub(crate) async fn define(&self, flags: usize) -> anyhow::Result<()> {
        let record = "INSERT INTO feature_flag_versions (environment, name, version, definition, in_force_at)
            VALUES ($1, $2, $3, $4::jsonb, now() - interval '1 day')";
        for number in 0..flags {
            let query = sqlx::query(record).bind(load::ENVIRONMENT).bind(load::flag_name(number));
            let query = query.bind(load::version(number) as i64).bind(load::definition(number).to_string());
            query.execute(&self.database.pool).await?;
        }
        Ok(())
    }

    /// Empties the tables.
    pub(super) async fn empty(&self) -> anyhow::Result<()> {
        let mut connection = self.database.connect().await?;
        let empty =
            "TRUNCATE feature_flag_evaluations, feature_flags, sink_offsets, sink_streams; CHECKPOINT";
        sqlx::raw_sql(empty).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Empties the tables, those of the hash chains too.
    pub(super) async fn empty_with_chains(&self) -> anyhow::Result<()> {
        sqlx::raw_sql("TRUNCATE audit_chains, audit_blocks CASCADE").execute(&self.database.pool).await?;
        self.empty().await
    }

    /// Replaces the indexes of the empty table by these.
    pub(super) async fn index(&self, indexes: &[&str]) -> anyhow::Result<()> {
        let drop = "ALTER TABLE feature_flag_evaluations DROP CONSTRAINT IF EXISTS feature_flag_evaluations_pkey;
            DROP INDEX IF EXISTS feature_flag_evaluations_flag; DROP INDEX IF EXISTS feature_flag_evaluations_user";
        sqlx::raw_sql(drop).execute(&self.database.pool).await?;
        for make in indexes {
            sqlx::raw_sql(AssertSqlSafe(*make)).execute(&self.database.pool).await?;
        }
        Ok(())
    }

    pub(crate) async fn drop(self) -> anyhow::Result<()> {
        self.database.pool.close().await;
        let mut connection = self.server.connect().await?;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await?;
        Ok(())
    }

    /// CPU time of all processes of this Postgres so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        let postmaster = self.postmaster?;
        let processes = std::fs::read_dir("/proc").ok()?;
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children = pids.filter_map(stat).filter(|stat| stat.parent == postmaster);
        // The time of ended processes is included in their parent's.
        let ticks = children.map(|stat| stat.own_ticks).sum::<f64>() + stat(postmaster)?.waited_ticks;
        Some(ticks / rustix::param::clock_ticks_per_second() as f64)
    }
}

/// Writes the rows as fast as one connection can, with a transaction per chunk.
pub(crate) async fn raw(own: &Own, chunks: &[Vec<u8>], chunk_rows: usize) -> anyhow::Result<Rate> {
    let mut connection = own.database.connect().await?;
    let (started, cpu) = (Instant::now(), own.cpu_seconds());
    let mut rows = 0;
    for chunk in chunks {
        rows += write(&mut connection, chunk).await?;
    }
    anyhow::ensure!(rows > 0 && chunk_rows > 0, "no rows");
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    let cpu = own.cpu_seconds().zip(cpu).map(|(now, then)| (now - then) * 1e6 / rows as f64);
    connection.close().await?;
    Ok((rate, cpu))
}

async fn write(connection: &mut PgConnection, chunk: &[u8]) -> anyhow::Result<u64> {
    let mut transaction = connection.begin().await?;
    let mut copy = transaction.copy_in_raw(copy::STATEMENT).await?;
    copy.send(copy::HEADER).await?;
    for part in chunk.chunks(256 << 10) {
        copy.send(part).await?;
    }
    copy.send(copy::TRAILER).await?;
    let rows = copy.finish().await?;
    transaction.commit().await?;
    Ok(rows)
}

struct Stat {
    parent: i32,
    own_ticks: f64,
    waited_ticks: f64,
}

/// The fields of `/proc/PID/stat`.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The process name in parentheses may contain any character.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_ticks: number(11)? + number(12)?,
        waited_ticks: number(13)? + number(14)?,
    })
}
