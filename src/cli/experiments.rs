//! `flagstream experiments`: manages the experiments of a running service and shows their results.

mod bars;
mod change;
mod export;
mod history;
mod list;
mod plan;
mod screen;
mod show;
mod simulate;
mod svg;
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
    /// Show the results of an experiment so far, and the conclusions that they allow
    Show(show::ShowArgs),
    /// Show the results over time, as a table or a picture
    History(history::HistoryArgs),
    /// Compute how many users and days an experiment needs
    Plan(plan::PlanArgs),
    /// Write exposures, conversions and users' values to CSV files, from the database
    Export(export::ExportArgs),
    /// Start the experiment described by a file
    Create(change::CreateArgs),
    /// End an experiment; its results stay
    Stop(change::StopArgs),
    /// Simulate experiments, to measure the error rate of the statistics
    Simulate(simulate::SimulateArgs),
}

/// The environment and the service of an experiment.
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
        Command::History(args) => history::history(args, global).await,
        Command::Plan(args) => plan::plan(args, global).await,
        Command::Export(args) => export::export(args, global).await,
        Command::Create(args) => change::create(args, global).await,
        Command::Stop(args) => change::stop(args, global).await,
        Command::Simulate(args) => simulate::simulate(&args, global),
    }
}

impl PlaceArgs {
    fn service(&self, config: &Config) -> anyhow::Result<Service> {
        Service::new(&self.service, config)
    }

    /// The path of an API call. `rest` is empty, or begins with a slash.
    fn path(&self, rest: &str, config: &Config) -> String {
        format!("/api/v1/experiments{rest}?environment={}", segment(self.environment(config)))
    }

    fn environment<'e>(&'e self, config: &'e Config) -> &'e str {
        self.environment.as_deref().unwrap_or(&config.unleash.default_environment)
    }
}
