//! `experiments show`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::cli::{Global, Output, print};
use crate::experiment::Results;
use crate::http::segment;

use super::PlaceArgs;
use super::screen::Screen;
use super::text;

/// Interval of the requests of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Moves the cursor to the upper left corner and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Name of the experiment
    name: String,
    /// Update the output until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

pub async fn show(args: ShowArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let service = args.place.service(&config)?;
    let path = args.place.path(&format!("/{}/results", segment(&args.name)), &config);
    let screen = Screen::of_stdout();
    let mut tick = interval(WATCH_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut printed = String::new();
    loop {
        tick.tick().await;
        let answered = match service.call(Method::GET, &path, None, None::<&Value>).await {
            // A restart of the service does not end the watch.
            Err(error) if args.watch && !printed.is_empty() => {
                print::note(format_args!("flagstream: {error:#}"));
                continue;
            }
            answered => answered?,
        };
        let over = args.watch && screen.terminal && global.output == Output::Text;
        let (shown, compared) = match global.output {
            Output::Json => (answered.body.clone(), answered.body),
            Output::Text => {
                let results: Results = serde_json::from_str(&answered.body)
                    .context("the response does not contain results from flagstream; check --url")?;
                let shown = text::of(&results, &screen);
                (shown, text::of(&Results { counted: None, ..results }, &screen))
            }
        };
        // The age of the count alone is no news, except on a terminal, where it replaces the last one.
        if over || compared != printed {
            let clear = if over { CLEAR } else { "" };
            if !print::line(&format!("{clear}{shown}"))? {
                return Ok(ExitCode::SUCCESS);
            }
            printed = compared;
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
    }
}
