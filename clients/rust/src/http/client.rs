//! Evaluates one flag: retries under a deadline, with a circuit breaker and a cache.

use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use crate::answer::Said;

use super::breaker::Breaker;
use super::cache::Cache;
use super::error::{Error, Kind};
use super::{HttpOptions, InvalidOption};

/// Maximum size of an answer in bytes; larger ones are rejected. The service's own limit is about half of it.
const MAX_ANSWER_BYTES: usize = 32 << 20;
const USER_AGENT: &str = concat!("flagstream-openfeature-rust/", env!("CARGO_PKG_VERSION"));

/// The service's answer, with the version of the flags that it used.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Evaluation {
    #[serde(flatten)]
    pub said: Said,
    pub environment: String,
    pub flags_version: u64,
    /// Whether the answer comes from this client's cache.
    #[serde(skip)]
    pub was_kept: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    pub(super) options: HttpOptions,
    pub(super) cache: Cache,
    pub(super) breaker: Breaker,
    pub(super) clock: Clock,
}

/// The clock. Tests can advance it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ahead_ms: AtomicU64,
}

impl Clock {
    pub(super) fn now(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }

    #[cfg(test)]
    pub(super) fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Client {
    pub(super) fn new(url: &str, options: HttpOptions) -> Result<Self, InvalidOption> {
        options.check()?;
        let invalid = |option, problem| InvalidOption { option, problem };
        let base = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let base =
            base.ok_or_else(|| invalid("url", format!("expected http://… or https://…, got {url:?}")))?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &options.token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| invalid("token", "expected visible characters".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder().redirect(Policy::none()).user_agent(USER_AGENT);
        let http = http.default_headers(headers).build();
        let keeps = options.cache || options.follow_changes;
        Ok(Self {
            http: http.map_err(|error| invalid("tls", error.to_string()))?,
            base,
            cache: Cache::new(if keeps { options.cache_max_entries } else { 0 }, options.cache_ttl),
            breaker: Breaker::new(options.failure_threshold, options.recovery_timeout),
            options,
            clock: Clock::default(),
        })
    }

    /// Returns the cached answer, or requests a new one from the service.
    pub(super) async fn ask(&self, question: String) -> Result<Evaluation, Error> {
        if let Some(kept) = self.cache.get(&question, self.clock.now()) {
            return Ok(Evaluation { was_kept: true, ..kept });
        }
        let answer = self.exchange(&question).await?;
        let evaluation: Evaluation = serde_json::from_slice(&answer).map_err(|error| {
            Error::invalid_answer(StatusCode::OK, format!("unexpected response: {error}"))
        })?;
        self.cache.put(question, &evaluation, self.clock.now());
        Ok(evaluation)
    }

    async fn exchange(&self, question: &str) -> Result<Vec<u8>, Error> {
        let deadline = Instant::now() + self.options.timeout;
        // The version header makes an instance that does not know the newest change yet wait for it. If that takes too
        // long, an outdated answer, which is not cached, is better than none, so retries do not send the header.
        let mut wanted = Some(self.cache.newest()).filter(|version| *version > 0);
        for attempt in 0.. {
            let error = match self.attempt(question, wanted.take(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = self.pause(attempt, &error);
            let is_late = pause >= deadline.saturating_duration_since(Instant::now());
            if !error.is_passing() || attempt >= self.options.max_retries || is_late || self.breaker.is_open()
            {
                return Err(error);
            }
            sleep(pause).await;
        }
        pending().await
    }

    async fn attempt(
        &self,
        question: &str,
        wanted: Option<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, Error> {
        let Some(permit) = self.breaker.enter(self.clock.now()) else {
            return Err(Error::new(Kind::CircuitOpen, "the service failed too often: not asked"));
        };
        let at_most = self.options.attempt_timeout.min(deadline.saturating_duration_since(Instant::now()));
        let request = self.request(Method::POST, self.address("api/v1/feature-flags/evaluate"));
        let mut request = request.header(CONTENT_TYPE, "application/json").body(question.to_owned());
        if let Some(version) = wanted {
            request = request.header("If-Flags-Version", version);
        }
        let answered = timeout(at_most, answer_of(request)).await;
        let answered =
            answered.unwrap_or_else(|_| Err(Error::new(Kind::TimedOut, "no response before the timeout")));
        match answered.as_ref().map_err(|error| error.kind) {
            Err(Kind::ConnectionFailed | Kind::TimedOut | Kind::Unavailable) => {
                permit.failed(self.clock.now())
            }
            // An answer that is too large does not show a failure of the service.
            Err(Kind::InvalidAnswer) => drop(permit),
            _ => permit.succeeded(),
        }
        answered
    }

    /// A URL below the service's base address.
    pub(super) fn address(&self, path: &str) -> Url {
        let mut address = self.base.clone();
        address.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        address
    }

    pub(super) fn request(&self, method: Method, address: Url) -> RequestBuilder {
        self.http.request(method, address)
    }

    /// Exponential backoff with full jitter, so that clients do not retry simultaneously.
    fn pause(&self, attempt: u32, error: &Error) -> Duration {
        let most = self.options.backoff_base.saturating_mul(2_u32.saturating_pow(attempt));
        error.retry_after.saturating_add(part_of(most.min(self.options.backoff_cap)))
    }
}

/// A random fraction of a duration.
pub(super) fn part_of(time: Duration) -> Duration {
    // Each `RandomState` has random keys.
    let random = RandomState::new().hash_one(0) >> 32;
    time.mul_f64(random as f64 / f64::from(u32::MAX))
}

async fn answer_of(request: RequestBuilder) -> Result<Vec<u8>, Error> {
    let response = request.send().await.map_err(|error| Error::of_connection(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = read(response).await?;
    if status == StatusCode::OK { Ok(body) } else { Err(Error::of(status, &headers, &body)) }
}

async fn read(mut response: Response) -> Result<Vec<u8>, Error> {
    let too_large = |status| Error::invalid_answer(status, "the answer is too large");
    if response.content_length().is_some_and(|length| length > MAX_ANSWER_BYTES as u64) {
        return Err(too_large(response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Error::of_connection(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(too_large(response.status()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
