//! Partitions that no member of a group owns, and that the group will not assign by itself.
//!
//! In a cooperative rebalance, moving partitions are unassigned for a moment: the member that revoked them requests
//! another rebalance. A coordinator that fails in between has stored only the first half. Static members that rejoin
//! then receive the stored assignment without a rebalance (KIP-345), so the second one never happens. Partitions that
//! were added to a topic are also unassigned until a member refreshes its metadata, minutes later. Every new member
//! triggers a rebalance, so a temporary member joins and leaves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::Rng;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use crate::kafka::KafkaConfig;
use crate::log_limit::limited;
use crate::shutdown::{Shutdown, pause};

use super::client::{self, Logged};

/// Interval of the checks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of one request.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the temporary member waits for an assignment.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// Group state without a rebalance in progress.
const STABLE: &str = "Stable";

/// A group, by the role in its name, and the topic whose partitions its members share.
#[derive(Debug, Clone)]
pub struct Group {
    pub role: String,
    pub topic: String,
}

/// Settings of the temporary member that triggers a rebalance.
#[derive(Debug, Clone)]
pub struct Visit {
    pub session_timeout: Duration,
    /// A topic that no group reads; the member subscribes to it, so that it takes no partitions from the others.
    pub topic: String,
}

/// Checks the groups until `shutdown`. Blocks.
pub fn look_after(
    kafka: &KafkaConfig,
    visit: &Visit,
    groups: &[Group],
    shutdown: &Shutdown,
) -> Result<(), KafkaError> {
    let asking: BaseConsumer<Logged> = client::base(kafka, "groups").create_with_context(Logged)?;
    let mut before: Vec<BTreeSet<i32>> = vec![BTreeSet::new(); groups.len()];
    // With a random offset, so that usually one instance acts before the others check.
    while pause(INTERVAL.mul_f64(rand::rng().random_range(0.7..1.3)), shutdown) {
        for (group, before) in groups.iter().zip(&mut before) {
            let name = format!("{}-{}", kafka.group_id, group.role);
            let now = unowned(&asking, &name, &group.topic).unwrap_or_else(|error| {
                tracing::debug!(group = name, %error, "the assignment of the group's partitions cannot be read");
                BTreeSet::new()
            });
            let lasting: Vec<i32> = now.intersection(before).copied().collect();
            *before = now;
            if !lasting.is_empty() {
                limited!(
                    warn,
                    key = &name,
                    group = name,
                    partitions = ?lasting,
                    "partitions are assigned to no member of the group; triggering a rebalance",
                );
                if let Err(error) = join_and_leave(kafka, visit, &name, shutdown) {
                    limited!(
                        warn,
                        key = &name,
                        group = name,
                        %error,
                        "could not trigger a rebalance of the group",
                    );
                }
                before.clear();
            }
        }
    }
    Ok(())
}

/// The unassigned partitions of a stable group with members. Empty if that cannot be determined.
fn unowned(asking: &BaseConsumer<Logged>, group: &str, topic: &str) -> Result<BTreeSet<i32>, KafkaError> {
    let found = asking.fetch_group_list(Some(group), LOOK_TIMEOUT)?;
    let at_rest = found.groups().iter().find(|found| found.name() == group && found.state() == STABLE);
    let Some(members) = at_rest.map(|found| found.members()).filter(|members| !members.is_empty()) else {
        return Ok(BTreeSet::new());
    };
    let mut owned = BTreeSet::new();
    for member in members {
        // A member with an unknown assignment format may own any partition.
        let Some(assigned) = member.assignment().and_then(|bytes| assigned(bytes, topic)) else {
            return Ok(BTreeSet::new());
        };
        owned.extend(assigned);
    }
    let metadata = asking.fetch_metadata(Some(topic), LOOK_TIMEOUT)?;
    let partitions = metadata.topics().iter().filter(|found| found.name() == topic);
    let partitions = partitions.flat_map(|found| found.partitions()).map(|partition| partition.id());
    Ok(partitions.filter(|partition| !owned.contains(partition)).collect())
}

/// Joins the group as a temporary member, without taking partitions from its members, and leaves.
fn join_and_leave(
    kafka: &KafkaConfig,
    visit: &Visit,
    group: &str,
    shutdown: &Shutdown,
) -> Result<(), KafkaError> {
    let session_timeout = visit.session_timeout.as_millis().to_string();
    let visitor: BaseConsumer<Logged> = client::base(kafka, "visitor")
        .set("group.id", group)
        .set("partition.assignment.strategy", client::ASSIGNMENT_STRATEGY)
        .set("session.timeout.ms", session_timeout)
        .set("enable.auto.commit", "false")
        .create_with_context(Logged)?;
    visitor.subscribe(&[&visit.topic])?;
    let deadline = Instant::now() + JOIN_TIMEOUT;
    while visitor.assignment()?.count() == 0 && Instant::now() < deadline && !shutdown.is_cancelled() {
        if let Some(Err(error)) = visitor.poll(POLL) {
            tracing::debug!(group, %error, "visitor");
        }
    }
    Ok(())
}

/// The partitions of `topic` in a member's assignment, as encoded by Kafka's consumer protocol; `None` if the bytes are
/// invalid.
fn assigned(bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
    // The assignment of a member without partitions may be empty.
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = bytes.get(2..)?;
    let mut partitions = Vec::new();
    for _ in 0..integer(&mut rest)? {
        let length = usize::try_from(i16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?)).ok()?;
        let name = take(&mut rest, length)?;
        for _ in 0..integer(&mut rest)? {
            let partition = integer(&mut rest)?;
            if name == topic.as_bytes() {
                partitions.push(partition);
            }
        }
    }
    Some(partitions)
}

fn integer(rest: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn assignment(topics: &[(&str, &[i32])]) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        bytes.extend(i32::try_from(topics.len()).unwrap().to_be_bytes());
        for (topic, partitions) in topics {
            bytes.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
            bytes.extend(topic.as_bytes());
            bytes.extend(i32::try_from(partitions.len()).unwrap().to_be_bytes());
            bytes.extend(partitions.iter().flat_map(|partition| partition.to_be_bytes()));
        }
        // User data: none.
        bytes.extend((-1_i32).to_be_bytes());
        bytes
    }

    #[test]
    fn an_assignment_is_read() {
        let bytes = assignment(&[("other", &[7]), ("requests", &[0, 5])]);
        assert_eq!(assigned(&bytes, "requests"), Some(vec![0, 5]));
        assert_eq!(assigned(&bytes, "none"), Some(vec![]));
        assert_eq!(assigned(&assignment(&[]), "requests"), Some(vec![]));
        assert_eq!(assigned(&[], "requests"), Some(vec![]));
    }

    #[test]
    fn what_ends_too_early_is_none() {
        let bytes = assignment(&[("requests", &[0, 5])]);
        let whole = bytes.len() - 4;
        assert!((1..whole).all(|length| assigned(&bytes[..length], "requests").is_none()));
        let endless = [0, 0, 127, 255, 255, 255];
        assert_eq!(assigned(&endless, "requests"), None);
        let negative = [0, 0, 0, 0, 0, 1, 255, 255];
        assert_eq!(assigned(&negative, "requests"), None);
    }
}
