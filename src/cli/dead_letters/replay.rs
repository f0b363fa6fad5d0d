//! `dead-letters replay`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cli::{Global, Output, UsageError, print, render};
use crate::dead_letters::body::{Readers, Writers};
use crate::dead_letters::{Allowed, Fate, Replayer};
use crate::kafka::dead_letter::DeadLetterRecord;
use crate::schema_registry::Undecodable;

use super::edit;
use super::select::{DeadLetterId, Selection};

/// Number of dead letters that are read ahead of sending.
const AHEAD_RECORDS: usize = 64;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Positions of the dead letters, as printed by `dead-letters list` (or select them by the options below)
    #[arg(value_name = "PARTITION/OFFSET")]
    places: Vec<DeadLetterId>,
    #[command(flatten)]
    selection: Selection,
    /// Replay all dead letters
    #[arg(long)]
    all: bool,
    /// A shell command that gets each body as JSON on its stdin and writes the new one to its stdout; if it fails or
    /// writes nothing, the dead letter is not sent. For an Avro topic the result is encoded in Avro again
    #[arg(long, value_name = "COMMAND")]
    filter: Option<String>,
    /// Replay whole requests even if only one of their flags was rejected: the others are evaluated a second time
    #[arg(long)]
    whole: bool,
    /// Replay records that a tap rejected into the source of the tap: all consumers of that topic read them again
    #[arg(long)]
    into_source: bool,
    /// Print what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
}

pub async fn replay(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    if args.places.is_empty() && !args.all && args.selection.is_everything() {
        let how =
            "select dead letters by position, --code, --since, --until, --source or --count, or use --all";
        return Err(UsageError(format!("dead-letters replay: {how}")).into());
    }
    let config = global.load_config()?;
    let (dead_letters, mut next) = mpsc::channel(AHEAD_RECORDS);
    let (selection, places, reading) = (args.selection.clone(), args.places.clone(), config.clone());
    let reader = tokio::task::spawn_blocking(move || {
        let mut bodies = Readers::open(&reading)?;
        selection.each(&reading, |dead_letter| {
            let is_meant = places.is_empty() || places.contains(&DeadLetterId::of(&dead_letter));
            if !is_meant {
                return Ok(true);
            }
            let json = bodies.json(&dead_letter);
            Ok(dead_letters.blocking_send((dead_letter, json)).is_ok())
        })
    });
    let writers = match &args.filter {
        Some(_) if !args.dry_run => Writers::open(&config).await?,
        _ => Writers::default(),
    };
    let replayer = Replayer::new(&config, writers)?;
    let (mut sent, mut kept) = (0u64, BTreeMap::<&str, u64>::new());
    while let Some((dead_letter, json)) = next.recv().await {
        let fate = take(&args, &replayer, &dead_letter, json).await?;
        match &fate {
            Fate::Kept { reason, .. } => *kept.entry(reason).or_default() += 1,
            Fate::Sent { .. } | Fate::Ready => sent += 1,
        }
        print::line(&told(&dead_letter, &fate, global.output))?;
    }
    reader.await??;
    let kept_count: u64 = kept.values().sum();
    let done = if args.dry_run { "to send" } else { "sent" };
    let reasons: String = kept.iter().map(|(reason, count)| format!(", {count} {reason}")).collect();
    print::note(format_args!("{sent} {done}, {kept_count} not{reasons}"));
    let missing = !args.places.is_empty() && sent + kept_count < args.places.len() as u64;
    anyhow::ensure!(!missing, "some of the given positions contain no dead letter");
    Ok(if kept.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Replays one dead letter. `json` is its body as JSON, or the reason why it cannot be read.
async fn take(
    args: &Args,
    replayer: &Replayer<'_>,
    dead_letter: &DeadLetterRecord,
    json: Result<Vec<u8>, Undecodable>,
) -> anyhow::Result<Fate> {
    let kept = |reason, message: String| Ok(Fate::Kept { reason, message });
    let allowed = Allowed { whole: args.whole, into_source: args.into_source };
    if let Some(fate) = replayer.check(dead_letter, allowed, args.filter.is_some()) {
        return Ok(fate);
    }
    let edited = match &args.filter {
        None => None,
        Some(program) => {
            let came = dead_letter.body.clone().unwrap_or_default();
            match edit::through(program, dead_letter, json.as_ref().unwrap_or(&came)).await {
                Ok(body) if body.is_empty() => {
                    return kept("filtered", "the filter wrote no output".to_owned());
                }
                Ok(body) => Some(body),
                Err(error) => return kept("filter_failed", format!("{error:#}")),
            }
        }
    };
    Ok(replayer.take(dead_letter, json, edited, args.dry_run).await?)
}

fn told(dead_letter: &DeadLetterRecord, fate: &Fate, output: Output) -> String {
    let topic = &dead_letter.source_topic;
    if output == Output::Text {
        let place = format!("{}/{}", dead_letter.partition, dead_letter.offset);
        let fate = match fate {
            Fate::Sent { partition, offset } => format!("is at {topic} {partition}/{offset} now"),
            Fate::Ready => format!("would go to {topic}"),
            Fate::Kept { reason, message } => format!("not sent, {reason}: {message}"),
        };
        return render::printable(&format!("{place:>8}  {} {fate}", dead_letter.code));
    }
    let mut document =
        json!({"partition": dead_letter.partition, "offset": dead_letter.offset, "code": dead_letter.code});
    let fate = match fate {
        Fate::Sent { partition, offset } => {
            json!({"sent": {"topic": topic, "partition": partition, "offset": offset}})
        }
        Fate::Ready => json!({"would_go_to": topic}),
        Fate::Kept { reason, message } => json!({"not_sent": reason, "message": message}),
    };
    if let (Some(members), Value::Object(fate)) = (document.as_object_mut(), fate) {
        members.extend(fate);
    }
    document.to_string()
}
