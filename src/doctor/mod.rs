//! Checks everything that a deployment needs, and advises how to fix problems. It changes nothing.

mod database;
mod kafka;
mod redis;
mod registry;
mod taps;
mod unleash;

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::config::Config;
use crate::private_files;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum State {
    #[serde(rename = "ok")]
    Well,
    /// The part works, but an operator should know about a problem.
    #[serde(rename = "warning")]
    Doubtful,
    #[serde(rename = "error")]
    Wrong,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The checked part: `kafka`, `database`, …
    pub part: &'static str,
    pub state: State,
    pub found: String,
    /// Advice on how to fix the problem; `None` if the state is `Well`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn well(part: &'static str, found: impl fmt::Display) -> Self {
        Self { part, state: State::Well, found: found.to_string(), advice: None }
    }

    fn doubtful(part: &'static str, found: impl fmt::Display, advice: impl Into<String>) -> Self {
        Self { part, state: State::Doubtful, found: found.to_string(), advice: Some(advice.into()) }
    }

    fn wrong(part: &'static str, found: impl fmt::Display, advice: impl Into<String>) -> Self {
        Self { part, state: State::Wrong, found: found.to_string(), advice: Some(advice.into()) }
    }
}

/// Runs all checks. The findings are grouped by part.
pub async fn look(config: &Config) -> Vec<Finding> {
    // Concurrently, so that a part without an answer does not delay the others.
    let (kafka, taps, database, redis, unleash, registry) = tokio::join!(
        kafka::look(config),
        taps::look(config),
        database::look(config),
        redis::look(config),
        unleash::look(config),
        registry::look(config),
    );
    let state = std::iter::once(state_dir(&config.state_dir)).chain(callers(config));
    kafka
        .into_iter()
        .chain(taps)
        .chain(database)
        .chain(redis)
        .chain(unleash)
        .chain(registry)
        .chain(state)
        .collect()
}

/// Warns if anonymous HTTP access is enabled only by default.
fn callers(config: &Config) -> Option<Finding> {
    let warning = config.anonymous_warning()?;
    let (found, advice) = warning.split_once(": ").unwrap_or((&warning, ""));
    Some(Finding::doubtful("http", found, advice))
}

/// Checks that the state folder is writable. It contains the snapshot and the spool.
fn state_dir(folder: &Path) -> Finding {
    let tried = folder.join(".doctor");
    let write = || {
        private_files::create_folder(folder)?;
        private_files::write(&tried, b"")?;
        std::fs::remove_file(&tried)
    };
    match (write(), private_files::open_to_others(folder)) {
        (Ok(()), None) => Finding::well("state", format!("{} is writable", folder.display())),
        (Ok(()), Some(mode)) => Finding::doubtful(
            "state",
            format!("other users can read {} (mode {mode})", folder.display()),
            "run chmod 700: the folder contains user ids, contexts and flags",
        ),
        (Err(error), _) => {
            let advice =
                "set FLAGSTREAM_STATE_DIR to a folder that this user may write, on a persistent disk";
            Finding::wrong("state", format!("{}: {error}", folder.display()), advice)
        }
    }
}
