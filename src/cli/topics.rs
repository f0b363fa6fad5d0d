//! `flagstream topics`: creates the topics, or reports how they differ from the required ones.

use std::process::ExitCode;

use crate::config::Config;
use crate::kafka::reach::{REACH_TIMEOUT, reach};
use crate::kafka::topics::manifests::{self, Strimzi};
use crate::kafka::topics::{Difference, TopicReport, Topics};

use super::{Global, Output, UsageError, print};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create missing topics and change differing settings
    Apply,
    /// Report how the topics differ from the required ones; exit code 1 if they do
    Check,
    /// Print the topics and the permissions of flagstream's user as resources of a Kafka operator
    Manifests(ManifestsArgs),
}

#[derive(Debug, clap::Args)]
pub struct ManifestsArgs {
    /// Resources of Strimzi: a KafkaTopic for each topic, and a KafkaUser with its access control lists
    #[arg(long, required = true)]
    pub strimzi: bool,
    /// Name of the Kafka resource
    #[arg(long, value_name = "NAME", default_value = "my-cluster")]
    pub cluster: String,
    /// Namespace of the resources (default: that of kubectl)
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of the KafkaUser
    #[arg(long, value_name = "NAME", default_value = "flagstream")]
    pub user: String,
    /// Authentication of the user: scram-sha-512, tls or tls-external
    #[arg(long, value_name = "TYPE", default_value = "scram-sha-512")]
    pub authentication: String,
    /// Version of Strimzi's API
    #[arg(long, value_name = "VERSION", default_value = "kafka.strimzi.io/v1")]
    pub api_version: String,
}

/// The authentication types of a KafkaUser.
const AUTHENTICATIONS: [&str; 3] = ["scram-sha-512", "tls", "tls-external"];

/// Runs the command. Exit code 1 if a difference remains.
pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    if let Command::Manifests(args) = command {
        return print_manifests(&config, args, global);
    }
    let topics = Topics::new(&config.kafka, &config.topics)?;
    tokio::task::spawn_blocking(move || reach(&config.kafka, &config.topics.events, REACH_TIMEOUT)).await??;
    let reports = match command {
        Command::Apply => topics.apply().await?,
        Command::Check | Command::Manifests(_) => topics.check().await?,
    };
    match global.output {
        Output::Json => {
            for report in &reports {
                print::line(&serde_json::to_string(report)?)?;
            }
        }
        Output::Text => {
            for line in reports.iter().flat_map(text) {
                print::line(&line)?;
            }
        }
    }
    let well = reports.iter().all(|report| report.left.is_empty());
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the resources as YAML, or one JSON object per line. Nothing is connected to.
fn print_manifests(config: &Config, args: ManifestsArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let ManifestsArgs { strimzi: _, cluster, namespace, user, authentication, api_version } = args;
    if !AUTHENTICATIONS.contains(&authentication.as_str()) {
        let expected = AUTHENTICATIONS.join(", ");
        return Err(UsageError(format!("--authentication {authentication}: expected {expected}")).into());
    }
    let of = Strimzi { cluster, api_version, namespace, user, authentication };
    let resources = manifests::strimzi(config, &of);
    match global.output {
        Output::Json => {
            for resource in &resources {
                print::line(&resource.to_string())?;
            }
        }
        Output::Text => {
            print::line(manifests::yaml(&resources).trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &TopicReport) -> Vec<String> {
    let TopicReport { topic, done, left } = report;
    if done.is_empty() && left.is_empty() {
        return vec![format!("{topic}: configured as required")];
    }
    let done = done.iter().map(|difference| match difference {
        Difference::Missing => format!("{topic}: created"),
        Difference::Config { name, needed, .. } => format!("{topic}: {name} set to {needed}"),
        Difference::Partitions { needed, .. } => format!("{topic}: now has {needed} partitions"),
    });
    let left = left.iter().map(|difference| match difference {
        Difference::Partitions { .. } => {
            format!(
                "{topic}: {difference}; not changed, because adding partitions moves keys to other partitions"
            )
        }
        _ => format!("{topic}: {difference}"),
    });
    done.chain(left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_gets_at_least_a_line() {
        let report = |done, left| TopicReport { topic: "t".to_owned(), done, left };
        assert_eq!(text(&report(vec![], vec![])), ["t: configured as required"]);
        assert_eq!(text(&report(vec![Difference::Missing], vec![])), ["t: created"]);
        assert_eq!(text(&report(vec![], vec![Difference::Missing])), ["t: does not exist"]);
        let partitions = Difference::Partitions { needed: 12, found: 3 };
        assert!(
            text(&report(vec![], vec![partitions]))[0]
                .starts_with("t: has 3 partitions instead of 12; not changed")
        );
    }
}
