//! `flagstream run`: the service.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which parts of the service this process runs (default: all that are built)
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    pub roles: Vec<String>,
}

pub async fn run(_args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`run` is not built yet")
}
