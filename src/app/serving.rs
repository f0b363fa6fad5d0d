//! HTTP: the listeners, and the parts that its routes need.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;

use crate::auth::TokenCache;
use crate::cluster::Reporting;
use crate::config::HttpConfig;
use crate::database::Database;
use crate::evaluate::Parts;
use crate::feed::FlagSource;
use crate::http::server::ConnectionLimits;
use crate::http::{self, Api, HttpState, Server};
use crate::kafka::topics;
use crate::manage::{self, Manager, Repository};
use crate::outbox::{Publisher, Publishing};
use crate::redis_cache::CacheView;
use crate::shutdown::{Stage, Threads, run_threads};
use crate::unleash_api::UnleashApi;

use super::{App, probes};

const HTTP: &str = "http";
const HTTP_ADMIN: &str = "http-admin";
const HTTP_TLS: &str = "http-tls";

/// Interval at which the counters of HTTP calls are added to the metrics.
const COUNT_INTERVAL: Duration = Duration::from_millis(250);

impl App {
    /// Binds the listeners before anything else starts, so that a used port fails the start early.
    pub(super) async fn bind(&self) -> anyhow::Result<Vec<(&'static str, Server)>> {
        let config = &self.parts.config.http;
        let HttpConfig { listen, admin_listen, tls, .. } = config;
        let mut servers = vec![(HTTP, Server::bind("FLAGSTREAM_HTTP__LISTEN", *listen).await?)];
        if let (Some(tls), Some((_, server))) = (tls, servers.first_mut()) {
            server.encrypt(tls).context("FLAGSTREAM_HTTP__TLS_…")?;
        }
        if let Some(address) = admin_listen {
            let server = Server::bind("FLAGSTREAM_HTTP__ADMIN_LISTEN", *address).await?;
            servers.push((HTTP_ADMIN, server));
        }
        for (name, server) in &mut servers {
            server.limit(ConnectionLimits::of(config), Arc::clone(&self.parts.metrics));
            let address = server.address()?;
            tracing::info!(%address, "{name} listens");
            self.health.address(name, address);
        }
        Ok(servers)
    }

    /// Starts the HTTP listeners last, so that every request finds all parts built.
    pub(super) fn serve(&mut self, servers: Vec<(&'static str, Server)>, api: Option<Arc<Api>>) {
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
    pub(super) fn start_api(
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
    pub(super) fn start_unleash_api(
        &mut self,
        database: Option<Database>,
    ) -> anyhow::Result<Option<Arc<UnleashApi>>> {
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
    pub(super) fn start_view(&mut self) -> anyhow::Result<Option<CacheView>> {
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
}

impl Threads for Publishing {
    fn has_failed(&self) -> bool {
        Self::has_failed(self)
    }

    fn join(self) -> bool {
        Self::join(self)
    }
}
