//! Builds every part once, and starts and stops the parts in order.
//!
//! ```text
//!  start   bind ports ─► store ─► kafka: are the topics fit? ─► feeder, evaluator, warmer, http;
//!          database: is it migrated? ─► sink
//!  stop    feeder, evaluator, warmer (finish, commit, leave the group) ─► sink, database, kafka, store, usage, http
//!          ─► publisher (drain)
//! ```

mod client_certificate;
mod cluster;
mod groups;
mod pipeline;
mod probes;
mod serving;
mod storage;
mod taps;

use std::collections::BTreeMap;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;

use crate::attributes::Attributes;
use crate::clock::OtherClock;
use crate::config::Config;
use crate::evaluate::Parts;
use crate::feed::{self, FlagSource, LocalSource, Usage};
use crate::health::{Registry, Reporter};
use crate::kafka::identity::TopicIds;
use crate::kafka::topics;
use crate::kill::KillSwitches;
use crate::manage::Repository;
use crate::message::definition::Source;
use crate::message::source_status::SourceName;
use crate::metrics::Metrics;
use crate::private_files;
use crate::schema_registry::Formats;
use crate::shutdown::{Shutdown, Stage, StopSignals, Supervisor, Threads, run_threads};
use crate::store::{Reader, ReaderConfig, Store};
use crate::traces::{self, Telemetry};

/// Deadline for stopping all parts together, from the signal to the end of the process.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Interval at which health is observed, which is also the precision of `since` in `/health`.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// A part of the service that can run in a separate process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Evaluator,
    Feeder,
    Sink,
    Warmer,
    Api,
}

impl Role {
    const NAMES: &[(&str, Self)] = &[
        ("evaluator", Self::Evaluator),
        ("feeder", Self::Feeder),
        ("sink", Self::Sink),
        ("warmer", Self::Warmer),
        ("api", Self::Api),
    ];
    /// Name of the role.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| *name)
    }

    /// All roles. `run` starts them unless roles are given.
    pub const ALL: &[Self] = &[Self::Evaluator, Self::Feeder, Self::Sink, Self::Warmer, Self::Api];
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        let names: Vec<_> = Self::NAMES.iter().map(|(name, _)| *name).collect();
        match known {
            Some((_, role)) => Ok(*role),
            None => Err(format!("unknown role {name}; expected one of {}", names.join(", "))),
        }
    }
}

/// Check of the topics before the parts that need them start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topics {
    /// The topics are compared with the required ones until they fit.
    LookedAfter,
    /// The topics were just created on the embedded broker, which cannot describe them.
    Made,
}

/// The running service.
#[derive(Debug)]
pub struct App {
    pub parts: Parts,
    pub health: Arc<Registry>,
    /// The tables of local flags; `None` without a database.
    pub repository: Option<Repository>,
    switches: Arc<KillSwitches>,
    supervisor: Supervisor,
    /// Sends spans and log events; `None` without an OpenTelemetry endpoint.
    telemetry: Option<Telemetry>,
}

/// The reason for an orderly stop of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    BySignal,
    /// The files of the certificate for Kafka have changed: the process is to be executed again.
    ToRenewCertificate,
}

/// Runs the service until a signal arrives or a part fails, and stops it in order. A signal during the start ends the
/// process immediately.
pub async fn run(config: Arc<Config>, roles: &[Role], signals: StopSignals) -> anyhow::Result<Stopped> {
    let flag_sources = feed::unleash_sources(&config)?;
    let kafka = config.kafka.clone();
    let (reason, stopped) = tokio::sync::oneshot::channel();
    let app = App::start(config, roles, flag_sources, Topics::LookedAfter).await?;
    signals.started();
    app.run_until(async move {
        let by = tokio::select! {
            () = signals.received() => Stopped::BySignal,
            () = client_certificate::changed(&kafka) => Stopped::ToRenewCertificate,
        };
        let _ = reason.send(by);
        Ok(())
    })
    .await?;
    Ok(stopped.await.unwrap_or(Stopped::BySignal))
}

/// Name of the local flags as a source of flags, for all environments.
fn local_source() -> SourceName {
    SourceName { source: Source::Local, environment: feed::EVERYWHERE.to_owned() }
}

impl App {
    /// Starts the parts of `roles`, with `flag_sources` as the feeder's sources.
    pub async fn start(
        config: Arc<Config>,
        roles: &[Role],
        flag_sources: Vec<FlagSource>,
        topics: Topics,
    ) -> anyhow::Result<Self> {
        warn_if_open_to_others(&config.state_dir);
        let health = Arc::new(Registry::new(&config.instance));
        let store = Arc::new(Store::default());
        let metrics = Metrics::new();
        metrics.flags.choose(&config.metrics.flags);
        let telemetry = traces::start(&config.instance, &metrics)?;
        client_certificate::note(&config.kafka, &metrics.certificates);
        let formats = Formats::open(&config, &metrics).await?;
        let attributes = open_attributes(&config, &metrics, roles)?;
        let mut app = Self {
            switches: Arc::new(KillSwitches::new(
                Arc::clone(&config),
                Arc::clone(&formats),
                Arc::clone(&store),
            )),
            parts: Parts {
                store,
                attributes,
                metrics,
                usage: Arc::new(Usage::for_config(&config)),
                shutdown: Shutdown::new(),
                health: Reporter::detached(),
                config,
                formats,
            },
            health,
            repository: None,
            supervisor: Supervisor::default(),
            telemetry,
        };
        let database = storage::open(&app.parts.config)?;
        app.register_probes();
        app.serve_environments(&flag_sources, database.is_some());
        let servers = app.bind().await?;
        app.start_health();
        app.start_registry();
        let local = database.is_some().then(local_source);
        let sources = flag_sources.iter().map(FlagSource::name).chain(local).collect();
        let (ids_sender, ids) = watch::channel(Arc::default());
        app.start_store(ids.clone(), sources);
        app.start_attributes();
        let fit = app.start_topics(topics, ids_sender);
        app.start_groups(roles, topics);
        let database = database.map(|database| (database.clone(), app.start_database(database)));
        let repository = database.clone().map(|(database, migrated)| Repository::new(database, migrated));
        app.repository.clone_from(&repository);
        let elsewhere = flag_sources.clone();
        let flag_sources =
            flag_sources.into_iter().chain(repository.clone().map(LocalSource::new).map(FlagSource::Local));
        let tokens = roles.contains(&Role::Api).then(|| database.clone()).flatten();
        let tokens = tokens.map(|(database, migrated)| app.start_tokens(database, migrated));
        app.start_usage();
        let reporting = app.start_reporting(roles, topics, ids);
        if roles.contains(&Role::Feeder) {
            app.start_feeder(flag_sources.collect(), fit.clone())?;
        }
        if let (true, Some((database, migrated))) = (roles.contains(&Role::Sink), database) {
            app.start_sink(database, migrated, fit.clone());
        }
        if roles.contains(&Role::Evaluator) {
            app.start_evaluator(fit.clone());
            app.start_taps(&fit);
        }
        if roles.contains(&Role::Warmer) {
            app.start_warmer(fit.clone());
        }
        let api = match roles.contains(&Role::Api) {
            true => Some(app.start_api(fit, tokens, repository, elsewhere, reporting)?),
            false => None,
        };
        app.serve(servers, api);
        Ok(app)
    }

    /// Runs until `stop` ends or a part fails, then stops all parts. The error names the failed part.
    pub async fn run_until(mut self, stop: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        let ended = tokio::select! {
            stop = stop => stop,
            failure = self.supervisor.failure() => Err(failure),
        };
        if let Err(error) = &ended {
            // Not limited: once in the life of the process.
            tracing::error!("{error:#}; stopping");
        }
        self.health.stopping();
        let ended = match ended {
            Ok(()) => self.drain().await,
            failed => failed,
        };
        self.parts.shutdown.cancel();
        let stopped = self.supervisor.stop(STOP_DEADLINE).await;
        if let Some(telemetry) = self.telemetry {
            telemetry.end().await;
        }
        ended.and(stopped)
    }

    /// Reports not ready for the drain delay while everything still works, so that load balancers send their calls
    /// elsewhere. Returns early with the error of a part that fails.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let delay = self.parts.config.http.drain_delay;
        if delay.is_zero() {
            return Ok(());
        }
        tracing::info!(seconds = delay.as_secs_f32(), "draining: not ready, but calls are still answered");
        tokio::select! {
            () = tokio::time::sleep(delay) => Ok(()),
            failure = self.supervisor.failure() => {
                // Not limited: once in the life of the process.
                tracing::error!("{failure:#}; stopping at once");
                Err(failure)
            }
        }
    }

    /// Registers the first health probes, before the listeners start, so that readiness has something to wait for.
    fn register_probes(&self) {
        let store = Arc::clone(&self.parts.store);
        self.health.probe("store", true, move || probes::store(&store));
        self.health.address("kafka", &self.parts.config.kafka.bootstrap_servers);
        let metrics = Arc::clone(&self.parts.metrics);
        self.health.probe("clock", false, move || {
            if let Some(ahead_ms) = metrics.store.records_ahead.take_ms() {
                metrics.clock.observe(OtherClock::Kafka, TimeDelta::milliseconds(ahead_ms));
            }
            metrics.clock.report()
        });
    }

    /// Declares the environments that are served even without flags: those of the sources, and the default one if there
    /// are only local flags.
    fn serve_environments(&self, flag_sources: &[FlagSource], local: bool) {
        let default = &self.parts.config.unleash.default_environment;
        let default = (local && flag_sources.is_empty()).then_some(default.as_str());
        self.parts.store.serve(flag_sources.iter().filter_map(FlagSource::environment).chain(default));
    }

    fn start_health(&mut self) {
        let health = Arc::clone(&self.health);
        self.supervisor.start(Stage::Base, "health", |shutdown| async move {
            let mut ticks = tokio::time::interval(OBSERVE_INTERVAL);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    _ = ticks.tick() => health.observe(),
                }
            }
        });
    }

    fn start_registry(&mut self) {
        let Some(registry) = self.parts.formats.registry() else { return };
        let asked = Arc::clone(&registry);
        self.health.probe("schema-registry", false, move || probes::schema_registry(asked.is_away()));
        self.supervisor.start(Stage::Base, "schema-registry", |shutdown| async move {
            registry.look_after(shutdown).await;
            Ok(())
        });
    }

    fn start_store(&mut self, topic_ids: TopicIds, sources: Vec<SourceName>) {
        let Parts { config, store, metrics, .. } = self.parts.clone();
        let mut reading = ReaderConfig::from(&*config);
        reading.topic_ids = Some(topic_ids);
        reading.expected.sources = sources;
        self.supervisor.start(Stage::Base, "store", |shutdown| async move {
            let reader = Reader::start(reading, store, Arc::clone(&metrics.store), shutdown.clone())?;
            run_threads(reader, shutdown).await
        });
    }

    /// Starts the readers of the tables of attributes, if there are any.
    fn start_attributes(&mut self) {
        let Parts { config, formats, attributes, metrics, .. } = self.parts.clone();
        let Some(attributes) = attributes else { return };
        let reported = Arc::clone(&attributes);
        self.health.probe("attributes", true, move || reported.report());
        self.supervisor.start(Stage::Base, "attributes", |shutdown| async move {
            let readers = attributes.start(&config, &formats, &metrics, &shutdown)?;
            run_threads(readers, shutdown).await
        });
    }

    fn start_topics(
        &mut self,
        topics: Topics,
        ids: watch::Sender<Arc<BTreeMap<String, String>>>,
    ) -> topics::Fit {
        let health = self.health.reporter("kafka", false);
        let config = Arc::clone(&self.parts.config);
        let (sender, fit) = watch::channel(topics == Topics::Made);
        if topics == Topics::Made {
            health.up();
            return fit;
        }
        let formats = Arc::clone(&self.parts.formats);
        let look = |shutdown| async move {
            let set_limit = |bytes| formats.evaluated.set_topic_max_bytes(bytes);
            topics::look_after(&config.kafka, &config.topics, &health, sender, ids, set_limit, shutdown).await
        };
        self.supervisor.start(Stage::Base, "kafka", look);
        fit
    }
}

/// Opens the tables of attributes for the roles that evaluate; `None` if there are none.
fn open_attributes(
    config: &Config,
    metrics: &Metrics,
    roles: &[Role],
) -> anyhow::Result<Option<Arc<Attributes>>> {
    let evaluates = [Role::Evaluator, Role::Api].iter().any(|role| roles.contains(role));
    Ok(if evaluates { Attributes::open(config, metrics)? } else { None })
}

/// Warns about a state folder that other users may enter. Its mode is not changed, because its owner may want it.
fn warn_if_open_to_others(state_dir: &std::path::Path) {
    if let Some(mode) = private_files::open_to_others(state_dir) {
        let folder = state_dir.display();
        // Not limited: once at the start.
        tracing::warn!(%folder, mode, "other users can read the state folder, which contains user ids and contexts; \
            run chmod 700");
    }
}

impl Threads for Reader {
    fn has_failed(&self) -> bool {
        Self::has_failed(self)
    }

    fn join(self) -> bool {
        Self::join(self)
    }
}

#[cfg(test)]
mod tests;
