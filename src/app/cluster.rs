//! Reports of this instance to the others, and the reports of the others.

use std::sync::Arc;

use crate::cluster::{Cluster, ClusterReader, Reporting};
use crate::evaluate::Parts;
use crate::shutdown::{Stage, run_threads};

use super::{App, Role};

impl App {
    /// Starts to write the reports of this instance.
    pub(super) fn start_reporting(&mut self, roles: &[Role]) -> Arc<Reporting> {
        let roles = roles.iter().map(|role| role.name().to_owned()).collect();
        let reporting = Reporting::of_parts(&self.parts, Arc::clone(&self.health), roles);
        let running = Arc::clone(&reporting);
        self.supervisor.start(Stage::Base, "instances", |shutdown| async move {
            running.run(shutdown).await;
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
