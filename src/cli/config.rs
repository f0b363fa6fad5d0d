//! `flagstream config`: the configuration in force, and all settings.

use std::process::ExitCode;

use crate::config::{Profile, SettingInForce, markdown};

use super::{Global, Output, print};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show every setting with its value and the value's origin; secrets are masked
    Show,
    /// Print the table of settings in docs/operations.md
    #[command(hide = true)]
    Table,
}

pub fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    if let Command::Table = command {
        print::line(markdown().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = global.load(Profile::Command)?;
    match global.output {
        Output::Json => {
            for setting in &loaded.settings {
                print::line(&serde_json::to_string(setting)?)?;
            }
        }
        Output::Text => {
            print::line(&table(&loaded.settings))?;
        }
    }
    for notice in &loaded.notices {
        print::note(format_args!("flagstream: note: {notice}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(settings: &[SettingInForce]) -> String {
    let value = |setting: &SettingInForce| setting.value.clone().unwrap_or_else(|| "-".to_owned());
    let width = |column: fn(&SettingInForce) -> usize| settings.iter().map(column).max().unwrap_or(0);
    let path_width = width(|setting| setting.path.chars().count());
    // A long value shifts its own line, not the whole column.
    let value_width =
        width(|setting| setting.value.as_ref().map_or(1, |value| value.chars().count())).min(40);
    let lines: Vec<_> = settings
        .iter()
        .map(|setting| {
            let (path, value, origin) = (&setting.path, value(setting), &setting.origin);
            format!("{path:path_width$}  {value:value_width$}  {origin}")
        })
        .collect();
    lines.join("\n")
}
