//! `flagstream request`: produces an evaluation request, and optionally waits for its reply.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::Message;
use rdkafka::message::{Header, Headers, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::config::Config;
use crate::kafka::client::{self, Logged};
use crate::kafka::reach::{REACH_TIMEOUT, reach};
use crate::kafka::tail::{FollowError, Follower, Start};

use super::decode::Decoder;
use super::{Global, Output, UsageError, ask, print, render, values};

/// Timeout for the broker to acknowledge the request.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Flags to evaluate
    #[arg(required = true, value_name = "FLAG")]
    pub flags: Vec<String>,
    #[command(flatten)]
    pub options: ask::Options,
    /// Environment (default: UNLEASH_ENVIRONMENT)
    #[arg(long)]
    pub environment: Option<String>,
    /// Wait for the reply and print it
    #[arg(long)]
    pub wait: bool,
    /// Timeout for the reply, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = values::seconds, requires = "wait")]
    pub timeout: Duration,
    /// Topic for the reply (default: the first of FLAGSTREAM_REPLY__ALLOWED_PREFIXES)
    #[arg(long, value_name = "TOPIC", requires = "wait")]
    pub reply_to: Option<String>,
}

/// The results of a reply, as raw JSON.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    results: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// A request that was produced.
struct Sent {
    request_id: String,
    topic: String,
    partition: i32,
    offset: i64,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let environment = args.environment.as_deref().unwrap_or(&config.unleash.default_environment);
    let mut body = ask::body(&args.flags, &args.options, environment)?;
    let request_id = uuid::Uuid::now_v7().to_string();
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    body.put("request_id", &request_id)?;
    body.put("requested_at", &now)?;
    let body = body.text()?;
    let deadline = Instant::now() + args.timeout;
    let patience = REACH_TIMEOUT.min(if args.wait { args.timeout } else { SEND_TIMEOUT });
    let reached = config.clone();
    tokio::task::spawn_blocking(move || reach(&reached.kafka, &reached.topics.events, patience)).await??;
    if !args.wait {
        let sent = send(&config, &args, body, request_id, None, SEND_TIMEOUT).await?;
        print::line(&sent_line(&sent, global.output))?;
        return Ok(ExitCode::SUCCESS);
    }
    let topic = reply_topic(&config, args.reply_to.as_deref())?;
    // Opened before the request is sent; otherwise the reply could arrive earlier and be missed.
    let opening = (config.clone(), topic.clone());
    let follower = tokio::task::spawn_blocking(move || {
        Follower::open(&opening.0.kafka, "request", &opening.1, Start::End)
    });
    let follower = follower.await?.map_err(|error| explain(error, &topic))?;
    let sending = SEND_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()).max(POLL_INTERVAL));
    let sent = send(&config, &args, body, request_id, Some(&topic), sending).await?;
    let expected = sent.request_id.clone();
    let mut decoder = Decoder::open(&config)?;
    let waiting = tokio::task::spawn_blocking(move || {
        let left = deadline.saturating_duration_since(Instant::now());
        let reply = wait(&follower, &expected, left)?;
        Ok::<_, FollowError>(reply.map(|reply| decoder.decode(reply)))
    });
    let reply = waiting.await??;
    let Some(reply) = reply else {
        bail!(
            "no reply in {topic} within {} s (the request is at {} {}/{}): is an evaluator running?",
            args.timeout.as_secs_f64(),
            sent.topic,
            sent.partition,
            sent.offset
        );
    };
    print_reply(&reply, global.output)
}

async fn send(
    config: &Config,
    args: &Args,
    body: String,
    request_id: String,
    reply_to: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<Sent> {
    let producer: FutureProducer<Logged> = client::base(&config.kafka, "request")
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("message.timeout.ms", timeout.as_millis().to_string())
        .create_with_context(Logged)?;
    let topic = &config.topics.requests;
    let mut record = FutureRecord::<str, str>::to(topic).payload(&body);
    if let Some(user) = &args.options.user {
        record = record.key(user);
    }
    if let Some(reply_to) = reply_to {
        let headers = [("reply-to", reply_to), ("correlation-id", &request_id)];
        let headers = headers.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        record = record.headers(headers);
    }
    let delivered = producer.send(record, timeout).await.map_err(|(error, _)| error);
    let delivered =
        delivered.with_context(|| format!("topic {topic} at {}", config.kafka.bootstrap_servers))?;
    Ok(Sent { request_id, topic: topic.clone(), partition: delivered.partition, offset: delivered.offset })
}

/// The named reply topic, or the first allowed one.
fn reply_topic(config: &Config, named: Option<&str>) -> Result<String, UsageError> {
    let prefixes = &config.reply.allowed_prefixes;
    match named.or(prefixes.first().map(String::as_str)) {
        None => Err(UsageError(
            "--wait: no reply topics are allowed; set FLAGSTREAM_REPLY__ALLOWED_PREFIXES".to_owned(),
        )),
        Some(topic) if prefixes.iter().any(|prefix| topic.starts_with(prefix.as_str())) => {
            Ok(topic.to_owned())
        }
        Some(topic) => Err(UsageError(format!(
            "--reply-to {topic}: expected a topic that begins with {}",
            prefixes.join(", ")
        ))),
    }
}

fn explain(error: FollowError, topic: &str) -> anyhow::Error {
    match error {
        FollowError::NoTopic { .. } => {
            anyhow::anyhow!(
                "the reply topic {topic} does not exist: create it, or use another one with --reply-to"
            )
        }
        other => other.into(),
    }
}

fn wait(
    follower: &Follower,
    correlation_id: &str,
    timeout: Duration,
) -> Result<Option<OwnedMessage>, FollowError> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let step = POLL_INTERVAL.min(deadline.saturating_duration_since(Instant::now()));
        let Some(record) = follower.next(step)? else {
            continue;
        };
        let mut headers = record.headers().into_iter().flat_map(Headers::iter);
        if headers
            .any(|header| header.key == "correlation-id" && header.value == Some(correlation_id.as_bytes()))
        {
            return Ok(Some(record.detach()));
        }
    }
    Ok(None)
}

fn sent_line(sent: &Sent, output: Output) -> String {
    let Sent { request_id, topic, partition, offset } = sent;
    match output {
        Output::Text => format!("request {request_id} is at {topic} {partition}/{offset}"),
        Output::Json => {
            json!({"request_id": request_id, "topic": topic, "partition": partition, "offset": offset})
                .to_string()
        }
    }
}

fn print_reply(reply: &OwnedMessage, output: Output) -> anyhow::Result<ExitCode> {
    let text = String::from_utf8_lossy(reply.payload().unwrap_or_default());
    if output == Output::Json {
        print::line(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let reply: Reply<'_> = serde_json::from_str(&text).context("the reply is not JSON")?;
    for (flag, answer) in reply.results {
        let value: Answered<'_> = serde_json::from_str(answer.get())?;
        let value = value.value.map_or("null", RawValue::get);
        let line = format!("{flag} = {}", render::answered(value, &serde_json::from_str(answer.get())?));
        if !print::line(&render::printable(&line))? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}
