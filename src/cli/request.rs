//! `flagstream request`: produces an evaluation request.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Flags to ask for
    #[arg(required = true)]
    pub flags: Vec<String>,
    /// User (the targeting key)
    #[arg(long)]
    pub user: Option<String>,
    /// Context, a JSON object
    #[arg(long, value_name = "JSON")]
    pub context: Option<String>,
    /// Wait for the reply and print it
    #[arg(long)]
    pub wait: bool,
}

pub async fn run(_args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`request` is not built yet")
}
