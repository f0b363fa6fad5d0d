//! A proxy in front of Unleash that answers in the way that a test sets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::http::{client, runtime};
use super::{Stack, TEST_TIMEOUT, wait_until};

const OVERSIZED_BYTES: usize = 128 << 20;

/// Way in which feature requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Unleash's own answer, reduced to the flags of this test.
    Good,
    /// Like `Good`, but no token is valid any more. Unleash itself answers so only a minute or more after a token was deleted.
    TokensRevoked,
    /// Connections end without an answer.
    Down,
    /// 200, and nothing else.
    EmptyBody,
    /// A well-formed list without a single flag.
    EmptyList,
    /// A well-formed list with a quarter of the flags.
    Quarter,
    /// The first half of a good answer, as if it were whole.
    Truncated,
    /// JSON, but not a list of features.
    NotFeatures,
    /// An error page with status 200.
    ErrorPage,
    Unauthorized,
    Failing,
    /// 429 with `Retry-After: 1`.
    TooMany,
    /// The head of an answer, and then nothing for a minute.
    Slow,
    /// More bytes than any list of flags has.
    Oversized,
}

/// Answers on a port of its own until it goes.
#[derive(Debug)]
pub struct Proxy {
    pub url: String,
    shared: Arc<Shared>,
    gone: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    /// Only flags whose names begin so.
    prefix: String,
    mood: Mutex<Mood>,
    /// Whether the present mood is for one answer only.
    once: AtomicBool,
    /// Answers to `/api/client/features` in the present mood.
    answers: AtomicU64,
}

/// Hangs up at once while Unleash is down.
struct TcpProxy {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl Listener for TcpProxy {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let (connection, from) = self.listener.accept().await.unwrap();
            if self.shared.mood() != Mood::Down {
                return (connection, from);
            }
            self.shared.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Shared {
    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    /// The mood of the next answer, and whether it is the only answer in this mood.
    fn mood_of_answer(&self) -> (Mood, bool) {
        let mut mood = self.mood.lock().unwrap();
        let is_only = self.once.swap(false, Ordering::Relaxed);
        (if is_only { std::mem::replace(&mut *mood, Mood::Good) } else { *mood }, is_only)
    }
}

impl Proxy {
    pub fn start(stack: &Stack, prefix: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: stack.unleash.url.clone(),
            prefix: prefix.to_owned(),
            mood: Mutex::new(Mood::Good),
            once: AtomicBool::new(false),
            answers: AtomicU64::new(0),
        });
        let gone = CancellationToken::new();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let door = TcpProxy { listener, shared: Arc::clone(&shared) };
        let until = gone.clone().cancelled_owned();
        runtime().spawn(async move {
            tokio::select! {
                served = axum::serve(door, router) => served.unwrap(),
                () = until => {}
            }
        });
        Self { url, shared, gone }
    }

    /// Answers differently from now on.
    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
        self.shared.answers.store(0, Ordering::Relaxed);
    }

    /// Gives one answer in this mood and waits for it; the next answers are good, however late the test continues.
    pub fn answer_once(&self, mood: Mood) {
        let mut present = self.shared.mood.lock().unwrap();
        self.shared.answers.store(0, Ordering::Relaxed);
        self.shared.once.store(true, Ordering::Relaxed);
        *present = mood;
        drop(present);
        wait_until(&format!("{mood:?} asked for"), TEST_TIMEOUT, || {
            !self.shared.once.load(Ordering::Relaxed) && self.shared.answers.load(Ordering::Relaxed) > 0
        });
    }

    /// Answers in this mood, and waits until it was asked `times`.
    pub fn answer(&self, mood: Mood, times: u64) {
        self.set(mood);
        wait_until(&format!("{mood:?} asked for {times} times"), TEST_TIMEOUT, || {
            self.shared.answers.load(Ordering::Relaxed) >= times
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let mut response = respond(&shared, request).await;
    // Each request uses a new connection through the proxy.
    response.headers_mut().insert("connection", HeaderValue::from_static("close"));
    response
}

async fn respond(shared: &Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !parts.uri.path().ends_with("/client/features") {
        if parts.uri.path() == "/edge/validate" && shared.mood() == Mood::TokensRevoked {
            return json_text(json!({"tokens": []}).to_string());
        }
        let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        return pass_on(shared, parts, body).await;
    }
    let (mood, is_only) = shared.mood_of_answer();
    let response = match mood {
        Mood::Good | Mood::TokensRevoked => filtered(shared, &parts.headers, |_| true).await,
        Mood::Quarter => filtered(shared, &parts.headers, |index| index % 4 == 0).await,
        Mood::EmptyList => filtered(shared, &parts.headers, |_| false).await,
        Mood::EmptyBody => StatusCode::OK.into_response(),
        Mood::Truncated => {
            let whole = features(shared, &parts.headers, |_| true).await.to_string();
            json_text(whole[..whole.len() / 2].to_owned())
        }
        Mood::NotFeatures => json_text(json!({"version": 2, "features": {"a": 1}}).to_string()),
        Mood::ErrorPage => "<html><body>Please log in</body></html>".into_response(),
        Mood::Unauthorized => StatusCode::UNAUTHORIZED.into_response(),
        Mood::Failing | Mood::Down => StatusCode::BAD_GATEWAY.into_response(),
        Mood::TooMany => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        Mood::Slow => {
            // The one that waits counts as asked.
            shared.answers.fetch_add(1, Ordering::Relaxed);
            let _ = tokio::time::timeout(Duration::from_secs(60), left(shared, mood)).await;
            return StatusCode::GATEWAY_TIMEOUT.into_response();
        }
        Mood::Oversized => {
            let mut text = json!({"version": 2, "features": []}).to_string();
            text.push_str(&" ".repeat(OVERSIZED_BYTES));
            json_text(text)
        }
    };
    if is_only || shared.mood() == mood {
        shared.answers.fetch_add(1, Ordering::Relaxed);
    }
    response
}

/// Ends when the mood changes.
async fn left(shared: &Shared, mood: Mood) {
    while shared.mood() == mood {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn json_text(text: String) -> Response {
    ([("content-type", "application/json")], text).into_response()
}

/// Unleash's answer with the flags of this test only, and of those the ones to `keep`, by their index.
async fn filtered(shared: &Shared, headers: &HeaderMap, keep: impl Fn(usize) -> bool) -> Response {
    let body = features(shared, headers, keep).await.to_string();
    let etag = format!("\"{:x}\"", hash(&body));
    if headers.get("if-none-match").is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [("etag", etag)]).into_response();
    }
    ([("content-type", "application/json".to_owned()), ("etag", etag)], body).into_response()
}

async fn features(shared: &Shared, headers: &HeaderMap, keep: impl Fn(usize) -> bool) -> Value {
    // What the client says about itself decides on the form of the answer.
    let mut headers = headers.clone();
    for name in ["host", "if-none-match", "accept-encoding"] {
        headers.remove(name);
    }
    let url = format!("{}/api/client/features", shared.upstream);
    let request = client().get(url).headers(headers);
    let mut body: Value = request.send().await.unwrap().json().await.unwrap();
    let flags = body["features"].take();
    let mut own: Vec<_> = flags
        .as_array()
        .unwrap()
        .iter()
        .filter(|flag| flag["name"].as_str().is_some_and(|name| name.starts_with(&shared.prefix)))
        .collect();
    // Unleash lists them in any order, and in another one after a change.
    own.sort_by_key(|flag| flag["name"].as_str());
    let kept: Vec<_> =
        own.into_iter().enumerate().filter(|(index, _)| keep(*index)).map(|(_, flag)| flag.clone()).collect();
    body["features"] = json!(kept);
    // This member depends on changes of other tests' flags.
    body["meta"] = Value::Null;
    body
}

async fn pass_on(shared: &Shared, parts: axum::http::request::Parts, body: Bytes) -> Response {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = parts.headers;
    headers.remove("host");
    let request =
        client().request(parts.method, format!("{}{path}", shared.upstream)).headers(headers).body(body);
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, response.bytes().await.unwrap()).into_response()
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
