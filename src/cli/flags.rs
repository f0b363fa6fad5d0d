//! `flagstream flags`: manages the flags of a running service.

mod apply;
mod export;
mod files;
mod kill;
mod remote;
mod review;

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Disable a flag for all users, whatever Unleash returns, until it is restored
    Kill(kill::KillArgs),
    /// Remove the kill switch of a flag
    Restore(kill::RestoreArgs),
    /// List flags that are expired, never evaluated, always on, or without an owner
    Stale(review::StaleArgs),
    /// List or remove local flags that were archived long ago
    Cleanup(review::CleanupArgs),
    /// Apply flag files to a running service
    Apply(apply::ApplyArgs),
    /// Show what `apply` would change; exit code 1 if there are changes
    Diff(apply::DiffArgs),
    /// Write the local flags of a running service to files
    Export(export::ExportArgs),
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::Kill(args) => kill::kill(args, global).await,
        Command::Restore(args) => kill::restore(args, global).await,
        Command::Stale(args) => review::stale(args, global).await,
        Command::Cleanup(args) => review::cleanup(args, global).await,
        Command::Apply(args) => apply::apply(args, global).await,
        Command::Diff(args) => apply::diff(args, global).await,
        Command::Export(args) => export::export(args, global).await,
    }
}
