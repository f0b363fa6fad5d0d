//! Limits of concurrency, response time and write speed.
#![allow(clippy::unwrap_used)]

use tokio::sync::watch;

use super::*;
use crate::auth::TokenCache;
use crate::cluster::{Cluster, Reporting};
use crate::config::{Profile, load_from};
use crate::evaluate::Parts;
use crate::feed::Usage;
use crate::flag::{CompiledFlag, FlagChange};
use crate::health::Reporter;
use crate::kill::KillSwitches;
use crate::manage::Manager;
use crate::metrics::DropLabels;
use crate::outbox::{Publisher, Publishing};
use crate::schema_registry::Formats;
use crate::store::Store;
use crate::store::changes::KEPT_CHANGES;
use crate::unleash_api::UnleashApi;

/// The routes of the `api` role, with an empty store and without Kafka.
pub(super) fn scene() -> (Arc<Api>, Router, Publishing) {
    scene_of(&[], true)
}

/// Like [`scene`] with additional settings. `with_metrics` serves `/metrics` on the main listener.
pub(super) fn scene_of(settings: &[(&str, &str)], with_metrics: bool) -> (Arc<Api>, Router, Publishing) {
    fixture(settings, with_metrics, None)
}

/// Like [`scene_of`] with API tokens.
pub(in crate::http) fn fixture(
    settings: &[(&str, &str)],
    with_metrics: bool,
    tokens: Option<Arc<TokenCache>>,
) -> (Arc<Api>, Router, Publishing) {
    let variables = [
        ("FLAGSTREAM_HTTP__LISTEN", "127.0.0.1:0"),
        ("FLAGSTREAM_INSTANCE", "test"),
        ("FLAGSTREAM_API__DURABILITY", "memory"),
    ];
    let variables = variables.iter().chain(settings).map(|(name, value)| (name.into(), value.into()));
    let config = Arc::new(load_from(None, variables, Profile::Dev).unwrap().config);
    let (metrics, store) = (Metrics::new(), Arc::new(Store::default()));
    let (_never, fit) = watch::channel(false);
    let (publisher, publishing) =
        Publisher::start(Arc::clone(&config), Arc::clone(&metrics), Reporter::detached(), fit).unwrap();
    let usage = Arc::new(Usage::default());
    let manager = Manager::new(
        Arc::clone(&config),
        &Formats::default(),
        Arc::clone(&store),
        None,
        Vec::new(),
        Arc::new(KillSwitches::new(Arc::clone(&config), Arc::default(), Arc::clone(&store))),
    );
    let (shutdown, health) = (Shutdown::new(), Reporter::detached());
    let unleash = UnleashApi::new(&config, &store, &metrics, None, &shutdown).unwrap();
    let formats = Arc::default();
    let parts = Parts {
        config,
        formats,
        store,
        attributes: None,
        metrics: Arc::clone(&metrics),
        usage,
        shutdown,
        health,
    };
    let registry = Arc::new(Registry::new("test"));
    let cluster = Cluster::new(Reporting::of_parts(&parts, Arc::clone(&registry), Vec::new()));
    let api = Api::new(parts, publisher, tokens, manager, None, cluster, unleash);
    let http_state = HttpState::new(&api.config, registry, metrics, Some(Arc::clone(&api)));
    (api, router(http_state, with_metrics), publishing)
}

pub(super) fn get_request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_call_too_many_is_told_to_come_again() {
    let (api, router, publishing) = scene();
    let evaluate = || {
        Request::post("/api/v1/feature-flags/evaluate")
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(r#"{"flag_name":"a"}"#))
            .unwrap()
    };
    let all = api.places.take_all(places::Pool::Evaluation);
    let answer = router.clone().oneshot(evaluate()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers().get(RETRY_AFTER).unwrap(), "1");
    // Health needs no slot.
    assert_eq!(router.clone().oneshot(get_request("/health/live")).await.unwrap().status(), StatusCode::OK);
    drop(all);
    assert_eq!(router.oneshot(evaluate()).await.unwrap().status(), StatusCode::OK);
    assert!(publishing.join());
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up() {
    let routes = Router::new().route("/slow", get(std::future::pending::<()>));
    let (time, metrics) = (Duration::from_millis(10), Metrics::new());
    let limits = Limits { time, allowed_hosts: None, api: None, metrics };
    let router: Router = limits.around(routes);
    let answer = router.oneshot(get_request("/slow")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.headers().get(CONTENT_TYPE).unwrap(), "application/problem+json");
}

#[tokio::test]
async fn what_the_router_refuses_is_a_problem_too() {
    let (_api, router, publishing) = scene();
    let answer = router.oneshot(get_request("/flags/%FF/check")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(answer.headers().get(CONTENT_TYPE).unwrap(), "application/problem+json");
    assert!(publishing.join());
}

#[tokio::test]
async fn a_listener_that_falls_behind_is_dropped_and_counted() {
    let (api, router, publishing) = scene();
    api.store.replace(crate::flag::Snapshot::default());
    let answer = router.oneshot(get_request("/api/v1/changes")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut events = answer.into_body().into_data_stream();
    let first = futures_util::StreamExt::next(&mut events).await.unwrap().unwrap();
    assert!(first.starts_with(b"id"), "{first:?}");
    assert_eq!(api.metrics.http.listeners.get(), 1);
    // The stream keeps no buffer of its own beyond the shared ring.
    let definition = r#"{"name":"f","enabled":true}"#;
    for version in 1..=KEPT_CHANGES as u64 + 1 {
        let flag = CompiledFlag::compile("e", version, definition).unwrap();
        api.store.apply([FlagChange::Set(Arc::new(flag))]);
    }
    assert!(futures_util::StreamExt::next(&mut events).await.is_none());
    let labels = DropLabels { what: "listener", reason: "slow" };
    assert_eq!(api.metrics.dropped.get_or_create(&labels).get(), 1);
    drop(events);
    assert_eq!(api.metrics.http.listeners.get(), 0);
    assert!(publishing.join());
}

#[tokio::test]
async fn who_reads_nothing_is_given_up() {
    // More than the socket buffers hold.
    let endless = get(async || {
        Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, std::convert::Infallible>(vec![b'x'; 1 << 20])
        }))
    });
    let mut server = Server::bind("A", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    server.timeouts.write = Duration::from_millis(200);
    let (address, shutdown) = (server.address().unwrap(), Shutdown::new());
    let serving = tokio::spawn(server.run(Router::new().route("/endless", endless), shutdown.clone()));
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // Writes succeed until the server has closed the connection.
    let closed = async {
        while peer.write_all(b"\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.unwrap();
    shutdown.cancel();
    serving.await.unwrap().unwrap();
}
