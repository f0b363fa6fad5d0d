//! Reports of this instance to the others, and the reports of the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::{Cluster, ClusterReader, Reporting, TopicState};
use crate::evaluate::Parts;
use crate::shutdown::{Stage, run_threads};

use super::{App, Role, Topics};

impl App {
    /// Starts to write the reports of this instance. `ids` are those of the existing topics.
    pub(super) fn start_reporting(
        &mut self,
        roles: &[Role],
        topics: Topics,
        ids: watch::Receiver<Arc<BTreeMap<String, String>>>,
    ) -> Arc<Reporting> {
        let roles = roles.iter().map(|role| role.name().to_owned()).collect();
        let reporting = Reporting::of_parts(&self.parts, Arc::clone(&self.health), roles);
        let (running, topic) = (Arc::clone(&reporting), self.parts.config.topics.instances.clone());
        let topic_state = move || match (topics, &**ids.borrow()) {
            (Topics::Made, _) => TopicState::Exists,
            (Topics::LookedAfter, ids) if ids.is_empty() => TopicState::Unknown,
            (Topics::LookedAfter, ids) if ids.contains_key(&topic) => TopicState::Exists,
            (Topics::LookedAfter, _) => TopicState::Missing,
        };
        self.supervisor.start(Stage::Base, "instances", |shutdown| async move {
            running.run(shutdown, topic_state).await;
            Ok(())
        });
        reporting
    }

    /// Starts to read the reports of all instances.
    pub(super) fn start_cluster(&mut self, reporting: Arc<Reporting>) -> Arc<Cluster> {
        let Parts { config, formats, .. } = self.parts.clone();
        let cluster = Cluster::new(reporting);
        let read = Arc::clone(&cluster);
        self.supervisor.start(Stage::Base, "cluster", |shutdown| async move {
            let reader = ClusterReader::start(read, config, formats, shutdown.clone())?;
            run_threads(reader, shutdown).await
        });
        cluster
    }
}
