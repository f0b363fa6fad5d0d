//! The consumer groups of this instance's roles.

use std::sync::Arc;

use super::{App, Role, Topics};
use crate::config::{Config, GroupProtocol};
use crate::kafka::orphaned_partitions::{self, Group, Visit};
use crate::shutdown::Stage;

impl App {
    /// Starts the monitoring of unassigned partitions in the groups. The embedded broker cannot report assignments, and in
    /// the consumer protocol the coordinator assigns all partitions.
    pub(super) fn start_groups(&mut self, roles: &[Role], topics: Topics) {
        let config = Arc::clone(&self.parts.config);
        let groups: Vec<Group> = roles.iter().flat_map(|role| groups(*role, &config)).collect();
        let is_classic = config.kafka.group_protocol == GroupProtocol::Classic;
        if groups.is_empty() || !is_classic || topics == Topics::Made {
            return;
        }
        self.supervisor.start(Stage::Base, "groups", |shutdown| async move {
            let looking = move || {
                let visit = Visit {
                    session_timeout: config.delivery.session_timeout,
                    topic: config.topics.overrides.clone(),
                };
                orphaned_partitions::look_after(&config.kafka, &visit, &groups, &shutdown)
            };
            Ok(tokio::task::spawn_blocking(looking).await??)
        });
    }
}

fn groups(role: Role, config: &Config) -> Vec<Group> {
    let topics = &config.topics;
    let group = |role: &str, topic: &String| Group { role: role.to_owned(), topic: topic.clone() };
    match role {
        Role::Evaluator => {
            let taps = config.taps.iter().map(|tap| group(&format!("tap-{}", tap.name), &tap.source));
            std::iter::once(group("evaluator", &topics.requests)).chain(taps).collect()
        }
        Role::Sink => {
            let client_metrics = group("sink-client-metrics", &topics.client_metrics);
            let client_metrics = Some(client_metrics).filter(|_| topics.needs_client_metrics);
            let groups = [
                group("sink", &topics.events),
                group("sink-definitions", &topics.definitions),
                group("sink-conversions", &topics.conversions),
            ];
            groups.into_iter().chain(client_metrics).collect()
        }
        Role::Warmer => vec![group("warmer", &topics.events), group("warmer-updates", &topics.updates)],
        // The feeder's group elects the leader, and uses an eager assignment.
        Role::Feeder | Role::Api => Vec::new(),
    }
}
