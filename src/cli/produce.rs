//! `flagstream produce`: produces one record to any topic, for trying out taps.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;

use crate::kafka::client::{self, Logged};
use crate::kafka::reach::{REACH_TIMEOUT, reach};

use super::tail::by_role;
use super::{Global, Output, UsageError, print};

/// Timeout for the broker to acknowledge the record.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Topic, by its name or as in `tail`
    #[arg(long)]
    pub topic: String,
    /// Key of the record (default: none)
    #[arg(long)]
    pub key: Option<String>,
    /// Header of the record; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<String>,
    /// Value of the record
    #[arg(value_name = "VALUE", required_unless_present = "tombstone")]
    pub value: Option<String>,
    /// Produce a record without a value
    #[arg(long, conflicts_with = "value")]
    pub tombstone: bool,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let topic = by_role(&config.topics, &args.topic).to_owned();
    let mut headers = OwnedHeaders::new();
    for header in &args.headers {
        let expected = || UsageError(format!("--header {header}: expected NAME=VALUE"));
        let (key, value) = header.split_once('=').ok_or_else(expected)?;
        headers = headers.insert(Header { key, value: Some(value) });
    }
    let (asked, events) = (config.kafka.clone(), config.topics.events.clone());
    tokio::task::spawn_blocking(move || reach(&asked, &events, REACH_TIMEOUT)).await??;
    let producer: FutureProducer<Logged> = client::base(&config.kafka, "produce")
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("message.timeout.ms", SEND_TIMEOUT.as_millis().to_string())
        .create_with_context(Logged)?;
    let mut record: FutureRecord<'_, str, str> = FutureRecord::to(&topic).headers(headers);
    (record.key, record.payload) = (args.key.as_deref(), args.value.as_deref());
    let sent = producer.send(record, SEND_TIMEOUT).await.map_err(|(error, _)| error);
    let delivery = sent.with_context(|| format!("topic {topic}: the record was not accepted"))?;
    let (partition, offset) = (delivery.partition, delivery.offset);
    print::line(&match global.output {
        Output::Text => format!("{topic} {partition}/{offset}"),
        Output::Json => json!({"topic": topic, "partition": partition, "offset": offset}).to_string(),
    })?;
    Ok(ExitCode::SUCCESS)
}
