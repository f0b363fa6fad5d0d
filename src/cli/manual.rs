//! `flagstream completions` and `flagstream man`, both generated from the argument parser.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, reference};

#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Name of the shell; write the output to its completions folder
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for each command to this folder (default: print the page of `flagstream` itself)
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Print the reference of all commands in Markdown
    #[arg(long, conflicts_with = "folder")]
    pub markdown: bool,
}

pub fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "flagstream", &mut script);
    print(&script)
}

pub fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    if args.markdown {
        return print(reference::markdown().as_bytes());
    }
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return print(&page);
    };
    let place = || folder.display().to_string();
    std::fs::create_dir_all(folder).with_context(place)?;
    clap_mangen::generate_to(Cli::command(), folder).with_context(place)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes to stdout. A closed stdout is not an error.
fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
