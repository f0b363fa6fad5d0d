//! `flagstream run`: the service.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::app::{self, Role, Stopped};
use crate::config::{Config, Profile};
use crate::kafka::topics::{TopicReport, Topics, TopicsError};
use crate::log_limit::limited;
use crate::shutdown::StopSignals;
use crate::telemetry;

use super::{Global, UsageError};

/// First pause between two attempts of `--apply-topics` while Kafka does not answer.
const APPLY_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Longest such pause.
const APPLY_RETRY_DELAY_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Roles that this process runs: evaluator, feeder, sink, warmer, api (default: all)
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    pub roles: Vec<String>,
    /// First create missing topics and change differing settings, as `topics apply` does
    #[arg(long)]
    pub apply_topics: bool,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    // Installed first, before anything that may take long.
    let signals = StopSignals::install()?;
    let roles = roles(&args.roles)?;
    let loaded = global.load(Profile::Service)?;
    telemetry::init(&loaded.config.log)?;
    for notice in &loaded.notices {
        // Not limited: once at the start.
        tracing::warn!("{notice}");
    }
    let config = Arc::new(loaded.config);
    let roles = possible(roles, &args.roles, &config)?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, instance = config.instance, ?roles, "starting");
    if args.apply_topics {
        apply_topics(&config).await?;
    }
    let stopped = app::run(config, &roles, signals).await?;
    tracing::info!("stopped");
    if stopped == Stopped::ToRenewCertificate {
        return execute_again();
    }
    Ok(ExitCode::SUCCESS)
}

/// Replaces this process by a new one of the same program, with the same id, arguments and environment. Returns only
/// the error.
#[cfg(unix)]
fn execute_again() -> anyhow::Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "flagstream".into());
    // The program of this process, even if its file was replaced by another version meanwhile.
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let error = std::process::Command::new(program).arg0(name).args(arguments).exec();
    Err(anyhow::Error::new(error)
        .context("cannot execute the program again with the new certificate for Kafka"))
}

/// Ends the process, so that a supervisor starts it again.
#[cfg(not(unix))]
fn execute_again() -> anyhow::Result<ExitCode> {
    Ok(ExitCode::FAILURE)
}

/// Creates and corrects the topics. Waits for Kafka, like the service itself; a signal ends the process meanwhile.
async fn apply_topics(config: &Config) -> anyhow::Result<()> {
    let topics = Topics::new(&config.kafka, &config.topics)?;
    let mut delay = APPLY_RETRY_DELAY;
    let reports = loop {
        match topics.apply().await {
            Ok(reports) => break reports,
            Err(error @ TopicsError::Unreachable { .. }) => {
                limited!(warn, %error, "the topics are applied as soon as Kafka answers");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(APPLY_RETRY_DELAY_MAX);
            }
            Err(error) => return Err(error).context("run --apply-topics"),
        }
    };
    for TopicReport { topic, done, left } in reports {
        for difference in done {
            tracing::info!(topic, ?difference, "the topic was changed");
        }
        for difference in left {
            // Not limited: once at the start.
            tracing::warn!(topic, "{difference}; not changed, because keys would move to other partitions");
        }
    }
    Ok(())
}

fn roles(names: &[String]) -> Result<Vec<Role>, UsageError> {
    if names.is_empty() {
        return Ok(Role::ALL.to_vec());
    }
    let roles: Result<Vec<Role>, String> = names.iter().map(|name| name.trim().parse()).collect();
    roles.map_err(|error| UsageError(format!("--roles: {error}")))
}

/// The roles that this configuration supports. A role that was named explicitly must be supported.
fn possible(roles: Vec<Role>, named: &[String], config: &Config) -> Result<Vec<Role>, UsageError> {
    let mut possible = Vec::with_capacity(roles.len());
    for role in roles {
        match (lacking(role, config), named.is_empty()) {
            (None, _) => possible.push(role),
            (Some(why), true) => tracing::info!("{why}"),
            (Some(why), false) => return Err(UsageError(format!("--roles: {why}"))),
        }
    }
    Ok(possible)
}

fn lacking(role: Role, config: &Config) -> Option<&'static str> {
    match role {
        Role::Sink if config.database.url.is_none() => {
            Some("the audit sink is disabled: DATABASE_URL is not set")
        }
        Role::Warmer if config.redis.url.is_none() => Some("the warmer is disabled: REDIS_URL is not set"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(names: &[&str]) -> Result<Vec<Role>, String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        roles(&names).map_err(|error| error.to_string())
    }

    #[test]
    fn all_roles_are_started_unless_some_are_named() {
        assert_eq!(parsed(&["feeder", " api"]), Ok(vec![Role::Feeder, Role::Api]));
        assert_eq!(parsed(&["sink"]), Ok(vec![Role::Sink]));
        assert_eq!(parsed(&[]), Ok(vec![Role::Evaluator, Role::Feeder, Role::Sink, Role::Warmer, Role::Api]));
        assert!(parsed(&["evalutor"]).is_err_and(|error| error.contains("evaluator, feeder, sink")));
    }
}
