//! `flagstream topics`: creates the topics, or says how they differ from what is needed.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create what is missing and set what differs
    Apply,
    /// Say how the topics differ from what is needed; exit code 1 if they do
    Check,
}

pub async fn run(_command: Command, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`topics` is not built yet")
}
