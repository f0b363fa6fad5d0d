//! `flagstream erase`: removes or anonymises what is kept of a user.

use std::borrow::Cow;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::audit::erase::{self, Erasure};
use crate::config::Config;
use crate::database::Database;
use crate::privacy::Privacy;

use super::{Global, Output, UsageError, print};

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
    /// In Redis, where there is one; these are removed in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<u64>,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let url = config.database.url.as_ref();
    let url = url.ok_or_else(|| UsageError("erase: DATABASE_URL is not set".to_owned()))?;
    let database = Database::open(url, "flagstream-erase")?;
    let how = if args.anonymise { Erasure::Anonymise } else { Erasure::Remove };
    let users = written_as(&config, &args.user);
    let rows = erase::rows(&database, &users, how).await.with_context(|| format!("{database}"))?;
    let mut keys = config.redis.url.as_ref().map(|_| 0);
    for user in &users {
        if let (Some(url), Some(keys)) = (&config.redis.url, &mut keys) {
            *keys += crate::warm::erase(url.expose(), user).await?;
        }
    }
    let report = Report { rows, keys };
    let done = if args.anonymise { "anonymised" } else { "removed" };
    print::line(&match (global.output, report.keys) {
        (Output::Json, _) => serde_json::to_string(&report)?,
        (Output::Text, None) => format!("{} rows {done}", report.rows),
        (Output::Text, Some(keys)) => format!("{} rows {done}, {keys} keys removed", report.rows),
    })?;
    Ok(ExitCode::SUCCESS)
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
