//! Clients that send nothing, too little or too much must not prevent other clients from being answered.
#![allow(clippy::unwrap_used)]

use futures_util::stream;
use tokio::task::JoinHandle;

use super::limits::{scene, scene_of};
use super::*;
use crate::http::connections::ConnectionLimits;
use crate::http::places::{MAX_CALLS, Pool};

const TEST_TIMEOUT: Duration = Duration::from_secs(30);
const KILL: &str = "/api/v1/feature-flags/unknown/kill?environment=development";
const EVALUATE: &str = "/api/v1/feature-flags/evaluate";
const TOKEN: &str = "a-token-of-the-admin";

/// A running listener, stopped when dropped.
struct Listening {
    address: std::net::SocketAddr,
    shutdown: Shutdown,
    _serving: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn listen(router: Router, adapt: impl FnOnce(&mut Server)) -> Listening {
    let mut server = Server::bind("A", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    adapt(&mut server);
    let (address, shutdown) = (server.address().unwrap(), Shutdown::new());
    let serving = tokio::spawn(server.run(router, shutdown.clone()));
    Listening { address, shutdown, _serving: serving }
}

impl Listening {
    async fn connect(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Reads until the peer closes the connection.
async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let closing = async {
        let mut bytes = [0; 1_024];
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    };
    tokio::time::timeout(TEST_TIMEOUT, closing).await.unwrap();
}

/// The HTTP/2 connection preface with empty settings.
fn http2_preface() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()
}

/// An HTTP/2 GET request for `/` on the first stream.
fn http2_get() -> Vec<u8> {
    let header = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
    [&http2_preface()[..], &[0, 0, 6, 1, 5, 0, 0, 0, 1], &header].concat()
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let metrics = Metrics::new();
    let counted = Arc::clone(&metrics);
    let listening = listen(router(http_state(), true), |server| {
        server.timeouts.first_request = Duration::from_millis(200);
        server.limit(ConnectionLimits { max: 100, max_per_address: 100 }, counted);
    })
    .await;
    let beginnings =
        [&b""[..], b"PRI * HTT", b"GET / HTTP/1.1\r\nhost: x\r\n", &http2_preface(), &http2_get()[..40]];
    let mut open = Vec::new();
    for beginning in beginnings {
        open.push(listening.connect(beginning).await);
    }
    for stream in &mut open {
        until_closed(stream).await;
    }
    let labels = crate::metrics::DropLabels { what: "connection", reason: "no_request" };
    assert_eq!(metrics.dropped.get_or_create(&labels).get(), beginnings.len() as u64);
}

#[tokio::test]
async fn a_connection_without_further_calls_is_closed() {
    let listening =
        listen(router(http_state(), true), |server| server.timeouts.idle = Duration::from_millis(200)).await;
    let mut http1 = listening.connect(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut http2 = listening.connect(&http2_get()).await;
    until_closed(&mut http1).await;
    until_closed(&mut http2).await;
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_connection_that_is_silent_after_its_handshake_is_closed() {
    use openssl::ssl::{Ssl, SslContext, SslMethod};

    let folder = tempfile::tempdir().unwrap();
    let files = certificate(folder.path()).unwrap();
    let listening = listen(router(http_state(), true), |server| {
        server.encrypt(&files).unwrap();
        server.timeouts.first_request = Duration::from_secs(2);
    })
    .await;
    // One connection is silent before the handshake, the other after it.
    let mut bare = listening.connect(b"").await;
    let context = SslContext::builder(SslMethod::tls_client()).unwrap().build();
    let stream = listening.connect(b"").await;
    let mut encrypted = tokio_openssl::SslStream::new(Ssl::new(&context).unwrap(), stream).unwrap();
    std::pin::Pin::new(&mut encrypted).connect().await.unwrap();
    until_closed(&mut encrypted).await;
    until_closed(&mut bare).await;
}

#[tokio::test]
async fn health_answers_though_silent_sockets_have_taken_all_places() {
    let listening = listen(router(http_state(), true), |server| {
        server.limits = ConnectionLimits { max: 50, max_per_address: 50 };
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(listening.connect(b"").await);
    }
    for _ in 0..3 {
        let answer = client().get(listening.url("/health/live")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    // The oldest connections were closed in favour of newer ones.
    until_closed(&mut silent[0]).await;
}

#[tokio::test]
async fn slow_bodies_keep_nobody_from_evaluating_or_turning_kill_switches() {
    let settings =
        [("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", TOKEN), ("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate")];
    let (api, router, publishing) = scene_of(&settings, true);
    api.store.replace(crate::flag::Snapshot::default());
    let listening = listen(router, |_| {}).await;
    let beginning = format!(
        "POST {EVALUATE} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
    );
    let mut slow = Vec::new();
    for _ in 0..MAX_CALLS {
        slow.push(listening.connect(beginning.as_bytes()).await);
    }
    let waiting = async {
        while api.bodies.waiting() < MAX_CALLS {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, waiting).await.unwrap();
    let body = r#"{"flag_name": "f", "reason": "now"}"#;
    let json = |path: &str, body: &'static str| {
        client().post(listening.url(path)).header("content-type", "application/json").body(body)
    };
    assert_eq!(json(EVALUATE, r#"{"flag_name": "f"}"#).send().await.unwrap().status(), 200);
    // Kill switches work even while evaluations hold all their slots.
    let all = api.places.take_all(Pool::Evaluation);
    assert_eq!(json(EVALUATE, r#"{"flag_name": "f"}"#).send().await.unwrap().status(), 503);
    let kill = json(KILL, r#"{"reason": "now"}"#).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(kill.status(), 404, "it was looked for, and there is no such flag: {body}");
    let stranger = json(KILL, r#"{"reason": "now"}"#).send().await.unwrap();
    assert_eq!(stranger.status(), 401);
    drop((all, slow));
    assert!(publishing.join());
}

#[tokio::test]
async fn who_may_not_is_refused_before_the_body_is_here() {
    let settings = [
        ("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none"),
        ("FLAGSTREAM_UNLEASH__WEBHOOK_SECRET", "a-secret-of-the-webhook"),
        ("FLAGSTREAM_UNLEASH_API__ENABLED", "true"),
    ];
    let (_api, router, publishing) = scene_of(&settings, true);
    let document = router.clone().oneshot(Request::get("/openapi.json").body(Body::empty()).unwrap());
    let document = to_bytes(document.await.unwrap().into_body(), usize::MAX).await.unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let mut refused = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            // One route needs no token, like Unleash's.
            let is_open = operation["tags"] == serde_json::json!(["unleash-open"]);
            if operation.get("requestBody").is_none() || is_open {
                continue;
            }
            let never = stream::pending::<Result<Vec<u8>, std::convert::Infallible>>();
            let request = Request::builder()
                .method(method.to_uppercase().as_str())
                .uri(path.replace(['{', '}'], "") + "?environment=development")
                .header(CONTENT_TYPE, "application/json")
                .body(Body::from_stream(never))
                .unwrap();
            let answer = tokio::time::timeout(Duration::from_secs(4), router.clone().oneshot(request)).await;
            assert_eq!(answer.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            refused += 1;
        }
    }
    assert!(refused >= 15, "{refused}");
    assert!(publishing.join());
}

#[tokio::test]
async fn waiting_for_a_version_takes_no_place_for_evaluations() {
    let (api, router, publishing) = scene();
    api.store.replace(crate::flag::Snapshot::default());
    let evaluate = |query: &str| {
        let request = Request::post(format!("{EVALUATE}{query}")).header(CONTENT_TYPE, "application/json");
        router.clone().oneshot(request.body(Body::from(r#"{"flag_name":"f"}"#)).unwrap())
    };
    let waits = api.places.take_all(Pool::VersionWait);
    // Without a slot to wait in, a future version is refused. Versions in force are answered as usual.
    let soon = chrono::Utc::now().timestamp_millis();
    assert_eq!(evaluate(&format!("?min_version={soon}")).await.unwrap().status(), 503);
    assert_eq!(evaluate("?min_version=0").await.unwrap().status(), 200);
    drop(waits);
    // A version that cannot come into force is refused without taking a slot.
    let evaluations = api.places.take_all(Pool::Evaluation);
    let far = evaluate(&format!("?min_version={}", u64::MAX)).await.unwrap();
    assert_eq!(far.status(), 503);
    let body = to_bytes(far.into_body(), MAX_BODY_BYTES).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("is not in force on this instance yet"), "{body:?}");
    drop(evaluations);
    assert!(publishing.join());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_at_once_keep_nobody_from_an_answer() {
    let slow = get(async || {
        tokio::time::sleep(TEST_TIMEOUT).await;
        "slow"
    });
    let routes = Router::new().route("/slow", slow).merge(router(http_state(), true));
    let listening = listen(routes, |_| {}).await;
    let attacker = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    for _ in 0..20 {
        let calls: Vec<_> =
            (0..100).map(|_| tokio::spawn(attacker.get(listening.url("/slow")).send())).collect();
        tokio::task::yield_now().await;
        calls.iter().for_each(JoinHandle::abort);
    }
    let answer = tokio::time::timeout(TEST_TIMEOUT, client().get(listening.url("/health/live")).send()).await;
    assert_eq!(answer.unwrap().unwrap().status(), 200);
}
