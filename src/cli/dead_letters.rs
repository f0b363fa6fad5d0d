//! `flagstream dead-letters`: lists and replays rejected records.

mod edit;
mod replay;
mod select;
mod show;

use std::process::ExitCode;

use crate::dead_letters::{json, written_at};
use crate::kafka::dead_letter::DeadLetterRecord;

use super::decode::Decoder;
use super::{Global, Output, print, render};

use self::select::Selection;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List dead letters, one per line
    List(ListArgs),
    /// Show one dead letter completely
    Show(show::Args),
    /// Send dead letters to their original topics again
    Replay(replay::Args),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    selection: Selection,
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(args) => list(args, global).await,
        Command::Show(args) => show::show(args, global).await,
        Command::Replay(args) => replay::replay(args, global).await,
    }
}

async fn list(args: ListArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let (config, output) = (global.load_config()?, global.output);
    let each = move || {
        let mut decoder = Decoder::open(&config)?;
        args.selection.each(&config, |mut dead_letter| {
            dead_letter.body = dead_letter.body.map(|body| decoder.json(&body).unwrap_or(body));
            let line = match output {
                Output::Text => line(&dead_letter),
                Output::Json => json(&dead_letter).to_string(),
            };
            Ok(print::line(&line)?)
        })
    };
    tokio::task::spawn_blocking(each).await??;
    Ok(ExitCode::SUCCESS)
}

fn line(dead_letter: &DeadLetterRecord) -> String {
    let DeadLetterRecord {
        partition,
        offset,
        code,
        message,
        source_topic,
        source_partition,
        source_offset,
        ..
    } = dead_letter;
    let body = match &dead_letter.body {
        Some(body) => String::from_utf8_lossy(body),
        None => "(no body)".into(),
    };
    let when = written_at(dead_letter);
    let place = format!("{partition}/{offset}");
    render::printable(&format!(
        "{place:>8}  {when}  {code} from {source_topic} {source_partition}/{source_offset}: {message}: {body}"
    ))
}
