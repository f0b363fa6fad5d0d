//! Compares this user's rights on each topic with what the roles need.

use rdkafka::ClientContext;
use rdkafka::client::Client;

use crate::config::Config;
use crate::doctor::Finding;
use crate::kafka::describe::{Rights, log_id, rights};
use crate::kafka::topics::{TopicUse, uses};

use super::{CALL_TIMEOUT, PART};

/// Checks all existing topics. Blocks.
pub(super) fn of_topics<C: ClientContext>(
    config: &Config,
    client: &Client<C>,
    is_there: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let there: Vec<TopicUse<'_>> = uses(config).into_iter().filter(|used| is_there(used.topic)).collect();
    for used in &there {
        match rights(client, used.topic, CALL_TIMEOUT) {
            Ok(rights) => findings.extend(lacks(used, rights)),
            Err(error) => {
                let advice = "allow this user to describe the topic";
                return vec![Finding::doubtful(
                    PART,
                    format!("this user's rights cannot be read: {error}"),
                    advice,
                )];
            }
        }
    }
    if findings.is_empty() && !there.is_empty() {
        findings.push(Finding::well(PART, "this user may read and write the topics as required"));
    }
    findings
}

fn lacks(used: &TopicUse<'_>, rights: Rights) -> Vec<Finding> {
    let TopicUse { topic, readers, writers, .. } = used;
    let both = [("read", rights.read, readers), ("write", rights.write, writers)];
    let lacking = both.into_iter().filter(|(_, may, who)| !may && !who.is_empty());
    let found = lacking.map(|(what, _, who)| {
        let advice = format!(
            "allow this user to {what} it, unless another user runs the roles that {what} it ({who})"
        );
        Finding::doubtful(PART, format!("topic {topic}: this user may not {what} it"), advice)
    });
    found.collect()
}

/// Derives the broker's version from its features: topics have ids since Kafka 2.8.
pub(super) fn age<C: ClientContext>(client: &Client<C>, topic: &str) -> Option<Finding> {
    let id = log_id(client, topic, CALL_TIMEOUT).ok()?;
    Some(match id.bytes().all(|byte| matches!(byte, b'A' | b'=')) {
        false => Finding::well(PART, "the broker is 2.8 or newer"),
        true => {
            let advice =
                "update the broker: with this version the sink cannot detect that a topic was recreated";
            Finding::doubtful(PART, "the broker is older than 2.8", advice)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_does_needs_no_right() {
        let used = TopicUse { topic: "t", readers: "evaluator", writers: "", is_own: true };
        let found = |read, write| lacks(&used, Rights { read, write }).into_iter().map(|it| it.found);
        assert_eq!(found(true, false).count(), 0);
        assert_eq!(found(false, false).collect::<Vec<_>>(), ["topic t: this user may not read it"]);
    }
}
