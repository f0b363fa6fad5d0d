//! `flagstream config`: the configuration in force.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Every setting, secrets masked, and where its value came from
    Show,
}

pub fn run(_command: Command, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`config` is not built yet")
}
