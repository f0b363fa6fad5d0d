//! `flagstream topics`: creates the topics, or reports how they differ from the required ones.

use std::process::ExitCode;

use crate::kafka::reach::{REACH_TIMEOUT, reach};
use crate::kafka::topics::{Difference, TopicReport, Topics};

use super::{Global, Output, print};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create missing topics and change differing settings
    Apply,
    /// Report how the topics differ from the required ones; exit code 1 if they do
    Check,
}

/// Runs the command. Exit code 1 if a difference remains.
pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let topics = Topics::new(&config.kafka, &config.topics)?;
    tokio::task::spawn_blocking(move || reach(&config.kafka, &config.topics.events, REACH_TIMEOUT)).await??;
    let reports = match command {
        Command::Apply => topics.apply().await?,
        Command::Check => topics.check().await?,
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
