//! `flagstream evaluate`: evaluates a flag of a file.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The flag to evaluate
    pub flag: String,
    /// User (the targeting key)
    #[arg(long)]
    pub user: Option<String>,
    /// Context, a JSON object
    #[arg(long, value_name = "JSON")]
    pub context: Option<String>,
    /// Default value; its type is the type asked for
    #[arg(long, value_name = "JSON")]
    pub default: Option<String>,
    #[arg(long)]
    pub environment: Option<String>,
    /// A file of flags in the format of Unleash's client API
    #[arg(long, value_name = "FILE")]
    pub flags: Option<std::path::PathBuf>,
}

pub async fn run(_args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`evaluate` is not built yet")
}
