//! The command line: the parser and the dispatch of commands. Each command has its own file.
//!
//! Exit codes: 0 success, 1 failure, 2 wrong usage or configuration. Data is written to stdout, everything else to
//! stderr.

mod ask;
pub mod asyncapi;
pub mod audit;
pub mod bench;
pub mod config;
mod database;
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
pub mod openapi;
pub mod print;
pub mod produce;
mod progress;
mod reference;
mod render;
pub mod replay;
pub mod request;
pub mod run;
pub mod schemas;
mod service;
pub mod tail;
pub mod taps;
pub mod token;
pub mod topics;
mod values;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{self as configuration, Config, ConfigError, Loaded, Profile};
use crate::telemetry;

const GLOBAL: &str = "Global options";

/// Evaluates feature flags inside your Kafka pipeline.
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
    /// Configuration file (default: ./flagstream.toml, if it exists)
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub config: Option<PathBuf>,
    /// Format of data on stdout. With json, a list is one object per line and a single item is one object on one line;
    /// errors are text on stderr
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Text, help_heading = GLOBAL)]
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
    /// Run everything in one process, for development
    Dev(dev::Args),
    /// Create the topics, or report how they differ from the required ones
    #[command(subcommand)]
    Topics(topics::Command),
    /// Migrate the database schema
    Migrate,
    /// Manage API tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Kill, review, export and apply flags of a running service
    #[command(subcommand)]
    Flags(flags::Command),
    /// Create, follow and stop experiments of a running service
    #[command(subcommand)]
    Experiments(experiments::Command),
    /// Verify that the audit trail is complete and unchanged
    #[command(subcommand)]
    Audit(audit::Command),
    /// Remove or anonymise the data stored about a user
    Erase(erase::Args),
    /// List, check and register the Avro schemas of the messages
    #[command(subcommand)]
    Schemas(schemas::Command),
    /// Check every dependency, topic, permission and version, and advise how to fix problems
    Doctor,
    /// Check liveness or readiness of the service on this machine, for health checks
    Health(health::Args),
    /// Show the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Print the AsyncAPI document of the topics, messages and headers
    Asyncapi,
    /// Print the OpenAPI document of the HTTP API
    Openapi,
    /// Evaluate a flag over HTTP, or from a file
    Evaluate(evaluate::Args),
    /// Evaluate flags through Kafka: produce a request, and optionally wait for the reply
    Request(request::Args),
    /// Produce one record to a topic
    Produce(produce::Args),
    /// Follow a topic and print its records decoded
    Tail(tail::Args),
    /// Check taps, which add flags to the records of other topics
    #[command(subcommand)]
    Taps(taps::Command),
    /// List, show and replay rejected records
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Evaluate recorded evaluations again: as recorded, as of another time, or with proposed flags
    Replay(replay::Args),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write the pages of all commands
    Man(manual::ManArgs),
    /// Run benchmarks with the load tool, a separate program
    Bench(bench::Args),
}

/// Wrong usage that the parser cannot detect, such as options that exclude each other only for some values. Exit code
/// 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl Global {
    /// The configuration of this process. A [`ConfigError`] ends the process with exit code 2.
    pub fn load_config(&self) -> Result<Config, ConfigError> {
        Ok(self.load(Profile::Command)?.config)
    }

    /// The configuration with the origin of each value, and with the defaults of `profile`.
    pub fn load(&self, profile: Profile) -> Result<Loaded, ConfigError> {
        configuration::load(self.config.as_deref(), profile)
    }
}

/// Runs one command.
pub async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    // `run` initializes logging later, from its configuration.
    match cli.command {
        // The load tool is another program, with its own logging.
        Command::Run(_) | Command::Bench(_) => {}
        Command::Dev(_) => telemetry::init_for_command(telemetry::Command::Lasting)?,
        _ => telemetry::init_for_command(telemetry::Command::Short)?,
    }
    match cli.command {
        Command::Run(args) => run::run(args, global).await,
        Command::Dev(args) => dev::run(args, global).await,
        Command::Topics(command) => topics::run(command, global).await,
        Command::Migrate => migrate::run(global).await,
        Command::Token(command) => token::run(command, global).await,
        Command::Flags(command) => flags::run(command, global).await,
        Command::Experiments(command) => experiments::run(command, global).await,
        Command::Audit(command) => audit::run(command, global).await,
        Command::Erase(args) => erase::run(args, global).await,
        Command::Schemas(command) => schemas::run(command, global).await,
        Command::Doctor => doctor::run(global).await,
        Command::Health(args) => health::run(args, global).await,
        Command::Config(command) => config::run(command, global),
        Command::Asyncapi => asyncapi::run(global),
        Command::Openapi => openapi::run(),
        Command::Evaluate(args) => evaluate::run(args, global).await,
        Command::Request(args) => request::run(args, global).await,
        Command::Produce(args) => produce::run(args, global).await,
        Command::Tail(args) => tail::run(args, global).await,
        Command::Taps(command) => taps::run(command, global).await,
        Command::DeadLetters(command) => dead_letters::run(command, global).await,
        Command::Replay(args) => replay::run(args, global).await,
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::Bench(args) => bench::run(args, global),
    }
}

/// The exit code for an error of [`dispatch`].
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<ConfigError>() || error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// The error and its causes, without those whose text an earlier one already contains.
pub fn said_once(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if said.is_empty() {
            said = text;
        } else if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
    }
    said
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
    fn an_error_is_said_once() {
        let inner = anyhow::anyhow!("no such table: t");
        let error = inner.context("no such table: t (code 1)").context("./a.db");
        assert_eq!(said_once(&error), "./a.db: no such table: t (code 1)");
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
