//! `dead-letters show`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::anyhow;
use chrono::{DateTime, SecondsFormat};
use rdkafka::message::Headers;
use serde_json::{Map, Value, json};

use crate::cli::decode::Decoder;
use crate::cli::{Global, Output, print, render};
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

pub fn time(dead_letter: &DeadLetterRecord) -> String {
    let time = DateTime::from_timestamp_millis(dead_letter.written_ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub fn json(dead_letter: &DeadLetterRecord) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut document = json!({
        "partition": dead_letter.partition, "offset": dead_letter.offset, "written_at": time(dead_letter),
        "code": dead_letter.code, "message": dead_letter.message,
        "source": {
            "topic": dead_letter.source_topic, "partition": dead_letter.source_partition, "offset": dead_letter.source_offset,
            "index": dead_letter.index,
        },
        "key": dead_letter.key.as_deref().map(text),
        "headers": Value::Object(headers(dead_letter)),
        "body": dead_letter.body.as_deref().map(text),
        "body_omitted": dead_letter.body_omitted,
    });
    let is_text = |bytes: &Vec<u8>| std::str::from_utf8(bytes).is_ok();
    for (name, bytes) in [("key_hex", &dead_letter.key), ("body_hex", &dead_letter.body)] {
        if let (Some(bytes), Some(members)) =
            (bytes.as_ref().filter(|it| !is_text(it)), document.as_object_mut())
        {
            members.insert(name.to_owned(), hex::encode(bytes).into());
        }
    }
    document
}

fn headers(dead_letter: &DeadLetterRecord) -> Map<String, Value> {
    let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
    dead_letter.headers.iter().map(|header| (header.key.to_owned(), text(header.value).into())).collect()
}

fn lines(dead_letter: &DeadLetterRecord) -> String {
    let text = |bytes: Option<&[u8]>| bytes.map_or("-".into(), String::from_utf8_lossy).into_owned();
    let index = dead_letter.index.map(|index| format!(", flag {index} of the request")).unwrap_or_default();
    let mut lines = vec![
        format!("written  {}", time(dead_letter)),
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
