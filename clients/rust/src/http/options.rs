//! What a provider can be told.

use std::fmt;
use std::time::Duration;

/// Longer is a mistake.
const TIME_MAX: Duration = Duration::from_secs(86_400);

/// An API token (`fst_…`), which is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Token {
    fn from(token: T) -> Self {
        Self(token.into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What an [`HttpProvider`](super::HttpProvider) can be told; the defaults are those of all clients.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Default: the service's.
    pub environment: Option<String>,
    pub token: Option<Token>,
    /// For a question with all its attempts.
    pub timeout: Duration,
    /// For one attempt; more than the 2 s that the service may wait for a version.
    pub attempt_timeout: Duration,
    /// After a failure that may pass.
    pub max_retries: u32,
    /// The first wait is a random part of it, each next of twice as much.
    pub backoff_base: Duration,
    /// No wait is longer, but for what the service asks for.
    pub backoff_cap: Duration,
    /// Failed attempts in a row that open the circuit.
    pub failure_threshold: u32,
    /// How long it stays open.
    pub recovery_timeout: Duration,
    /// Keep answers here. What the cache answers is no evaluation: no event, no row of the audit trail.
    pub cache: bool,
    pub cache_ttl: Duration,
    pub cache_max_entries: usize,
    /// Listen to changes, so that what is kept is never older than a change heard of. It implies `cache` and needs the
    /// scope `read`.
    pub follow_changes: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            environment: None,
            token: None,
            timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(3),
            max_retries: 2,
            backoff_base: Duration::from_millis(100),
            backoff_cap: Duration::from_secs(2),
            failure_threshold: 5,
            recovery_timeout: Duration::from_secs(60),
            cache: false,
            cache_ttl: Duration::from_secs(300),
            cache_max_entries: 10_000,
            follow_changes: false,
        }
    }
}

/// What a provider cannot be made with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {problem}")]
pub struct InvalidOption {
    pub option: &'static str,
    pub problem: String,
}

impl HttpOptions {
    pub(super) fn check(&self) -> Result<(), InvalidOption> {
        let times = [
            ("timeout", self.timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("recovery_timeout", self.recovery_timeout),
        ];
        let counts = [
            ("failure_threshold", self.failure_threshold == 0),
            ("cache_max_entries", self.cache_max_entries == 0),
        ];
        let times =
            times.map(|(option, time)| (option, time.is_zero() || time > TIME_MAX, "a time of up to a day"));
        let counts = counts.map(|(option, is_zero)| (option, is_zero, "more than 0"));
        match times.into_iter().chain(counts).find(|(_, is_wrong, _)| *is_wrong) {
            Some((option, _, expected)) => {
                Err(InvalidOption { option, problem: format!("expected {expected}") })
            }
            None => Ok(()),
        }
    }
}
