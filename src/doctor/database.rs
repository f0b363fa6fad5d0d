//! Checks of the database: reachable, migrated, and writable.

use chrono::{DateTime, Utc};

use crate::config::Config;
use crate::database::{CLOCK_SKEW_MAX, Database, DatabaseError, PostgresDatabase, pooler};

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
        vec![Finding::wrong(PART, error, "is DATABASE_URL right, and the database up?")]
    };
    let database = match Database::open_existing(url, "flagstream-doctor") {
        Ok(database) => database,
        Err(error @ DatabaseError::NoFile(_)) => {
            return vec![Finding::doubtful(PART, error, "flagstream migrate (`flagstream run` does it too)")];
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
        Ok(0) => Finding::well(PART, "its tables are up to date"),
        Ok(pending) => {
            let does_it = if config.database.migrate { " (`flagstream run` does it too)" } else { "" };
            let advice = format!("flagstream migrate{does_it}");
            Finding::doubtful(PART, format!("{pending} migrations are missing"), advice)
        }
        Err(error) => Finding::wrong(PART, error, "let this user read _sqlx_migrations"),
    });
    findings
}

async fn of_postgres(postgres: &PostgresDatabase) -> Result<Vec<Finding>, DatabaseError> {
    if pooler::shares_sessions(postgres).await? {
        return Ok(vec![Finding::wrong(PART, "its sessions are shared with other clients", pooler::ADVICE)]);
    }
    let asked = Utc::now();
    let (version, now, is_standby, may_create, is_read_only): (i32, DateTime<Utc>, bool, bool, bool) =
        sqlx::query_as(NUMBER).fetch_one(&postgres.pool).await?;
    let apart = (now - asked).num_seconds().abs();
    let major = version / 10_000;
    let mut findings = vec![match version >= OLDEST_VERSION {
        true => Finding::well(PART, format!("Postgres {major}")),
        false => Finding::doubtful(PART, format!("Postgres {major}"), "14 is the oldest that is tried"),
    }];
    if is_standby {
        let advice = "let DATABASE_URL name the primary";
        findings.push(Finding::wrong(PART, "this is a standby: nothing can be written", advice));
    } else if is_read_only {
        let advice = "let DATABASE_URL name the primary, or reset default_transaction_read_only of the server, the \
            database or the user";
        findings.push(Finding::wrong(PART, "it is read-only: nothing can be written", advice));
    }
    if !may_create {
        let advice = "grant CREATE on the schema: a partition is made for every day";
        findings.push(Finding::wrong(PART, "no table can be made", advice));
    }
    if postgres.may_be_impersonated() {
        let advice = "add sslmode=verify-full to DATABASE_URL (and sslrootcert=FILE for a private authority)";
        let found = "another host could pose as the database: its certificate and name are not verified";
        findings.push(Finding::doubtful(PART, found, advice));
    }
    let advice = "synchronise the clocks of both machines";
    if apart > CLOCK_SKEW_MAX.num_seconds() {
        let found = format!("its clock is {apart} s from ours: nothing is removed by age");
        findings.push(Finding::wrong(PART, found, advice));
    } else if apart > APART_MAX_SECONDS {
        findings.push(Finding::doubtful(PART, format!("its clock is {apart} s from ours"), advice));
    }
    Ok(findings)
}
