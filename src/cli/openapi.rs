//! `flagstream openapi`: prints the OpenAPI document of the HTTP API.

use std::process::ExitCode;

use crate::http;

use super::print;

/// Prints the document, which does not depend on the configuration.
pub fn run() -> anyhow::Result<ExitCode> {
    print::line(&serde_json::to_string_pretty(&http::openapi_document())?)?;
    Ok(ExitCode::SUCCESS)
}
