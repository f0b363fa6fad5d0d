//! The server of benchmarks over HTTP: the routes and the event outbox of the service, with synthetic flags.

use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::load;
use flagstream::cluster::{Cluster, Reporting};
use flagstream::config::Config;
use flagstream::evaluate::Parts;
use flagstream::feed::Usage;
use flagstream::health::{Registry, Reporter};
use flagstream::http::server::ConnectionLimits;
use flagstream::http::{self, Api, Authorized, HttpState, Limits, Undecodable, scope};
use flagstream::kill::KillSwitches;
use flagstream::manage::Manager;
use flagstream::metrics::Metrics;
use flagstream::outbox::Publisher;
use flagstream::schema_registry::Formats;
use flagstream::shutdown::Shutdown;
use flagstream::store::Store;
use flagstream::unleash_api::UnleashApi;

use super::change;
use super::client::body;
use super::{Arm, client};

/// The arguments of the child process.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    #[arg(long)]
    pub flags: usize,
}

/// Prints the server's address, and serves until the process is killed.
pub async fn serve(args: &ServerArgs, config: Config) -> anyhow::Result<()> {
    let (config, metrics, store) = (Arc::new(config), Metrics::new(), Arc::new(Store::default()));
    store.replace(load::snapshot_of(args.flags, load::targeted)?);
    let shutdown = Shutdown::new();
    let (_made, fit) = watch::channel(true);
    let (publisher, publishing) =
        Publisher::start(Arc::clone(&config), Arc::clone(&metrics), Reporter::detached(), fit)?;
    let (listen, counted) = (config.http.listen, Arc::clone(&metrics));
    let manager = Manager::new(
        Arc::clone(&config),
        &Formats::default(),
        Arc::clone(&store),
        None,
        Vec::new(),
        Arc::new(KillSwitches::new(Arc::clone(&config), Arc::default(), Arc::clone(&store))),
    );
    let (usage, health) = (Arc::new(Usage::default()), Reporter::detached());
    let parts = Parts {
        config,
        formats: Arc::default(),
        store,
        attributes: None,
        metrics: Arc::clone(&metrics),
        usage,
        shutdown: shutdown.clone(),
        health,
    };
    let registry = Arc::new(Registry::new("bench"));
    let cluster = Cluster::new(Reporting::of_parts(&parts, Arc::clone(&registry), Vec::new()));
    let unleash = UnleashApi::new(&parts.config, &parts.store, &metrics, None, &shutdown)?;
    let store = Arc::clone(&parts.store);
    let limits = ConnectionLimits::of(&parts.config.http);
    let api = Api::new(parts, publisher, None, manager, None, cluster, unleash);
    let http_state = HttpState::new(&api.config, registry, metrics, Some(Arc::clone(&api)));
    let router = http::router(http_state.clone(), true);
    let router = router.clone().merge(fixed(&router, &http_state, api, args.flags).await?);
    let router = router.merge(change::route(store));
    let mut server = http::Server::bind("FLAGSTREAM_HTTP__LISTEN", listen).await?;
    server.limit(limits, counted);
    flagstream::cli::print::line(&server.address()?.to_string())?;
    server.run(router, shutdown).await?;
    publishing.join();
    Ok(())
}

/// Routes that return the recorded response of a real route: once as a route of the service, and once as bare handlers.
async fn fixed(
    router: &Router,
    http_state: &HttpState,
    api: Arc<Api>,
    flags: usize,
) -> anyhow::Result<Router> {
    let (mut routes, mut baseline) = (Router::new(), Router::new());
    for (real, arm, bare_arm) in
        [(Arm::One, Arm::FixedOne, Arm::BareOne), (Arm::All, Arm::FixedAll, Arm::BareAll)]
    {
        let request = Request::post(client::path(real, 0, flags))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body(real, 0, flags)))?;
        let answer = router.clone().oneshot(request).await?;
        anyhow::ensure!(answer.status().is_success(), "{}: {}", real.name(), answer.status());
        let answer: Bytes = to_bytes(answer.into_body(), usize::MAX).await.context("an answer")?;
        let respond = |answer: Bytes| ([(CONTENT_TYPE, "application/json")], answer);
        let of_baseline = answer.clone();
        baseline = baseline
            .route(&client::path(bare_arm, 0, flags), post(async move |_: Bytes| respond(of_baseline)));
        let of_route = async move |State(api): State<Arc<Api>>,
                                   caller: Authorized<scope::Evaluate>,
                                   unread: Undecodable| {
            unread.read_for(&api, &caller).await.map(|_| respond(answer))
        };
        routes = routes.route(&client::path(arm, 0, flags), post(of_route));
    }
    Ok(baseline.merge(Limits::of(http_state, Some(Arc::clone(&api))).around(routes).with_state(api)))
}
