//! `dead-letters show`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::anyhow;
use rdkafka::message::Headers;

use crate::cli::decode::Decoder;
use crate::cli::{Global, Output, print, render};
use crate::dead_letters::{json, written_at};
use crate::kafka::dead_letter::DeadLetterRecord;

use super::select::{DeadLetterId, Selection};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Position of the dead letter, as printed by `dead-letters list`
    #[arg(value_name = "PARTITION/OFFSET")]
    place: DeadLetterId,
    /// Print only its body, byte for byte
    #[arg(long)]
    body: bool,
}

pub async fn show(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let (place, topic) = (args.place, config.topics.dead_letters.clone());
    let find = move || {
        let (mut found, mut decoder) = (None, Decoder::open(&config)?);
        Selection::none().each(&config, |dead_letter| {
            let is_it = DeadLetterId::of(&dead_letter) == place;
            found = is_it.then_some(dead_letter);
            Ok(!is_it)
        })?;
        if let Some(body) =
            found.as_mut().and_then(|dead_letter: &mut DeadLetterRecord| dead_letter.body.as_mut())
            && !args.body
            && let Some(json) = decoder.json(body)
        {
            *body = json;
        }
        anyhow::Ok(found)
    };
    let found = tokio::task::spawn_blocking(find).await??;
    let dead_letter =
        found.ok_or_else(|| anyhow!("{topic} has no dead letter at {}/{}", place.partition, place.offset))?;
    if args.body {
        std::io::stdout().write_all(dead_letter.body.as_deref().unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    print::line(&match global.output {
        Output::Json => json(&dead_letter).to_string(),
        Output::Text => lines(&dead_letter),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn lines(dead_letter: &DeadLetterRecord) -> String {
    let text = |bytes: Option<&[u8]>| bytes.map_or("-".into(), String::from_utf8_lossy).into_owned();
    let index = dead_letter.index.map(|index| format!(", flag {index} of the request")).unwrap_or_default();
    let mut lines = vec![
        format!("written  {}", written_at(dead_letter)),
        format!("code     {}", dead_letter.code),
        format!("message  {}", dead_letter.message),
        format!(
            "source   {} {}/{}{index}",
            dead_letter.source_topic, dead_letter.source_partition, dead_letter.source_offset
        ),
        format!("key      {}", text(dead_letter.key.as_deref())),
    ];
    lines.extend(
        dead_letter.headers.iter().map(|header| format!("header   {}: {}", header.key, text(header.value))),
    );
    lines.push(match (dead_letter.body_omitted, &dead_letter.body) {
        (true, _) => "body     (too large to be kept here)".to_owned(),
        (false, None) => "body     (null)".to_owned(),
        (false, Some(body)) => format!("body     {}", String::from_utf8_lossy(body)),
    });
    lines.iter().map(|line| render::harmless(line)).collect::<Vec<_>>().join("\n")
}
