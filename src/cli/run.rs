//! `flagstream run`: the service.

use std::process::ExitCode;
use std::sync::Arc;

use crate::app::{self, Role};
use crate::config::Profile;
use crate::telemetry;

use super::{Global, UsageError};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which parts of the service this process runs: evaluator, feeder, sink, warmer, api (default: all that are
    /// built)
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    pub roles: Vec<String>,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let roles = roles(&args.roles)?;
    let loaded = global.load(Profile::Service)?;
    telemetry::init(&loaded.config.log)?;
    for notice in &loaded.notices {
        tracing::warn!("{notice}");
    }
    let config = Arc::new(loaded.config);
    if config.database.url.is_none() && roles.contains(&Role::Sink) {
        if !args.roles.is_empty() {
            return Err(
                UsageError("--roles: sink needs a database: DATABASE_URL is not set".to_owned()).into()
            );
        }
        tracing::info!("DATABASE_URL is not set: evaluations are not audited");
    }
    if config.redis.url.is_none() && args.roles.iter().any(|role| role.trim() == "warmer") {
        return Err(UsageError("--roles: role warmer needs REDIS_URL".to_owned()).into());
    }
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, instance = config.instance, ?roles, "starting");
    app::run(config, &roles).await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn roles(names: &[String]) -> Result<Vec<Role>, UsageError> {
    if names.is_empty() {
        return Ok(Role::BUILT.to_vec());
    }
    let roles: Result<Vec<Role>, String> = names.iter().map(|name| name.trim().parse()).collect();
    roles.map_err(|error| UsageError(format!("--roles: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(names: &[&str]) -> Result<Vec<Role>, String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        roles(&names).map_err(|error| error.to_string())
    }

    #[test]
    fn roles_are_those_built_unless_named() {
        assert_eq!(parsed(&[]), Ok(Role::BUILT.to_vec()));
        assert_eq!(parsed(&["feeder", " api"]), Ok(vec![Role::Feeder, Role::Api]));
        assert_eq!(parsed(&["sink"]), Ok(vec![Role::Sink]));
        assert!(parsed(&["evalutor"]).is_err_and(|error| error.contains("evaluator, feeder, sink")));
    }
}
