//! Checks of the database: reachable, migrated, and writable.

use chrono::{DateTime, Utc};

use crate::clock::CLOCK_SKEW_MAX;
use crate::config::Config;
use crate::database::{Database, DatabaseError, PostgresDatabase, pooler};

use super::Finding;

const PART: &str = "database";
/// The oldest tested version, in Postgres' numeric format.
const OLDEST_VERSION: i32 = 140_000;
/// Tolerated difference between the database's clock and this machine's, in seconds.
const APART_MAX_SECONDS: i64 = 5;
const NUMBER: &str =
    "SELECT current_setting('server_version_num')::int, clock_timestamp(), pg_is_in_recovery(),
    has_schema_privilege(current_schema(), 'CREATE'), current_setting('transaction_read_only')::bool";

pub async fn look(config: &Config) -> Vec<Finding> {
    let Some(url) = &config.database.url else {
        let advice = "set DATABASE_URL for the audit trail, local flags and tokens";
        return vec![Finding::doubtful(PART, "not configured", advice)];
    };
    let unreachable = |error: DatabaseError| {
        vec![Finding::wrong(PART, error, "check DATABASE_URL, and that the database is running")]
    };
    let database = match Database::open_existing(url, "flagstream-doctor") {
        Ok(database) => database,
        Err(error @ DatabaseError::NoFile(_)) => {
            return vec![Finding::doubtful(
                PART,
                error,
                "run `flagstream migrate` (`flagstream run` does it, too)",
            )];
        }
        Err(error) => return unreachable(error),
    };
    // Connects directly: the pool would wait, and would not report the cause.
    let reached = match &database {
        Database::Postgres(postgres) => postgres.connect().await.map(drop),
        Database::Sqlite(_) => database.ping().await,
    };
    if let Err(error) = reached {
        return unreachable(error);
    }
    let mut findings = vec![Finding::well(PART, format!("{database} answers"))];
    if let Database::Postgres(postgres) = &database {
        match of_postgres(postgres).await {
            Ok(more) => findings.extend(more),
            Err(error) => return unreachable(error),
        }
    }
    findings.push(match database.pending().await {
        Ok(0) => Finding::well(PART, "the tables are up to date"),
        Ok(pending) => {
            let does_it = if config.database.migrate { " (`flagstream run` does it, too)" } else { "" };
            let advice = format!("run `flagstream migrate`{does_it}");
            Finding::doubtful(PART, format!("{pending} migrations are missing"), advice)
        }
        Err(error) => Finding::wrong(PART, error, "allow this user to read the table _sqlx_migrations"),
    });
    findings
}

async fn of_postgres(postgres: &PostgresDatabase) -> Result<Vec<Finding>, DatabaseError> {
    if pooler::shares_sessions(postgres).await? {
        return Ok(vec![Finding::wrong(
            PART,
            "a connection pooler shares sessions between clients",
            pooler::ADVICE,
        )]);
    }
    let asked = Utc::now();
    let (version, now, is_standby, may_create, is_read_only): (i32, DateTime<Utc>, bool, bool, bool) =
        sqlx::query_as(NUMBER).fetch_one(&postgres.pool).await?;
    let apart = (now - asked).num_seconds().abs();
    let major = version / 10_000;
    let mut findings = vec![match version >= OLDEST_VERSION {
        true => Finding::well(PART, format!("Postgres {major}")),
        false => Finding::doubtful(
            PART,
            format!("Postgres {major}"),
            "use Postgres 14 or newer; older versions are not tested",
        ),
    }];
    if is_standby {
        let advice = "set DATABASE_URL to the primary";
        findings.push(Finding::wrong(PART, "this is a standby: nothing can be written", advice));
    } else if is_read_only {
        let advice = "set DATABASE_URL to the primary, or reset default_transaction_read_only of the server, the \
            database or the user";
        findings.push(Finding::wrong(PART, "the database is read-only: nothing can be written", advice));
    }
    if !may_create {
        let advice = "grant CREATE on the schema: a partition is created for every day";
        findings.push(Finding::wrong(PART, "this user cannot create tables", advice));
    }
    if postgres.may_be_impersonated() {
        let advice = "add sslmode=verify-full to DATABASE_URL (and sslrootcert=FILE for a private authority)";
        let found =
            "the database's certificate and host name are not verified, so another host could impersonate it";
        findings.push(Finding::doubtful(PART, found, advice));
    }
    let advice = "synchronise the clocks of both machines";
    if apart > CLOCK_SKEW_MAX.num_seconds() {
        let found =
            format!("the database's clock differs by {apart} s from this machine's: retention is suspended");
        findings.push(Finding::wrong(PART, found, advice));
    } else if apart > APART_MAX_SECONDS {
        findings.push(Finding::doubtful(
            PART,
            format!("the database's clock differs by {apart} s from this machine's"),
            advice,
        ));
    }
    Ok(findings)
}
