//! `experiments export`: the rows of an experiment as CSV files.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::render::printable;
use crate::cli::{Global, Output, print};
use crate::database::Database;
use crate::experiment::export;
use crate::experiment::results::explanations::thousands;

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Name of the experiment
    name: String,
    /// Environment (default: UNLEASH_ENVIRONMENT)
    #[arg(long)]
    environment: Option<String>,
    /// Folder for exposures.csv, conversions.csv and values.csv; created if it is missing
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    out: PathBuf,
}

pub async fn export(args: ExportArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let environment = args.environment.as_deref().unwrap_or(&config.unleash.default_environment);
    let url = config.database.url.as_ref().context("DATABASE_URL: is required; the rows are read there")?;
    let database = Database::open_existing(url, "flagstream export")?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let written = export::export(&database, &config, environment, &args.name, &args.out).await;
    let written = written.with_context(|| format!("{} in {environment}", args.name))?;
    print::line(&match global.output {
        Output::Json => serde_json::to_string(&written)?,
        Output::Text => {
            let [exposures, conversions, values] =
                [written.exposures, written.conversions, written.values].map(thousands);
            printable(&format!(
                "{}: {exposures} exposures, {conversions} conversions, {values} values",
                args.out.display()
            ))
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
