//! The state of the workers and their partitions, for health.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{SecondsFormat, Utc};

use crate::health::{Report, Reporter, State};
use crate::kafka::identity::TopicIdentity;
use crate::progress::Progress;

use super::Parts;
use super::pipeline::Pipeline;

/// The state of all workers of a process. Clones share the same state.
#[derive(Debug, Clone)]
pub struct EvaluatorStatus {
    pub progress: Progress,
    pipeline: Arc<Pipeline>,
    identity: Arc<TopicIdentity>,
    workers: Arc<Mutex<BTreeMap<usize, Report>>>,
    /// A note for the operator that health shows in every state.
    note: Arc<Mutex<Option<String>>>,
    health: Reporter,
}

/// The state of one worker.
#[derive(Debug, Clone)]
pub struct WorkerStatus {
    index: usize,
    all: EvaluatorStatus,
}

impl EvaluatorStatus {
    pub fn new(parts: &Parts) -> Self {
        let gauges = parts.metrics.evaluate.partition_gauges();
        let progress = Progress::new(&parts.config.topics.requests, &parts.config.health, gauges);
        Self::with_progress(parts, progress)
    }

    /// Uses a `progress` that is also reported elsewhere.
    pub fn with_progress(parts: &Parts, progress: Progress) -> Self {
        Self::of(parts, Arc::new(Pipeline::requests(&parts.config, &parts.metrics)), progress)
    }

    /// The state of the workers of any pipeline.
    pub fn of(parts: &Parts, pipeline: Arc<Pipeline>, progress: Progress) -> Self {
        // The embedded broker has no topic ids; the configuration then sets a substitute.
        let has_ids = parts.config.audit.log_id.is_none();
        let recreated = pipeline.metrics.recreated.clone();
        let identity = Arc::new(TopicIdentity::new(&pipeline.source, has_ids, recreated));
        Self {
            progress,
            pipeline,
            identity,
            workers: Arc::default(),
            note: Arc::default(),
            health: parts.health.clone(),
        }
    }

    /// The state of worker `index`, without partitions at first.
    pub fn worker(&self, index: usize) -> WorkerStatus {
        let status = WorkerStatus { index, all: self.clone() };
        status.set(Report::new(State::Starting).detail("waiting for the assignment of partitions"));
        status
    }

    fn set(&self, index: usize, report: Report) {
        // The lock is held until health is updated, so that the reports of two workers cannot arrive out of order.
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.insert(index, report);
        let report = combined(&workers);
        let note = self.note.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = report.detail.iter().chain(&note).cloned().collect::<Vec<_>>();
        let detail = (!known.is_empty()).then(|| known.join("; "));
        self.health.set(Report { detail, ..report });
    }

    /// Tracks the id of the topic that is read.
    pub fn identity(&self) -> &Arc<TopicIdentity> {
        &self.identity
    }

    /// The pipeline of the workers.
    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }
}

impl WorkerStatus {
    pub fn index(&self) -> usize {
        self.index
    }

    pub fn progress(&self) -> &Progress {
        &self.all.progress
    }

    pub fn up(&self) {
        self.set(Report::new(State::Up));
    }

    pub fn degraded(&self, detail: impl fmt::Display) {
        self.set(Report::new(State::Degraded).detail(detail));
    }

    /// Tracks the id of the requests topic.
    pub fn identity(&self) -> &TopicIdentity {
        &self.all.identity
    }

    /// Records that the requests topic was created again. Health shows this as long as the process runs.
    pub fn recreated(&self) {
        let at = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        let topic = self.all.progress.topic();
        let note = format!(
            "topic {topic} was deleted and recreated (detected at {at}): it is read from its beginning"
        );
        *self.all.note.lock().unwrap_or_else(PoisonError::into_inner) = Some(note);
    }

    fn set(&self, report: Report) {
        self.all.set(self.index, report);
    }
}

/// The evaluator's state is that of its worst worker.
fn combined(workers: &BTreeMap<usize, Report>) -> Report {
    let bad = [State::Down, State::Degraded, State::Starting];
    let worst = bad.into_iter().find(|state| workers.values().any(|report| report.state == *state));
    let Some(worst) = worst else { return Report::new(State::Up) };
    let details = workers.iter().filter(|(_, report)| report.state == worst);
    let details = details
        .map(|(index, report)| format!("worker {index}: {}", report.detail.as_deref().unwrap_or_default()));
    Report::new(worst).detail(details.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_evaluator_does_as_well_as_its_worst_worker() {
        let mut workers = BTreeMap::new();
        let mut set = |index, report: Report| {
            workers.insert(index, report);
            let all = combined(&workers);
            (all.state, all.detail.unwrap_or_default())
        };
        let up = || Report::new(State::Up);
        assert_eq!(set(0, up()).0, State::Up);
        let waits = Report::new(State::Starting).detail("waits");
        assert_eq!(set(1, waits), (State::Starting, "worker 1: waits".to_owned()));
        let failed = Report::new(State::Degraded).detail("failed");
        assert_eq!(set(0, failed), (State::Degraded, "worker 0: failed".to_owned()));
        assert_eq!(set(0, up()).0, State::Starting);
        assert_eq!(set(1, up()).0, State::Up);
    }
}
