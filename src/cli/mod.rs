//! The command line: one file per command, the parser and the dispatch here.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. Data goes to stdout, everything else to stderr.

mod ask;
pub mod bench;
pub mod config;
pub mod dead_letters;
mod decode;
pub mod dev;
pub mod doctor;
pub mod erase;
pub mod evaluate;
pub mod experiments;
pub mod flags;
pub mod health;
pub mod manual;
pub mod migrate;
mod moment;
pub mod print;
mod render;
pub mod replay;
pub mod request;
pub mod run;
pub mod schemas;
mod service;
pub mod tail;
pub mod token;
pub mod topics;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{self as configuration, Config, ConfigError, Loaded, Profile};
use crate::telemetry;

/// Evaluates feature flags where the events already are: in Kafka.
#[derive(Debug, Parser)]
#[command(name = "flagstream", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file (default: ./flagstream.toml, if there is one)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How data is printed
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service
    Run(run::Args),
    /// Everything embedded in one process, for development
    Dev(dev::Args),
    /// Create the topics, or say how they differ from what is needed
    #[command(subcommand)]
    Topics(topics::Command),
    /// Bring the database up to date
    Migrate,
    /// API tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Flags of a running service
    #[command(subcommand)]
    Flags(flags::Command),
    /// Experiments on flags, at a running service
    #[command(subcommand)]
    Experiments(experiments::Command),
    /// Remove or anonymise what is kept of a user
    Erase(erase::Args),
    /// The schemas of messages in Avro
    #[command(subcommand)]
    Schemas(schemas::Command),
    /// Check every dependency, topic, permission and version, and say what to do
    Doctor,
    /// Ask the service on this machine whether it lives or is ready, for health checks
    Health(health::Args),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Evaluate a flag
    Evaluate(evaluate::Args),
    /// Produce an evaluation request
    Request(request::Args),
    /// Follow a topic, decoded
    Tail(tail::Args),
    /// What was refused, and sending it again
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Evaluate recorded evaluations again: as then, as of another moment, or with proposed flags
    Replay(replay::Args),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual's page, or write those of all commands
    Man(manual::ManArgs),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Command),
}

/// Wrong usage that the parser cannot see, such as two options that only some values forbid: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl Global {
    /// The configuration of this process; a [`ConfigError`] ends the process with exit code 2.
    pub fn load_config(&self) -> Result<Config, ConfigError> {
        Ok(self.load(Profile::Service)?.config)
    }

    /// The same with where each value came from, and with the defaults of `profile`.
    pub fn load(&self, profile: Profile) -> Result<Loaded, ConfigError> {
        configuration::load(self.config.as_deref(), profile)
    }
}

/// Runs one command to its end.
pub async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    // The service logs as it is configured.
    if !matches!(cli.command, Command::Run(_)) {
        telemetry::init_for_command()?;
    }
    match cli.command {
        Command::Run(args) => run::run(args, global).await,
        Command::Dev(args) => dev::run(args, global).await,
        Command::Topics(command) => topics::run(command, global).await,
        Command::Migrate => migrate::run(global).await,
        Command::Token(command) => token::run(command, global).await,
        Command::Flags(command) => flags::run(command, global).await,
        Command::Experiments(command) => experiments::run(command, global).await,
        Command::Erase(args) => erase::run(args, global).await,
        Command::Schemas(command) => schemas::run(command, global).await,
        Command::Doctor => doctor::run(global).await,
        Command::Health(args) => health::run(args, global).await,
        Command::Config(command) => config::run(command, global),
        Command::Evaluate(args) => evaluate::run(args, global).await,
        Command::Request(args) => request::run(args, global).await,
        Command::Tail(args) => tail::run(args, global).await,
        Command::DeadLetters(command) => dead_letters::run(command, global).await,
        Command::Replay(args) => replay::run(args, global).await,
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::Bench(command) => bench::run(command, global).await,
    }
}

/// The exit code that an error of [`dispatch`] means.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<ConfigError>() || error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = Cli::try_parse_from(["flagstream", "config", "show", "--output", "json"]);
        assert!(cli.is_ok_and(|cli| cli.global.output == Output::Json));
    }

    #[test]
    fn configuration_and_usage_errors_are_exit_code_2() {
        let usage = anyhow::Error::new(UsageError("one or the other".into()));
        assert_eq!(format!("{:?}", exit_code(&usage)), format!("{:?}", ExitCode::from(2)));
        let other = anyhow::anyhow!("broken");
        assert_eq!(format!("{:?}", exit_code(&other)), format!("{:?}", ExitCode::FAILURE));
    }
}
