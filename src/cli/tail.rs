//! `flagstream tail`: follows a topic, decoded.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which topic: one of ours by its role (`events`, `updates`, …) or by its name
    #[arg(long, default_value = "events")]
    pub topic: String,
}

pub async fn run(_args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`tail` is not built yet")
}
