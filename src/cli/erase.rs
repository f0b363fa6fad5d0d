//! `flagstream erase`: removes or anonymises what is kept of a user.

use std::borrow::Cow;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::audit::erase::{self, Erasure};
use crate::config::Config;
use crate::privacy::Privacy;
use crate::warm;

use super::{Global, Output, UsageError, database, print};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The user's id, as services send it
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// Keep the evaluations, without anything that tells whose they are
    #[arg(long)]
    pub anonymise: bool,
}

/// How much was erased, by place.
#[derive(Debug, Serialize)]
struct Report {
    rows: u64,
    keys: u64,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    if config.database.url.is_none() && config.redis.url.is_none() {
        return Err(UsageError("erase: neither DATABASE_URL nor REDIS_URL is set".to_owned()).into());
    }
    let report = Report { rows: rows(&args, &config).await?, keys: keys(&args, &config).await? };
    let done = if args.anonymise { "anonymised" } else { "removed" };
    print::line(&match global.output {
        Output::Json => serde_json::to_string(&report)?,
        Output::Text => format!("{} rows {done}, {} keys removed", report.rows, report.keys),
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn rows(args: &Args, config: &Config) -> anyhow::Result<u64> {
    let Some(url) = &config.database.url else { return Ok(0) };
    let database = database::open(url, "flagstream-erase").await?;
    let how = if args.anonymise { Erasure::Anonymise } else { Erasure::Remove };
    let users = written_as(config, &args.user);
    erase::rows(&database, &users, how).await.with_context(|| format!("{database}"))
}

async fn keys(args: &Args, config: &Config) -> anyhow::Result<u64> {
    let Some(url) = &config.redis.url else { return Ok(0) };
    let mut erased = 0;
    for user in written_as(config, &args.user) {
        erased += warm::erase(url.expose(), &user).await?;
    }
    Ok(erased)
}

/// The texts that a user's id is written as: itself, and its hash, whatever the setting was at the time.
fn written_as(config: &Config, user: &str) -> Vec<String> {
    let hashed = config.privacy.hash_key.as_ref().and_then(|_| {
        let mut privacy = config.privacy.clone();
        privacy.hash_user_ids = true;
        Some(Privacy::of(&privacy)?.user(Cow::Borrowed(user)).into_owned())
    });
    // As rows hold it.
    [Some(user.replace('\0', "\u{FFFD}")), hashed].into_iter().flatten().collect()
}
