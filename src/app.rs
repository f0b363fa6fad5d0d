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
mod probes;
mod storage;

use std::collections::BTreeMap;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::TimeDelta;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::auth::TokenCache;
use crate::clock::OtherClock;
use crate::cluster::Reporting;
use crate::config::{Config, HttpConfig};
use crate::database::Database;
use crate::evaluate::{Evaluator, Parts};
use crate::feed::{self, Feeder, FlagSource, LocalSource, Usage};
use crate::health::{Registry, Reporter};
use crate::http::{self, Api, HttpState, Server};
use crate::kafka::identity::TopicIds;
use crate::kafka::topics;
use crate::kill::KillSwitches;
use crate::manage::{self, Manager, Repository};
use crate::message::definition::Source;
use crate::message::source_status::SourceName;
use crate::metrics::Metrics;
use crate::outbox::{Publisher, Publishing};
use crate::private_files;
use crate::progress::Progress;
use crate::redis_cache::{CacheView, Warmer};
use crate::schema_registry::Formats;
use crate::shutdown::{Shutdown, Stage, StopSignals, Supervisor, Threads, run_threads};
use crate::store::{Reader, ReaderConfig, Store};
use crate::unleash_api::UnleashApi;
use crate::unleash_api::forward::Forwarder;

/// Deadline for stopping all parts together, from the signal to the end of the process.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

const HTTP: &str = "http";
const HTTP_ADMIN: &str = "http-admin";
const HTTP_TLS: &str = "http-tls";

/// Interval at which health is observed, which is also the precision of `since` in `/health`.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the counters of HTTP calls are added to the metrics.
const COUNT_INTERVAL: Duration = Duration::from_millis(250);

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
        client_certificate::note(&config.kafka, &metrics.certificates);
        let formats = Formats::open(&config, &metrics).await?;
        let mut app = Self {
            switches: Arc::new(KillSwitches::new(
                Arc::clone(&config),
                Arc::clone(&formats),
                Arc::clone(&store),
            )),
            parts: Parts {
                store,
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
        };
        let database = storage::open(&app.parts.config)?;
        app.token_cache();
        app.serve_environments(&flag_sources, database.is_some());
        let servers = app.bind().await?;
        app.start_health();
        app.start_registry();
        let local = database.is_some().then(local_source);
        let sources = flag_sources.iter().map(FlagSource::name).chain(local).collect();
        let (ids_sender, ids) = watch::channel(Arc::default());
        app.start_store(ids.clone(), sources);
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
    fn token_cache(&self) {
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

    /// Binds the listeners before anything else starts, so that a used port fails the start early.
    async fn bind(&self) -> anyhow::Result<Vec<(&'static str, Server)>> {
        let HttpConfig { listen, admin_listen, tls, connections_per_address, .. } = &self.parts.config.http;
        let mut servers = vec![(HTTP, Server::bind("FLAGSTREAM_HTTP__LISTEN", *listen).await?)];
        if let (Some(tls), Some((_, server))) = (tls, servers.first_mut()) {
            server.encrypt(tls).context("FLAGSTREAM_HTTP__TLS_…")?;
        }
        if let Some(address) = admin_listen {
            let server = Server::bind("FLAGSTREAM_HTTP__ADMIN_LISTEN", *address).await?;
            servers.push((HTTP_ADMIN, server));
        }
        for (name, server) in &mut servers {
            server.limit(*connections_per_address, Arc::clone(&self.parts.metrics));
            let address = server.address()?;
            tracing::info!(%address, "{name} listens");
            self.health.address(name, address);
        }
        Ok(servers)
    }

    /// Starts the HTTP listeners last, so that every request finds all parts built.
    fn serve(&mut self, servers: Vec<(&'static str, Server)>, api: Option<Arc<Api>>) {
        let (health, metrics) = (Arc::clone(&self.health), Arc::clone(&self.parts.metrics));
        let http_state = HttpState::new(&self.parts.config, health, metrics, api);
        let with_metrics = self.parts.config.http.admin_listen.is_none();
        let backstage = http::backstage(http_state.api());
        for (name, server) in servers {
            if let Some(tls) = server.tls() {
                let health = self.health.reporter(HTTP_TLS, false);
                let certificates = self.parts.metrics.certificates.clone();
                self.supervisor
                    .start(Stage::Base, HTTP_TLS, |shutdown| tls.watch(health, certificates, shutdown));
            }
            let router = match name {
                HTTP if with_metrics => http::router(http_state.clone(), true).merge(backstage.clone()),
                HTTP => http::router(http_state.clone(), false),
                _ => http::admin_router(http_state.clone()).merge(backstage.clone()),
            };
            self.supervisor.start(Stage::Base, name, |shutdown| server.run(router, shutdown));
        }
    }

    /// Starts the parts that the routes of the `api` role need.
    fn start_api(
        &mut self,
        fit: topics::Fit,
        tokens: Option<Arc<TokenCache>>,
        repository: Option<Repository>,
        flag_sources: Vec<FlagSource>,
        reporting: Arc<Reporting>,
    ) -> anyhow::Result<Arc<Api>> {
        let Parts { config, formats, store, metrics, .. } = self.parts.clone();
        let scopes = &config.auth.anonymous_scopes;
        tracing::info!(?scopes, durability = ?config.api.durability, "callers without a token may use these scopes");
        let health = self.health.reporter("publisher", false);
        let (publisher, publishing) =
            Publisher::start(Arc::clone(&config), Arc::clone(&metrics), health, fit)?;
        self.supervisor.start(Stage::Outlet, "publisher", |shutdown| run_threads(publishing, shutdown));
        let manager = Manager::new(
            Arc::clone(&config),
            &formats,
            store,
            repository,
            flag_sources,
            Arc::clone(&self.switches),
        );
        let view = self.start_view()?;
        let cluster = self.start_cluster(reporting);
        let database = tokens.as_ref().map(|tokens| tokens.database().clone());
        let unleash = self.start_unleash_api(database)?;
        let api = Api::new(self.parts.clone(), publisher, tokens, manager, view, cluster, unleash);
        if let Some(days) = config.flags.cleanup_after_days {
            let cleaning = Arc::clone(&api);
            self.supervisor.start(Stage::Base, "cleanup", move |shutdown| async move {
                manage::run_nightly_cleanup(&cleaning.manager, days, &shutdown).await;
                Ok(())
            });
        }
        let counting = Arc::clone(&api);
        self.supervisor.start(Stage::Outlet, "counts", |shutdown| async move {
            let mut ticks = tokio::time::interval(COUNT_INTERVAL);
            while !shutdown.is_cancelled() {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = ticks.tick() => {}
                }
                counting.flush_counts();
            }
            Ok(())
        });
        Ok(api)
    }

    /// Starts the parts of the API for Unleash's SDKs, if it is enabled.
    fn start_unleash_api(&mut self, database: Option<Database>) -> anyhow::Result<Option<Arc<UnleashApi>>> {
        let Parts { config, store, metrics, shutdown, .. } = &self.parts;
        let unleash = UnleashApi::new(config, store, metrics, database, shutdown).context("UNLEASH_URL")?;
        if let Some(unleash) = &unleash {
            let tokens = Arc::clone(&unleash.tokens);
            self.supervisor.start(Stage::Base, "unleash-tokens", |shutdown| async move {
                tokens.run(shutdown).await;
                Ok(())
            });
        }
        Ok(unleash)
    }

    /// Opens the Redis cache for the API, and starts the edge cache's task.
    fn start_view(&mut self) -> anyhow::Result<Option<CacheView>> {
        let Parts { config, store, metrics, .. } = &self.parts;
        let opened = CacheView::open(config, store, metrics).context("REDIS_URL")?;
        let Some((view, keeper)) = opened else { return Ok(None) };
        let (asked, connecting) = (view.clone(), view.clone());
        self.health.probe("redis", false, move || probes::redis(asked.cache_error()));
        self.supervisor.start(Stage::Outlet, "edge", |shutdown| async move {
            connecting.reader.connect().await;
            // Its future is not `Send`, because it borrows entries across awaits, so it runs on one blocking thread.
            let runtime = Handle::current();
            Ok(tokio::task::spawn_blocking(move || runtime.block_on(keeper.run(shutdown))).await?)
        });
        Ok(Some(view))
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
        let look = |shutdown| async move {
            topics::look_after(&config.kafka, &config.topics, &health, sender, ids, shutdown).await
        };
        self.supervisor.start(Stage::Base, "kafka", look);
        fit
    }

    fn start_usage(&mut self) {
        let Parts { config, usage, metrics, .. } = self.parts.clone();
        self.supervisor.start(Stage::Base, "usage", |shutdown| async move {
            feed::report_usage(config, usage, metrics, shutdown.clone()).await?;
            // Without Unleash the report ends immediately, but the part must run until shutdown.
            shutdown.cancelled().await;
            Ok(())
        });
    }

    fn start_feeder(&mut self, flag_sources: Vec<FlagSource>, fit: topics::Fit) -> anyhow::Result<()> {
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
    fn start_forwarder(&mut self, leads: feed::HealthView, fit: topics::Fit) -> anyhow::Result<()> {
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

    fn start_evaluator(&mut self, fit: topics::Fit) {
        let parts = self.parts.clone();
        // Not required for readiness: while Kafka is unreachable, this process still answers HTTP evaluations.
        let Parts { config, metrics, .. } = &parts;
        let gauges = metrics.evaluate.partition_gauges();
        let progress = Progress::new(&config.topics.requests, &config.health, gauges);
        let shown = progress.clone();
        let health =
            self.health.reporter_with("evaluator", false, move |report| shown.add_to(report, Instant::now()));
        health.starting("waiting for Kafka and its topics");
        self.supervisor.start(Stage::Intake, "evaluator", |shutdown| async move {
            if !topics::wait_until_fit(fit, &shutdown).await {
                return Ok(());
            }
            let parts = Parts { shutdown: shutdown.clone(), health, ..parts };
            let evaluator = Evaluator::start(&parts, progress)?;
            run_threads(evaluator, shutdown).await
        });
    }

    fn start_warmer(&mut self, fit: topics::Fit) {
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

/// Warns about a state folder that other users may enter. Its mode is not changed, because its owner may want it.
fn warn_if_open_to_others(state_dir: &std::path::Path) {
    if let Some(mode) = private_files::open_to_others(state_dir) {
        let folder = state_dir.display();
        // Not limited: once at the start.
        tracing::warn!(%folder, mode, "other users can read the state folder, which contains user ids and contexts; \
            run chmod 700");
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

impl Threads for Publishing {
    fn has_failed(&self) -> bool {
        Self::has_failed(self)
    }

    fn join(self) -> bool {
        Self::join(self)
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
