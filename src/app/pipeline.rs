//! The roles that read from Kafka, and what they report to Unleash.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;

use crate::evaluate::pipeline::Pipeline;
use crate::evaluate::{Evaluator, Parts};
use crate::feed::{self, Feeder, FlagSource};
use crate::kafka::topics;
use crate::message::definition::Source;
use crate::progress::Progress;
use crate::redis_cache::Warmer;
use crate::shutdown::{Stage, Threads, run_threads};
use crate::unleash_api::forward::Forwarder;

use super::{App, probes};

impl App {
    pub(super) fn start_usage(&mut self) {
        let Parts { config, usage, metrics, .. } = self.parts.clone();
        self.supervisor.start(Stage::Base, "usage", |shutdown| async move {
            feed::report_usage(config, usage, metrics, shutdown.clone()).await?;
            // Without Unleash the report ends immediately, but the part must run until shutdown.
            shutdown.cancelled().await;
            Ok(())
        });
    }

    pub(super) fn start_feeder(
        &mut self,
        flag_sources: Vec<FlagSource>,
        fit: topics::Fit,
    ) -> anyhow::Result<()> {
        let Parts { config, formats, store, metrics, .. } = self.parts.clone();
        let has_local = flag_sources.iter().any(|flag_source| flag_source.source() == Source::Local);
        let feeder = Feeder::new(config, formats, store, metrics, flag_sources);
        let (view, sources, local) = (feeder.health(), feeder.health(), feeder.health());
        let (store, reported) = (Arc::clone(&self.parts.store), Arc::clone(&self.parts.store));
        self.health.probe("feeder", false, move || probes::feeder(&view.load()));
        self.health.probe("unleash", false, move || probes::unleash(&sources.load(), &store));
        if has_local {
            self.health.probe("local-flags", false, move || probes::local_flags(&local.load(), &reported));
        }
        self.start_forwarder(feeder.health(), fit.clone())?;
        let (switches, metrics) = (Arc::clone(&self.switches), Arc::clone(&self.parts.metrics));
        let may_write = fit.clone();
        self.supervisor.start(Stage::Intake, "kill-switches", |shutdown| async move {
            if topics::wait_until_fit(may_write, &shutdown).await {
                switches.keep(&metrics.clock, &shutdown).await;
            }
            Ok(())
        });
        self.supervisor.start(Stage::Intake, "feeder", |shutdown| async move {
            if topics::wait_until_fit(fit, &shutdown).await {
                feeder.run(shutdown).await?;
            }
            Ok(())
        });
        Ok(())
    }

    /// Starts forwarding SDK metrics to Unleash, while this instance's feeder leads.
    pub(super) fn start_forwarder(
        &mut self,
        leads: feed::HealthView,
        fit: topics::Fit,
    ) -> anyhow::Result<()> {
        let Parts { config, metrics, .. } = self.parts.clone();
        if !config.unleash_api.enabled || config.unleash.url.is_none() {
            return Ok(());
        }
        let health = self.health.reporter("client-metrics", false);
        self.supervisor.start(Stage::Intake, "client-metrics", |shutdown| async move {
            if !topics::wait_until_fit(fit, &shutdown).await {
                return Ok(());
            }
            let Some(forwarder) = Forwarder::new(config, metrics, leads, health, shutdown)? else {
                return Ok(());
            };
            let runtime = Handle::current();
            Ok(tokio::task::spawn_blocking(move || forwarder.run(&runtime)).await?)
        });
        Ok(())
    }

    pub(super) fn start_evaluator(&mut self, fit: topics::Fit) {
        let parts = self.parts.clone();
        // Not required for readiness: while Kafka is unreachable, this process still answers HTTP evaluations.
        let Parts { config, metrics, .. } = &parts;
        let pipeline = Arc::new(Pipeline::requests(config, metrics));
        let gauges = pipeline.metrics.partition_gauges();
        let progress = Progress::new(&pipeline.source, &config.health, gauges);
        let shown = progress.clone();
        let health =
            self.health.reporter_with("evaluator", false, move |report| shown.add_to(report, Instant::now()));
        health.starting("waiting for Kafka and its topics");
        self.supervisor.start(Stage::Intake, "evaluator", |shutdown| async move {
            if !topics::wait_until_fit(fit, &shutdown).await {
                return Ok(());
            }
            if let Some(attributes) = &parts.attributes {
                health.starting("waiting for the tables of attributes");
                if !attributes.wait_until_ready(&shutdown).await {
                    return Ok(());
                }
            }
            let parts = Parts { shutdown: shutdown.clone(), health, ..parts };
            let evaluator = Evaluator::start(&parts, pipeline, progress)?;
            run_threads(evaluator, shutdown).await
        });
    }

    pub(super) fn start_warmer(&mut self, fit: topics::Fit) {
        let parts = self.parts.clone();
        let Some(url) = parts.config.redis.url.clone() else {
            tracing::info!("the Redis cache is disabled: REDIS_URL is not set");
            return;
        };
        let health = self.health.reporter("warmer", false);
        health.starting("waiting for Kafka and its topics");
        self.supervisor.start(Stage::Intake, "warmer", |shutdown| async move {
            if !topics::wait_until_fit(fit, &shutdown).await {
                return Ok(());
            }
            let parts = Parts { shutdown: shutdown.clone(), health, ..parts };
            let warmer = Warmer::start(&parts, url.expose(), &Handle::current())?;
            run_threads(warmer, shutdown).await
        });
    }
}

impl Threads for Evaluator {
    fn has_failed(&self) -> bool {
        Self::has_failed(self)
    }

    fn join(self) -> bool {
        Self::join(self)
    }
}

impl Threads for Warmer {
    fn has_failed(&self) -> bool {
        Self::has_failed(self)
    }

    fn join(self) -> bool {
        Self::join(self)
    }
}
