//! Checks that the topics of each tap exist and have the same number of partitions.

use rdkafka::error::KafkaError;

use crate::config::Config;
use crate::evaluate::tap::outputs::TopicLookup;

use super::Finding;

const PART: &str = "taps";
const TOPICS_ADVICE: &str =
    "create the topics with the same number of partitions as the source; the tap waits until then";

pub async fn look(config: &Config) -> Vec<Finding> {
    if config.taps.is_empty() {
        return Vec::new();
    }
    let config = config.clone();
    let looking = tokio::task::spawn_blocking(move || findings(&config));
    match looking.await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![Finding::wrong(PART, error, "check KAFKA_BOOTSTRAP_SERVERS")],
        Err(error) => vec![Finding::wrong(PART, error, "run the check again")],
    }
}

fn findings(config: &Config) -> Result<Vec<Finding>, KafkaError> {
    let lookup = TopicLookup::new(config)?;
    let mut findings = Vec::new();
    for tap in &config.taps {
        let name = &tap.name;
        let problems = lookup.problems(tap)?;
        if problems.is_empty() {
            findings.push(Finding::well(PART, format!("tap {name}: its topics fit")));
        }
        let wrong = problems
            .into_iter()
            .map(|problem| Finding::wrong(PART, format!("tap {name}: {problem}"), TOPICS_ADVICE));
        findings.extend(wrong);
    }
    Ok(findings)
}
