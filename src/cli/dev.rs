//! `flagstream dev`: everything embedded in one process.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not print evaluated events
    #[arg(long)]
    pub quiet: bool,
}

pub async fn run(_args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`dev` is not built yet")
}
