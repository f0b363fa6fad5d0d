//! `flagstream bench`: the load tool behind docs/benchmarks.md.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Requests through the whole pipeline, on real Kafka
    Stream(StreamArgs),
}

#[derive(Debug, clap::Args)]
pub struct StreamArgs {}

pub async fn run(_command: Command, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`bench` is not built yet")
}
