//! Writes the values that calls did not find in the cache, in the background.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::Config;
use crate::flag::Moment;
use crate::metrics::Metrics;
use crate::redis_cache::client::Client;
use crate::redis_cache::refresh;
use crate::redis_cache::subject::{Clock, Entry, EvaluationScope};
use crate::redis_cache::writer::{Writer, Written};
use crate::shutdown::Shutdown;
use crate::store::Store;

use super::entry::add_entries;
use super::{Edge, Task};

/// Upper bound of tasks that are written together.
const BATCH_TASKS: usize = 128;

/// Background task that writes the values.
#[derive(Debug)]
pub struct EdgeWriter {
    tasks: mpsc::Receiver<Task>,
    client: Client,
    writer: Writer,
    config: Arc<Config>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    hostname: String,
}

impl EdgeWriter {
    pub(super) fn new(edge: &Edge, tasks: mpsc::Receiver<Task>, config: Arc<Config>) -> Self {
        Self {
            writer: Writer::new(edge.client.clone(), config.redis.cache_ttl),
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            tasks,
            client: edge.client.clone(),
            config,
            store: Arc::clone(&edge.store),
            metrics: Arc::clone(&edge.metrics),
        }
    }

    /// Writes until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut tasks = Vec::with_capacity(BATCH_TASKS);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                taken = self.tasks.recv_many(&mut tasks, BATCH_TASKS) => if taken == 0 { return },
            }
            self.write(&tasks).await;
            tasks.clear();
        }
    }

    async fn write(&mut self, tasks: &[Task]) {
        let entries = self.entries(tasks);
        if entries.is_empty() {
            return;
        }
        match self.writer.write(&entries).await {
            Ok(written) => self.written(&entries, written).await,
            Err(cache_error) => {
                let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
                self.metrics.drop_counted("edge_write", cache_error.reason(), count);
            }
        }
    }

    /// Evaluates the tasks from the flags in force now, so that key and value belong together.
    fn entries(&self, tasks: &[Task]) -> Vec<Entry> {
        let (clock, snapshot) = (Clock::now(), self.store.load());
        let scope = EvaluationScope {
            snapshot: &snapshot,
            moment: self.moment(&clock),
            now_ms: clock.ms,
            has_tables: self.config.has_tables(),
        };
        let mut all = Vec::with_capacity(tasks.len());
        for task in tasks {
            if let Err(reason) = add_entries(&mut all, &task.asked, task.with_data, &scope, &clock.text) {
                self.metrics.edge.count_write(reason, 1);
            }
        }
        all
    }

    async fn written(&self, entries: &[Entry], written: Written) {
        self.metrics.edge.count_write("written", written.values);
        self.metrics.edge.count_write("refused", written.refused);
        for (reason, count) in written.given_up {
            self.metrics.drop_counted("edge_write", reason, count);
        }
        // The flag has changed since these were evaluated, and the change may not have found their keys.
        for (place, flag_min_version) in written.outdated {
            let members = entries.iter().filter(|entry| entry.place == place);
            let members = members.map(|entry| entry.member.as_slice());
            let (clock, snapshot) = (Clock::now(), self.store.load_full());
            let scope = EvaluationScope {
                snapshot: &snapshot,
                moment: self.moment(&clock),
                now_ms: clock.ms,
                has_tables: self.config.has_tables(),
            };
            let work = refresh::page(&scope, &place, flag_min_version, members, &clock.text);
            if let Err(cache_error) = refresh::apply(&self.client, &work).await {
                // Readers reject the values by the minimum version, and they expire within minutes.
                self.metrics.drop_counted("edge_write", cache_error.reason(), 1);
            }
        }
    }

    fn moment<'m>(&'m self, clock: &'m Clock) -> Moment<'m> {
        Moment { now: &clock.text, hostname: &self.hostname, app_name: &self.config.unleash.app_name }
    }
}
