//! `flagstream flags`: what is done with flags, at a running service.

mod apply;
mod export;
mod files;
mod remote;

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make the local flags of a running service what files say
    Apply(apply::ApplyArgs),
    /// Show what `apply` would change; exit code 1 if that is anything
    Diff(apply::DiffArgs),
    /// Write the local flags of a running service into files
    Export(export::ExportArgs),
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::Apply(args) => apply::apply(args, global).await,
        Command::Diff(args) => apply::diff(args, global).await,
        Command::Export(args) => export::export(args, global).await,
    }
}
