//! Checks of Kafka: reachable, topics as required, and sufficient rights.

mod rights;

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::config::{Config, DeliveryMode, TopicsConfig};
use crate::evaluate::tap::outputs::TopicLookup;
use crate::kafka::client::{self, Logged};
use crate::kafka::reach::{REACH_TIMEOUT, reach};
use crate::kafka::topics::{Difference, TopicReport, Topics, TopicsError, is_dangerous};

use super::Finding;

const PART: &str = "kafka";
/// All codecs that Kafka producers support.
const CODECS: [&str; 4] = ["gzip", "snappy", "lz4", "zstd"];
/// Timeout of each request to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const UNREACHABLE_ADVICE: &str = "check KAFKA_BOOTSTRAP_SERVERS, that the broker is running, and \
    FLAGSTREAM_KAFKA__CLIENT__… (TLS, SASL); FLAGSTREAM_KAFKA__CLIENT__DEBUG=broker,security logs more";

pub async fn look(config: &Config) -> Vec<Finding> {
    let topics = match Topics::new(&config.kafka, &config.topics) {
        Ok(topics) => topics,
        Err(error) => return vec![Finding::wrong(PART, error, "correct FLAGSTREAM_KAFKA__CLIENT__…")],
    };
    let servers = &config.kafka.bootstrap_servers;
    let asked = config.clone();
    let reached =
        tokio::task::spawn_blocking(move || reach(&asked.kafka, &asked.topics.events, REACH_TIMEOUT)).await;
    if let Ok(Err(error)) = reached {
        return vec![Finding::wrong(PART, error, UNREACHABLE_ADVICE)];
    }
    let there = match topics.describe(CALL_TIMEOUT).await {
        Ok(overview) => overview.topics,
        Err(error @ TopicsError::Refused { .. }) => {
            return vec![Finding::wrong(PART, error, "allow this user to describe flagstream's topics")];
        }
        Err(error) => {
            return vec![Finding::wrong(PART, error, UNREACHABLE_ADVICE)];
        }
    };
    let mut findings =
        vec![Finding::well(PART, format!("{servers} answers, {} of flagstream's topics exist", there.len()))];
    findings.push(codecs());
    let checked = topics.check().await;
    let is_embedded = matches!(checked, Err(TopicsError::Embedded { .. }));
    match checked {
        Ok(reports) => findings.extend(reports.iter().flat_map(|report| of_topic(report, &config.topics))),
        Err(error) if is_embedded => {
            findings.push(Finding::doubtful(
                PART,
                error,
                "for development only; it creates topics on first use",
            ));
        }
        Err(error) => {
            let advice = "allow this user to describe the topics and their configuration";
            findings.push(Finding::wrong(PART, error, advice));
        }
    }
    if let Ok(replicas) = topics.replicas().await
        && !is_embedded
    {
        let advice = "until then requests from Kafka wait, and events of HTTP calls go to the spool";
        findings.extend(replicas.unwritable.into_iter().map(|reason| Finding::wrong(PART, reason, advice)));
        let advice =
            "give it more replicas, or lower its min.insync.replicas: older brokers accept no records for it";
        findings.extend(replicas.doubtful.into_iter().map(|text| Finding::doubtful(PART, text, advice)));
    }
    let config = config.clone();
    let more = tokio::task::spawn_blocking(move || {
        let mut more = match is_embedded {
            true => Vec::new(),
            false => of_user(&config, |topic| there.contains_key(topic)),
        };
        more.extend([group(&config), transactions(&config)]);
        more
    });
    findings.extend(more.await.into_iter().flatten());
    findings
}

/// Checks which codecs this build can read. Producers choose the codec, and so may topics and brokers.
fn codecs() -> Finding {
    let features =
        ClientConfig::new().create_native_config().and_then(|config| config.get("builtin.features"));
    let features = features.unwrap_or_default();
    let has = |codec: &&str| features.split(',').any(|feature| feature.trim() == *codec);
    let (there, missing): (Vec<&str>, Vec<&str>) = CODECS.into_iter().partition(has);
    let found = format!("this build reads records compressed with {}", there.join(", "));
    match missing.as_slice() {
        [] => Finding::well(PART, found),
        missing => Finding::doubtful(
            PART,
            format!("{found}, but not with {}", missing.join(", ")),
            "do not use these codecs in producers, topics and brokers: one such record stops its partition",
        ),
    }
}

fn of_topic(report: &TopicReport, topics: &TopicsConfig) -> Vec<Finding> {
    let TopicReport { topic, left, .. } = report;
    if left.is_empty() {
        return vec![Finding::well(PART, format!("topic {topic}: configured as required"))];
    }
    let found = left.iter().map(|difference| {
        let text = format!("topic {topic}: {difference}");
        match difference {
            Difference::Missing => Finding::wrong(PART, text, "run `flagstream topics apply`"),
            Difference::Config { .. } if is_dangerous(difference, topic, topics) => {
                let advice = "flags and kill switches are lost when its records expire: run `flagstream topics apply`";
                Finding::wrong(PART, text, advice)
            }
            Difference::Config { .. } => Finding::doubtful(PART, text, "run `flagstream topics apply`"),
            Difference::Partitions { .. } => Finding::doubtful(
                PART,
                text,
                "adding partitions moves keys to other partitions: set FLAGSTREAM_TOPICS__PARTITIONS to the existing \
                 number, or recreate the topic",
            ),
        }
    });
    found.collect()
}

/// Checks this user's rights on the topics, and the broker's version.
fn of_user(config: &Config, is_there: impl Fn(&str) -> bool) -> Vec<Finding> {
    let client = client::base(&config.kafka, "doctor");
    let consumer: BaseConsumer<Logged> = match client.create_with_context(Logged) {
        Ok(consumer) => consumer,
        Err(error) => return vec![Finding::wrong(PART, error, "correct FLAGSTREAM_KAFKA__CLIENT__…")],
    };
    let events = Some(&config.topics.events).filter(|events| is_there(events));
    let age = events.and_then(|events| rights::age(consumer.client(), events));
    let mut findings: Vec<Finding> = age.into_iter().collect();
    // Topics of taps belong to others, so they were not described with the own ones.
    let lookup = if config.taps.is_empty() { None } else { TopicLookup::new(config).ok() };
    let exists = |topic: &str| lookup.as_ref().is_some_and(|of| matches!(of.partitions(topic), Ok(Some(_))));
    findings.extend(rights::of_topics(config, consumer.client(), |topic| is_there(topic) || exists(topic)));
    findings
}

/// Checks that the group's offsets can be read. The same right allows joining the group.
fn group(config: &Config) -> Finding {
    let group = format!("{}-evaluator", config.kafka.group_id);
    let ask = || -> Result<(), KafkaError> {
        let consumer: BaseConsumer<Logged> =
            client::base(&config.kafka, "doctor").set("group.id", &group).create_with_context(Logged)?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&config.topics.requests, 0);
        let committed = consumer.committed_offsets(asked, CALL_TIMEOUT)?;
        committed.elements().iter().try_for_each(|element| element.error())
    };
    match ask() {
        Ok(()) => Finding::well(PART, format!("group {group}: offsets can be read")),
        Err(error) => {
            let advice = format!("allow this user to read groups that begin with {}", config.kafka.group_id);
            Finding::wrong(PART, format!("group {group}: {error}"), advice)
        }
    }
}

/// Checks the right to use transactions, without starting one: initialization of a producer is sufficient.
fn transactions(config: &Config) -> Finding {
    let name = format!("{}-doctor-{}", config.kafka.group_id, config.instance);
    let ask = || -> Result<(), KafkaError> {
        let producer: BaseProducer<Logged> = client::base(&config.kafka, "doctor")
            .set("transactional.id", &name)
            .create_with_context(Logged)?;
        producer.init_transactions(CALL_TIMEOUT)
    };
    match ask() {
        Ok(()) => Finding::well(PART, "transactions work"),
        Err(error) => {
            let text = format!("transactional id {name}: {error}");
            let advice = format!(
                "allow this user transactional ids that begin with {}; on a small cluster, \
                transaction.state.log.replication.factor must not be larger than the number of brokers",
                config.kafka.group_id
            );
            match config.delivery.mode {
                DeliveryMode::Transactional => Finding::wrong(PART, text, advice),
                // The feeder and kill switches use transactions in this mode too.
                DeliveryMode::AtLeastOnce => Finding::doubtful(PART, text, advice),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_build_reads_every_codec() {
        let finding = serde_json::to_value(codecs()).unwrap_or_default();
        assert_eq!(finding["state"], "ok");
        let found = finding["found"].as_str().unwrap_or_default();
        assert!(found.ends_with("gzip, snappy, lz4, zstd"), "{found}");
    }
}
