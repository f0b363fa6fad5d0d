//! Starts the taps. Each has its own consumer group, health and metrics, and none waits for another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::TapConfig;
use crate::evaluate::pipeline::Pipeline;
use crate::evaluate::tap::outputs::TopicLookup;
use crate::evaluate::{Evaluator, Parts};
use crate::kafka::topics;
use crate::log_limit::limited;
use crate::progress::Progress;
use crate::shutdown::{Stage, pause, run_threads};

use super::App;

/// Interval of the checks while the topics of a tap do not fit.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl App {
    pub(super) fn start_taps(&mut self, fit: &topics::Fit) {
        for tap in self.parts.config.taps.clone() {
            self.start_tap(tap, fit.clone());
        }
    }

    fn start_tap(&mut self, tap: TapConfig, fit: topics::Fit) {
        let parts = self.parts.clone();
        let pipeline = Arc::new(Pipeline::tap(&parts.config, &tap, &parts.metrics));
        let gauges = pipeline.metrics.partition_gauges();
        let progress = Progress::new(&pipeline.source, &parts.config.health, gauges);
        let shown = progress.clone();
        // Parts are named for the life of the process, and the configuration bounds their number.
        let name: &'static str = Box::leak(pipeline.role().into_boxed_str());
        let health =
            self.health.reporter_with(name, false, move |report| shown.add_to(report, Instant::now()));
        health.starting("waiting for Kafka and its topics");
        self.supervisor.start(Stage::Intake, name, |shutdown| async move {
            if !topics::wait_until_fit(fit, &shutdown).await {
                return Ok(());
            }
            let parts = Parts { shutdown: shutdown.clone(), health, ..parts };
            let (checked, checking) = (parts.clone(), Arc::clone(&pipeline));
            let fits = tokio::task::spawn_blocking(move || {
                let lookup = TopicLookup::new(&checked.config)?;
                Ok::<_, anyhow::Error>(wait_for_topics(&lookup, &tap, &checking, &checked))
            });
            if !fits.await?? {
                return Ok(());
            }
            run_threads(Evaluator::start(&parts, pipeline, progress)?, shutdown).await
        });
    }
}

/// Waits until the topics of the tap fit, and reports the reasons while they do not. `false` at shutdown.
fn wait_for_topics(lookup: &TopicLookup, tap: &TapConfig, pipeline: &Pipeline, parts: &Parts) -> bool {
    let Parts { health, shutdown, .. } = parts;
    loop {
        let found =
            lookup.problems(tap).and_then(|problems| Ok((problems, lookup.partitions(&pipeline.events)?)));
        let problem = match found {
            Ok((problems, Some(events))) if problems.is_empty() => {
                pipeline.set_events_partitions(events);
                return !shutdown.is_cancelled();
            }
            Ok((problems, None)) if problems.is_empty() => {
                format!("topic {} does not exist", pipeline.events)
            }
            Ok((problems, _)) => format!("the tap does not run: {}", problems.join("; ")),
            Err(error) => format!("the topics of the tap cannot be looked up: {error}"),
        };
        limited!(warn, key = &tap.name, tap = %tap.name, "{problem}; see `flagstream taps check`");
        health.degraded(problem);
        if !pause(CHECK_INTERVAL, shutdown) {
            return false;
        }
    }
}
