//! Source that uses Unleash's client API over HTTP.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use uuid::Uuid;

use crate::config::{Secret, UnleashConfig, UnleashEnvironment};

use super::admin::{self, AdminFlag, LastChange};
use super::answer::ANSWER_BYTES_MAX;
use super::fetch::{self, FetchError, FetchResult};
use super::pace;

/// Timeout for connecting to Unleash.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of one request to Unleash, including its body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of redirects that are followed, all within one origin.
const REDIRECTS_MAX: usize = 5;
/// Maximum number of characters of an error page that are logged.
const ERROR_CHARS_MAX: usize = 200;

/// Supported version of Unleash's client specification. From 4.2.0 on, Unleash sends segments by reference
/// instead of inlining them into the constraints of the flag.
const CLIENT_SPEC: &str = "6.1.0";
pub const SDK: &str = concat!("flagstream:", env!("CARGO_PKG_VERSION"));

/// HTTP client for all environments.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    pub app_name: String,
    pub instance_id: String,
    pub connection_id: String,
    pub refresh_interval: Duration,
}

/// Environment of an Unleash server.
#[derive(Debug, Clone)]
pub struct UnleashSource {
    client: Arc<Client>,
    pub environment: String,
    pub token: Secret,
    /// ETag of the last accepted response.
    etag: Option<HeaderValue>,
    /// ETag of the last response, not yet accepted by the leader. Outer `None`: no response is pending; inner
    /// `None`: the response had no ETag.
    offered: Option<Option<HeaderValue>>,
    /// How far Unleash's clock was ahead of this machine's at the last response, with a precision of a second. `None` if
    /// the response does not show it.
    pub clock_ahead: Option<TimeDelta>,
}

impl Client {
    /// Creates the client; `None` if no Unleash is configured.
    pub fn new(config: &UnleashConfig) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(base) = &config.url else { return Ok(None) };
        let connection_id = Uuid::now_v7().to_string();
        let mut http = reqwest::Client::builder()
            .default_headers(headers(config, &connection_id)?)
            .redirect(redirects())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT);
        if let Some(path) = &config.ca_certificate {
            let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .with_context(|| format!("{}: expected at least one PEM certificate", path.display()))?;
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().context("the HTTP client for Unleash cannot be created")?;
        Ok(Some(Arc::new(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            app_name: config.app_name.clone(),
            instance_id: config.instance_id.clone(),
            connection_id,
            refresh_interval: config.refresh_interval,
        })))
    }

    /// A request to `/api/client/{path}` with the token of an environment.
    pub fn request(&self, method: Method, path: &str, token: &Secret) -> RequestBuilder {
        self.ask(method, &format!("client/{path}"), token)
    }

    /// A request to `/api/admin/{path}`.
    pub fn admin(&self, method: Method, path: &str, token: &Secret) -> RequestBuilder {
        self.ask(method, &format!("admin/{path}"), token)
    }

    /// A request to validate tokens, which needs no token itself.
    pub fn validate(&self) -> RequestBuilder {
        self.http.request(Method::POST, format!("{}/edge/validate", self.base))
    }

    fn ask(&self, method: Method, path: &str, token: &Secret) -> RequestBuilder {
        let url = format!("{}/api/{path}", self.base);
        let request = self.http.request(method, url);
        match HeaderValue::from_str(token.expose()) {
            Ok(mut token) => {
                token.set_sensitive(true);
                request.header(header::AUTHORIZATION, token)
            }
            // Without the header, Unleash reports a missing token. An error here could expose the token.
            Err(_) => request,
        }
    }
}

impl UnleashSource {
    pub fn new(client: Arc<Client>, UnleashEnvironment { name, token }: UnleashEnvironment) -> Self {
        Self { client, environment: name, token, etag: None, offered: None, clock_ahead: None }
    }

    /// Author and time of a flag's last change according to Unleash's event log.
    pub async fn last_change(&self, token: &Secret, flag: &str) -> Result<Option<LastChange>, FetchError> {
        admin::last_change(&self.client, token, flag, &self.environment).await
    }

    /// Metadata of all flags from the Admin API.
    pub async fn admin_flags(&self, token: &Secret) -> Result<Vec<AdminFlag>, FetchError> {
        admin::flags(&self.client, token).await
    }

    /// Configured base URL of Unleash.
    pub fn base(&self) -> &str {
        &self.client.base
    }

    pub async fn look(&mut self) -> Result<FetchResult, FetchError> {
        let mut request = self.client.request(Method::GET, "features", &self.token);
        if let Some(etag) = &self.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let response = request.send().await.map_err(refuse_request)?;
        self.clock_ahead = clock_ahead(response.headers(), Utc::now());
        match response.status() {
            StatusCode::NOT_MODIFIED if self.etag.is_some() => Ok(FetchResult::Unchanged),
            StatusCode::OK => {
                self.offered = Some(response.headers().get(header::ETAG).cloned());
                fetch::read(read_body(response, ANSWER_BYTES_MAX).await?).await
            }
            _ => Err(refuse_status(response).await),
        }
    }

    /// Records whether the last response was accepted. If not, the next poll returns it again.
    pub fn settled(&mut self, accepted: bool) {
        if let Some(etag) = self.offered.take()
            && accepted
        {
            self.etag = etag;
        }
    }
}

/// How far the server's clock is ahead of `now`, by the header `Date`. `None` without the header, and for a response that
/// a cache has kept (`Age`), whose date is that of the original response.
fn clock_ahead(headers: &HeaderMap, now: DateTime<Utc>) -> Option<TimeDelta> {
    if headers.contains_key(header::AGE) {
        return None;
    }
    let date = headers.get(header::DATE)?.to_str().ok()?;
    Some(DateTime::parse_from_rfc2822(date).ok()?.with_timezone(&Utc) - now)
}

/// Redirect policy: redirects are followed only within one scheme, host and port. Elsewhere the token could
/// leak and the response is not trustworthy, so the redirect itself becomes the response.
fn redirects() -> Policy {
    Policy::custom(|attempt| {
        let first = attempt.previous().first().map(Url::origin);
        match first == Some(attempt.url().origin()) && attempt.previous().len() <= REDIRECTS_MAX {
            true => attempt.follow(),
            false => attempt.stop(),
        }
    })
}

/// Message with the target of a redirect that was not followed, without credentials.
fn redirected_to(response: &Response) -> Option<String> {
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let target = response.url().join(location).ok()?;
    Some(format!(
        "the server redirects to {}, where the token is not sent: set UNLEASH_URL to the final address",
        target.origin().ascii_serialization()
    ))
}

fn headers(config: &UnleashConfig, connection_id: &str) -> anyhow::Result<HeaderMap> {
    let named = [
        ("unleash-appname", config.app_name.as_str(), "UNLEASH_APP_NAME"),
        ("unleash-instanceid", config.instance_id.as_str(), "UNLEASH_INSTANCE_ID"),
        ("unleash-connection-id", connection_id, ""),
        ("unleash-sdk", SDK, ""),
        ("unleash-client-spec", CLIENT_SPEC, ""),
    ];
    let mut headers = HeaderMap::new();
    for (name, value, setting) in named {
        let value = HeaderValue::from_str(value)
            .with_context(|| format!("{setting} has characters that are not allowed in an HTTP header"))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

/// Reads a body of at most `limit` bytes. The bytes are counted while reading, because `Content-Length` may
/// be wrong and a compressed response grows.
pub async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| match error.is_timeout() {
        true => FetchError::Timeout(chain(error)),
        false => FetchError::BrokeOff(chain(error)),
    })? {
        if body.len() + chunk.len() > limit {
            return Err(FetchError::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

pub(super) async fn refuse_status(response: Response) -> FetchError {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| pace::retry_after(value, SystemTime::now()));
    if let Some(start) = redirected_to(&response) {
        return FetchError::Status { status, start, retry_after };
    }
    let body = read_body(response, ERROR_CHARS_MAX * 100).await.unwrap_or_default();
    let start = String::from_utf8_lossy(&body).chars().take(ERROR_CHARS_MAX).collect();
    FetchError::Status { status, start, retry_after }
}

pub(super) fn refuse_request(error: reqwest::Error) -> FetchError {
    match error.is_timeout() {
        true => FetchError::Timeout(chain(error)),
        false => FetchError::Unreachable(chain(error)),
    }
}

/// Error text with all causes; reqwest's own message stops at "error sending request".
pub fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn the_servers_clock_is_known_unless_a_cache_answered() {
        let now: DateTime<Utc> = "2026-01-15T10:30:00Z".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(clock_ahead(&headers, now), None);
        headers.insert(header::DATE, HeaderValue::from_static("Thu, 15 Jan 2026 11:30:00 GMT"));
        assert_eq!(clock_ahead(&headers, now), Some(TimeDelta::hours(1)));
        headers.insert(header::AGE, HeaderValue::from_static("30"));
        assert_eq!(clock_ahead(&headers, now), None);
        headers.remove(header::AGE);
        headers.insert(header::DATE, HeaderValue::from_static("yesterday"));
        assert_eq!(clock_ahead(&headers, now), None);
    }

    /// Response with exactly these bytes, from a server that answers one request.
    async fn response(bytes: &'static str) -> Response {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
            socket.write_all(bytes.as_bytes()).await.unwrap();
        });
        reqwest::get(format!("http://{address}")).await.unwrap()
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_answer() {
        for cut in [
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"features\":[]}",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"fea\r\n",
        ] {
            let error = read_body(response(cut).await, 1000).await.unwrap_err();
            assert_eq!(error.reason(), "truncated", "{error}");
        }
    }

    #[tokio::test]
    async fn a_large_answer_is_not_read_to_its_end() {
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"featur\r\n8\r\nes\":[{}]\r\n";
        let error = read_body(response(chunked).await, 10).await.unwrap_err();
        assert_eq!(error.reason(), "too_large", "{error}");
    }

    #[tokio::test]
    async fn an_error_page_says_when_to_come_back_and_how_it_begins() {
        let page = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 6\r\n\r\n<html>";
        let error = refuse_status(response(page).await).await;
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!((error.reason(), error.to_string()), ("server_error", "status 503: <html>".to_owned()));
    }

    type Requests = Arc<std::sync::Mutex<Vec<(String, Option<String>)>>>;

    /// Server that records each request's path and token, and answers with features or a redirect.
    async fn server(redirect: Option<(&'static str, String)>) -> (String, Requests) {
        let seen = Requests::default();
        let noted = Arc::clone(&seen);
        let answer = move |request: axum::extract::Request| {
            let (path, token) =
                (request.uri().path().to_owned(), request.headers().get(header::AUTHORIZATION));
            let token = token.map(|token| token.to_str().unwrap().to_owned());
            noted.lock().unwrap().push((path.clone(), token));
            let target = redirect.as_ref().filter(|(from, _)| *from == path).map(|(_, to)| to.clone());
            let response = axum::http::Response::builder();
            let response = match target {
                Some(to) => response.status(302).header(header::LOCATION, to).body("".to_owned()),
                None => response.status(200).body(r#"{"features":[]}"#.to_owned()),
            };
            std::future::ready(response.unwrap())
        };
        let router = axum::Router::new().fallback(answer);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, seen)
    }

    fn origin(url: &str, ca_certificate: Option<std::path::PathBuf>) -> UnleashSource {
        let loaded = crate::config::load_from(None, [], crate::config::Profile::Service).unwrap();
        let config = UnleashConfig { url: Some(url.to_owned()), ca_certificate, ..loaded.config.unleash };
        let client = Client::new(&config).unwrap().unwrap();
        UnleashSource::new(
            client,
            UnleashEnvironment { name: "dev".to_owned(), token: Secret::new("secret") },
        )
    }

    #[tokio::test]
    async fn a_redirect_to_another_host_is_not_followed_and_gets_no_token() {
        let (elsewhere, seen_elsewhere) = server(None).await;
        let (url, _) =
            server(Some(("/api/client/features", format!("{elsewhere}/api/client/features")))).await;
        let error = origin(&url, None).look().await.unwrap_err();
        assert!(
            error.to_string().contains(&elsewhere) && error.to_string().contains("UNLEASH_URL"),
            "{error}"
        );
        assert!(seen_elsewhere.lock().unwrap().is_empty());

        let (url, seen) =
            server(Some(("/api/client/features", "/unleash/api/client/features".to_owned()))).await;
        assert!(matches!(origin(&url, None).look().await, Ok(FetchResult::Answer { .. })));
        let token = Some("secret".to_owned());
        let expected = ["/api/client/features", "/unleash/api/client/features"];
        assert_eq!(*seen.lock().unwrap(), expected.map(|path| (path.to_owned(), token.clone())));
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn a_private_authority_is_trusted_where_it_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let files = crate::http::tests::certificate(folder.path()).unwrap();
        let mut server = crate::http::Server::bind("test", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        server.encrypt(&files).unwrap();
        let url = format!("https://localhost:{}", server.address().unwrap().port());
        let router = axum::Router::new().fallback(|| async { r#"{"features":[]}"# });
        tokio::spawn(server.run(router, crate::shutdown::Shutdown::new()));
        let stranger = origin(&url, None).look().await.unwrap_err();
        assert!(stranger.to_string().contains("certificate verify failed"), "{stranger}");
        let trusted = origin(&url, Some(files.certificate)).look().await;
        assert!(matches!(trusted, Ok(FetchResult::Answer { .. })), "{trusted:?}");
    }

    #[tokio::test]
    async fn a_source_that_is_not_there_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = refuse_request(reqwest::get(format!("http://{address}")).await.unwrap_err());
        assert_eq!(error.reason(), "unreachable", "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
