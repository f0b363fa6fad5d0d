//! `flagstream run`: the service.

use std::process::ExitCode;
use std::sync::Arc;

use crate::app::{self, Role};
use crate::config::{Config, Profile};
use crate::shutdown::StopSignals;
use crate::telemetry;

use super::{Global, UsageError};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Roles that this process runs: evaluator, feeder, sink, warmer, api (default: all)
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    pub roles: Vec<String>,
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
    app::run(config, &roles, signals).await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
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
