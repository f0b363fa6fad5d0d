//! `flagstream flags`: what is done with flags, at a running service.

mod kill;
mod review;

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Switch a flag off for everybody, whatever Unleash says, until it is restored
    Kill(kill::KillArgs),
    /// Bring a killed flag back
    Restore(kill::RestoreArgs),
    /// List flags that are expired, never evaluated, always on, or nobody's
    Stale(review::StaleArgs),
    /// List, or remove, local flags that were archived long ago
    Cleanup(review::CleanupArgs),
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::Kill(args) => kill::kill(args, global).await,
        Command::Restore(args) => kill::restore(args, global).await,
        Command::Stale(args) => review::stale(args, global).await,
        Command::Cleanup(args) => review::cleanup(args, global).await,
    }
}
