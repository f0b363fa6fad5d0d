//! `flagstream experiments`: what is asked of users, at a running service, and what they answered.

mod bars;
mod change;
mod list;
mod screen;
mod show;
mod simulate;
mod table;
mod text;

use std::process::ExitCode;

use crate::config::Config;
use crate::http::segment;

use super::Global;
use super::service::{Options, Service};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List experiments
    List(list::ListArgs),
    /// Show what an experiment has found so far, and what may be concluded from it
    Show(show::ShowArgs),
    /// Start an experiment that a file describes
    Create(change::CreateArgs),
    /// End an experiment; its results stay
    Stop(change::StopArgs),
    /// Simulate experiments, to see how often the statistics are wrong
    Simulate(simulate::SimulateArgs),
}

/// Where an experiment is.
#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// Environment (default: UNLEASH_ENVIRONMENT)
    #[arg(long)]
    environment: Option<String>,
    #[command(flatten)]
    service: Options,
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(args) => list::list(args, global).await,
        Command::Show(args) => show::show(args, global).await,
        Command::Create(args) => change::create(args, global).await,
        Command::Stop(args) => change::stop(args, global).await,
        Command::Simulate(args) => simulate::simulate(&args, global),
    }
}

impl PlaceArgs {
    fn service(&self, config: &Config) -> anyhow::Result<Service> {
        Service::new(&self.service, config)
    }

    /// `rest` is empty, or begins with a slash.
    fn path(&self, rest: &str, config: &Config) -> String {
        let environment = self.environment.as_deref().unwrap_or(&config.unleash.default_environment);
        format!("/api/v1/experiments{rest}?environment={}", segment(environment))
    }
}
