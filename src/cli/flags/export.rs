//! `flags export`: writes local flags to files.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::service::{Options, Service};
use crate::cli::{Global, Output, print};

use super::{files, remote};

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Folder to write to; each flag gets a file `environment/name.json`
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    /// Environment (default: all environments of the token)
    #[arg(long)]
    environment: Option<String>,
    #[command(flatten)]
    service: Options,
}

pub async fn export(args: ExportArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let service = Service::new(&args.service, &global.load_config()?)?;
    let remote = remote::read(&service, args.environment.as_deref()).await?;
    let mut written = 0;
    for (place, flag) in &remote.flags {
        written += usize::from(files::write(&args.folder, place, flag)?);
    }
    let flags = remote.flags.len();
    print::line(&match global.output {
        Output::Json => json!({"flags": flags, "written": written}).to_string(),
        Output::Text => format!("{flags} flags, {written} files written"),
    })?;
    Ok(ExitCode::SUCCESS)
}
