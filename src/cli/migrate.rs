//! `flagstream migrate`: migrates the database schema.

use std::process::ExitCode;

use anyhow::Context;

use crate::database::{Database, Migrated};

use super::{Global, Output, UsageError, print};

pub async fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let url = config.database.url.ok_or_else(|| UsageError("migrate: DATABASE_URL is not set".to_owned()))?;
    let database = Database::open(&url, "flagstream-migrate")?;
    let migrated = database.migrate().await.with_context(|| format!("{database} could not be migrated"))?;
    let line = match global.output {
        Output::Json => serde_json::to_string(&migrated)?,
        Output::Text => text(&database, migrated),
    };
    print::line(&line)?;
    Ok(ExitCode::SUCCESS)
}

fn text(database: &Database, Migrated { version, applied }: Migrated) -> String {
    match applied {
        0 => format!("{database} is up to date, at version {version}"),
        _ => format!("{database}: {applied} applied, now at version {version}"),
    }
}
