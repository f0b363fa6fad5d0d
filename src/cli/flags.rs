//! `flagstream flags`: what is done with flags, at a running service.

mod kill;

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Switch a flag off for everybody, whatever Unleash says, until it is restored
    Kill(kill::KillArgs),
    /// Bring a killed flag back
    Restore(kill::RestoreArgs),
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::Kill(args) => kill::kill(args, global).await,
        Command::Restore(args) => kill::restore(args, global).await,
    }
}
