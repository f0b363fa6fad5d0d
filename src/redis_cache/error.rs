//! Redis errors, by the reasons that health and metrics report.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

/// Reason why a Redis operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    #[error("Redis has failed; the next attempt is in {0:?}")]
    CircuitOpen(Duration),
    #[error("Redis did not respond within {0:?}")]
    Slow(Duration),
    #[error("Redis cannot be reached: {0}")]
    Unreachable(String),
    #[error("Redis has no memory left: {0}")]
    Full(String),
    #[error("Redis rejected the command: {0}")]
    Refused(String),
    #[error("unexpected reply from Redis: {0}")]
    UnexpectedReply(String),
}

impl CacheError {
    pub(super) fn of(error: &RedisError) -> Self {
        let text = error.to_string();
        match error.kind() {
            _ if is_full(&text) => Self::Full(text),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::UnexpectedReply(text),
            ErrorKind::AuthenticationFailed
            | ErrorKind::Server(_)
            | ErrorKind::InvalidClientConfig
            | ErrorKind::Extension => Self::Refused(text),
            _ => Self::Unreachable(text),
        }
    }

    /// Label for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CircuitOpen(_) | Self::Unreachable(_) => "unreachable",
            Self::Slow(_) => "slow",
            Self::Full(_) => "full",
            Self::Refused(_) => "refused",
            Self::UnexpectedReply(_) => "nonsense",
        }
    }
}

/// Converts an error reply. `None` if the reply is not an error.
pub(super) fn refusal(reply: &Value) -> Option<CacheError> {
    match reply {
        Value::ServerError(error) => {
            let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
            Some(if is_full(&text) { CacheError::Full(text) } else { CacheError::Refused(text) })
        }
        _ => None,
    }
}

/// Returns the error if it may disappear with another connection, such as to another server or with the scripts loaded
/// again.
pub(super) fn ends_connection(reply: &Value) -> Option<CacheError> {
    let Value::ServerError(error) = reply else { return None };
    let passing = matches!(
        error.kind(),
        Some(
            ServerErrorKind::NoScript
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::Moved
        )
    );
    passing.then(|| CacheError::Refused(format!("{} {}", error.code(), error.details().unwrap_or_default())))
}

fn is_full(text: &str) -> bool {
    text.contains("OOM")
}
