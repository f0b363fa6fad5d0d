//! `flagstream asyncapi`: prints the AsyncAPI document of the topics.

use std::process::ExitCode;

use crate::asyncapi;

use super::{Global, print};

/// Prints the document. It has the names of the configuration; nothing is connected to.
pub fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let document = asyncapi::document(&global.load_config()?);
    print::line(&serde_json::to_string_pretty(&document)?)?;
    Ok(ExitCode::SUCCESS)
}
