//! Options of the HTTP provider.

use std::fmt;
use std::time::Duration;

/// Maximum of all timeouts; a longer one is considered a mistake.
const TIME_MAX: Duration = Duration::from_secs(86_400);

/// An API token (`fst_…`). `Debug` does not print it.
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

/// Options of an [`HttpProvider`](super::HttpProvider). The defaults are the same in the clients of all languages.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Environment of evaluations. `None`: the service's default environment.
    pub environment: Option<String>,
    pub token: Option<Token>,
    /// Timeout of an evaluation including all retries.
    pub timeout: Duration,
    /// Timeout of one attempt. It should exceed the 2 s that the service may wait for a version.
    pub attempt_timeout: Duration,
    /// Maximum number of retries after a transient failure.
    pub max_retries: u32,
    /// Upper bound of the first backoff, which is random; it doubles with every retry.
    pub backoff_base: Duration,
    /// Upper bound of every backoff, except for a wait that the service requests.
    pub backoff_cap: Duration,
    /// Number of consecutive failed attempts that open the circuit.
    pub failure_threshold: u32,
    /// How long the circuit stays open.
    pub recovery_timeout: Duration,
    /// Whether to cache answers in this process. A cached answer is not an evaluation: it creates no event and no row
    /// in the audit trail.
    pub cache: bool,
    pub cache_ttl: Duration,
    pub cache_max_entries: usize,
    /// Whether to follow changes, so that cached answers are invalidated by every received change. Implies `cache` and
    /// requires the scope `read`.
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

/// An option has an invalid value.
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
