//! `flagstream doctor`: checks everything that a deployment needs, and advises how to fix problems.

use std::process::ExitCode;

use crate::doctor::{self, Finding, State};

use super::{Global, Output, print, render};

/// Runs all checks. Exit code 1 if any of them fails.
pub async fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let findings = doctor::look(&config).await;
    match global.output {
        Output::Json => {
            for finding in &findings {
                print::line(&serde_json::to_string(finding)?)?;
            }
        }
        Output::Text => {
            for line in findings.iter().flat_map(lines) {
                if !print::line(&render::printable(&line))? {
                    break;
                }
            }
        }
    }
    let is_wrong = findings.iter().any(|finding| finding.state == State::Wrong);
    Ok(if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn lines(finding: &Finding) -> Vec<String> {
    let Finding { part, state, found, advice } = finding;
    let state = match state {
        State::Well => "ok",
        State::Doubtful => "warning",
        State::Wrong => "error",
    };
    let advice = advice.iter().map(|advice| format!("{:19} {advice}", ""));
    std::iter::once(format!("{state:8}  {part:8}  {found}")).chain(advice).collect()
}
